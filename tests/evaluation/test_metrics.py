import numpy as np
import pytest
from scipy.stats import spearmanr

from micse_utils.evaluation.metrics import (
    alignment,
    spearman_difference,
    spearman_interval,
    uniformity,
    unit,
)


def bootstrap(first, second, resamples, seed):
    """The same resamples, each ranked and correlated by SciPy."""
    rng = np.random.default_rng(seed)
    rows = (rng.integers(len(first), size=len(first)) for _ in range(resamples))
    return np.quantile([spearmanr(first[r], second[r])[0] for r in rows], [0.025, 0.975])


@pytest.mark.parametrize("ties", [None, 0])
def test_the_interval_is_that_of_resamples_ranked_by_scipy(ties):
    rng = np.random.default_rng(0)
    first = rng.normal(size=80)
    second = first + rng.normal(size=80)
    if ties is not None:
        second = second.round(ties)  # gold scores have many equals
        assert len(set(second)) < 10
    measured = spearman_interval(first, second, resamples=200, seed=3)
    np.testing.assert_allclose(measured, bootstrap(first, second, 200, seed=3), atol=1e-12)


@pytest.mark.parametrize("rank_correlation", [0.0, 0.5, 0.8])
def test_the_interval_covers_the_true_correlation_as_often_as_it_says(rank_correlation):
    """Of a bivariate normal the rank correlation is 6 / pi asin(rho / 2) (Kendall & Gibbons)."""
    rho = 2 * np.sin(np.pi * rank_correlation / 6)
    rng = np.random.default_rng(1)
    trials, covered = 400, 0
    for trial in range(trials):
        x, noise = rng.normal(size=(2, 200))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        low, high = spearman_interval(x, y, resamples=300, seed=trial)
        covered += low <= rank_correlation <= high
    assert 0.91 <= covered / trials <= 0.98  # 0.95, give or take three standard errors and a bit


def test_a_constant_has_no_interval():
    with pytest.warns(RuntimeWarning, match="All-NaN"):
        assert np.isnan(spearman_interval(np.ones(9), np.arange(9.0), resamples=5)).all()


def two_encoders(pairs, apart, seed=0):
    """Scores of two encoders that find the same pairs hard, the first nearer to gold; and gold."""
    rng = np.random.default_rng(seed)
    gold, shared = rng.normal(size=(2, pairs))
    return gold + shared, gold + shared + apart * rng.normal(size=pairs), gold.round(1)


def test_the_difference_is_that_of_both_on_the_same_resamples_ranked_by_scipy():
    first, second, gold = two_encoders(80, apart=0.5)
    rng = np.random.default_rng(3)
    drawn = [rng.integers(80, size=80) for _ in range(200)]
    by_scipy = [
        spearmanr(first[rows], gold[rows])[0] - spearmanr(second[rows], gold[rows])[0]
        for rows in drawn
    ]
    measured = spearman_difference(first, second, gold, resamples=200, seed=3)
    np.testing.assert_allclose(measured, np.quantile(by_scipy, [0.025, 0.975]), atol=1e-12)


def test_the_difference_tells_apart_encoders_whose_intervals_overlap():
    first, second, gold = two_encoders(600, apart=0.5)
    (low, _), (_, high) = (spearman_interval(scores, gold) for scores in (first, second))
    assert low < high
    low, high = spearman_difference(first, second, gold)
    assert 0 < low < high
    assert spearman_difference(second, first, gold) == pytest.approx((-high, -low))
    assert spearman_difference(first, first, gold) == (0, 0)


def test_the_difference_covers_the_true_one_as_often_as_it_says():
    """Two equally good encoders: the true difference is 0."""
    trials, covered = 300, 0
    for trial in range(trials):
        gold, shared, *own = np.random.default_rng(trial).normal(size=(4, 150))
        first, second = (gold + shared + noise for noise in own)
        low, high = spearman_difference(first, second, gold, resamples=300, seed=trial)
        covered += low <= 0 <= high
    assert 0.91 <= covered / trials <= 0.985  # 0.95, give or take three standard errors


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    vectors = unit(np.array([[3, 4], [0, 0]], dtype=np.float32))
    np.testing.assert_array_equal(vectors, [[0.6, 0.8], [0, 0]])


def test_alignment_and_uniformity_are_those_of_wang_and_isola():
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
