import numpy as np
import pandas as pd

from micse_utils.plotting.scores import (
    alignment_uniformity,
    predicted_against_gold,
    score_intervals,
)


def test_scores_are_drawn_with_their_intervals():
    table = pd.DataFrame({
        "encoder": ["a", "b"], "task": ["Lee"] * 2, "spearman": [50.0, 60.0], "low": [45.0, 58.0],
        "high": [54.0, 63.0],
    })  # fmt: skip
    figure = score_intervals(table, title="Scores")
    [axes] = figure.axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b"]
    [bars] = axes.collections
    assert [path.vertices[:, 0].tolist() for path in bars.get_paths()] == [[45, 54], [58, 63]]
    assert [text.get_text() for text in axes.texts] == ["50.0", "60.0"]
    other = table.iloc[1:].assign(task="kit", spearman=90.0, high=93.0)
    first, second = score_intervals(pd.concat([table, other]), title="Scores").axes
    assert first.get_xlim() == second.get_xlim()
    assert [text.get_text() for text in second.texts] == ["", "90.0"]


def test_pairs_are_drawn_once_an_encoder():
    gold = np.array([0.2, 1.1, 1.4, 5.0])
    cosines = {"a": np.array([0.1, 0.2, 0.3, 0.9]), "b": np.array([0.8, 0.8, 0.9, 0.9])}
    figure = predicted_against_gold(cosines, gold, title="Pairs")
    for axes, values in zip(figure.axes, cosines.values(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), values)
        np.testing.assert_allclose(axes.lines[0].get_xdata(), gold, atol=0.1)


def test_alignment_and_uniformity_name_every_encoder_and_its_score():
    table = pd.DataFrame(
        {"encoder": ["a", "b"], "alignment": [0.2, 0.3], "uniformity": [-3, -2], "spearman": [7, 8]}
    )
    [axes] = alignment_uniformity(table, title="Shape", trained={"b": "a"}).axes
    arrow, *names = axes.texts
    assert (*arrow.xyann, *arrow.xy) == (-3, 0.2, -2, 0.3)  # from a to b
    named = {text.get_text(): text.xy for text in names}
    assert named == {"a: 7.0": (-3, 0.2), "b: 8.0": (-2, 0.3)}
    assert axes.lines[0].get_xydata().tolist() == [[-3, 0.2], [-2, 0.3]]
