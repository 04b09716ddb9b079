"""Confidence intervals of scores; alignment and uniformity of embeddings."""

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import pandas as pd
from scipy.stats import rankdata, t

RESAMPLES = 1_000  # of each bootstrap
SHARED = 10  # pairs for each distinct text; from this many on, texts are resampled, not pairs


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors of length 1 in float64, [n, d]; a zero vector stays zero."""
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def interval(resampled: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % bootstrap interval (Efron & Tibshirani 1993, ch. 13)."""
    return tuple(np.nanquantile(resampled, [0.025, 0.975]).tolist())


def resampled_spearman(scores: np.ndarray, gold: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return Spearman x 100 of several runs, on all pairs and then on each resample of them.

    `scores` are each run's of the same pairs, [runs, n], `gold` [n]; all runs share the resamples.
    The result is [runs, 1 + resamples], NaN for a run or gold that is constant.
    """
    n, rng = len(gold), np.random.default_rng(seed)
    return _spearman(scores, gold, (rng.integers(n, size=n) for _ in range(RESAMPLES)))


def resampled_sts(
    scores: np.ndarray, gold: np.ndarray, first: list[str], second: list[str], *, seed: int = 0
) -> np.ndarray:
    """Return what `resampled_spearman` does, but resample texts if the pairs share few of them.

    Lee's 1,225 pairs are all pairs of 50 texts, and pairs of the same text are not independent. So
    texts are drawn, and a pair counts as often as its two texts come together (Snijders & Borgatti
    1999). `first` and `second` are the texts of each pair, [n]; if there are fewer than `SHARED`
    pairs for each distinct text, pairs are drawn.
    """
    number = {text: index for index, text in enumerate(dict.fromkeys([*first, *second]))}
    count, n = len(number), len(gold)
    if n < SHARED * count:
        return resampled_spearman(scores, gold, seed=seed)
    pairs = np.array([[number[text] for text in side] for side in (first, second)])
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    times = (np.bincount(texts, minlength=count)[pairs].prod(axis=0) for texts in drawn)
    return _spearman(scores, gold, (np.repeat(np.arange(n), repeats) for repeats in times))


def _spearman(scores: np.ndarray, gold: np.ndarray, draws: Iterable[np.ndarray]) -> np.ndarray:
    """Correlate ranks of all pairs, and of each draw of them: x 100, [runs, 1 + draws]."""
    both, found = np.vstack([scores, gold]), []
    for rows in chain([slice(None)], draws):
        ranks = rankdata(both[:, rows], axis=1)  # within the resample, not in the whole
        *runs, fixed = ranks - (ranks.shape[1] + 1) / 2
        spreads = [np.sqrt((run**2).sum() * (fixed**2).sum()) for run in runs]
        with np.errstate(invalid="ignore"):  # 0 / 0: a constant has no correlation
            found.append([(r * fixed).sum() / s for r, s in zip(runs, spreads, strict=True)])
    return 100 * np.array(found).T


def resampled_accuracy(right: np.ndarray, groups: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Return the accuracy of several runs in per cent, as `resampled_spearman` does their Spearman.

    `right` says which items each run gets right, bool, [runs, n]. Whole `groups`, numbers, [n], are
    resampled, as items of one article, say, are not independent.
    """
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group)
    sums = np.stack([np.bincount(group, weights=run) for run in right])
    drawn = np.random.default_rng(seed).integers(len(sizes), size=(RESAMPLES, len(sizes)))
    shares = sums[:, drawn].sum(axis=2) / sizes[drawn].sum(axis=1)
    return 100 * np.column_stack([np.mean(right, axis=1), shares])


def compare_runs(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return how much better one training is than another, on each task.

    Over several seeds the interval is a t interval of the seeds' differences, widened by how much
    their mean varies over resamples of the items, with degrees of freedom by Satterthwaite. In
    simulations it covers the truth in 95 to 96 % of cases, with 5 seeds and with 10
    (`tests/benchmarks/coverage.py`). With one run on each side it is a bootstrap over items.

    `first` and `second` hold, for each task, what `resampled_spearman` or `resampled_accuracy` gave
    for the runs of one training, [seeds, 1 + resamples]; row n of both is the same seed.

    Returns:
        Columns `task`, `difference` (first less second, mean over seeds), `low`, `high`, `won`
        (seeds in which first is ahead) and `seeds`. ValueError if tasks or shapes differ.
    """
    shapes, others = ({task: s.shape for task, s in side.items()} for side in (first, second))
    if shapes != others:
        raise ValueError(f"both must have the same tasks and seeds, got {shapes} and {others}")
    rows = []
    for task in first:
        difference = first[task] - second[task]
        seeds, means = difference[:, 0], difference.mean(axis=0)
        mean, resampled = means[0], means[1:]
        if len(seeds) == 1:
            low, high = interval(resampled)
        else:
            of_seeds, of_items = seeds.var(ddof=1) / len(seeds), np.var(resampled)
            freedom = (len(seeds) - 1) * (1 + of_items / max(of_seeds, 1e-12)) ** 2
            width = t.ppf(0.975, freedom) * np.sqrt(of_seeds + of_items)
            low, high = float(seeds.mean() - width), float(seeds.mean() + width)
        row = {"task": task, "difference": float(mean), "low": low, "high": high}
        rows.append(row | {"won": int((seeds > 0).sum()), "seeds": len(seeds)})
    return pd.DataFrame(rows)


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean squared distance of positive pairs of unit vectors (Wang & Isola 2020)."""
    return float(((first - second) ** 2).sum(axis=1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Return the log of the mean of exp(-2 distance^2) over all pairs of unit vectors (same paper).

    It is 0 if all are the same, about -4 at best.
    """
    n = len(vectors)
    potentials = np.exp(4 * (vectors @ vectors.T) - 4)  # the squared distance is 2 - 2 cosine
    return float(np.log((potentials.sum() - np.trace(potentials)) / (n * (n - 1))))
