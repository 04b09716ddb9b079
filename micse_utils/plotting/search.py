"""Figures of search: hits, and what an index gives up, needs and saves."""

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from micse_utils.plotting.style import BLUE, FONTS, GREY, ORANGE, SERIES, describe, literal, sheet


def recall_speed(sweep: pd.DataFrame, *, exact: dict[str, float], title: str) -> Figure:
    """Draw `recall` against queries `per_second`, a line per `format` and a point per `effort`.

    `exact`: queries per second of exact searches, by name; they have a recall of 1.
    """
    figure, axes = sheet(8, 4.8)
    groups = sweep.groupby("format", sort=False)
    for colour, marker, (name, rows) in zip(SERIES, "osD^", groups, strict=False):
        axes.plot(rows["recall"], rows["per_second"], color=colour, marker=marker, label=name)
    style = {"arrowprops": {"arrowstyle": "-", "color": BLUE, "shrinkA": 0}, "color": BLUE}
    style |= {"textcoords": "offset points", "xytext": (-14, -20), "ha": "right"}
    for row in sweep[sweep["format"] == sweep["format"].iloc[0]].itertuples():
        axes.annotate(row.effort, (row.recall, row.per_second), **style)
    for name, rate in exact.items():
        axes.plot(1, rate, "k*", label=name, clip_on=False, zorder=3, markersize=13)
    axes.margins(x=0.1, y=0.12)
    describe(axes, title, yscale="log", ylabel="queries per second, one at a time")
    _numbers(axes)
    axes.set_xlabel("recall@10 (numbers at the points: candidates kept)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def index_bytes(sizes: pd.DataFrame, *, title: str) -> Figure:
    """Draw bytes of each index (`format`) as stacked bars, `vector` and `links`, with `recall`."""
    figure, axes = sheet(8, 0.6 * len(sizes) + 1.6)
    names, vector, links = sizes["format"], sizes["vector"], sizes["links"]
    axes.barh(names, vector, color=BLUE, label="vector")
    bars = axes.barh(names, links, left=vector, color=ORANGE, label="links")
    axes.bar_label(bars, [f"recall@10 {value:.3f}" for value in sizes["recall"]], padding=5)
    axes.set_xlim(0, 1.25 * (vector + links).max())
    axes.invert_yaxis()
    describe(axes, title, grid=None, xlabel="bytes per vector in the index")
    axes.legend(loc="lower right")
    return figure


def search_growth(times: pd.DataFrame, *, title: str) -> Figure:
    """Draw milliseconds a query, a column for each way to search, by the number of `vectors`."""
    figure, axes = sheet(8, 4.4)
    for name in times.columns.drop("vectors"):
        colour, marker = (BLUE, "o") if name.startswith("exact") else (ORANGE, "s")
        line = "--" if name.endswith("batch") else "-"
        axes.loglog(times["vectors"], times[name], line, color=colour, marker=marker, label=name)
    axes.set_xticks(times["vectors"], [f"{count:,}" for count in times["vectors"]])
    axes.minorticks_off()
    _numbers(axes)
    describe(axes, title, xlabel="vectors searched in", ylabel="milliseconds per query")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _numbers(axes: Axes) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each power of ten, in plain numbers."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_minor_formatter("")


def search_scores(hits: pd.DataFrame, every: np.ndarray, *, title: str) -> Figure:
    """Draw the `cosine` of hits of each `query`, and boxes of `every` one, [queries, sentences]."""
    queries = list(hits["query"].unique())
    figure, axes = sheet(8, 0.6 * len(queries) + 1.6)
    style = {"whis": (0, 100), "widths": 0.3, "medianprops": {"color": GREY}}
    axes.boxplot(list(every), positions=range(len(queries)), orientation="horizontal", **style)
    axes.plot(hits["cosine"], hits["query"].map(queries.index), "o", color=BLUE, alpha=0.7)
    axes.set_yticks(range(len(queries)), [fill(literal(q), 30) for q in queries], family=FONTS)
    axes.invert_yaxis()
    describe(axes, title, xlabel="cosine (dots: best hits; line: all sentences; box: middle half)")
    return figure


def walk_through(points: np.ndarray, layers: list, query: np.ndarray, *, title: str) -> Figure:
    """Draw a search in a graph with layers, from the top one down, a panel each.

    `points` are [n, 2], the query [2]; a layer is a mapping from each of its points to the points
    it is linked with, and the points that the search visited, in order.
    """
    figure, row = sheet(3.1 * len(layers), 3.6, 1, len(layers), title, sharex=True, sharey=True)
    for number, (axes, (links, path)) in enumerate(zip(row, layers, strict=True), start=1):
        for start, ends in links.items():
            for end in ends:
                axes.plot(*points[[start, end]].T, color="#CCCCCC", lw=1, zorder=1)
        axes.plot(*points[list(links)].T, "o", color=GREY, markersize=5)
        axes.plot(*points[path].T, "o-", color=BLUE, lw=2.5)
        axes.plot(*points[path[0]], "s", color=BLUE, markersize=10, label="start")
        axes.plot(*query, "*", color=ORANGE, markersize=15, label="query")
        steps = f"{len(path) - 1} step{'s' * (len(path) != 2)}"
        name = f"layer {len(layers) - number}: {len(links)} vectors, {steps}"
        describe(axes, name, grid=None, xticks=[], yticks=[])
        axes.title.set_fontsize("medium")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
