"""Put a control beside a figure; where nobody can move it, draw what it would show."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ipywidgets
import matplotlib.pyplot as plt
from IPython.core.pylabtools import print_figure
from IPython.display import clear_output, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micse_utils.settings import setting

FRAMES = "application/vnd.micse.frames+json"
"""Type of the output that web pages turn into a choice of frames; other readers pass over it."""
SIZE = 4.8, 3.6
"""Inches of a figure that moves."""


@dataclass(frozen=True)
class Frames:
    """A figure of some settings side by side, and one of each setting by itself, as PNG."""

    control: str
    together: bytes = field(repr=False)
    each: dict[str, bytes] = field(repr=False)

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        """Return the figure for any reader of notebooks, and the frames for web pages."""
        # Pairs, as a notebook file sorts the keys of a dictionary.
        frames = [[value, base64.b64encode(png).decode()] for value, png in self.each.items()]
        together = base64.b64encode(self.together).decode()
        return {"image/png": together, FRAMES: {"control": self.control, "frames": frames}}


def interactive(
    draw: Callable[[Axes, object], object],
    control: ipywidgets.ValueWidget,
    settings: Sequence[object],
) -> ipywidgets.Widget | Frames:
    """Return a figure that follows a control, or for a static page what it shows at each value.

    The notebook runner sets `MICSE_STATIC`, as a page on GitHub or a web page has no kernel.

    Args:
        draw: draws one value of the control on axes. It is called whenever the control moves, also
            after later cells have run, so it should hold its data (as default arguments) and not
            read them from the notebook's variables. An error in it is shown under the control.
        control: a slider, a text box.
        settings: values that a static page shows side by side.
    """

    def drawn(values: Sequence[object], width: float, height: float) -> Figure:
        size = {"figsize": (width * len(values), height), "layout": "constrained"}
        figure, panels = plt.subplots(1, len(values), squeeze=False, **size)
        try:
            for axes, value in zip(panels[0], values, strict=True):
                draw(axes, value)
                axes.set_title(f"{control.description} {value}\n{axes.get_title()}".strip())
        finally:
            plt.close(figure)  # or the notebook would show it, too
        return figure

    if setting("MICSE_STATIC"):
        values = getattr(control, "options", settings)
        each = {str(value): print_figure(drawn([value], *SIZE)) for value in values}
        return Frames(control.description, print_figure(drawn(settings, 3.1, 3.6)), each)
    control.layout.width, control.style.description_width = "min(100%, 36rem)", "initial"
    if hasattr(control, "readout"):
        control.readout = False  # it would be cut; the figure's title has the value
    picture = ipywidgets.Output()

    def redraw(change: object = None) -> None:
        with picture:
            clear_output(wait=True)
            display(drawn([control.value], *SIZE))

    control.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([control, picture])
