import numpy as np
import pandas as pd

from micse_utils.plotting.search import index_bytes, recall_speed, search_growth, walk_through


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


def test_bytes_are_stacked_and_say_their_recall():
    sizes = pd.DataFrame({
        "format": ["float32", "int8"], "vector": [1536, 384], "links": [150.0, 150.0],
        "recall": [0.98, 0.9512],
    })  # fmt: skip
    [axes] = index_bytes(sizes, title="Memory").axes
    spans = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches]
    assert spans == [(0, 1536), (0, 384), (1536, 1686), (384, 534)]
    assert [text.get_text() for text in axes.texts] == ["recall@10 0.980", "recall@10 0.951"]
    assert [text.get_text() for text in axes.get_legend().texts] == ["vector", "links"]


def test_growth_draws_a_line_a_search_on_logarithmic_axes():
    names = ["exact, alone", "exact, in a batch", "index, alone"]
    rows = [[1000, 0.1, 0.02, 0.05], [2000, 0.2, 0.04, 0.06]]
    times = pd.DataFrame(rows, columns=["vectors", *names])
    figure = search_growth(times, title="Growth")
    [axes] = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    np.testing.assert_array_equal([line.get_ydata() for line in axes.lines], times[names].T)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "2,000"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    exact, batch, index = axes.lines
    assert exact.get_color() == batch.get_color() != index.get_color()
    assert exact.get_linestyle() == index.get_linestyle() != batch.get_linestyle()


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
