"""SentEval's classifier of frozen embeddings, its many small fits trained together.

SentEval's protocol (Conneau & Kiela 2018) as SimCSE and miCSE set it in their "test" mode: a
logistic regression on the raw embeddings, trained by Adam with early stopping, its weight decay
chosen by cross-validation. Nested cross-validation takes 410 such fits; here those on equally many
sentences take each step together, as one batched matrix product.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn

# Settings of SimCSE's and miCSE's "test" mode.
FOLDS = 10  # of each cross-validation
DECAYS = (1e-5, 1e-4, 1e-3, 1e-2)  # weight decays to choose from
BATCH_SIZE = 64
PASSES = 4  # over the training sentences before each look at the held-out ones
MOST_PASSES = 200  # training ends with the first look after more passes than this
TENACITY = 5  # looks without a new best that are forgiven, over the whole training
HELD_OUT = 0.05  # share of the training sentences that stops the final fit
RATE = 1e-3  # learning rate
SEED = 1111  # of the folds; of the first weights and order of the sentences in each fit

TOGETHER = 32
"""Fits trained together: enough to hide the cost of a call, few enough to stay in the caches."""


@dataclass(frozen=True)
class Outcome:
    """Accuracies in per cent, rounded as SentEval does, and the guesses behind them."""

    accuracy: float  # on test sentences
    development: float  # on those that the weight decay was chosen by
    decays: tuple[float, ...]  # the weight decay chosen for each test fold or test set
    guesses: np.ndarray  # class guessed for each sentence, [n]; -1 for those not tested


class Fit(NamedTuple):
    """A classifier to train, once for each weight decay."""

    rows: np.ndarray  # of the training sentences, in order
    held_out: np.ndarray | None  # rows that decide when to stop; None to draw them from `rows`
    decays: tuple[float, ...]


def evaluate(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    test: np.ndarray | None = None,
    dev: np.ndarray | None = None,
) -> Outcome:
    """Return the accuracy of SentEval's classifier on frozen embeddings.

    Without a test set, nested cross-validation: each fold is tested once, with the weight decay
    that a cross-validation inside the other folds chose. With a test set, that cross-validation is
    inside the training set. In both, the final fit stops by a drawn 5 % of its training sentences.
    A development set, beside a test set, decides on both the weight decay and when to stop. Folds
    and batches are drawn from the order of the rows, so it matters a little.

    Args:
        features: embeddings, [n, d], not scaled.
        labels: classes, [n].
        test, dev: which rows are the test set and the development set, bool, [n].

    Raises:
        ValueError: too few sentences to train on.
    """
    classes, y = np.unique(labels, return_inverse=True)
    x = with_bias(features)
    nothing = np.zeros(len(y), dtype=bool)
    test, dev = (nothing if chosen is None else chosen for chosen in (test, dev))
    train, dev, test = map(np.flatnonzero, (~test & ~dev, dev, test))
    if len(test) and len(dev):
        parts, inner = [(train, test)], [(train, dev)]
    else:
        _check_enough(y[train])
        parts = [(train, test)] if len(test) else _folds(y, train)
        inner = [fold for outer, _ in parts for fold in _folds(y, outer)]
    searched = fit_all(x, y, [Fit(*fold, DECAYS) for fold in inner])
    # Rounded before the choice, as in SentEval: decays that nearly agree are a tie, and the
    # smallest wins.
    accuracies = np.stack([own for own, _ in searched]).reshape(len(parts), -1, len(DECAYS))
    scores = np.array([[round(100 * s, 2) for s in own] for own in accuracies.mean(axis=1)])
    chosen = scores.argmax(axis=1)
    decays = tuple(DECAYS[best] for best in chosen)
    if len(dev):  # SentEval trains the chosen one again, from the same seed: it is this one
        weights = [searched[0][1][chosen[0]]]
    else:
        finals = [Fit(rows, None, (d,)) for (rows, _), d in zip(parts, decays, strict=True)]
        weights = [own[0] for _, own in fit_all(x, y, finals)]
    guesses, right = np.full(len(y), -1), []
    for (_, tested), own in zip(parts, weights, strict=True):
        guesses[tested] = (x[tested] @ own.T).argmax(dim=1)
        right.append(round(100 * np.mean(guesses[tested] == y[tested]), 2))
    accuracy, development = (round(float(np.mean(s)), 2) for s in (right, scores.max(axis=1)))
    return Outcome(accuracy, development, decays, np.append(classes, -1)[guesses])


def with_bias(features: np.ndarray) -> Tensor:
    """Return embeddings with a constant 1 as last column, float32, [n, d + 1].

    The bias is the weight of that constant: Adam and weight decay treat it like any other.
    """
    return nn.functional.pad(torch.from_numpy(np.asarray(features, np.float32)), (0, 1), value=1.0)


def _check_enough(labels: np.ndarray) -> None:
    largest, fewest = np.bincount(labels).max(initial=0), ceil(1 / HELD_OUT)
    if largest < FOLDS + 2 or len(labels) - ceil(len(labels) / FOLDS) < fewest:
        raise ValueError(
            f"SentEval's classifier needs {FOLDS + 2} training sentences of one class and "
            f"{fewest} in all folds but one, got {largest} and {len(labels)} in all folds"
        )


def _folds(labels: np.ndarray, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to train on and the rows to test, for each fold of `rows`."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(rows, labels[rows])
    return [(rows[train], rows[test]) for train, test in folds]


def fit_all(x: Tensor, y: np.ndarray, fits: list[Fit]) -> list[tuple[np.ndarray, Tensor]]:
    """Train classifiers; those of one size together, several such groups at a time.

    Returns:
        For each fit and its decays: the best accuracies on the held-out sentences, 0 to 1,
        [decays], and the weights that had them, [decays, classes, dimensions + 1], the bias last.
    """
    # Each fit starts from the same seed, so fits of one size see their rows in the same order.
    groups = defaultdict(list)
    for number, fit in enumerate(fits):
        groups[len(fit.rows), fit.held_out is None, len(fit.decays)].append(number)
    parts = [n[k : k + TOGETHER] for n in groups.values() for k in range(0, len(n), TOGETHER)]
    labels, trained, threads = torch.from_numpy(y), {}, torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layer = nn.Linear(x.shape[1] - 1, int(y.max()) + 1)
    start = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
    torch.set_num_threads(1)  # on so small matrices, threads mostly wait for each other
    try:
        with ThreadPoolExecutor(threads) as pool:
            groups = [[fits[number] for number in part] for part in parts]
            each = pool.map(lambda group: _fit_together(x, labels, start, group), groups)
            for part, fitted in zip(parts, each, strict=True):
                trained |= zip(part, fitted, strict=True)
    finally:
        torch.set_num_threads(threads)
    return [trained[number] for number in range(len(fits))]


def _fit_together(
    x: Tensor, y: Tensor, start: Tensor, fits: list[Fit]
) -> list[tuple[np.ndarray, Tensor]]:
    """Train classifiers on equally many sentences, each until its own early stopping."""
    draws = np.random.RandomState(SEED)
    rows = torch.from_numpy(np.stack([fit.rows for fit in fits]))
    if fits[0].held_out is None:
        order, few = draws.permutation(rows.shape[1]), int(HELD_OUT * rows.shape[1])
        held_out, rows = list(rows[:, order[:few]]), rows[:, order[few:]]
    else:
        held_out = [torch.from_numpy(fit.held_out) for fit in fits]
    decays = torch.tensor([fit.decays for fit in fits])
    weights = start.repeat(*decays.shape, 1, 1).requires_grad_()
    best_weights, active = weights.detach().clone(), torch.arange(len(fits))
    best = torch.full(decays.shape, -1.0, dtype=torch.float64)
    misses, passes = torch.zeros(decays.shape, dtype=torch.int64), 0
    adam = torch.optim.Adam([weights], lr=RATE, fused=True)
    while len(active) and passes <= MOST_PASSES:
        for _ in range(PASSES):
            order = torch.from_numpy(draws.permutation(rows.shape[1]))
            for batch in rows[:, order].split(BATCH_SIZE, dim=1):
                # x[batch] takes six times as long
                picked = x.index_select(0, batch.flatten()).view(*batch.shape, -1)
                # The mean of each classifier's batch, summed: [fits, batch, decays, classes].
                logits = torch.bmm(picked, weights.flatten(1, 2).mT)
                targets = y[batch].repeat_interleave(decays.shape[1])
                loss = nn.functional.cross_entropy(
                    logits.view(len(targets), -1), targets, reduction="sum"
                )
                adam.zero_grad()
                (loss / batch.shape[1]).backward()
                weights.grad.addcmul_(weights.detach(), decays[active, :, None, None])
                adam.step()
        passes += PASSES
        for fit, now in zip(active, weights.detach(), strict=True):
            guesses = (now @ x[held_out[fit]].T).argmax(dim=1)
            accuracy = (guesses == y[held_out[fit]]).double().mean(dim=1)
            better = (misses[fit] <= TENACITY) & (accuracy > best[fit])
            best[fit, better], best_weights[fit, better] = accuracy[better], now[better]
            misses[fit] += ~better
        still = (misses[active] <= TENACITY).any(dim=1)
        if not still.all():
            active, rows, state = active[still], rows[still], adam.state.pop(weights)
            weights = weights.detach()[still].requires_grad_()
            adam.param_groups[0]["params"] = [weights]
            adam.state[weights] = {k: v[still] if v.dim() else v for k, v in state.items()}
    return list(zip(best.numpy(), best_weights, strict=True))
