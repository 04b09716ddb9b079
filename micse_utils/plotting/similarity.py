"""Figures of embeddings, maps and search: colour-blind safe, titled, legible at half width.

And one table, of texts, which pandas by itself sets to the right.
"""

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from pandas.io.formats.style import Styler

# Okabe & Ito's palette, told apart by all common kinds of colour vision.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
SERIES = (BLUE, ORANGE, GREEN, PINK)


def text_table(table: pd.DataFrame, **formats: str) -> Styler:
    """A table for reading: texts and headers to the left, without row numbers.

    Args:
        table: what is shown.
        formats: of its columns with numbers, such as `cosine="{:.2f}"`.
    """
    left = {"text-align": "left"}
    headers = {"selector": "th", "props": list(left.items())}  # pandas sets only cells by itself
    shown = table.style.hide(axis="index").format(formats)
    return shown.set_properties(**left).set_table_styles([headers])


def _literal(text: str) -> str:
    """A reader's text as it stands: dollar signs start no formula, half an emoji is U+FFFD."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return whole.replace("$", r"\$")


def similarity_heatmap(
    similarity: np.ndarray, sentences: Sequence[str], groups: Sequence[str], *, title: str
) -> Figure:
    """Cosine similarity of every pair of sentences, with lines between the groups.

    Args:
        similarity: cosines, [n, n].
        sentences: n labels.
        groups: n group names; sentences of one group stand together.
        title: what the reader sees.
    """
    n = len(sentences)
    figure, axes = plt.subplots(figsize=(11, 5.6), layout="constrained")
    image = axes.imshow(similarity, cmap="cividis", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(similarity):
        colour = "black" if value > 0.55 else "white"
        axes.text(column, row, round(100 * value), ha="center", va="center", color=colour)
    for border in (i for i in range(1, n) if groups[i] != groups[i - 1]):
        axes.axhline(border - 0.5, color="white", linewidth=3)
        axes.axvline(border - 0.5, color="white", linewidth=3)
    labels = [f"{_literal(sentence)}  {i + 1}" for i, sentence in enumerate(sentences)]
    axes.set_yticks(range(n), labels)
    axes.set_xticks(range(n), range(1, n + 1))
    axes.set_xlabel("sentence number (in the cells: cosine × 100)")
    axes.set_title(title)
    axes.tick_params(length=0)
    figure.colorbar(image, label="cosine similarity", extend="min")  # some are below 0
    return figure


def similarity_by_group(
    table: pd.DataFrame, *, value: str, group: str, series: str, title: str
) -> Figure:
    """Dots: cosine similarity of pairs, one row of dots per group and series, a bar at the mean.

    Args:
        table: one pair per row, with the columns named by the other arguments.
        value: column with the cosine.
        group: column that names the kind of pair, in the order it first appears.
        series: column that names what is compared, such as the pooling; one colour each.
        title: what the reader sees.
    """
    groups, names = list(table[group].unique()), list(table[series].unique())
    figure, axes = plt.subplots(figsize=(8, 0.75 * len(groups) + 1.4), layout="constrained")
    for index, name in enumerate(names):
        offset = (index - (len(names) - 1) / 2) * 0.28
        chosen = table[table[series] == name]
        for row, kind in enumerate(groups):
            values = chosen.loc[chosen[group] == kind, value]
            height = np.full(len(values), row + offset)
            label = name if row == 0 else None
            axes.plot(
                values, height, "o", color=SERIES[index], alpha=0.6, markersize=7, label=label
            )
            axes.plot(
                [values.mean()] * 2,
                [row + offset - 0.12, row + offset + 0.12],
                color=SERIES[index],
                lw=3,
            )
    axes.set_yticks(range(len(groups)), groups)
    axes.invert_yaxis()
    axes.set_xlabel("cosine similarity (bar: mean)")
    axes.set_title(title)
    axes.grid(axis="x", alpha=0.3)
    if len(names) > 1:
        axes.legend(title=series, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def similarity_distributions(scores: dict[str, np.ndarray], *, title: str) -> Figure:
    """Histogram of the cosines of many random pairs, one outline per name."""
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    bins = np.linspace(min(s.min() for s in scores.values()), 1, 60)
    for colour, (name, values) in zip(SERIES, scores.items(), strict=False):
        axes.hist(values, bins, density=True, histtype="stepfilled", alpha=0.25, color=colour)
        axes.hist(values, bins, density=True, histtype="step", color=colour, lw=2, label=name)
        axes.axvline(np.mean(values), color=colour, linestyle="--")
    axes.set_xlabel("cosine similarity of two random sentences (dashed: mean)")
    axes.set_ylabel("density")
    axes.set_title(title)
    axes.legend()
    return figure


def accuracy_bars(accuracies: dict[str, float], *, baseline: float, title: str) -> Figure:
    """One bar per approach, in per cent, and the accuracy of always guessing the largest class."""
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(accuracies) + 2), layout="constrained")
    bars = axes.barh(list(accuracies), [100 * a for a in accuracies.values()], color=BLUE)
    axes.bar_label(bars, fmt="%.1f", padding=4)
    label = f"always the largest class: {100 * baseline:.1f}"
    axes.axvline(100 * baseline, color=ORANGE, linestyle="--", lw=2, label=label)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy, per cent")
    axes.set_title(title)
    figure.legend(loc="outside lower center")
    return figure


def cluster_map(points: np.ndarray, labels: Sequence[str], *, noise: str, title: str) -> Figure:
    """Map of texts with the names of the clusters on it; of more than 40, those of the largest.

    The view is on the clusters: texts of none that lie far off may be outside it.

    Args:
        points: positions, [n, 2].
        labels: n cluster names; `noise` marks the texts of no cluster, drawn in grey.
        noise: that name.
        title: what the reader sees.
    """
    names = [name for name in dict.fromkeys(labels) if name != noise]
    if len(names) < 3:  # too few to choose colours by
        return _plain_map(points, np.asarray(labels), [*names, noise], title)

    import datamapplot  # here, because it takes ten seconds that the other figures do not need

    labels = np.asarray(labels)
    figure, axes = datamapplot.create_plot(
        points,
        labels,
        noise_label=noise,
        noise_color="#C8C8C8",
        title=title,
        title_keywords={"fontsize": 17, "fontweight": "bold"},
        font_family="DejaVu Sans",
        use_system_fonts=True,  # the default asks a font server in the internet
        show_labels=False,  # it would set them far around the map
        palette_hue_radius_dependence=0.4,  # less pale in the middle than the default
        point_size=min(12, 50_000 / len(points)),
        glow_keywords={"kernel": "gaussian", "kernel_bandwidth": 0.15},
        figsize=(10, 8),
    )
    shown = points[labels != noise]
    low, high = shown.min(axis=0), shown.max(axis=0)
    (left, bottom), (right, top) = low - 0.08 * (high - low), high + 0.08 * (high - low)
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="auto")
    largest = pd.Series(labels[labels != noise]).value_counts().index[:40]
    _write_names(axes, [(np.median(points[labels == name], axis=0), name) for name in largest])
    return figure


def _write_names(axes: Axes, names: list[tuple[np.ndarray, str]]) -> None:
    """Write each name at its place in the axes, and push apart those that would overlap."""
    style = {"ha": "center", "va": "center", "fontsize": 13, "linespacing": 1.05}
    outline = [withStroke(linewidth=3, foreground="white")]
    texts = [
        axes.text(*place, fill(name, 12, break_long_words=False), **style, path_effects=outline)
        for place, name in names
    ]
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    size = np.array([(box.width + 12, box.height + 4) for box in boxes])
    centre = np.array([(box.x0 + box.x1, box.y0 + box.y1) for box in boxes]) / 2
    low, high = axes.bbox.min + size / 2, axes.bbox.max - size / 2
    for _ in range(500):
        centre = np.clip(centre, low, high)
        away = centre[:, None] - centre
        overlap = (size[:, None] + size) / 2 - np.abs(away)  # in pixels; touching: in both axes
        touching = (overlap > 0).all(axis=2) & ~np.eye(len(texts), dtype=bool)
        shorter = overlap == overlap.min(axis=2, keepdims=True)
        step = np.where(touching[..., None] & shorter, np.sign(away) * overlap, 0).sum(axis=1)
        centre += step / 4
    for text, place in zip(texts, axes.transData.inverted().transform(centre), strict=True):
        text.set_position(place)


def _plain_map(points: np.ndarray, labels: np.ndarray, names: list[str], title: str) -> Figure:
    figure, axes = plt.subplots(figsize=(10, 8), layout="constrained")
    for colour, name in zip((BLUE, ORANGE, GREY)[-len(names) :], names, strict=True):
        axes.scatter(*points[labels == name].T, s=8, color=colour, label=name)
    axes.set_title(title)
    axes.set_axis_off()
    axes.legend()
    return figure


def interactive_map(
    points: np.ndarray,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    colours: Mapping[str, str],
    title: str,
) -> str:
    """A map to pan and zoom with each text under the pointer, as one HTML page.

    The page carries its script, so it opens without internet.

    Args:
        points: positions, [n, 2].
        texts: n texts, shown on hover.
        labels: n class names; a click in the legend hides a class.
        colours: of each class, as hexadecimal.
        title: of the page.
    """
    from bokeh.embed import file_html
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    tooltips = '<div style="max-width:24em"><b>@label</b><br>@text</div>'
    page = figure(
        title=title, tools="pan,wheel_zoom,box_zoom,reset,hover", active_scroll="wheel_zoom",
        tooltips=tooltips, width=860, height=600, output_backend="webgl",
    )  # fmt: skip
    table = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "text": texts, "label": labels})
    for name, rows in table.groupby("label", sort=True):
        page.scatter(
            "x", "y", source=ColumnDataSource(rows), color=colours[name], alpha=0.6, size=5,
            legend_label=name,
        )  # fmt: skip
    page.axis.visible = page.grid.visible = False
    page.legend.click_policy = "hide"
    return file_html(page, INLINE, title)


def search_scores(hits: pd.DataFrame, *, title: str) -> Figure:
    """Cosine of each query's hits by rank, one line per query.

    Args:
        hits: columns `query`, `rank` (from 1) and `cosine`.
        title: what the reader sees.
    """
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    markers = "osD^v"
    for index, (query, rows) in enumerate(hits.groupby("query", sort=False)):
        style = {"marker": markers[index % 5], "color": SERIES[index % 4]}
        axes.plot(rows["rank"], rows["cosine"], label=_literal(query), **style)
    axes.set_xlabel("rank of the sentence found")
    axes.set_ylabel("cosine similarity")
    lowest, highest = hits["cosine"].min(), hits["cosine"].max()
    axes.set_ylim(min(0, lowest), 1.05 * highest)  # from 0, so that no small drop looks steep
    axes.set_xticks(sorted(hits["rank"].unique()))
    axes.set_title(title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
