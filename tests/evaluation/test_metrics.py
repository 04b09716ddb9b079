import numpy as np
import pytest
from scipy.stats import spearmanr

from micse_utils.evaluation import metrics
from micse_utils.evaluation.metrics import (
    alignment,
    compare_runs,
    interval,
    resampled_accuracy,
    resampled_spearman,
    resampled_sts,
    uniformity,
    unit,
)


def spearman_interval(first, second, seed=0):
    return np.array(interval(resampled_spearman(first[None], second, seed=seed)[0, 1:])) / 100


def spearman_difference(first, second, gold, seed=0):
    """Compare one run of each."""
    runs = ({"task": resampled_spearman(x[None], gold, seed=seed)} for x in (first, second))
    return tuple(compare_runs(*runs).loc[0, ["low", "high"]] / 100)


def bootstrap(first, second, resamples, seed):
    """Rank and correlate the same resamples by SciPy."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(len(first), size=len(first)) for _ in range(resamples))
    return np.quantile([spearmanr(first[r], second[r])[0] for r in rows], [0.025, 0.975])


@pytest.mark.parametrize("ties", [None, 0])
def test_the_interval_agrees_with_resamples_ranked_by_scipy(monkeypatch, ties):
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    rng = np.random.default_rng(0)
    first = rng.normal(size=80)
    second = first + rng.normal(size=80)
    if ties is not None:
        second = second.round(ties)  # gold scores have many equals
        assert len(set(second)) < 10
    measured = spearman_interval(first, second, seed=3)
    np.testing.assert_allclose(measured, bootstrap(first, second, 200, seed=3), atol=1e-12)


@pytest.mark.parametrize("rank_correlation", [0.0, 0.8])
def test_the_interval_covers_the_true_correlation_as_often_as_it_says(
    monkeypatch, rank_correlation
):
    """Of a bivariate normal the rank correlation is 6 / pi asin(rho / 2) (Kendall & Gibbons)."""
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    rho = 2 * np.sin(np.pi * rank_correlation / 6)
    rng = np.random.default_rng(1)
    trials, covered = 400, 0
    for trial in range(trials):
        x, noise = rng.normal(size=(2, 200))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        low, high = spearman_interval(x, y, seed=trial)
        covered += low <= rank_correlation <= high
    assert 0.91 <= covered / trials <= 0.98  # 0.95, give or take three standard errors and a bit


def test_a_constant_has_no_interval():
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        assert np.isnan(spearman_interval(np.ones(9), np.arange(9.0))).all()


def two_encoders(pairs, apart, seed=0):
    """Return scores of two encoders that find the same pairs hard, the first better; and gold."""
    rng = np.random.default_rng(seed)
    gold, shared = rng.normal(size=(2, pairs))
    return gold + shared, gold + shared + apart * rng.normal(size=pairs), gold.round(1)


def test_the_difference_agrees_with_resamples_ranked_by_scipy(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 200)
    first, second, gold = two_encoders(80, apart=0.5)
    rng = np.random.default_rng(3)
    drawn = [rng.integers(80, size=80) for _ in range(200)]
    by_scipy = [
        spearmanr(first[rows], gold[rows])[0] - spearmanr(second[rows], gold[rows])[0]
        for rows in drawn
    ]
    measured = spearman_difference(first, second, gold, seed=3)
    np.testing.assert_allclose(measured, np.quantile(by_scipy, [0.025, 0.975]), atol=1e-12)


def test_the_difference_separates_encoders_whose_intervals_overlap():
    first, second, gold = two_encoders(600, apart=0.5)
    (low, _), (_, high) = (spearman_interval(scores, gold) for scores in (first, second))
    assert low < high
    low, high = spearman_difference(first, second, gold)
    assert 0 < low < high
    assert spearman_difference(second, first, gold) == pytest.approx((-high, -low))
    assert spearman_difference(first, first, gold) == (0, 0)


def test_the_difference_covers_the_true_one_as_often_as_it_says(monkeypatch):
    """Two equally good encoders: the true difference is 0."""
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    trials, covered = 300, 0
    for trial in range(trials):
        gold, shared, *own = np.random.default_rng(trial).normal(size=(4, 150))
        first, second = (gold + shared + noise for noise in own)
        low, high = spearman_difference(first, second, gold, seed=trial)
        covered += low <= 0 <= high
    assert 0.91 <= covered / trials <= 0.985  # 0.95, give or take three standard errors


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    vectors = unit(np.array([[3, 4], [0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(vectors, [[0.6, 0.8], [0, 0]])


def test_alignment_and_uniformity_follow_wang_and_isola():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = vectors[:10], vectors[10:]
    distances = [np.linalg.norm(a - b) ** 2 for a, b in zip(first, second, strict=True)]
    assert alignment(first, second) == pytest.approx(np.mean(distances))
    potentials = [
        np.exp(-2 * np.linalg.norm(vectors[i] - vectors[j]) ** 2)
        for i in range(20)
        for j in range(i + 1, 20)
    ]
    assert uniformity(vectors) == pytest.approx(np.log(np.mean(potentials)))
    assert uniformity(np.ones((3, 1))) == pytest.approx(0)


def spearman_of_repeated(scores, gold, rows):
    return 100 * spearmanr(scores[rows], gold[rows])[0]


def test_runs_are_scored_on_all_pairs_and_on_the_same_resamples(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    random = np.random.default_rng(3)
    gold = random.integers(0, 6, 40).astype(float)
    scores = gold + random.normal(size=(3, 40))
    found = resampled_spearman(scores, gold)
    rows = np.random.default_rng(0).integers(40, size=(20, 40))
    for run, own in zip(scores, found, strict=True):
        expected = [spearman_of_repeated(run, gold, r) for r in (np.arange(40), *rows)]
        assert own == pytest.approx(expected)


def test_accuracy_is_resampled_by_whole_groups(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 30)
    groups = np.repeat([7, 8, 9], [1, 2, 3])
    right = np.array([[True, False, False, True, True, False], [True] * 6])
    found = resampled_accuracy(right, groups, seed=2)
    drawn = np.random.default_rng(2).integers(3, size=(30, 3))
    for run, own in zip(right, found, strict=True):
        rows = [np.concatenate([np.flatnonzero(groups == 7 + g) for g in d]) for d in drawn]
        assert own == pytest.approx([100 * run[r].mean() for r in (np.arange(6), *rows)])


def scored(seeds, lead, seed_noise, pairs=400):
    """Return scores of two trainings that differ by a lead and by noise of each run."""
    random = np.random.default_rng(11)
    gold = random.normal(size=pairs)
    common = random.normal(size=pairs)
    runs = []
    for gain in (lead, 0):
        weights = 0.8 + gain + seed_noise * random.normal(size=(seeds, 1))
        runs.append(
            resampled_spearman(
                weights * gold + common + 0.1 * random.normal(size=(seeds, pairs)), gold
            )
        )
    return runs


def test_a_clear_lead_is_won_with_an_interval_above_zero():
    [row] = compare_runs(*({"one": runs} for runs in scored(5, 0.4, 0.01))).to_dict("records")
    assert (row["won"], row["seeds"]) == (5, 5)
    assert 0 < row["low"] < row["difference"] < row["high"]


def test_the_interval_covers_seeds_as_well_as_pairs():
    first, second = scored(5, 0.05, 0.3)
    [row] = compare_runs({"one": first}, {"one": second}).to_dict("records")
    by_seed = first[:, 0] - second[:, 0]
    assert row["difference"] == pytest.approx(by_seed.mean())
    assert row["high"] - row["low"] > 1.96 * by_seed.std() / np.sqrt(5)


def test_the_average_of_tasks_is_the_mean_of_their_differences():
    runs = [scored(4, lead, 0.05) for lead in (0.0, 0.2)]
    first, second = ({f"task {n}": pair[side] for n, pair in enumerate(runs)} for side in (0, 1))
    table = compare_runs(first, second).set_index("task")["difference"]
    assert table["average"] == pytest.approx(table[["task 0", "task 1"]].mean())


def test_trainings_that_cannot_be_paired_are_rejected():
    first, second = scored(3, 0, 0.1)
    for one, other in (({"a": first}, {"b": second}), ({"a": first}, {"a": second[:2]})):
        with pytest.raises(ValueError, match="first"):
            compare_runs(one, other)


def crossed(texts, noise, seed):
    """Scores, gold and texts of all pairs of a few texts, each with an effect of its own."""
    rng = np.random.default_rng(seed)
    first, second = np.triu_indices(texts, k=1)
    gold, effect, own = rng.normal(size=len(first)), *rng.normal(size=(2, texts))
    gold = gold + own[first] + own[second]
    scores = gold + noise * (effect[first] + effect[second])
    return scores[None], gold, [f"text {n}" for n in first], [f"text {n}" for n in second]


def test_a_resample_of_texts_has_each_pair_as_often_as_its_texts_together(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    scores, gold, first, second = crossed(22, noise=1, seed=0)
    [found] = resampled_sts(scores, gold, first, second, seed=4)
    assert found[0] == pytest.approx(100 * spearmanr(scores[0], gold)[0])
    names = list(dict.fromkeys([*first, *second]))
    for drawn, value in zip(
        np.random.default_rng(4).integers(22, size=(20, 22)), found[1:], strict=True
    ):
        drawn = [names[n] for n in drawn]
        rows = [
            row
            for row, (a, b) in enumerate(zip(first, second, strict=True))
            for _ in range(drawn.count(a) * drawn.count(b))
        ]
        assert value == pytest.approx(spearman_of_repeated(scores[0], gold, rows))


def test_pairs_that_share_no_texts_are_resampled_themselves():
    scores, gold, *_ = crossed(12, noise=1, seed=0)
    texts = [[f"{side} {n}" for n in range(len(gold))] for side in "ab"]
    np.testing.assert_array_equal(
        resampled_sts(scores, gold, *texts, seed=4), resampled_spearman(scores, gold, seed=4)
    )


def test_resampled_texts_cover_what_resampled_pairs_miss():
    """The spread over new texts of the same kind is what an interval has to reach."""
    truth = [100 * spearmanr(s[0], g)[0] for s, g, *_ in (crossed(25, 1, n) for n in range(300))]
    scores, gold, first, second = crossed(25, noise=1, seed=301)
    by_text = resampled_sts(scores, gold, first, second)[0, 1:].std()
    by_pair = resampled_spearman(scores, gold)[0, 1:].std()
    assert by_pair < 0.7 * np.std(truth) < by_text < 1.6 * np.std(truth)
