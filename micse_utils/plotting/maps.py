"""Maps of texts in two dimensions, as a figure and as an HTML page."""

import tempfile
import warnings
from collections.abc import Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from micse_utils.plotting.style import FONTS, literal


def prepare_umap() -> None:
    """Silence UMAP's compiler, and find a cache folder for it; call this before importing UMAP."""
    import numba

    warnings.filterwarnings("ignore", module="numba|umap")  # nothing a reader can act on
    try:  # this looks for a folder, and compiles nothing; without one the import would fail
        numba.njit(cache=True)(numba.set_num_threads)
    except RuntimeError:
        numba.config.CACHE_DIR = tempfile.mkdtemp(prefix="numba-")


def cluster_map(points: np.ndarray, labels: Sequence[str], *, noise: str, title: str) -> Figure:
    """Draw a map of texts, [n, 2], with the names of the 15 largest clusters.

    Texts labelled `noise` are grey; as the view fits the clusters, some may be outside it.
    """
    import datamapplot  # here, because it takes ten seconds that the other figures do not need

    labels = np.asarray(labels)
    figure, axes = datamapplot.create_plot(
        points,
        labels,
        noise_label=noise,
        noise_color="#C8C8C8",
        title=literal(title),
        title_keywords={"fontsize": 17, "fontweight": "bold", "fontfamily": FONTS},
        font_family=FONTS[0],
        use_system_fonts=True,  # the default asks a font server on the internet
        show_labels=False,  # they would stand in a wide ring around it
        palette_hue_radius_dependence=0.4,  # less pale in the middle than the default
        point_size=min(12, 50_000 / len(points)),
        glow_keywords={"kernel": "gaussian", "kernel_bandwidth": 0.15},
        figsize=(10, 8),
    )
    largest = pd.Series(labels[labels != noise]).value_counts().index[:15]
    if len(largest):
        shown = points[labels != noise]
        low, high = shown.min(axis=0), shown.max(axis=0)
        (left, bottom), (right, top) = low - 0.08 * (high - low), high + 0.08 * (high - low)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="auto")
        _write_names(axes, {name: np.median(points[labels == name], axis=0) for name in largest})
    return figure


def _write_names(axes: Axes, places: dict[str, np.ndarray]) -> None:
    """Write each name at its place in the axes, and push apart those that would overlap."""
    style = {"ha": "center", "va": "center", "fontsize": 13, "linespacing": 1.05, "family": FONTS}
    style |= {"path_effects": [withStroke(linewidth=3, foreground="white")]}
    lines = [fill(literal(name), 12, break_long_words=False) for name in places]
    texts = [axes.text(*at, line, **style) for at, line in zip(places.values(), lines, strict=True)]
    axes.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts]
    size = np.array([box.size for box in boxes]) + np.array([12, 4])
    centre = np.array([box.min + box.max for box in boxes]) / 2
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
    points: np.ndarray, texts: Sequence[str], labels: Sequence[str], *, colours: dict, title: str
) -> str:
    """Return an HTML page with a map to pan, zoom and search; the pointer shows the text.

    A click in the legend hides a class. The page carries its script, so it needs no internet.
    """
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import ColumnDataSource, CustomJS, TextInput
    from bokeh.plotting import figure
    from bokeh.resources import INLINE

    tooltips = '<div style="max-width:24em"><b>@label</b><br>@text</div>'
    tools = {"tools": "pan,wheel_zoom,box_zoom,reset", "active_scroll": "wheel_zoom"}
    page = figure(title=title, tooltips=tooltips, height=550, sizing_mode="stretch_width", **tools)
    table = pd.DataFrame({"x": points[:, 0], "y": points[:, 1], "text": texts, "label": labels})
    sources = []
    for name, rows in table.assign(alpha=0.6).groupby("label"):
        sources.append(ColumnDataSource(rows))
        style = {"color": colours[name], "alpha": "alpha", "size": 5, "legend_label": name}
        page.scatter("x", "y", source=sources[-1], **style)
    fade = """const sought = cb_obj.value_input.toLowerCase()
        const shade = text => text.toLowerCase().includes(sought) ? 0.6 : 0.04
        for (const source of sources)
            source.data = {...source.data, alpha: Array.from(source.data.text, shade)}"""
    box = TextInput(title="Search the texts", placeholder="a word")
    box.js_on_change("value_input", CustomJS(args={"sources": sources}, code=fade))
    page.axis.visible = page.grid.visible = False
    page.legend.click_policy = "hide"
    return file_html(column(box, page, sizing_mode="stretch_width"), INLINE, title)
