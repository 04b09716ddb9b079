import numpy as np
import pandas as pd

from micse_utils.plotting.search import recall_speed, walk_through


def test_recall_is_drawn_against_speed_with_exact_search_at_one():
    sweep = pd.DataFrame({
        "format": ["float32"] * 2 + ["int8"] * 2, "effort": [10, 64] * 2,
        "recall": [0.8, 0.9, 0.7, 0.85], "per_second": [9000.0, 3000.0, 9500.0, 3500.0],
    })  # fmt: skip
    figure = recall_speed(sweep, exact={"exact": 300.0}, title="Trade")
    [axes] = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {
        "float32": [[0.8, 9000], [0.9, 3000]],
        "int8": [[0.7, 9500], [0.85, 3500]],
        "exact": [[1, 300]],
    }
    assert [text.get_text() for text in axes.texts] == ["10", "64"]
    assert axes.get_yscale() == "log"
    assert axes.get_title() == "Trade"


def test_a_walk_is_drawn_layer_by_layer_with_its_links_and_steps():
    points = np.array([[0, 0], [1, 0], [2, 1], [3, 1]])
    layers = [({0: [2], 2: [0]}, [0, 2]), ({0: [1], 1: [0], 2: [3], 3: [2]}, [2])]
    figure = walk_through(points, layers, np.array([2, 2]), title="Walk")
    top, bottom = figure.axes
    assert top.get_title() == "layer 1: 2 vectors, 1 step"
    assert bottom.get_title() == "layer 0: 4 vectors, 0 steps"
    for axes, links, path in ((top, 2, [[0, 0], [2, 1]]), (bottom, 4, [[2, 1]])):
        *lines, dots, walked, start, query = (line.get_xydata().tolist() for line in axes.lines)
        assert (len(lines), walked, start, query) == (links, path, path[:1], [[2, 2]])
        assert len(dots) == links
