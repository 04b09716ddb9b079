"""The tasks that trained encoders are reported on, with and without the pairs that selected them.

STSBenchmark was cut from the STS tasks of 2012 to 2017, so some of their test pairs are in its
development file, which selects checkpoints and settings. The field reports all pairs; the fair
figure leaves those out.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import STS_TASKS, YEARS, Pairs, load_sts
from micse_utils.datasets.triplets import TRIPLETS, Triplets, load_triplets
from micse_utils.evaluation.metrics import interval, resampled_accuracy, resampled_sts, unit
from micse_utils.evaluation.senteval import Encoder, encode_distinct, kept_pairs
from micse_utils.sources.hub import HubError

REPORTED = (*STS_TASKS, "SICK trial", "Lee", *TRIPLETS)
"""Nothing is selected on them, but for the leaked pairs."""
FAIR = " without dev pairs"
"""Ends the name of a task that leaves out the pairs of the development file."""
AVERAGES = {
    "STS12 to STS16" + FAIR: tuple(year + FAIR for year in YEARS),
    "STS12 to STS16": tuple(YEARS),
    "the seven STS tasks": STS_TASKS,
}
"""Means over tasks, for whoever has all of them; the last is the one that papers print."""

Reported = Mapping[str, Pairs | Triplets]


def load_reported(names: Sequence[str] = REPORTED, *, missing_ok: bool = False) -> Reported:
    """Load reported tasks; with `missing_ok`, print those whose files cannot be had."""
    found, missing = {}, []
    for name in names:
        try:
            found[name] = load_triplets(name) if name in TRIPLETS else load_sts(name)
        except (FileNotFoundError, HubError):
            if not missing_ok:
                raise
            missing.append(name)
    if missing:
        print(f"not reported, for lack of their files: {', '.join(missing)}")
    return found


def leaked(pairs: Pairs, dev: Pairs) -> np.ndarray:
    """Return which pairs are in the development file too, in either order; bool, [n].

    Texts are compared as SentEval's files hold them, but for white space.
    """
    known = set(map(_key, dev.first, dev.second))
    return np.array([key in known for key in map(_key, pairs.first, pairs.second)])


def _key(first: str, second: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()) for text in (first, second))


def with_fair(tasks: Reported, dev: Pairs) -> Reported:
    """Add to the years that share pairs with STSBenchmark's development file one without them."""
    if not dev.provenance.name.startswith("STSBenchmark"):
        return tasks
    fair = {n + FAIR: kept_pairs(t, ~leaked(t, dev)) for n, t in tasks.items() if n in YEARS}
    return {**tasks, **fair}


def resampled_scores(
    model: SentenceTransformer | Encoder,
    tasks: Reported,
    *,
    dtype: torch.dtype | None = torch.float32,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Return each task's score and its resamples, as `compare_runs` takes them of one run.

    The options are those of `evaluate_sts`.

    Returns:
        Spearman x 100, or per cent of triplets; float64, [1 + resamples] for each task.
    """
    sides = {
        name: (t.first, t.second) if isinstance(t, Pairs) else (t.anchor, t.positive, t.negative)
        for name, t in tasks.items()
    }
    texts = {name: itertools.chain(*parts) for name, parts in sides.items()}
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    vectors, scores = unit(vectors), {}
    for name, task in tasks.items():
        first, second, *third = (vectors[[row[text] for text in part]] for part in sides[name])
        if third:
            right = (first * (second - third[0])).sum(axis=1) > 0
            [scores[name]] = resampled_accuracy(right[None], task.articles, seed=seed)
        else:
            # 1 - cosine, as the cosines of a cone are all 1 but for what float32 rounds away.
            apart = (first * (first - second)).sum(axis=1).astype(np.float32)[None]
            [scores[name]] = resampled_sts(-apart, task.gold, task.first, task.second, seed=seed)
    return scores


def evaluate_triplets(
    model: SentenceTransformer | Encoder,
    tasks: Sequence[str] | Mapping[str, Triplets] = TRIPLETS,
    *,
    progress: bool = True,
    **options: object,
) -> pd.DataFrame:
    """Score an encoder on section triplets (Dor et al., ACL 2018).

    A triplet is right if cosine(anchor, positive) > cosine(anchor, negative); chance is 50.

    Args:
        model, progress, options: as for `evaluate_sts`: `dtype` and `seed`.
        tasks: names for `load_triplets`, or what it returned.

    Returns:
        Columns `task`, `triplets`, `articles`, `accuracy`, `low`, `high`: per cent, with a 95 %
        interval by bootstrap over articles, as triplets of one article are not independent.

    Raises:
        ValueError: an unknown task, or an encoder without usable vectors.
        FetchError: the package with the text could not be fetched.
    """
    if not isinstance(tasks, Mapping):
        tasks = {task: load_triplets(task) for task in tasks}
    scores, rows = resampled_scores(model, tasks, progress=progress, **options), []
    for task, (accuracy, *resampled) in scores.items():
        articles = len(np.unique(tasks[task].articles))
        rows.append((task, len(tasks[task]), articles, accuracy, *interval(resampled)))
    columns = ["task", "triplets", "articles", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def with_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Put the averages of `AVERAGES` before the scores, if all their tasks are there."""
    whole = {n: parts for n, parts in AVERAGES.items() if all(part in scores for part in parts)}
    return {n: sum(scores[p] for p in parts) / len(parts) for n, parts in whole.items()} | scores
