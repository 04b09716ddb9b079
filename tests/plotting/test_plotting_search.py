import pandas as pd

from micse_utils.plotting.search import recall_speed


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
