"""Figures of scores: intervals, predictions, alignment."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micse_utils.plotting.style import BLUE, GREY, ORANGE, describe, panels, sheet


def score_intervals(scores: pd.DataFrame, *, title: str) -> Figure:
    """Draw `spearman` of each `encoder` on each `task`, with the interval from `low` to `high`."""
    encoders, tasks = scores["encoder"].unique(), scores["task"].unique()
    figure, grid = panels(tasks, title, columns=len(tasks))
    figure.set_size_inches(2.6 + 2.8 * len(tasks), 0.32 * len(encoders) + 1.6)
    for axes, task in zip(grid, tasks, strict=True):
        rows = scores[scores["task"] == task].set_index("encoder").reindex(encoders)
        _intervals(axes, range(len(encoders)), rows, fmt="o", color=BLUE)
        for place, value in enumerate(rows["spearman"]):
            shown, beside = "" if np.isnan(value) else f"{value:.1f}", axes.get_yaxis_transform()
            axes.text(1.02, place, shown, transform=beside, va="center")
        axes.set_yticks(range(len(encoders)), encoders)
    figure.supxlabel("Spearman × 100 (dot and number), with its 95 % interval (bar)", size="medium")
    grid[0].invert_yaxis()
    figure.get_layout_engine().set(wspace=0.06)
    return figure


def pooled_or_averaged(scores: pd.DataFrame, *, title: str) -> Figure:
    """Draw what `evaluate_sts` returned for tasks with subsets: those, all pairs pooled, means."""
    counts = scores["task"].value_counts(sort=False)
    size = (8, 0.34 * len(scores) + 0.7 * len(counts) + 0.6)
    figure, grid = sheet(*size, len(counts), 1, title, squeeze=False, height_ratios=counts)
    whole = {"all": (BLUE, "o"), "mean": (ORANGE, "D"), "weighted mean": (ORANGE, "s")}
    for axes, task in zip(grid[:, 0], counts.index, strict=True):
        rows = scores[scores["task"] == task].set_index("subset")
        rows = rows.loc[[*rows.index.drop(list(whole)), *whole]]  # the parts first
        for place, name in enumerate(rows.index):  # low and high are NaN for the means
            colour, marker = whole.get(name, (GREY, "o"))
            _intervals(axes, [place], rows.iloc[[place]], fmt=marker, color=colour)
        shown = rows["spearman"].rename({"all": "all pairs pooled"})
        axes.set_yticks(range(len(rows)), [f"{n}: {v:.2f}" for n, v in shown.items()])
        axes.axhline(len(rows) - len(whole) - 0.5, color=GREY, lw=1)
        describe(axes, task, grid="x", ylim=(len(rows) - 0.5, -0.5))
    grid[-1, 0].set_xlabel("Spearman × 100 (bar: 95 % interval; the means have none)")
    return figure


def _intervals(axes: Axes, places: object, rows: pd.DataFrame, **style: object) -> None:
    """Draw Spearman as dots, with bars from `low` to `high`."""
    reach = np.array([rows["spearman"] - rows["low"], rows["high"] - rows["spearman"]])
    axes.errorbar(rows["spearman"].to_numpy(), places, xerr=reach, capsize=3, **style)


def predicted_against_gold(cosines: dict, gold: np.ndarray, *, title: str) -> Figure:
    """Draw the cosine of each pair, [n] by encoder, against its gold score, one panel each."""
    figure, grid = panels(cosines, title)
    jittered = gold + np.random.default_rng(0).uniform(-0.1, 0.1, len(gold)) * np.ptp(gold) / 5
    for axes, values in zip(grid, cosines.values(), strict=True):
        axes.plot(jittered, values, "o", color=BLUE, alpha=0.25, markersize=3, mew=0)
    figure.supxlabel("gold score (jittered)")
    figure.supylabel("cosine similarity")
    return figure


def alignment_uniformity(table: pd.DataFrame, *, title: str, trained: dict) -> Figure:
    """Draw `alignment` and `uniformity` of encoders, as in Wang & Isola 2020, with `spearman`.

    `trained` names the encoder that each trained one began as; an arrow leads from there.
    """
    figure, axes = sheet(8, 5)
    style = {"color": BLUE, "alpha": 0.6, "markersize": 10, "mec": "black"}
    axes.plot(table["uniformity"], table["alignment"], "o", **style)
    places = table.set_index("encoder")[["uniformity", "alignment"]]
    arrow = {"arrowstyle": "-|>", "color": ORANGE, "lw": 2, "shrinkA": 7, "shrinkB": 7}
    for after, before in trained.items():
        axes.annotate("", places.loc[after], places.loc[before], arrowprops=arrow)
    middle = (table["uniformity"].min() + table["uniformity"].max()) / 2
    for row in table.itertuples():
        # Names run towards the middle.
        side, x = ("right", -8) if row.uniformity > middle else ("left", 8)
        above = table["alignment"] - row.alignment
        crowded = above.between(0, 0.15 * np.ptp(table["alignment"]), inclusive="right").any()
        text, at = f"{row.encoder}: {row.spearman:.1f}", (row.uniformity, row.alignment)
        axes.annotate(text, at, (x, -14 if crowded else 6), textcoords="offset points", ha=side)
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
