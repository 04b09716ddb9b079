"""SentEval's classifier of frozen embeddings (Conneau & Kiela 2018), as SimCSE and miCSE set it.

A logistic regression, trained by Adam with early stopping; cross-validation chooses its weight
decay. Nested, that takes 410 fits; those on equally many sentences take each step together.
"""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold
from torch import Tensor

# Settings of SimCSE's and miCSE's "test" mode.
FOLDS = 10  # of each cross-validation
DECAYS = np.array([1e-5, 1e-4, 1e-3, 1e-2])  # weight decays to choose from
BATCH_SIZE = 64
PASSES = 4  # over the training sentences before each look at the held-out ones
MOST_PASSES = 200  # training ends with the first look after more passes than this
TENACITY = 5  # looks without a new best that are forgiven, over the whole training
HELD_OUT = 0.05  # share of the training sentences that stops the final fit
RATE = 1e-3  # learning rate
SEED = 1111  # of the folds; of the first weights and order of the sentences in each fit
TOGETHER = 32  # fits trained at once: enough to hide the cost of a call, few enough for the caches


def evaluate(
    features: np.ndarray, labels: np.ndarray, *, test: np.ndarray, dev: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the accuracy of SentEval's classifier in per cent, and its guesses, -1 if not tested.

    Without a test set, each fold is tested once, with the weight decay that a cross-validation
    inside the other folds chose; with one, that is inside the training set. In both, 5 % of the
    training sentences, of 20 or more, stop the final fit. A development set, beside a test set,
    decides on the weight decay and when to stop. Folds and batches are drawn in the rows' order.

    `features` are not scaled, [n, d], `labels` numbered from 0, [n], `test` and `dev` bool, [n].
    """
    # The bias is the weight of a constant 1: Adam and weight decay treat it like any other.
    x = F.pad(torch.from_numpy(np.asarray(features, np.float32)), (0, 1), value=1.0)
    train, dev, test = map(np.flatnonzero, (~test & ~dev, dev, test))
    parts = [(train, test)] if len(test) else _folds(labels, train)
    if len(dev):
        nested = [(train, dev)]
    else:
        nested = [fold for outer, _ in parts for fold in _folds(labels, outer)]
    searched = fit_all(x, labels, nested, np.tile(DECAYS, (len(nested), 1)))
    accuracies = np.stack([own for own, _ in searched]).reshape(len(parts), -1, len(DECAYS))
    # Rounded, as in SentEval: decays that nearly agree are a tie, and the smallest wins.
    chosen = np.round(100 * accuracies.mean(axis=1), 2).argmax(axis=1)
    if len(dev):  # SentEval trains the chosen one again, from the same seed: it is this one
        weights = [searched[0][1][chosen[0]]]
    else:
        finals = [(rows, None) for rows, _ in parts]
        weights = [own[0] for _, own in fit_all(x, labels, finals, DECAYS[chosen][:, None])]
    guesses, right = np.full(len(labels), -1), []
    for (_, tested), own in zip(parts, weights, strict=True):
        guesses[tested] = (x[tested] @ own.T).argmax(dim=1)
        right.append(round(100 * np.mean(guesses[tested] == labels[tested]), 2))
    return round(float(np.mean(right)), 2), guesses


def _folds(labels: np.ndarray, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows to train on and the rows to test, for each fold of `rows`."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED).split(rows, labels[rows])
    return [(rows[train], rows[test]) for train, test in folds]


def fit_all(
    x: Tensor, y: np.ndarray, folds: list[tuple], decays: np.ndarray
) -> list[tuple[np.ndarray, Tensor]]:
    """Train a classifier on each fold with each of its weight decays, many of them together.

    Args:
        x, y: embeddings with a constant 1 as last column, [n, d + 1], and classes, [n].
        folds: rows to train on, in order, and those that decide when to stop; None to draw them.
        decays: those of each fold, [folds, decays].

    Returns:
        For each fold the best accuracies on the held-out sentences, [decays], and the weights that
        had them, [decays, classes, d + 1].
    """
    # Each fit starts from the same seed, so fits of one size see their rows in the same order.
    sizes, y = defaultdict(list), torch.from_numpy(y)
    for number, (rows, _) in enumerate(folds):
        sizes[len(rows)].append(number)
    groups = [n[k : k + TOGETHER] for n in sizes.values() for k in range(0, len(n), TOGETHER)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layer = torch.nn.Linear(x.shape[1] - 1, int(y.max()) + 1)
    start = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()

    def fit(group: list[int]) -> list[tuple[np.ndarray, Tensor]]:
        own = torch.tensor(decays[group], dtype=torch.float32)
        return _fit_together(x, y, start, [folds[number] for number in group], own)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on matrices this small, threads mostly wait for each other
    try:
        with ThreadPoolExecutor(threads) as pool:
            fitted = [pair for pairs in pool.map(fit, groups) for pair in pairs]
    finally:
        torch.set_num_threads(threads)
    return [fitted[place] for place in np.argsort(np.concatenate(groups))]


def _fit_together(
    x: Tensor, y: Tensor, start: Tensor, folds: list[tuple], decays: Tensor
) -> list[tuple[np.ndarray, Tensor]]:
    """Train classifiers on equally many sentences, each until its own early stopping."""
    draws = np.random.RandomState(SEED)
    rows = torch.from_numpy(np.stack([own for own, _ in folds]))
    if folds[0][1] is None:
        order, few = draws.permutation(rows.shape[1]), int(HELD_OUT * rows.shape[1])
        if not few:
            raise ValueError("SentEval's classifier needs 20 training sentences in every fold")
        held_out, rows = rows[:, order[:few]], rows[:, order[few:]]
    else:
        held_out = [torch.from_numpy(held) for _, held in folds]
    weights = start.repeat(*decays.shape, 1, 1).requires_grad_()
    best_weights = weights.detach().clone()
    best = torch.full(decays.shape, -1.0, dtype=torch.float64)
    misses, passes = torch.zeros(decays.shape, dtype=torch.int64), 0
    adam = torch.optim.Adam([weights], lr=RATE, fused=True)
    while (misses <= TENACITY).any() and passes <= MOST_PASSES:
        for _ in range(PASSES):
            order = torch.from_numpy(draws.permutation(rows.shape[1]))
            for batch in rows[:, order].split(BATCH_SIZE, dim=1):
                # x[batch] takes six times as long
                picked = x.index_select(0, batch.flatten()).view(*batch.shape, -1)
                # The mean of each classifier's batch, summed: [fits, batch, decays, classes].
                logits = torch.bmm(picked, weights.flatten(1, 2).mT)
                targets = y[batch].repeat_interleave(decays.shape[1])
                loss = F.cross_entropy(logits.view(len(targets), -1), targets, reduction="sum")
                adam.zero_grad()
                (loss / batch.shape[1]).backward()
                weights.grad.addcmul_(weights.detach(), decays[..., None, None])
                adam.step()
        passes += PASSES
        for fit, now in enumerate(weights.detach()):
            guesses = (now @ x[held_out[fit]].T).argmax(dim=1)
            accuracy = (guesses == y[held_out[fit]]).double().mean(dim=1)
            better = (misses[fit] <= TENACITY) & (accuracy > best[fit])
            best[fit, better], best_weights[fit, better] = accuracy[better], now[better]
            misses[fit] += ~better
    return list(zip(best.numpy(), best_weights, strict=True))
