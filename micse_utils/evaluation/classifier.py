"""SentEval's classifier of frozen embeddings, its many small fits trained together.

SentEval's protocol (Conneau & Kiela 2018) as SimCSE and miCSE set it in their "test" mode: a
logistic regression on the raw embeddings, trained by Adam with early stopping, its weight decay
chosen by cross-validation. Nested cross-validation takes 410 such fits; here those on equally many
sentences take each step together, as one batched matrix product.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

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
Folds = Sequence[tuple[np.ndarray, np.ndarray | None]]


def evaluate(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    test: np.ndarray | None = None,
    dev: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    """Return the accuracy of SentEval's classifier on frozen embeddings, and its guesses.

    Without a test set, nested cross-validation: each fold is tested once, with the weight decay
    that a cross-validation inside the other folds chose. With a test set, that cross-validation is
    inside the training set. In both, the final fit stops by a drawn 5 % of its training sentences.
    A development set, beside a test set, decides on both the weight decay and when to stop. Folds
    and batches are drawn from the order of the rows, so it matters a little.

    Args:
        features: embeddings, [n, d], not scaled.
        labels: classes, numbered from 0, [n].
        test, dev: which rows are the test set and the development set, bool, [n].

    Returns:
        Per cent, rounded as SentEval does, and the class guessed for each row, [n]; -1 for those
        not tested.

    Raises:
        ValueError: too few sentences to cross-validate.
    """
    # The bias is the weight of a constant 1: Adam and weight decay treat it like any other.
    x = nn.functional.pad(torch.from_numpy(np.asarray(features, np.float32)), (0, 1), value=1.0)
    nothing = np.zeros(len(labels), dtype=bool)
    test, dev = (nothing if chosen is None else chosen for chosen in (test, dev))
    train, dev, test = map(np.flatnonzero, (~test & ~dev, dev, test))
    parts = [(train, test)] if len(test) else _folds(labels, train)
    nested = (
        [(train, dev)] if len(dev) else [f for outer, _ in parts for f in _folds(labels, outer)]
    )
    searched = fit_all(x, labels, nested, [DECAYS] * len(nested))
    # Rounded before the choice, as in SentEval: decays that nearly agree are a tie, and the
    # smallest wins.
    accuracies = np.stack([own for own, _ in searched]).reshape(len(parts), -1, len(DECAYS))
    scores = [[round(100 * share, 2) for share in own] for own in accuracies.mean(axis=1)]
    chosen = np.argmax(scores, axis=1)
    if len(dev):  # SentEval trains the chosen one again, from the same seed: it is this one
        weights = [searched[0][1][chosen[0]]]
    else:
        finals = [(rows, None) for rows, _ in parts]
        fitted = fit_all(x, labels, finals, [[DECAYS[best]] for best in chosen])
        weights = [own[0] for _, own in fitted]
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
    x: Tensor, y: np.ndarray, folds: Folds, decays: Sequence[Sequence[float]]
) -> list[tuple[np.ndarray, Tensor]]:
    """Train a classifier on each fold with each of its weight decays, many of them together.

    Args:
        x, y: embeddings with a constant 1 as last column, [n, d + 1], and classes, [n].
        folds: rows to train on, in order, and those that decide when to stop; None to draw them.
        decays: as many for each fold.

    Returns:
        For each fold: the best accuracies on the held-out sentences, 0 to 1, [decays], and the
        weights that had them, [decays, classes, d + 1].
    """
    # Each fit starts from the same seed, so fits of one size see their rows in the same order.
    sizes, y = defaultdict(list), torch.from_numpy(y)
    for number, (rows, _) in enumerate(folds):
        sizes[len(rows)].append(number)
    groups = [n[k : k + TOGETHER] for n in sizes.values() for k in range(0, len(n), TOGETHER)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        layer = nn.Linear(x.shape[1] - 1, int(y.max()) + 1)
    start = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()

    def fit(group: list[int]) -> list[tuple[np.ndarray, Tensor]]:
        own = torch.tensor([decays[number] for number in group])
        return _fit_together(x, y, start, [folds[number] for number in group], own)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on so small matrices, threads mostly wait for each other
    try:
        with ThreadPoolExecutor(threads) as pool:
            fitted = [pair for pairs in pool.map(fit, groups) for pair in pairs]
    finally:
        torch.set_num_threads(threads)
    order = np.argsort(np.concatenate(groups))
    return [fitted[place] for place in order]


def _fit_together(
    x: Tensor, y: Tensor, start: Tensor, folds: Folds, decays: Tensor
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
                loss = nn.functional.cross_entropy(
                    logits.view(len(targets), -1), targets, reduction="sum"
                )
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
