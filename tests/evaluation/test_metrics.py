"""Intervals against SciPy and simulations with a known truth; alignment and uniformity."""

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


def spearman_of_repeated(scores, gold, rows):
    return 100 * spearmanr(scores[rows], gold[rows])[0]


def test_runs_are_scored_on_all_pairs_and_on_the_same_resamples(monkeypatch):
    """Ranked and correlated by SciPy; gold scores have many equals."""
    monkeypatch.setattr(metrics, "RESAMPLES", 20)
    random = np.random.default_rng(3)
    gold = random.integers(0, 6, 40).astype(float)
    scores = gold + random.normal(size=(3, 40))
    found = resampled_spearman(scores, gold)
    rows = np.random.default_rng(0).integers(40, size=(20, 40))
    for run, own in zip(scores, found, strict=True):
        expected = [spearman_of_repeated(run, gold, r) for r in (np.arange(40), *rows)]
        assert own == pytest.approx(expected)


def test_the_interval_covers_the_true_correlation_as_often_as_it_says(monkeypatch):
    """Of a bivariate normal the rank correlation is 6 / pi asin(rho / 2) (Kendall & Gibbons)."""
    monkeypatch.setattr(metrics, "RESAMPLES", 300)
    rho = 2 * np.sin(np.pi * 0.8 / 6)
    rng = np.random.default_rng(1)
    trials, covered = 300, 0
    for trial in range(trials):
        x, noise = rng.normal(size=(2, 200))
        y = rho * x + np.sqrt(1 - rho**2) * noise
        low, high = spearman_interval(x, y, seed=trial)
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / trials <= 0.985  # 0.95, give or take three standard errors


def test_alignment_and_uniformity_follow_wang_and_isola():
    vectors = unit(np.random.default_rng(0).normal(size=(20, 6)))
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


def test_accuracy_is_resampled_by_whole_groups(monkeypatch):
    monkeypatch.setattr(metrics, "RESAMPLES", 30)
    groups = np.repeat([7, 8, 9], [1, 2, 3])
    right = np.array([[True, False, False, True, True, False], [True] * 6])
    found = resampled_accuracy(right, groups, seed=2)
    drawn = np.random.default_rng(2).integers(3, size=(30, 3))
    for run, own in zip(right, found, strict=True):
        rows = [np.concatenate([np.flatnonzero(groups == 7 + g) for g in d]) for d in drawn]
        assert own == pytest.approx([100 * run[r].mean() for r in (np.arange(6), *rows)])


# --- Differences


def test_one_run_of_each_is_compared_over_the_same_pairs():
    """Two encoders that find the same pairs hard; their own intervals overlap."""
    gold, shared, noise = np.random.default_rng(0).normal(size=(3, 600))
    first, second = gold + shared, gold + shared + 0.5 * noise
    (low, _), (_, high) = (spearman_interval(scores, gold) for scores in (first, second))
    assert low < high
    one, two = (resampled_spearman(scores[None], gold) for scores in (first, second))
    [row] = compare_runs({"task": one}, {"task": two}).to_dict("records")
    assert 0 < row["low"] < row["difference"] < row["high"] and row["seeds"] == row["won"] == 1
    assert row["low"] == pytest.approx(np.quantile(one[0, 1:] - two[0, 1:], 0.025))


def differences(rng, seeds, of_seeds, of_items, items=60, resamples=100):
    """Each seed's mean difference on all items and on resamples; the true one is 0."""
    each = of_seeds * rng.normal(size=(seeds, 1)) + of_items * rng.normal(size=items)
    each = each + 2 * rng.normal(size=(seeds, items))
    drawn = rng.multinomial(items, np.full(items, 1 / items), size=resamples) / items
    return np.column_stack([each.mean(axis=1), each @ drawn.T])


@pytest.mark.parametrize("of_items", [0, 4, 16])
def test_the_interval_over_seeds_and_items_covers_the_true_difference(of_items):
    rng, covered, trials = np.random.default_rng(0), 0, 300
    for _ in range(trials):
        found = differences(rng, 5, 1, of_items)
        [row] = compare_runs({"": found}, {"": np.zeros_like(found)}).to_dict("records")
        covered += row["low"] <= 0 <= row["high"]
    assert 0.91 <= covered / trials <= 0.99


# --- Pairs that share texts


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


def test_resampled_texts_cover_what_resampled_pairs_miss():
    """The spread over new texts of the same kind is what an interval has to reach."""
    truth = [100 * spearmanr(s[0], g)[0] for s, g, *_ in (crossed(25, 1, n) for n in range(300))]
    scores, gold, first, second = crossed(25, noise=1, seed=301)
    by_text = resampled_sts(scores, gold, first, second)[0, 1:].std()
    by_pair = resampled_spearman(scores, gold)[0, 1:].std()
    assert by_pair < 0.7 * np.std(truth) < by_text < 1.6 * np.std(truth)
    apart = [[f"{side} {n}" for n in range(len(gold))] for side in "ab"]  # no text is shared
    found = resampled_sts(scores, gold, *apart)
    np.testing.assert_array_equal(found, resampled_spearman(scores, gold))
