"""Put a control beside a figure, or draw a plain figure if nobody can move the control."""

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import clear_output, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from micse_utils.settings import setting


def interactive(
    draw: Callable[[Axes, object], object],
    control: ipywidgets.ValueWidget,
    settings: Sequence[object],
) -> ipywidgets.Widget | Figure:
    """Return a figure that follows a control, or on a static page some settings side by side.

    The notebook runner sets `MICSE_STATIC`, as a page on GitHub or a web page has no kernel.

    Args:
        draw: draws one value of the control on axes. It is called whenever the control moves, also
            after later cells have run, so it should hold its data (as default arguments) and not
            read them from the notebook's variables. An error in it is shown under the control.
        control: a slider, a text box.
        settings: values shown where nothing can be moved.
    """

    def panel(axes: Axes, value: object) -> None:
        draw(axes, value)
        axes.set_title(f"{control.description} {value}\n{axes.get_title()}".strip())

    if setting("MICSE_STATIC"):
        size = {"figsize": (4 * len(settings), 3.9), "layout": "constrained"}
        figure, panels = plt.subplots(1, len(settings), **size)
        for axes, value in zip(panels, settings, strict=True):
            panel(axes, value)
        plt.close(figure)  # returned, so that a cell shows it once
        return figure
    control.layout.width, control.style.description_width = "min(100%, 36rem)", "initial"
    if hasattr(control, "readout"):
        control.readout = False  # it would be cut; the figure's title has the value
    picture = ipywidgets.Output()

    def redraw(change: object = None) -> None:
        with picture:
            clear_output(wait=True)
            figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
            try:
                panel(axes, control.value)
                display(figure)
            finally:
                plt.close(figure)

    control.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([control, picture])
