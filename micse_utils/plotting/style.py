"""What all figures share: colours that all can tell apart, and texts as readers wrote them."""

import pandas as pd
from pandas.io.formats.style import Styler

from micse_utils.checks import repaired

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
    # A reader's own text may hold tags; they are text here.
    shown = table.style.hide(axis="index").format(formats, escape="html")
    shown = shown.format_index(escape="html", axis="columns")
    return shown.set_properties(**left).set_table_styles([headers])


def literal(text: str) -> str:
    """A reader's text as it stands: dollar signs start no formula, half an emoji is U+FFFD."""
    return repaired(text).replace("$", r"\$")
