"""Figures of training: attention maps, learning curves; titled, legible at half width."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from micse_utils.plotting.style import BLUE, GREY, ORANGE

METHODS = {
    "micse": {"label": "miCSE", "color": BLUE, "marker": "o"},
    "simcse": {"label": "SimCSE", "color": ORANGE, "marker": "s"},
}


def attention_views(
    first: np.ndarray, second: np.ndarray, tokens: Sequence[str], *, title: str
) -> Figure:
    """The attention of one head in two dropout views, side by side; crosses mark what was dropped.

    Colours are logarithmic: most probabilities are small.

    Args:
        first, second: attention probabilities, [query, key]; 0 where dropped.
        tokens: names of queries and keys.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 5), sharey=True, layout="constrained")
    scale = LogNorm(vmin=1e-4, vmax=1, clip=True)
    for axes, view, name in zip(panels, (first, second), ("first", "second"), strict=True):
        image = axes.imshow(view, cmap="cividis", norm=scale)
        rows, columns = np.nonzero(view == 0)
        axes.plot(columns, rows, "x", color="white", markersize=7, markeredgewidth=2)
        axes.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right")
        axes.set_yticks(range(len(tokens)), tokens)
        axes.set_xlabel(f"{name} view: token attended to")
    panels[0].set_ylabel("attending token")
    figure.colorbar(image, ax=panels, label="attention probability", shrink=0.7)
    figure.suptitle(title)
    return figure


def attention_scatter(
    first: np.ndarray, second: np.ndarray, *, rho: float, information: float, title: str
) -> Figure:
    """Probability of each position in both views, on logarithmic axes.

    Args:
        first, second: attention probabilities > 0, [positions].
        rho: Pearson correlation of their logarithms.
        information: I = -1/2 log(1 - rho^2), in nats.
    """
    figure, axes = plt.subplots(figsize=(5.6, 5), layout="constrained")
    ends = [min(first.min(), second.min()) / 1.5, max(first.max(), second.max()) * 1.5]
    axes.plot(ends, ends, color=GREY, linestyle="--", lw=1, label="the same in both views")
    axes.loglog(first, second, "o", color=BLUE, alpha=0.5, markersize=5)
    axes.set(
        xlabel="attention probability, first view",
        ylabel="attention probability, second view",
        title=f"{title}\nρ = {rho:.3f}, I = {information:.2f} nats",
    )
    axes.legend(loc="upper left")
    axes.grid(alpha=0.3)
    return figure


def learning_curves(runs: pd.DataFrame, *, title: str) -> Figure:
    """Spearman against the number of training sentences: mean and s.d. over seeds.

    Solid, band: the checkpoint that the development pairs chose; dotted, hollow, bar: the end of
    training.

    Args:
        runs: one row a run: `start` (one panel each), `method`, `size`, `before`, `best`, `last`.
    """
    starts = list(runs["start"].unique())
    width = 4.4 * len(starts) + 1.6
    figure, panels = plt.subplots(
        1, len(starts), figsize=(width, 4.2), squeeze=False, layout="constrained"
    )
    for axes, start in zip(panels[0], starts, strict=True):
        chosen = runs[runs["start"] == start]
        before = chosen["before"].mean()
        axes.axhline(before, color=GREY, linestyle="--", label="before training")
        for method, rows in chosen.groupby("method", sort=False):
            style = METHODS[method]
            scores = rows.groupby("size")[["best", "last"]].agg(["mean", "std"]).fillna(0)
            last = style | {"label": None, "linestyle": ":", "mfc": "white", "markersize": 10}
            bars = {"fmt": "none", "ecolor": style["color"], "capsize": 4, "zorder": 1.5}
            axes.errorbar(scores.index, scores["last", "mean"], yerr=scores["last", "std"], **bars)
            axes.plot(scores.index, scores["last", "mean"], **last)  # larger: seen where both meet
            axes.plot(scores.index, scores["best", "mean"], **style)
            low, high = (scores["best", "mean"] + sign * scores["best", "std"] for sign in (-1, 1))
            axes.fill_between(scores.index, low, high, color=style["color"], alpha=0.2)
        sizes = sorted(chosen["size"].unique())
        axes.set_xscale("log")
        if len(sizes) == 1:
            axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set(xlabel="training sentences", title=start)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("Spearman × 100, development pairs")
    handles, _ = panels[0][0].get_legend_handles_labels()
    end = {"color": GREY, "marker": "o", "mfc": "white", "markersize": 10, "linestyle": ":"}
    handles.append(Line2D([], [], **end, label="at the end of training"))
    seeds = runs.groupby(["start", "method", "size"]).size().max()
    if seeds > 1:
        handles.append(Patch(color=GREY, alpha=0.2, label=f"band, bar: s.d. over {seeds} seeds"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * len(starts) + 1)
    figure.suptitle(title)
    return figure


def training_course(histories: pd.DataFrame, *, title: str) -> Figure:
    """Spearman and AMI over the steps of training, one line per run.

    Args:
        histories: one row an evaluation: `method`, `seed`, `step`, `spearman`, `ami`.
    """
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    labels = {"spearman": "Spearman × 100, development pairs", "ami": "AMI of two views, nats"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        for method, runs in histories.groupby("method", sort=False):
            for number, (_, run) in enumerate(runs.groupby("seed")):
                style = METHODS[method] | ({"label": None} if number else {})
                axes.plot(run["step"], run[column], alpha=0.8, **style)
        axes.set(xlabel="training step", ylabel=label)
        axes.grid(alpha=0.3)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure
