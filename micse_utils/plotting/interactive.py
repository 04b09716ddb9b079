"""Put a control beside a figure; where nobody can move it, draw what it would show."""

import base64
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from IPython.core.pylabtools import print_figure
from IPython.display import clear_output, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micse_utils.plotting.style import sheet
from micse_utils.settings import setting

FRAMES = "application/vnd.micse.frames+json"
"""Type of the output that web pages turn into a choice of frames; other readers pass over it."""
SIZE = 4.8, 3.6
"""Inches of a figure that moves."""


def interactive(
    draw: Callable[[Axes, object], object],
    control: ipywidgets.ValueWidget,
    settings: Sequence[object],
) -> ipywidgets.Widget | None:
    """Return a figure that follows a control, or on a static page show what it is at each value.

    The notebook runner sets `MICSE_STATIC`, as a page on GitHub or a web page has no kernel.

    Args:
        draw: draws one value of the control on axes. It is called whenever the control moves, also
            after later cells have run, so it should hold its data (as default arguments) and not
            read them from the notebook's variables. An error in it is shown under the control.
        control: a slider, a text box.
        settings: values that a static page shows side by side.
    """

    def drawn(values: Sequence[object], width: float, height: float) -> Figure:
        figure, panels = sheet(width * len(values), height, 1, len(values), squeeze=False)
        try:
            for axes, value in zip(panels[0], values, strict=True):
                draw(axes, value)
                axes.set_title(f"{control.description} {value}\n{axes.get_title()}".strip())
        finally:
            plt.close(figure)  # or the notebook would show it, too
        return figure

    if setting("MICSE_STATIC"):

        def png(*shown: object) -> str:
            return base64.b64encode(print_figure(drawn(*shown))).decode()

        # Pairs, as a notebook file sorts the keys of a dictionary.
        frames = [[str(v), png([v], *SIZE)] for v in getattr(control, "options", settings)]
        together = {"image/png": png(settings, 3.1, 3.6)}
        choice = {FRAMES: {"control": control.description, "frames": frames}}
        return display(together | choice, raw=True)
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
