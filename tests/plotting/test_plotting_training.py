import base64
import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from micse_utils.plotting.interactive import FRAMES, interactive
from micse_utils.plotting.training import by_hand, courses, learning_curve


def test_ami_by_hand_leaves_out_what_either_view_lost():
    first, second = np.array([[0.5, 0.5], [0.0, 0.9]]), np.array([[0.4, 0.6], [0.2, 0.8]])
    one, _, kept, dots = by_hand(first, second, ["a", "b"]).axes
    assert [text.get_text() for text in one.texts] == ["0.50", "0.50", "×", "0.90"]
    assert kept.images[0].get_array().tolist() == [[True, True], [False, True]]
    assert sorted(dots.lines[1].get_xdata()) == pytest.approx([0.5, 0.5, 0.9])


def test_courses_draw_a_line_a_run_and_leave_out_what_is_unknown():
    rows = [
        {"objective": name, "seed": seed, "step": step, "spearman": 50.0 + step, "ami": 0.7}
        for name in ("SimCSE", "miCSE", "your miCSE")
        for seed in (48, 49)
        for step in (0, 5)
    ]
    table = pd.DataFrame(rows)
    table.loc[table["objective"] == "your miCSE", "spearman"] = np.nan
    figure = courses(table, {"spearman": "score", "ami": "AMI"}, title="Courses")
    drawn = [[line for line in axes.lines if len(line.get_xdata())] for axes in figure.axes]
    assert [len(lines) for lines in drawn] == [4, 6]
    assert [axes.get_title() for axes in figure.axes] == ["recorded runs only", ""]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["SimCSE", "miCSE", "your miCSE"]
    recorded, yours = drawn[1][2], drawn[1][4]
    assert recorded.get_color() == yours.get_color()
    assert recorded.get_linewidth() < yours.get_linewidth()


def test_a_learning_curve_has_the_means_by_size_and_the_untrained_score_of_each_task():
    rows = [
        {"task": task, "objective": "miCSE", "size": size, "score": score + add}
        for task, add in (("STS12", 0.0), ("Lee", 10.0))
        for size, score in ((64, 50.0), (64, 52.0), (1000, 53.0), (np.nan, 49.0))
    ]
    figure = learning_curve(pd.DataFrame(rows), title="Curve", label="score", by="task")
    assert [axes.get_title() for axes in figure.axes] == ["STS12", "Lee"]
    mean, dots, untrained = figure.axes[1].lines
    assert (list(mean.get_xdata()), list(mean.get_ydata())) == ([64, 1000], [61, 63])
    assert list(dots.get_ydata()) == [60, 62, 63]
    assert set(untrained.get_ydata()) == {59}


def test_a_static_page_has_some_settings_side_by_side_and_a_frame_of_each(monkeypatch):
    monkeypatch.setenv("MICSE_STATIC", "1")
    slider = ipywidgets.SelectionSlider(options=[1, 2, 3], description="level")
    drawn, displayed = [], []
    monkeypatch.setattr(
        "micse_utils.plotting.interactive.display", lambda data, raw: displayed.append(data)
    )
    interactive(lambda axes, level: drawn.append(level), slider, [1, 3])
    assert sorted(drawn) == [1, 1, 2, 3, 3]
    assert not plt.get_fignums()

    [data] = displayed
    together = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    frames = dict(data[FRAMES]["frames"])
    assert data[FRAMES]["control"] == "level" and list(frames) == ["1", "2", "3"]
    widths = {Image.open(io.BytesIO(base64.b64decode(png))).width for png in frames.values()}
    assert len(widths) == 1 and together.width > 1.2 * widths.pop()


def test_the_figure_follows_its_control_and_shows_an_error_in_its_place(monkeypatch):
    monkeypatch.delenv("MICSE_STATIC", raising=False)
    drawn, entered = [], []
    monkeypatch.setattr(ipywidgets.Output, "__enter__", lambda output: entered.append(output))
    monkeypatch.setattr(ipywidgets.Output, "__exit__", lambda *error: error[1] is ValueError)

    def draw(axes, level):
        drawn.append(level)
        if level == 3:
            raise ValueError("three")

    slider = ipywidgets.SelectionSlider(options=[1, 2, 3], description="level")
    box = interactive(draw, slider, [1, 3])
    slider.value = 2
    slider.value = 3  # an error leaves through the output, which shows it
    assert drawn == [1, 2, 3] and entered == 3 * [box.children[1]]
    assert not plt.get_fignums()
