"""SentEval's classifier against the same protocol in plain loops."""

import numpy as np
import pytest
import senteval_reference as reference
import torch

from micse_utils.evaluation import classifier
from micse_utils.evaluation.classifier import Fit, evaluate


@pytest.fixture
def four_folds(monkeypatch):
    monkeypatch.setattr(classifier, "FOLDS", 4)


def clouds(n=203, d=7, classes=3, seed=0):
    """Return overlapping classes; n gives folds of different sizes and a partial batch."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return (rng.normal(size=(n, d)) + 0.7 * np.eye(classes, d)[labels]).astype(np.float32), labels


def marks(n, rows):
    return np.isin(np.arange(n), rows)


def test_nested_cross_validation_agrees_with_plain_loops(four_folds):
    x, y = clouds(d=30, seed=3)
    outcome = evaluate(x, y)
    accuracy, development, decays, guesses = reference.nested(x, y, 3, folds=4)
    assert outcome.decays == tuple(decays) and len(set(decays)) > 1
    assert (outcome.accuracy, outcome.development) == (accuracy, development)
    np.testing.assert_array_equal(outcome.guesses, guesses)


def test_with_a_test_set_cross_validation_stays_inside_the_training_set():
    x, y = clouds(n=260, seed=2)
    test = marks(260, np.random.default_rng(0).permutation(260)[:80])
    outcome = evaluate(x, y, test=test)
    accuracy, development, decay, guesses = reference.with_a_test_set(
        x[~test], y[~test], x[test], y[test], 3
    )
    assert (outcome.accuracy, outcome.development) == (accuracy, development)
    assert outcome.decays == (decay,) == (1e-2,)
    np.testing.assert_array_equal(outcome.guesses[test], guesses)
    assert (outcome.guesses[~test] == -1).all()


def test_a_development_set_chooses_the_decay_and_when_to_stop():
    x, y = clouds(n=400, seed=2)
    part = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [200, 90, 110]))
    outcome = evaluate(x, y, dev=part == 1, test=part == 2)
    sets = [array[part == number] for number in range(3) for array in (x, y)]
    accuracy, development, decay, guesses = reference.with_a_development_set(*sets, 3)
    assert (outcome.accuracy, outcome.development) == (accuracy, development)
    assert outcome.decays == (decay,) == (1e-2,)
    np.testing.assert_array_equal(outcome.guesses[part == 2], guesses)


@pytest.mark.parametrize("most_passes", [200, 8])
def test_every_fit_keeps_its_best_weights(monkeypatch, most_passes):
    x, y = clouds(seed=3)
    rng = np.random.default_rng(2)
    rows = [np.sort(rng.permutation(len(y))[:n]) for n in (90, 90, 90, 90, 90, 130)]
    fits = [Fit(own, np.setdiff1d(np.arange(len(y)), own)[:50], (1e-5, 1e-2)) for own in rows]
    fits.append(Fit(rows[-1], None, (1e-3,)))
    monkeypatch.setattr(classifier, "MOST_PASSES", most_passes)
    fitted = classifier.fit_all(classifier.with_bias(x), y, fits)
    looked = set()
    for fit, (accuracies, weights) in zip(fits, fitted, strict=True):
        held = None if fit.held_out is None else (x[fit.held_out], y[fit.held_out])
        for number, decay in enumerate(fit.decays):
            best, layer, looks = reference.trained(
                x[fit.rows], y[fit.rows], 3, decay, held, most_passes
            )
            assert accuracies[number] == best
            expected = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
            torch.testing.assert_close(weights[number], expected, atol=1e-5, rtol=1e-4)
            looked.add(looks)
    # Fits that stop early do so at different looks; the cap is looked at once more, as in SentEval.
    assert looked == {3} if most_passes == 8 else len(looked) > 1 and max(looked) < 51


def test_an_outcome_depends_only_on_its_seed(monkeypatch, four_folds):
    x, y = clouds(seed=4)
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    threads = torch.get_num_threads()
    first = evaluate(x, y)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads

    torch.rand(1)
    monkeypatch.setattr(classifier, "TOGETHER", 3)
    again = evaluate(x, y)
    assert (first.accuracy, first.decays) == (again.accuracy, again.decays)
    np.testing.assert_array_equal(first.guesses, again.guesses)


@pytest.mark.parametrize(("n", "classes"), [(0, 2), (22, 2), (40, 9)])
def test_too_few_sentences_are_rejected(n, classes):
    with pytest.raises(ValueError, match="needs 12 training sentences of one class and 20 in all"):
        evaluate(np.ones((n, 2), dtype=np.float32), np.arange(n) % classes)
