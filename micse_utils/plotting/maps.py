"""Maps of texts in two dimensions, as a figure and as an HTML page."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from micse_utils.plotting.style import BLUE, DEFAULT, GREY, ORANGE, describe, fonts, literal, sheet


def prepare_umap() -> None:
    """Silence UMAP's compiler and choose its cache folder; call this before importing UMAP.

    The import fails if neither its own folder nor the home folder can be written to.
    """
    import numba

    warnings.filterwarnings("ignore", module="numba|umap")  # nothing a reader can act on
    try:
        numba.njit(cache=True)(numba.set_num_threads)  # looks for a folder, and compiles nothing
    except RuntimeError:
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="numba-")


def cluster_map(points: np.ndarray, labels: Sequence[str], *, noise: str, title: str) -> Figure:
    """Draw a map of texts, [n, 2], with the names of the clusters, or of the 40 largest.

    Texts whose label is `noise` have no cluster and are grey. The view fits the clusters: such
    texts that lie far off may be outside it.
    """
    names = [name for name in dict.fromkeys(labels) if name != noise]
    if len(names) < 3:  # too few to choose colours by
        figure, axes = sheet(10, 8)
        for colour, name in zip((GREY, BLUE, ORANGE), [noise, *names], strict=False):
            chosen = points[np.asarray(labels) == name]
            axes.scatter(*chosen.T, s=8, color=colour, label=literal(name))
        describe(axes, title, grid=None, frame_on=False, xticks=[], yticks=[])
        axes.legend(prop={"family": fonts(names)})
        return figure

    import datamapplot  # here, because it takes ten seconds that the other figures do not need

    labels = np.asarray(labels)
    figure, axes = datamapplot.create_plot(
        points,
        labels,
        noise_label=noise,
        noise_color="#C8C8C8",
        title=literal(title),
        title_keywords={"fontsize": 17, "fontweight": "bold", "fontfamily": fonts([title])},
        font_family=DEFAULT,
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
    style |= {"path_effects": [withStroke(linewidth=3, foreground="white")]}
    style["family"] = fonts(name for _, name in names)
    lines = [fill(literal(name), 12, break_long_words=False) for _, name in names]
    texts = [axes.text(*at, text, **style) for (at, _), text in zip(names, lines, strict=True)]
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


def interactive_map(
    points: np.ndarray,
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    colours: Mapping[str, str],
    title: str,
) -> str:
    """Return an HTML page with a map to pan, zoom and search; the pointer shows the text.

    A click in the legend hides a class. `colours`, as hexadecimal, are by label. The page carries
    its script, so it opens without internet.
    """
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, CustomJS, TextInput
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    tooltips = '<div style="max-width:24em"><b>@label</b><br>@text</div>'
    page = figure(
        title=title, tools="pan,wheel_zoom,box_zoom,reset,hover", active_scroll="wheel_zoom",
        tooltips=tooltips, sizing_mode="stretch_width", height=550, toolbar_location="above",
    )  # fmt: skip
    table = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "text": texts, "label": labels})
    sources = []
    for name, rows in table.assign(alpha=0.6).groupby("label", sort=True):
        sources.append(ColumnDataSource(rows))
        page.scatter(
            "x", "y", source=sources[-1], color=colours[name], alpha="alpha", size=5,
            legend_label=name,
        )  # fmt: skip
    fade = """const sought = cb_obj.value_input.toLowerCase()
        for (const source of sources) {
            const texts = Array.from(source.data.text, text => text.toLowerCase())
            source.data = {...source.data, alpha: texts.map(t => t.includes(sought) ? 0.6 : 0.04)}
        }"""
    box = TextInput(title="Search the texts", placeholder="a word")
    box.js_on_change("value_input", CustomJS(args={"sources": sources}, code=fade))
    page.axis.visible = page.grid.visible = False
    page.legend.click_policy = "hide"
    return file_html(column(box, page, sizing_mode="stretch_width"), INLINE, title)
