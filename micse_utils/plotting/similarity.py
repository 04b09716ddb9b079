"""Figures of cosine similarities: heat map, groups, distributions."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from micse_utils.plotting.style import FONTS, SERIES, describe, literal, sheet


def similarity_heatmap(
    similarity: np.ndarray, sentences: Sequence[str], groups: Sequence[str], *, title: str
) -> Figure:
    """Draw the cosine of each pair, [n, n], once, with lines between groups of neighbours."""
    n = len(sentences)
    figure, axes = sheet(11, 5.6)
    once = np.tril(np.ones((n, n), dtype=bool))
    image = axes.imshow(np.ma.masked_array(similarity, ~once), cmap="cividis", vmin=0, vmax=1)
    for row, column in np.argwhere(once):
        value = similarity[row, column]
        colour = "black" if value > 0.55 else "white"
        axes.text(column, row, round(100 * value), ha="center", va="center", color=colour)
    for border in (i for i in range(1, n) if groups[i] != groups[i - 1]):
        axes.axhline(border - 0.5, color="white", linewidth=3)
        axes.axvline(border - 0.5, color="white", linewidth=3)
    labels = [f"{literal(sentence)}  {i}" for i, sentence in enumerate(sentences, start=1)]
    axes.set_yticks(range(n), labels, family=FONTS)
    axes.set_xticks(range(n), range(1, n + 1))
    describe(axes, title, grid=None, xlabel="sentence number (in the cells: cosine × 100)")
    axes.tick_params(length=0)
    figure.colorbar(image, label="cosine similarity", extend="min")  # some are below 0
    return figure


def similarity_by_group(table: pd.DataFrame, *, group: str, title: str) -> Figure:
    """Draw each `cosine` as a dot, in rows by `group`, a colour a `pooling`; bars are means."""
    groups, names = table[group].unique(), table["pooling"].unique()
    figure, axes = sheet(8, 0.75 * len(groups) + 1.4)
    for index, name in enumerate(names):
        colour, offset = SERIES[index], (index - (len(names) - 1) / 2) * 0.28
        for row, kind in enumerate(groups):
            values = table.loc[(table["pooling"] == name) & (table[group] == kind), "cosine"]
            place, label = row + offset, None if row else name
            dots = {"color": colour, "alpha": 0.6, "markersize": 7, "label": label}
            axes.plot(values, [place] * len(values), "o", **dots)
            axes.plot([values.mean()] * 2, [place - 0.12, place + 0.12], color=colour, lw=3)
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    describe(axes, title, grid="x", xlabel="cosine similarity (bar: mean)")
    if len(names) > 1:
        axes.legend(title="pooling", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def similarity_distributions(scores: dict[str, np.ndarray], *, title: str) -> Figure:
    """Draw the distribution of the cosines of random pairs, one outline per name."""
    figure, axes = sheet(8, 3.6)
    bins = np.linspace(min(s.min() for s in scores.values()), 1, 60)
    for colour, (name, values) in zip(SERIES, scores.items(), strict=False):
        axes.hist(values, bins, density=True, histtype="stepfilled", alpha=0.25, color=colour)
        axes.hist(values, bins, density=True, histtype="step", color=colour, lw=2, label=name)
        axes.axvline(np.mean(values), color=colour, linestyle="--")
    means = "cosine similarity of two random sentences (dashed: mean)"
    describe(axes, title, grid=None, xlabel=means, ylabel="density")
    axes.legend()
    return figure
