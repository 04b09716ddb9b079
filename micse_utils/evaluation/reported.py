"""The tasks that trained encoders are reported on, with and without the pairs that selected them.

STSBenchmark was cut from the STS tasks of 2012 to 2017, so some of their test pairs are in its
development file, which selects checkpoints and settings. The fair figure leaves those out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from micse_utils.datasets.sts import STS_TASKS, YEARS, Pairs, load_sts, load_tasks
from micse_utils.datasets.triplets import TRIPLETS, Triplets, load_triplets
from micse_utils.evaluation.metrics import interval, resampled_accuracy, resampled_sts, unit
from micse_utils.evaluation.senteval import Encoder, encode_distinct, kept_pairs

REPORTED = (*STS_TASKS, "SICK trial", "Lee", *TRIPLETS)  # they select nothing, but for leaked pairs
FAIR = " without dev pairs"  # ends the name of a task that leaves out the leaked pairs
AVERAGES = {  # over tasks, for whoever has all of them; the last is the one that papers print
    "STS12 to STS16" + FAIR: tuple(year + FAIR for year in YEARS),
    "STS12 to STS16": tuple(YEARS),
    "the seven STS tasks": STS_TASKS,
}
Reported = Mapping[str, Pairs | Triplets]


def load_reported(names: Sequence[str], *, missing_ok: bool = False) -> Reported:
    """Load reported tasks; with `missing_ok`, print those that neither hub nor folder has."""

    def load(name: str) -> Pairs | Triplets:
        return load_triplets(name) if name in TRIPLETS else load_sts(name)

    return load_tasks(None if missing_ok else names, "auto", load, names, ())


def leaked(pairs: Pairs, dev: Pairs) -> np.ndarray:
    """Return which pairs are in the development file too, in either order; bool, [n]."""
    known = set(map(_key, dev.first, dev.second))
    return np.array([key in known for key in map(_key, pairs.first, pairs.second)])


def _key(first: str, second: str) -> frozenset[str]:
    return frozenset(" ".join(text.split()) for text in (first, second))


def with_fair(tasks: Reported, dev: Pairs) -> Reported:
    """Add to each year its pairs that are not in STSBenchmark's development file."""
    if not dev.provenance.name.startswith("STSBenchmark"):
        return tasks
    fair = {n + FAIR: kept_pairs(t, ~leaked(t, dev)) for n, t in tasks.items() if n in YEARS}
    return {**tasks, **fair}


def resampled_scores(
    model: Encoder, tasks: Reported, *, progress: bool = False
) -> dict[str, np.ndarray]:
    """Return Spearman x 100, or per cent of triplets, of each task and of its resamples.

    Each is [1 + resamples], a row for `compare_runs`. Texts are encoded in float32.
    """
    sides = {
        name: (t.first, t.second) if isinstance(t, Pairs) else (t.anchor, t.positive, t.negative)
        for name, t in tasks.items()
    }
    texts = [text for parts in sides.values() for part in parts for text in part]
    vectors, row = encode_distinct(model, texts, progress=progress)
    vectors, scores = unit(vectors), {}
    for name, task in tasks.items():
        first, second, *third = (vectors[[row[text] for text in part]] for part in sides[name])
        if third:
            right = (first * (second - third[0])).sum(axis=1) > 0
            [scores[name]] = resampled_accuracy(right[None], task.articles)
        else:
            # 1 - cosine, as the cosines of a cone are all 1 but for what float32 rounds away.
            apart = (first * (first - second)).sum(axis=1).astype(np.float32)[None]
            [scores[name]] = resampled_sts(-apart, task.gold, task.first, task.second)
    return scores


def evaluate_triplets(model: Encoder, tasks: Mapping[str, Triplets] | None = None) -> pd.DataFrame:
    """Score an encoder on section triplets (Dor et al., ACL 2018), by default on both forms.

    A triplet is right if cosine(anchor, positive) > cosine(anchor, negative); chance is 50 %. The
    95 % interval, `low` to `high`, is by bootstrap over articles, as triplets of one article are
    not independent.
    """
    tasks = tasks or {task: load_triplets(task) for task in TRIPLETS}
    scores, rows = resampled_scores(model, tasks, progress=True), []
    for task, (accuracy, *resampled) in scores.items():
        articles = len(np.unique(tasks[task].articles))
        rows.append((task, len(tasks[task]), articles, accuracy, *interval(resampled)))
    return pd.DataFrame(rows, columns=["task", "triplets", "articles", "accuracy", "low", "high"])


def with_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Put the averages of `AVERAGES` before the scores, if all their tasks are there."""
    whole = {n: parts for n, parts in AVERAGES.items() if all(part in scores for part in parts)}
    return {n: sum(scores[p] for p in parts) / len(parts) for n, parts in whole.items()} | scores
