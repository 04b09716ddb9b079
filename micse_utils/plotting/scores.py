"""Figures of scores: intervals, predictions, alignment; titled, legible at half width."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micse_utils.plotting.style import BLUE, GREY, ORANGE


def score_intervals(scores: pd.DataFrame, *, title: str) -> Figure:
    """Draw Spearman of each encoder on each task with its 95 % interval; numbers at the right.

    All panels have the same scale, so that intervals can be compared.

    Args:
        scores: columns `encoder`, `task`, `spearman`, `low`, `high`, all x 100.
    """
    encoders, tasks = list(scores["encoder"].unique()), list(scores["task"].unique())
    height = 0.32 * len(encoders) + 1.6
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(2.6 + 2.8 * len(tasks), height), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axes, task in zip(panels[0], tasks, strict=True):
        rows = scores[scores["task"] == task].set_index("encoder").reindex(encoders)
        middle, places = rows["spearman"], range(len(encoders))
        reach = [middle - rows["low"], rows["high"] - middle]
        axes.errorbar(middle, places, xerr=reach, fmt="o", color=BLUE, capsize=3)
        for place, value in zip(places, middle, strict=True):
            beside, shown = axes.get_yaxis_transform(), "" if np.isnan(value) else f"{value:.1f}"
            axes.text(1.02, place, shown, transform=beside, va="center")
        axes.set_yticks(places, encoders)
        axes.set(xlabel="Spearman × 100", title=task)
        axes.grid(alpha=0.3)
    panels[0][0].invert_yaxis()
    figure.get_layout_engine().set(wspace=0.06)
    figure.suptitle(title)
    return figure


def pooled_or_averaged(scores: pd.DataFrame, *, title: str) -> Figure:
    """Draw Spearman of each subset, of all pairs pooled, and the means, one panel per task.

    Args:
        scores: what `evaluate_sts` returned for tasks that have subsets.
    """
    tasks = list(scores["task"].unique())
    counts = [(scores["task"] == task).sum() for task in tasks]
    figure, panels = plt.subplots(
        len(tasks), 1, figsize=(8, 0.34 * sum(counts) + 0.7 * len(tasks) + 0.6), squeeze=False,
        height_ratios=counts, layout="constrained",
    )  # fmt: skip
    whole = {"all": (BLUE, "o"), "mean": (ORANGE, "D"), "weighted mean": (ORANGE, "s")}
    for axes, task in zip(panels[:, 0], tasks, strict=True):
        rows = scores[scores["task"] == task].set_index("subset")
        rows = rows.loc[[*rows.index.drop(list(whole)), *whole]]  # the parts first
        for place, row in enumerate(rows.itertuples()):
            colour, marker = whole.get(row.Index, (GREY, "o"))
            reach = [[row.spearman - row.low], [row.high - row.spearman]]  # NaN for the means
            axes.errorbar(row.spearman, place, xerr=reach, fmt=marker, color=colour, capsize=3)
        names = ["all pairs pooled" if name == "all" else name for name in rows.index]
        values = rows["spearman"].map("{:.2f}".format)
        axes.set_yticks(range(len(rows)), [f"{n}: {v}" for n, v in zip(names, values, strict=True)])
        axes.axhline(len(rows) - len(whole) - 0.5, color=GREY, lw=1)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(task)
        axes.grid(axis="x", alpha=0.3)
    panels[-1, 0].set_xlabel("Spearman × 100 (bar: 95 % interval; the means have none)")
    figure.suptitle(title)
    return figure


def predicted_against_gold(
    cosines: Mapping[str, np.ndarray], gold: np.ndarray, *, title: str
) -> Figure:
    """Draw the cosine of each pair against its gold score, one panel per encoder.

    Args:
        cosines: [n] by encoder.
        gold: scores, [n].
    """
    figure, panels = _panels(len(cosines))
    wiggle = np.random.default_rng(0).uniform(-0.1, 0.1, len(gold)) * np.ptp(gold) / 5
    for axes, (name, values) in zip(panels, cosines.items(), strict=True):
        axes.plot(gold + wiggle, values, "o", color=BLUE, alpha=0.25, markersize=3, mew=0)
        axes.set_title(name)
        axes.grid(alpha=0.3)
    figure.supxlabel("gold score (jittered)")
    figure.suptitle(title)
    return figure


def cosines_by_band(
    cosines: Mapping[str, np.ndarray],
    gold: np.ndarray,
    *,
    title: str,
    label: str = "gold score, rounded",
) -> Figure:
    """Draw the distribution of the cosines in each band of the gold score, one panel per encoder.

    Each band is labelled with its number of pairs.

    Args:
        cosines: [n] by encoder.
        gold: scores, [n]; rounded, they make the bands.
        label: label of the axis of the bands.
    """
    bands = np.round(gold)
    names, counts = np.unique(bands, return_counts=True)
    figure, panels = _panels(len(cosines))
    for axes, (name, values) in zip(panels, cosines.items(), strict=True):
        drawn = axes.violinplot([values[bands == band] for band in names], names, showmedians=True)
        for body in drawn["bodies"]:
            body.set_facecolor(BLUE)
        ticks = [f"{name:g}\n({count:,})" for name, count in zip(names, counts, strict=True)]
        axes.set_xticks(names, ticks)
        axes.set_title(name)
        axes.grid(axis="y", alpha=0.3)
    figure.supxlabel(f"{label} (and pairs)")
    figure.suptitle(title)
    return figure


def alignment_uniformity(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw alignment against uniformity of encoders, with Spearman (Wang & Isola 2020, fig. 3).

    Args:
        table: columns `encoder`, `alignment`, `uniformity`, `spearman`.
    """
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot(
        table["uniformity"],
        table["alignment"],
        "o",
        color=BLUE,
        alpha=0.6,
        markersize=10,
        mec="black",
    )
    middle = (table["uniformity"].min() + table["uniformity"].max()) / 2
    for row in table.itertuples():
        left = row.uniformity > middle  # names run towards the middle
        above = table["alignment"] - row.alignment
        crowded = above.between(0, 0.15 * np.ptp(table["alignment"]), inclusive="right").any()
        axes.annotate(
            f"{row.encoder}: {row.spearman:.1f}", (row.uniformity, row.alignment),
            textcoords="offset points", xytext=(-8 if left else 8, -14 if crowded else 6),
            ha="right" if left else "left",
        )  # fmt: skip
    axes.margins(x=0.2, y=0.12)
    axes.set(
        xlabel="uniformity (smaller: vectors spread more evenly)",
        ylabel="alignment (smaller: similar pairs lie closer)",
        title=f"{title}\n(numbers: Spearman × 100)",
    )
    axes.grid(alpha=0.3)
    return figure


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """Return `count` panels of cosines, two in a row, that share their axes."""
    rows, columns = -(-count // 2), min(count, 2)
    figure, panels = plt.subplots(
        rows, columns, figsize=(4.4 * columns, 3.4 * rows + 0.4), sharex=True, sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axes in panels.flat[count:]:
        axes.remove()
    for axes in panels.flat[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    figure.supylabel("cosine similarity")
    return figure, panels.flat[:count]


def accuracy_bars(accuracies: dict[str, float], *, baseline: float, title: str) -> Figure:
    """Draw a bar per approach, in per cent, and a line at the share of the largest class."""
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(accuracies) + 2), layout="constrained")
    bars = axes.barh(list(accuracies), [100 * a for a in accuracies.values()], color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    label = f"always the largest class: {100 * baseline:.1f}"
    axes.axvline(100 * baseline, color=ORANGE, linestyle="--", lw=2, label=label)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set(xlabel="accuracy, per cent", title=title)
    figure.legend(loc="outside lower center")
    return figure
