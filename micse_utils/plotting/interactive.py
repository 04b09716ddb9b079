"""Put a control beside a figure, or draw a plain figure if nobody can move the control."""

import os
from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import clear_output, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def interactive(
    draw: Callable[[Axes, object], object],
    control: ipywidgets.ValueWidget,
    settings: Sequence[object],
) -> ipywidgets.Widget | Figure:
    """Return a figure that follows a control, or on a static page some settings side by side.

    The notebook runner sets `MICSE_STATIC`, as a page on GitHub or a web page has no kernel.

    Args:
        draw: draws one value of the control on axes.
        control: a slider, a text box.
        settings: values shown where nothing can be moved.
    """
    if os.environ.get("MICSE_STATIC"):
        figure, panels = plt.subplots(
            1, len(settings), figsize=(4 * len(settings), 3.9), layout="constrained"
        )
        for axes, value in zip(panels, settings, strict=True):
            draw(axes, value)
            axes.set_title(f"{control.description} {value}\n{axes.get_title()}")
        plt.close(figure)  # returned, so that a cell shows it once
        return figure
    picture = ipywidgets.Output()

    def redraw(change: object = None) -> None:
        figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
        draw(axes, control.value)
        plt.close(figure)
        with picture:
            clear_output(wait=True)
            display(figure)

    control.observe(redraw, "value")
    redraw()
    return ipywidgets.VBox([control, picture])
