"""SentEval's classifier against the same protocol in plain loops."""

import numpy as np
import pytest
import senteval_reference as reference
import torch

from micse_utils.evaluation import classifier
from micse_utils.evaluation.classifier import evaluate, fit_all


@pytest.fixture
def four_folds(monkeypatch):
    monkeypatch.setattr(classifier, "FOLDS", 4)


def clouds(n=203, d=7, classes=3, seed=0):
    """Return overlapping classes; n gives folds of different sizes and a partial batch."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return (rng.normal(size=(n, d)) + 0.7 * np.eye(classes, d)[labels]).astype(np.float32), labels


def marks(n, rows=()):
    return np.isin(np.arange(n), rows)


def test_nested_cross_validation_agrees_with_plain_loops(four_folds):
    x, y = clouds(d=30, seed=3)
    expected, _, decays, guesses = reference.nested(x, y, 3, folds=4)
    accuracy, found = evaluate(x, y, test=marks(203), dev=marks(203))
    assert accuracy == expected and len(set(decays)) > 1
    np.testing.assert_array_equal(found, guesses)


def test_with_a_test_set_cross_validation_stays_inside_the_training_set():
    x, y = clouds(n=260, seed=2)
    test = marks(260, np.random.default_rng(0).permutation(260)[:80])
    expected, _, _, guesses = reference.with_a_test_set(x[~test], y[~test], x[test], y[test], 3)
    accuracy, found = evaluate(x, y, test=test, dev=marks(260))
    assert accuracy == expected
    np.testing.assert_array_equal(found[test], guesses)
    assert (found[~test] == -1).all()


def test_a_development_set_chooses_the_decay_and_when_to_stop():
    x, y = clouds(n=400, seed=2)
    part = np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [200, 90, 110]))
    sets = [array[part == number] for number in range(3) for array in (x, y)]
    expected, _, _, guesses = reference.with_a_development_set(*sets, 3)
    accuracy, found = evaluate(x, y, dev=part == 1, test=part == 2)
    assert accuracy == expected
    np.testing.assert_array_equal(found[part == 2], guesses)


@pytest.mark.parametrize("most_passes", [200, 8])
def test_every_fit_keeps_its_best_weights(monkeypatch, most_passes):
    x, y = clouds(seed=3)
    rng = np.random.default_rng(2)
    rows = [np.sort(rng.permutation(len(y))[:n]) for n in (90, 130, 90, 90, 90, 90)]
    folds = [(own, np.setdiff1d(np.arange(len(y)), own)[:50]) for own in rows]
    monkeypatch.setattr(classifier, "MOST_PASSES", most_passes)
    padded = torch.nn.functional.pad(torch.from_numpy(x), (0, 1), value=1.0)
    decays = np.array([(1e-5, 1e-2)] * 3 + [(1e-4, 1e-3)] * 3)
    fits = [*zip(folds, decays, fit_all(padded, y, folds, decays), strict=True)]
    alone = [(rows[1], None)]
    fits += [(alone[0], [1e-3], *fit_all(padded, y, alone, np.array([[1e-3]])))]
    looked = set()
    for (own, held), decays, (accuracies, weights) in fits:
        held = None if held is None else (x[held], y[held])
        for number, decay in enumerate(decays):
            best, layer, looks = reference.trained(x[own], y[own], 3, decay, held, most_passes)
            assert accuracies[number] == best
            expected = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
            torch.testing.assert_close(weights[number], expected, atol=1e-5, rtol=1e-4)
            looked.add(looks)
    # Fits that stop early do so at different looks; the cap is looked at once more, as in SentEval.
    assert looked == {3} if most_passes == 8 else len(looked) > 1 and max(looked) < 51


def test_guesses_depend_only_on_the_seed(monkeypatch, four_folds):
    (x, y), none = clouds(seed=4), marks(203)
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    threads = torch.get_num_threads()
    _, first = evaluate(x, y, test=none, dev=none)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.get_num_threads() == threads

    torch.rand(1)
    monkeypatch.setattr(classifier, "TOGETHER", 3)
    np.testing.assert_array_equal(first, evaluate(x, y, test=none, dev=none)[1])


def test_too_few_sentences_to_cross_validate_are_rejected():
    none = marks(22)
    with pytest.raises(ValueError, match="n_splits=10 cannot be greater"):
        evaluate(np.ones((22, 2), dtype=np.float32), np.arange(22) % 3, test=none, dev=none)


def test_too_few_sentences_to_hold_some_out_are_rejected():
    x, y = clouds(n=19)
    with pytest.raises(ValueError, match="needs 20 training sentences"):
        fit_all(torch.from_numpy(x), y, [(np.arange(19), None)], np.array([[1e-3]]))
