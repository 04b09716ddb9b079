"""Figures of search with an index: colour-blind safe, titled, legible at half width."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from micse_utils.plotting.style import BLUE, GREY, ORANGE, SERIES, describe, fonts, literal, sheet

MARKERS = "osD^v"


def recall_speed(sweep: pd.DataFrame, *, exact: Mapping[str, float], title: str) -> Figure:
    """Draw recall against queries per second, a line per index and a point per search effort.

    `sweep`: columns `format` (a line each), `effort`, `recall` (0 to 1) and `per_second`; `exact`:
    queries per second of exact searches, by name; they have a recall of 1.
    """
    figure, axes = sheet(8, 4.8)
    groups = sweep.groupby("format", sort=False)
    for colour, marker, (name, rows) in zip(SERIES, MARKERS, groups, strict=False):
        axes.plot(rows["recall"], rows["per_second"], color=colour, marker=marker, label=name)
    for row in sweep[sweep["format"] == sweep["format"].iloc[0]].itertuples():
        style = {"arrowprops": {"arrowstyle": "-", "color": SERIES[0], "shrinkA": 0}}
        style |= {"textcoords": "offset points", "xytext": (-14, -20), "ha": "right"}
        axes.annotate(row.effort, (row.recall, row.per_second), color=SERIES[0], **style)
    for name, rate in exact.items():
        axes.plot(1, rate, "k*", label=name, clip_on=False, zorder=3, markersize=13)
    axes.set_yscale("log")
    axes.margins(x=0.1, y=0.12)
    _numbers(axes)
    describe(axes, title, ylabel="queries per second, one at a time")
    axes.set_xlabel("recall@10 (numbers at the points: candidates kept)")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def index_bytes(sizes: pd.DataFrame, *, title: str) -> Figure:
    """Draw bytes per vector of each index as stacked bars: the vector itself and its links.

    `sizes`: columns `format`, `vector` and `links` (bytes), and `recall` (0 to 1).
    """
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
    """Draw milliseconds per query against the number of vectors, on logarithmic axes.

    `times`: column `vectors`, and one column of milliseconds for each way to search, named such as
    `exact, in one batch`: a colour for what is before the comma, a style of line for the rest.
    """
    figure, axes = sheet(8, 4.4)
    names = times.columns.drop("vectors")
    parts = names.str.split(", ", expand=True)
    numbers, dashes = (pd.factorize(parts.get_level_values(level))[0] for level in (0, 1))
    for name, number, dash in zip(names, numbers, dashes, strict=True):
        style = {"color": SERIES[number], "marker": MARKERS[number], "linestyle": ("-", "--")[dash]}
        axes.loglog(times["vectors"], times[name], label=name, **style)
    axes.set_xticks(times["vectors"], [f"{count:,}" for count in times["vectors"]])
    axes.minorticks_off()
    _numbers(axes)
    describe(axes, title, xlabel="vectors searched in", ylabel="milliseconds per query")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _numbers(axes: Axes) -> None:
    """Label a logarithmic axis at 1, 2 and 5 of each power of ten, in plain numbers."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))


def search_scores(hits: pd.DataFrame, every: np.ndarray, *, title: str) -> Figure:
    """Draw the cosines of each query's hits as dots, beside a box of those of all sentences.

    `hits`: columns `query` and `cosine`, in the order of `every`, [queries, sentences].
    """
    queries = list(dict.fromkeys(hits["query"]))
    figure, axes = sheet(8, 0.6 * len(queries) + 1.6)
    style = {"whis": (0, 100), "widths": 0.3, "medianprops": {"color": GREY}}
    axes.boxplot(list(every), positions=range(len(queries)), orientation="horizontal", **style)
    axes.plot(hits["cosine"], hits["query"].map(queries.index), "o", color=BLUE, alpha=0.7)
    labels = [fill(literal(query), 30) for query in queries]
    axes.set_yticks(range(len(queries)), labels, family=fonts(queries))
    axes.invert_yaxis()
    describe(axes, title, xlabel="cosine similarity")
    return figure


def walk_through(
    points: np.ndarray, layers: Sequence[tuple], query: np.ndarray, *, title: str
) -> Figure:
    """Draw a search in a graph with layers, from the top one down, a panel each.

    `layers` are, from the top, links as a mapping from each point of the layer to its neighbours,
    and the points that the search visited, in order. `points` are [n, 2], the query [2].
    """
    figure, row = sheet(3.1 * len(layers), 3.6, 1, len(layers), title, sharex=True, sharey=True)
    for axes, (number, (links, path)) in zip(row, enumerate(layers), strict=True):
        for start, ends in links.items():
            for end in ends:
                axes.plot(*points[[start, end]].T, color="#CCCCCC", lw=1, zorder=1)
        axes.plot(*points[list(links)].T, "o", color=GREY, markersize=5)
        axes.plot(*points[path].T, "o-", color=BLUE, lw=2.5)
        axes.plot(*points[path[0]], "s", color=BLUE, markersize=10, label="start")
        axes.plot(*query, "*", color=ORANGE, markersize=15, label="query")
        steps = f"{len(path) - 1} step{'s' * (len(path) != 2)}"
        name = f"layer {len(layers) - 1 - number}: {len(links)} vectors, {steps}"
        describe(axes, name, grid=None, xticks=[], yticks=[])
        axes.title.set_fontsize("medium")
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
