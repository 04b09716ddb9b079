"""Shared style: colours for colour-blind readers, panels, labels, fonts, tables of text."""

import re
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from functools import cache

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from pandas.io.formats.style import Styler

from micse_utils.settings import repaired

# Okabe & Ito's palette, told apart by all common kinds of colour vision.
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F"
DEFAULT = "DejaVu Sans"
SERIES = (BLUE, ORANGE, GREEN, PINK)


def text_table(table: pd.DataFrame, **formats: str) -> Styler:
    """Return a table to read: left-aligned, without row numbers; equal tables have equal HTML.

    `formats` are those of its number columns, such as `cosine="{:.2f}"`.
    """
    # A reader's own text may hold tags; they are text here.
    shown = Styler(table, uuid="texts", cell_ids=False).hide(axis="index")
    shown = shown.format(formats, escape="html").format_index(escape="html", axis="columns")
    return shown.set_table_styles([{"selector": "th, td", "props": "text-align: left"}])


def sheet(
    width: float, height: float, rows: int = 1, columns: int = 1, title: str = "", **options: object
) -> tuple[Figure, Axes | np.ndarray]:
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
    axes.set_title(literal(title), family=fonts([title]))
    axes.set(**labels)
    if grid:
        axes.grid(axis=grid, alpha=0.3)


def intervals(axes: Axes, places: object, rows: pd.DataFrame, value: str, **style: object) -> None:
    """Draw dots at a column's values, with bars from the columns `low` to `high`."""
    reach = np.array([rows[value] - rows["low"], rows["high"] - rows[value]])
    axes.errorbar(rows[value].to_numpy(), places, xerr=reach, capsize=3, **style)


def literal(text: str) -> str:
    """Return a text for a figure: dollar signs do not start a formula, half an emoji is U+FFFD.

    Characters that no installed font has become "…".
    """
    drawn = "".join(c if c.isspace() or _font_of(c) else "…" for c in repaired(text))
    return re.sub("…+", "…", drawn).replace("$", r"\$")


def fonts(texts: Iterable[str]) -> list[str]:
    """Return the font families that draw the texts: DejaVu Sans, then installed ones it needs."""
    characters = sorted({c for text in texts for c in repaired(text) if not c.isspace()})
    if missing := "".join(c for c in characters if not _font_of(c)):
        packages = "fonts-noto-cjk, fonts-noto-core or fonts-symbola"
        print(f"no installed font has {missing[:10]}: install {packages}, then restart")
    return list(dict.fromkeys([DEFAULT, *filter(None, map(_font_of, characters))]))


@cache
def _font_of(character: str) -> str | None:
    """Return the family of the first installed upright font that has the character."""
    upright = (f for f in fontManager.ttflist if (f.style, f.weight) == ("normal", 400))
    for font in sorted(upright, key=lambda f: (f.name != DEFAULT, "Sans" not in f.name, f.name)):
        with suppress(OSError, RuntimeError):  # gone, or of bitmaps, as for emoji in colour
            found = get_font(font.fname).get_char_index(ord(character))
            if found and "Last Resort" not in font.name:  # matplotlib's own, of boxes
                return font.name
    return None
