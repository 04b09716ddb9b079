"""Formulas for web pages that load nothing, drawn by matplotlib's own TeX."""

import html
import re

from matplotlib.font_manager import FontProperties
from matplotlib.path import Path
from matplotlib.textpath import TextPath

from micse_utils.checks import shown

EM = 840
"""Units of a drawing in an em; at 1000 its small letters would be lower than those around it."""
LETTERS = {
    Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C", Path.CLOSEPOLY: "Z"
}  # fmt: skip


def formula(tex: str) -> str:
    """A formula as SVG that stands in a line of text and takes its size and colour.

    Args:
        tex: what stands between the dollar signs; it becomes the description for screen readers.

    Raises:
        ValueError: `tex` is not in the part of TeX that matplotlib draws.
    """
    if not tex.strip():
        raise ValueError(f"the formula {shown(tex)} is empty")
    known = re.sub(r"\\tfrac(\w)(\w)", r"\\frac{\1}{\2}", tex)
    font = FontProperties(math_fontfamily="stix")
    try:
        outline = TextPath((0, 0), f"${known}$", size=1000, prop=font)
    except (ValueError, RecursionError) as error:  # it points at the place on several lines
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"the formula {shown(tex)} cannot be drawn: {reason}") from error
    box = outline.get_extents()
    drawing = "".join(
        LETTERS[code] + ("" if code == Path.CLOSEPOLY else " ".join(f"{v:.0f}" for v in points))
        for points, code in outline.iter_segments(simplify=False)
    )
    return (
        f'<svg class="formula" role="img" aria-label="{html.escape(tex)}" '
        f'viewBox="{box.x0:.0f} {-box.y1:.0f} {box.width:.0f} {box.height:.0f}" '
        f'style="height:{box.height / EM:.3f}em;vertical-align:{box.y0 / EM:.3f}em">'
        f'<path transform="scale(1 -1)" d="{drawing}"/></svg>'
    )
