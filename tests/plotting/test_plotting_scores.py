import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PolyCollection

from micse_utils.plotting.scores import (
    alignment_uniformity,
    cosines_by_band,
    pooled_or_averaged,
    predicted_against_gold,
    score_intervals,
)
from micse_utils.plotting.training import (
    attention_scatter,
    attention_views,
    learning_curves,
    training_course,
)

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_attention_views_cross_out_what_was_dropped():
    first = np.array([[0.5, 0.5], [0.0, 1.0]])
    figure = attention_views(first, np.full((2, 2), 0.5), ["a", "b"], title="Views")
    crosses = [axes.lines[0].get_xydata().tolist() for axes in figure.axes[:2]]
    assert crosses == [[[0, 1]], []]  # column 0 of row 1
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["a", "b"]


def test_the_scatter_is_logarithmic_and_says_rho_and_information():
    x = np.array([0.1, 0.01, 0.5])
    figure = attention_scatter(x, x * 0.9, rho=0.987, information=1.83, title="Both")
    [axes] = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "ρ = 0.987, I = 1.83 nats" in axes.get_title()


def runs():
    rows = [
        {
            "start": start,
            "method": method,
            "size": size,
            "best": 50 + gain + seed,
            "last": 48 + seed,
        }
        for start in ("whole", "raw")
        for method, gain in (("simcse", 1), ("micse", 4))
        for size in (64, 1000)
        for seed in (0, 2)
    ]
    return pd.DataFrame(rows).assign(before=50.0)


def test_learning_curves_draw_mean_and_spread_over_seeds():
    figure = learning_curves(runs(), title="Curves")
    assert [axes.get_title() for axes in figure.axes] == ["whole", "raw"]
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["SimCSE"], [52, 52])
    np.testing.assert_allclose(lines["miCSE"], [55, 55])
    assert set(lines["before training"]) == {50.0}
    dotted = [line.get_ydata() for line in figure.axes[0].lines if line.get_linestyle() == ":"]
    np.testing.assert_allclose(dotted, [[49, 49], [49, 49]])
    band, bars = (
        next(c for c in figure.axes[0].collections if isinstance(c, kind))
        for kind in (PolyCollection, LineCollection)
    )
    edge = band.get_paths()[0].vertices[:, 1]
    assert (edge.min(), edge.max()) == pytest.approx((52 - 2**0.5, 52 + 2**0.5))
    for path in bars.get_paths():  # of the hollow marks
        assert path.vertices[:, 1] == pytest.approx((49 - 2**0.5, 49 + 2**0.5))
    explained = [text.get_text() for text in figure.legends[0].get_texts()]
    assert explained[-2:] == ["at the end of training", "band, bar: s.d. over 2 seeds"]
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["64", "1,000"]


def test_a_single_seed_has_no_spread():
    figure = learning_curves(runs().drop_duplicates(["start", "method", "size"]), title="")
    spreads = [path for part in figure.axes[0].collections for path in part.get_paths()]
    assert spreads
    for path in spreads:
        assert len(set(path.vertices[:, 1])) == 1
    assert "s.d." not in figure.legends[0].get_texts()[-1].get_text()


def test_a_single_size_stands_in_the_middle():
    one = runs().query("size == 64")
    axes = learning_curves(one, title="").axes[0]
    low, high = axes.get_xlim()
    assert (low * high) ** 0.5 == pytest.approx(64)


def test_the_course_draws_one_line_a_seed_in_both_panels():
    rows = [
        {"method": m, "seed": s, "step": t, "spearman": 50 + t, "ami": 0.7}
        for m in ("simcse", "micse")
        for s in (48, 49)
        for t in (0, 5)
    ]
    figure = training_course(pd.DataFrame(rows), title="Course")
    assert [len(axes.lines) for axes in figure.axes] == [4, 4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SimCSE", "miCSE"]


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


def test_pooled_and_averaged_figures_stand_below_the_parts_with_their_values():
    table = pd.DataFrame({
        "task": "STS13", "subset": ["all", "FNWN", "OnWN", "mean", "weighted mean"],
        "spearman": [80.0, 60.0, 90.0, 75.0, 82.5], "low": [78.0, 55.0, 88.0, np.nan, np.nan],
        "high": [82.0, 64.0, 91.0, np.nan, np.nan],
    })  # fmt: skip
    [axes] = pooled_or_averaged(table, title="Three").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "FNWN: 60.00",
        "OnWN: 90.00",
        "all pairs pooled: 80.00",
        "mean: 75.00",
        "weighted mean: 82.50",
    ]
    assert axes.yaxis_inverted()
    ends = [bar.get_paths()[0].vertices[:, 0].tolist() for bar in axes.collections]
    assert ends[:3] == [[55, 64], [88, 91], [78, 82]]
    assert np.isnan(ends[3:]).all()
    assert not axes.patches  # no bar that starts anywhere but at 0


def test_four_encoders_have_two_rows_of_two_panels():
    cosines = {name: np.array([0.1, 0.9]) for name in "abcd"}
    figure = predicted_against_gold(cosines, np.array([1.0, 5.0]), title="Pairs")
    places = {next(iter(axes.get_subplotspec().colspan)) for axes in figure.axes}
    assert len(figure.axes) == 4 and places == {0, 1}
    three = predicted_against_gold(dict(list(cosines.items())[:3]), np.array([1.0, 5]), title="")
    assert [axes.xaxis.get_tick_params()["labelbottom"] for axes in three.axes[1:]] == [True, True]


def test_pairs_are_drawn_once_an_encoder_and_in_bands():
    gold = np.array([0.2, 1.1, 1.4, 5.0])
    cosines = {"a": np.array([0.1, 0.2, 0.3, 0.9]), "b": np.array([0.8, 0.8, 0.9, 0.9])}
    figure = predicted_against_gold(cosines, gold, title="Pairs")
    for axes, values in zip(figure.axes, cosines.values(), strict=True):
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), values)
        np.testing.assert_allclose(axes.lines[0].get_xdata(), gold, atol=0.1)
    figure = cosines_by_band(cosines, gold, title="Bands")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    np.testing.assert_array_equal(figure.axes[0].get_xticks(), [0, 1, 5])
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["0\n(1)", "1\n(2)", "5\n(1)"]
    assert "gold score, rounded" in figure.get_supxlabel()


def test_alignment_and_uniformity_name_every_encoder_and_its_score():
    table = pd.DataFrame(
        {"encoder": ["a", "b"], "alignment": [0.2, 0.3], "uniformity": [-3, -2], "spearman": [7, 8]}
    )
    [axes] = alignment_uniformity(table, title="Shape").axes
    named = {text.get_text(): text.xy for text in axes.texts}
    assert named == {"a: 7.0": (-3, 0.2), "b: 8.0": (-2, 0.3)}
    assert axes.lines[0].get_xydata().tolist() == [[-3, 0.2], [-2, 0.3]]
