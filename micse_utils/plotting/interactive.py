"""Put a control beside a figure; where nobody can move it, draw what it would show."""

from collections.abc import Callable, Sequence
from functools import partial

import matplotlib.pyplot as plt
from IPython.core.pylabtools import print_figure
from IPython.display import clear_output, display
from ipywidgets import Output, ValueWidget, VBox, Widget
from matplotlib.figure import Figure

from micse_utils.plotting.style import sheet
from micse_utils.settings import setting

FRAMES = "application/vnd.micse.frames+json"  # web pages turn it into a choice of frames


def interactive(draw: Callable, control: ValueWidget, settings: Sequence) -> Widget | None:
    """Return a figure that follows a control; with `MICSE_STATIC` set, show it at each value.

    `draw` draws, on axes, one value of the control, such as a slider. It also runs after later
    cells, so it should hold its data as default arguments. An error in it is shown under the
    control. `settings` are the values that a static page shows side by side.
    """

    def drawn(values: Sequence, width: float = 4.8) -> Figure:
        figure, panels = sheet(width * len(values), 3.6, 1, len(values), squeeze=False)
        plt.close(figure)  # or the notebook would show it, too
        for axes, value in zip(panels[0], values, strict=True):
            draw(axes, value)
            axes.set_title(f"{control.description} {value}\n{axes.get_title()}".strip())
        return figure

    if setting("MICSE_STATIC"):  # by the notebook runner: a page that is only read has no kernel
        png = partial(print_figure, base64=True)
        # Pairs, as a notebook file sorts the keys of a dictionary.
        frames = [[str(v), png(drawn([v]))] for v in getattr(control, "options", settings)]
        choice = {"control": control.description, "frames": frames}
        return display({"image/png": png(drawn(settings, 3.1)), FRAMES: choice}, raw=True)
    control.layout.width, control.style.description_width = "min(100%, 36rem)", "initial"
    control.readout = False  # it would be cut; the figure's title has the value
    picture = Output()

    def redraw(change: object = None) -> None:
        with picture:
            clear_output(wait=True)
            display(drawn([control.value]))

    control.observe(redraw, "value")
    redraw()
    return VBox([control, picture])
