"""SentEval's classifier of frozen embeddings, its many small fits trained together.

SentEval's protocol (Conneau & Kiela 2018) as SimCSE and miCSE set it in their "test" mode: a
logistic regression on the raw embeddings, trained by Adam with early stopping, its weight decay
chosen by cross-validation. Nested cross-validation takes 410 such fits; here those on equally many
sentences take each step together, as one batched matrix product.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from threading import Event
from typing import NamedTuple

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold
from torch import Tensor, nn
from torch.optim.adam import adam

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


class Fitted(NamedTuple):
    """Trained classifiers."""

    accuracies: np.ndarray  # best on the held-out sentences, 0 to 1, [decays]
    weights: Tensor  # at that best, [decays, classes, dimensions + 1]; the bias comes last


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
    classes, numbered = np.unique(labels, return_inverse=True)
    nothing = np.zeros(len(numbered), dtype=bool)
    test, dev = (nothing if chosen is None else chosen for chosen in (test, dev))
    train, dev, test = map(np.flatnonzero, (~test & ~dev, dev, test))
    by_dev = len(test) > 0 and len(dev) > 0
    if not by_dev:
        _check_enough(numbered[train])
    table = _Table.of(features, numbered)
    if by_dev:
        outcome = _by_development_set(table, train, dev, test)
    else:
        parts = [(train, test)] if len(test) else list(_folds(table, train))
        outcome = _by_cross_validation(table, parts)
    return replace(outcome, guesses=np.append(classes, -1)[outcome.guesses])


def _check_enough(labels: np.ndarray) -> None:
    largest, fewest = np.bincount(labels).max(initial=0), ceil(1 / HELD_OUT)
    if largest < FOLDS + 2 or len(labels) - ceil(len(labels) / FOLDS) < fewest:
        raise ValueError(
            f"SentEval's classifier needs {FOLDS + 2} training sentences of one class and "
            f"{fewest} in all folds but one, got {largest} and {len(labels)} in all folds"
        )


@dataclass(frozen=True)
class _Table:
    """Embeddings with a constant 1 as last column, float32, [n, d + 1], and their classes."""

    features: Tensor
    labels: np.ndarray
    targets: Tensor

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray) -> "_Table":
        # The bias is the weight of a constant: Adam and weight decay treat it like any other.
        table = torch.ones(len(features), features.shape[1] + 1)
        table[:, :-1] = torch.from_numpy(np.ascontiguousarray(features))
        return cls(table, labels, nn.functional.one_hot(torch.from_numpy(labels)).float())

    def guess(self, weights: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the class guessed for each row by weights [..., classes, d + 1], and the hits."""
        guesses = (weights @ self.features[torch.from_numpy(rows)].T).argmax(dim=-2)
        return guesses, guesses == torch.from_numpy(self.labels[rows])


def _folds(table: _Table, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows to train on and the rows to test, for each fold of `rows`."""
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=SEED)
    for train, test in folds.split(rows, table.labels[rows]):
        yield rows[train], rows[test]


def _by_cross_validation(table: _Table, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Outcome:
    """Score each test part with the decay that cross-validation inside its training part chose."""
    searches = [
        Fit(kept, held_out, DECAYS) for train, _ in parts for kept, held_out in _folds(table, train)
    ]
    searched = train_all(table, searches)
    decays, development = [], []
    for number in range(len(parts)):
        folds = searched[number * FOLDS : (number + 1) * FOLDS]
        # Rounded before the choice, as in SentEval: decays that nearly agree are a tie, and the
        # smallest wins.
        by_decay = zip(*(fold.accuracies.tolist() for fold in folds), strict=True)
        scores = [round(100 * np.mean(accuracies), 2) for accuracies in by_decay]
        decays.append(DECAYS[int(np.argmax(scores))])
        development.append(max(scores))

    finals = [Fit(train, None, (d,)) for (train, _), d in zip(parts, decays, strict=True)]
    guesses, accuracies = np.full(len(table.labels), -1), []
    for (_, test), fitted in zip(parts, train_all(table, finals), strict=True):
        guesses[test], right = table.guess(fitted.weights[0], test)
        accuracies.append(_percent(right))
    accuracy, development = (round(float(np.mean(x)), 2) for x in (accuracies, development))
    return Outcome(accuracy, development, tuple(decays), guesses)


def _by_development_set(
    table: _Table, train: np.ndarray, dev: np.ndarray, test: np.ndarray
) -> Outcome:
    """Score the test set with the weight decay that does best on the development set."""
    [fitted] = train_all(table, [Fit(train, dev, DECAYS)])
    scores = [round(100 * accuracy, 2) for accuracy in fitted.accuracies.tolist()]
    best = int(np.argmax(scores))
    # SentEval trains the chosen one again, from the same seed: it is this one.
    guesses = np.full(len(table.labels), -1)
    guesses[test], right = table.guess(fitted.weights[best], test)
    return Outcome(_percent(right), scores[best], (DECAYS[best],), guesses)


def _percent(right: Tensor) -> float:
    return round(100 * (int(right.sum()) / len(right)), 2)


def train_all(table: _Table, fits: Sequence[Fit]) -> list[Fitted]:
    """Train classifiers; those of one size together, several such groups at a time."""
    # Each fit starts from the same seed, so fits of one size see their rows in the same order.
    groups = defaultdict(list)
    for number, fit in enumerate(fits):
        groups[len(fit.rows), fit.held_out is None, len(fit.decays)].append(number)
    chunks = [
        numbers[start : start + TOGETHER]
        for numbers in groups.values()
        for start in range(0, len(numbers), TOGETHER)
    ]
    start, trained = _first_weights(table, SEED), {}
    interrupted = Event()

    def train(chunk: list[int]) -> list[Fitted]:
        return _train_together(table, [fits[n] for n in chunk], start, interrupted)

    with _one_thread_each() as workers, ThreadPoolExecutor(workers) as pool:
        try:
            for chunk, fitted in zip(chunks, pool.map(train, chunks), strict=True):
                trained |= zip(chunk, fitted, strict=True)
        except BaseException:
            interrupted.set()  # or Ctrl-C would wait for the threads to finish their fits
            raise
    return [trained[number] for number in range(len(fits))]


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Let each operation run in one thread, and give the number of threads there were."""
    # On matrices of this size, threads wait for each other longer than they compute.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _train_together(
    table: _Table, fits: Sequence[Fit], start: Tensor, interrupted: Event
) -> list[Fitted]:
    """Train classifiers on equally many sentences, each until its own early stopping."""
    draws = np.random.RandomState(SEED)
    rows, held_out = _hold_out(fits, draws)
    decays = torch.tensor([fit.decays for fit in fits])
    adam_steps = _Steps(start, decays)
    best = torch.full(decays.shape, -1.0, dtype=torch.float64)
    best_weights = adam_steps.weights.clone()
    misses = torch.zeros(decays.shape, dtype=torch.int64)
    active, passes = torch.arange(len(fits)), 0
    while len(active) and passes <= MOST_PASSES and not interrupted.is_set():
        for _ in range(PASSES):
            order = torch.from_numpy(draws.permutation(rows.shape[1]))
            for batch in order.split(BATCH_SIZE):
                adam_steps.take(table, rows[:, batch])
        passes += PASSES
        weights = adam_steps.weights
        looks = [table.guess(w, held_out[fit])[1] for fit, w in zip(active, weights, strict=True)]
        accuracy = torch.stack([right.double().mean(dim=-1) for right in looks])
        running = misses[active] <= TENACITY
        better = running & (accuracy > best[active])
        fit, decay = better.nonzero(as_tuple=True)
        best[active[fit], decay] = accuracy[fit, decay]
        best_weights[active[fit], decay] = weights[fit, decay]
        misses[active] += ~better
        still = (misses[active] <= TENACITY).any(dim=1)
        if not still.all():
            active, rows = active[still], rows[still]
            adam_steps.keep(still)
    return [Fitted(*own) for own in zip(best.numpy(), best_weights, strict=True)]


def _hold_out(fits: Sequence[Fit], draws: np.random.RandomState) -> tuple[Tensor, list[np.ndarray]]:
    """Return the training rows, [fits, n], and the held-out rows of each fit, drawn if None."""
    rows = np.stack([fit.rows for fit in fits])
    if fits[0].held_out is not None:
        return torch.from_numpy(rows), [fit.held_out for fit in fits]
    order = draws.permutation(rows.shape[1])
    count = int(HELD_OUT * rows.shape[1])
    return torch.from_numpy(rows[:, order[count:]]), list(rows[:, order[:count]])


@torch.no_grad()
def _first_weights(table: _Table, seed: int) -> Tensor:
    """Return the weights of a linear layer as PyTorch starts it from a seed, [classes, d + 1]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layer = nn.Linear(table.features.shape[1] - 1, table.targets.shape[1])
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1)


class _Steps:
    """Weights of several fits and the state of Adam, [fits, decays, classes, d + 1] each."""

    def __init__(self, start: Tensor, decays: Tensor) -> None:
        self.weights = start.expand(*decays.shape, *start.shape).clone()
        self.moments = [torch.zeros_like(self.weights) for _ in range(2)]
        self.decays, self.rate, self.steps = decays[..., None, None], RATE, torch.zeros(())
        # Memory for the batches: allocating it for each step takes longer than filling it.
        self.batch = torch.empty(len(decays) * BATCH_SIZE, start.shape[1])

    def take(self, table: _Table, rows: Tensor) -> None:
        """Take one step of Adam on the mean cross entropy of a batch of each fit, [fits, b]."""
        fits, size = rows.shape
        out = self.batch[: rows.numel()]
        batch = torch.index_select(table.features, 0, rows.flatten(), out=out).view(fits, size, -1)
        targets = table.targets[rows].mT.unsqueeze(1)
        stacked = self.weights.flatten(1, 2)
        logits = torch.bmm(stacked, batch.mT).view(*self.weights.shape[:3], size)
        # The gradient of cross entropy with respect to the logits; autograd takes longer than this.
        error = (logits.softmax(dim=2) - targets) / size
        gradient = torch.bmm(error.flatten(1, 2), batch).view_as(self.weights)
        gradient.addcmul_(self.weights, self.decays)
        adam(
            [self.weights], [gradient], *([moment] for moment in self.moments), [], [self.steps],
            fused=True, amsgrad=False, beta1=0.9, beta2=0.999, lr=self.rate, weight_decay=0.0,
            eps=1e-8, maximize=False,
        )  # fmt: skip

    def keep(self, chosen: Tensor) -> None:
        """Drop the fits that are not chosen."""
        self.weights, *self.moments = (t[chosen] for t in (self.weights, *self.moments))
        self.decays = self.decays[chosen]
