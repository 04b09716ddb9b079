"""Shared style: colours for colour-blind readers, fonts, panels, labels, tables of text."""

from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from pandas.io.formats.style import Styler

from micse_utils.settings import repaired

# Okabe & Ito's palette, told apart by all common kinds of colour vision.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
SERIES = (BLUE, ORANGE, GREEN, PINK)
# Matplotlib's own font, and those that systems have for the scripts that it lacks.
CJK = ("Noto Sans CJK JP", "Microsoft YaHei", "Malgun Gothic", "Arial Unicode MS")
FONTS = ["DejaVu Sans", *(name for name in CJK if name in get_font_names())]


def text_table(table: pd.DataFrame, **formats: str) -> Styler:
    """Return a table to read, left-aligned; `formats` of number columns as `cosine="{:.2f}"`."""
    # A reader's own text may hold tags; they are text here. Equal tables have equal HTML.
    shown = Styler(table, uuid="texts", cell_ids=False).hide(axis="index")
    shown = shown.format(formats, escape="html").format_index(escape="html", axis="columns")
    return shown.set_table_styles([{"selector": "th, td", "props": "text-align: left"}])


def sheet(
    width: float, height: float, rows: int = 1, columns: int = 1, title: str = "", **options: object
) -> tuple[Figure, object]:
    """Return a figure whose layout leaves room for all labels, and its axes."""
    size = {"figsize": (width, height), "layout": "constrained"}
    figure, axes = plt.subplots(rows, columns, **size, **options)
    if title:
        figure.suptitle(title)
    return figure, axes


def panels(
    names: Collection[str], title: str, *, columns: int = 2, shared: bool = True
) -> tuple[Figure, Sequence[Axes]]:
    """Return a figure with a panel for each name, and the panels; `shared`: of one scale."""
    rows = -(-len(names) // columns)
    options = {"sharex": shared, "sharey": shared, "squeeze": False}
    figure, drawn = sheet(4.4 * columns, 3.3 * rows + 0.6, rows, columns, title, **options)
    for axes, name in zip(drawn.flat, names, strict=False):
        describe(axes, name)
    return figure, drawn.flat[: len(names)]


def describe(axes: Axes, title: str, *, grid: str | None = "both", **labels: object) -> None:
    """Set the title, which may hold any characters, and labels; draw a faint grid."""
    axes.set_title(literal(title), family=FONTS)
    axes.set(**labels)
    if grid:
        axes.grid(axis=grid, alpha=0.3)


def literal(text: str) -> str:
    """Return a text for a figure: dollar signs do not start a formula, half an emoji is U+FFFD."""
    return repaired(text).replace("$", r"\$")
