import numpy as np
import pytest
from scipy.stats import spearmanr

from micse_utils.scores import alignment, spearman_interval, uniformity, unit


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
