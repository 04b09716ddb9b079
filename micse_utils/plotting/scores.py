"""Figures of scores: intervals, predictions, alignment; titled, legible at half width."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from micse_utils.plotting.style import BLUE, GREY, ORANGE, describe, intervals, panels, sheet


def score_intervals(scores: pd.DataFrame, *, title: str) -> Figure:
    """Draw Spearman of each encoder on each task with its 95 % interval; numbers at the right.

    All panels have the same scale, so that intervals can be compared.

    `scores`: columns `encoder`, `task`, `spearman`, `low`, `high`, all x 100.
    """
    encoders, tasks = list(scores["encoder"].unique()), list(scores["task"].unique())
    size, shared = (2.6 + 2.8 * len(tasks), 0.32 * len(encoders) + 1.6), {"squeeze": False}
    figure, grid = sheet(*size, 1, len(tasks), title, sharex=True, sharey=True, **shared)
    for axes, task in zip(grid[0], tasks, strict=True):
        rows = scores[scores["task"] == task].set_index("encoder").reindex(encoders)
        intervals(axes, range(len(encoders)), rows, "spearman", fmt="o", color=BLUE)
        for place, value in enumerate(rows["spearman"]):
            beside, shown = axes.get_yaxis_transform(), "" if np.isnan(value) else f"{value:.1f}"
            axes.text(1.02, place, shown, transform=beside, va="center")
        axes.set_yticks(range(len(encoders)), encoders)
        describe(axes, task, xlabel="Spearman × 100")
    grid[0][0].invert_yaxis()
    figure.get_layout_engine().set(wspace=0.06)
    return figure


def pooled_or_averaged(scores: pd.DataFrame, *, title: str) -> Figure:
    """Draw Spearman of each subset, of all pairs pooled, and the means, one panel per task.

    `scores`: what `evaluate_sts` returned for tasks that have subsets.
    """
    tasks = list(scores["task"].unique())
    counts = [(scores["task"] == task).sum() for task in tasks]
    size = (8, 0.34 * sum(counts) + 0.7 * len(tasks) + 0.6)
    figure, grid = sheet(*size, len(tasks), 1, title, squeeze=False, height_ratios=counts)
    whole = {"all": (BLUE, "o"), "mean": (ORANGE, "D"), "weighted mean": (ORANGE, "s")}
    for axes, task in zip(grid[:, 0], tasks, strict=True):
        rows = scores[scores["task"] == task].set_index("subset")
        rows = rows.loc[[*rows.index.drop(list(whole)), *whole]]  # the parts first
        for place, name in enumerate(rows.index):  # low and high are NaN for the means
            colour, marker = whole.get(name, (GREY, "o"))
            intervals(axes, [place], rows.iloc[[place]], "spearman", fmt=marker, color=colour)
        names = rows.index.str.replace("^all$", "all pairs pooled", regex=True)
        ticks = [f"{n}: {v:.2f}" for n, v in zip(names, rows["spearman"], strict=True)]
        axes.set_yticks(range(len(rows)), ticks)
        axes.axhline(len(rows) - len(whole) - 0.5, color=GREY, lw=1)
        describe(axes, task, grid="x", ylim=(len(rows) - 0.5, -0.5))
    grid[-1, 0].set_xlabel("Spearman × 100 (bar: 95 % interval; the means have none)")
    return figure


def predicted_against_gold(
    cosines: Mapping[str, np.ndarray], gold: np.ndarray, *, title: str
) -> Figure:
    """Draw the cosine of each pair, [n] by encoder, against its gold score, one panel each."""
    figure, grid = panels(cosines, title)
    jittered = gold + np.random.default_rng(0).uniform(-0.1, 0.1, len(gold)) * np.ptp(gold) / 5
    for axes, values in zip(grid, cosines.values(), strict=True):
        axes.plot(jittered, values, "o", color=BLUE, alpha=0.25, markersize=3, mew=0)
    figure.supxlabel("gold score (jittered)")
    figure.supylabel("cosine similarity")
    return figure


def alignment_uniformity(
    table: pd.DataFrame, *, title: str, trained: Mapping[str, str] | None = None
) -> Figure:
    """Draw alignment against uniformity of encoders, with Spearman (Wang & Isola 2020, fig. 3).

    `table` has the columns `encoder`, `alignment`, `uniformity`, `spearman`; `trained` encoders,
    each with the one it was trained from: an arrow leads from there.
    """
    figure, axes = sheet(8, 5)
    style = {"color": BLUE, "alpha": 0.6, "markersize": 10, "mec": "black"}
    axes.plot(table["uniformity"], table["alignment"], "o", **style)
    places = table.set_index("encoder")[["uniformity", "alignment"]]
    for after, before in (trained or {}).items():
        arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 2, "shrinkA": 7, "shrinkB": 7}
        axes.annotate("", places.loc[after], places.loc[before], arrowprops=arrow)
    middle = (table["uniformity"].min() + table["uniformity"].max()) / 2
    for row in table.itertuples():
        left = row.uniformity > middle  # names run towards the middle
        above = table["alignment"] - row.alignment
        crowded = above.between(0, 0.15 * np.ptp(table["alignment"]), inclusive="right").any()
        beside = {"xytext": (-8 if left else 8, -14 if crowded else 6)}
        beside |= {"textcoords": "offset points", "ha": "right" if left else "left"}
        text = f"{row.encoder}: {row.spearman:.1f}"
        axes.annotate(text, (row.uniformity, row.alignment), **beside)
    axes.margins(x=0.2, y=0.12)
    describe(axes, f"{title}\n(numbers: Spearman × 100)")
    axes.set_xlabel("uniformity (smaller: vectors spread more evenly)")
    axes.set_ylabel("alignment (smaller: similar pairs lie closer)")
    return figure


def accuracy_bars(accuracies: dict[str, float], *, baseline: float, title: str) -> Figure:
    """Draw a bar per approach, in per cent, and a line at the share of the largest class."""
    figure, axes = sheet(8, 0.6 * len(accuracies) + 2)
    bars = axes.barh(list(accuracies), [100 * a for a in accuracies.values()], color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    name = f"always the largest class: {100 * baseline:.1f}"
    axes.axvline(100 * baseline, color=ORANGE, linestyle="--", lw=2, label=name)
    axes.invert_yaxis()
    describe(axes, title, grid=None, xlim=(0, 100), xlabel="accuracy, per cent")
    figure.legend(loc="outside lower center")
    return figure
