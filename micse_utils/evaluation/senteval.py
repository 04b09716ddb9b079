"""Score an encoder on SentEval's STS and transfer tasks, as SimCSE does (Gao et al. 2021)."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from joblib import parallel_config
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sklearn import model_selection, preprocessing
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from micse_utils.datasets.sts import Pairs, load_sts_tasks
from micse_utils.datasets.transfer import Classification, load_transfer_tasks
from micse_utils.encoding import encode, token_limit
from micse_utils.evaluation import classifier as senteval_classifier
from micse_utils.evaluation.metrics import interval, resampled_sts, unit
from micse_utils.settings import check_choice


class Encoder(Protocol):
    """Any object that can encode strings, such as a SentenceTransformer."""

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Return the embeddings of n sentences, [n, d], in the order given."""


def evaluate_sts(
    model: Encoder,
    tasks: Sequence[str] | Mapping[str, Pairs] | None = None,
    *,
    source: str | Path = "auto",
    dtype: torch.dtype | None = torch.float32,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score an encoder on STS tasks by the cosines of its raw embeddings.

    Args:
        model: a `SentenceTransformer`, or any object with `encode(list of strings)`.
        tasks, source: what `load_sts_tasks` returns, or its arguments.
        dtype: number format of a `SentenceTransformer`. Published scores are made in float32; None
            picks the fastest format, which moves a score by up to 0.05 (on [CLS], STS-B dev).
        seed: of the bootstrap.

    Returns:
        Columns `task`, `subset`, `pairs`, `spearman`, `low` and `high` (its 95 % interval), x 100.
        `subset` is `all` for the pooled pairs; rows for each subset, if any, and for their `mean`
        and `weighted mean` follow, which have no interval. If all gold scores or all cosines are
        equal, the score is NaN: a line says so, and the means leave it out.

    Raises:
        ValueError, OSError, FetchError: an unknown or missing task, a damaged file, a bad encoder.
    """
    pairs = tasks if isinstance(tasks, Mapping) else load_sts_tasks(tasks, source)
    texts = [text for p in pairs.values() for text in (*p.first, *p.second)]
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    vectors = unit(vectors)  # in float64: cosines of a cone of vectors differ in the seventh digit
    found = []
    for task, p in tqdm(pairs.items(), desc="score", unit="task", delay=1, disable=not progress):
        first, second = ([row[sentence] for sentence in side] for side in (p.first, p.second))
        cosines = (vectors[first] * vectors[second]).sum(axis=1)
        # SimCSE's "all": one Spearman over the pooled pairs of a year. The mean over its subsets,
        # which older papers print, differs by points.
        parts = [("all", np.full(len(p), True))]
        parts += [(subset, np.array(p.subsets) == subset) for subset in dict.fromkeys(p.subsets)]
        scores = [
            _score(task, subset, cosines[own], kept_pairs(p, own), seed) for subset, own in parts
        ]
        found += scores
        if scored := [score for score in scores[1:] if "spearman" in score]:
            values = [score["spearman"] for score in scored]
            sizes = [score["pairs"] for score in scored]
            for name, weights in (("mean", None), ("weighted mean", sizes)):
                mean = {"spearman": np.average(values, weights=weights), "pairs": sum(sizes)}
                found.append({"task": task, "subset": name} | mean)
    return pd.DataFrame(found, columns=["task", "subset", "pairs", "spearman", "low", "high"])


def _score(task: str, subset: str, cosines: np.ndarray, p: Pairs, seed: int) -> dict:
    """Return a row of the table, with an interval; without a score if there is nothing to rank."""
    row = {"task": task, "subset": subset, "pairs": len(p)}
    if np.ptp(cosines) == 0 or np.ptp(p.gold) == 0:  # one pair, for example
        print(f"{task}, {subset}: no score, as its gold scores or cosines are all the same")
        return row
    [[spearman, *drawn]] = resampled_sts(cosines[None], p.gold, p.first, p.second, seed=seed)
    low, high = interval(drawn)
    return row | {"spearman": spearman, "low": low, "high": high}


def kept_pairs(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """Return the pairs that are kept, without their subsets."""
    first, second = (list(itertools.compress(side, kept)) for side in (pairs.first, pairs.second))
    return replace(pairs, first=first, second=second, gold=pairs.gold[kept], subsets=())


def encode_distinct(
    model: Encoder,
    texts: Iterable[str],
    *,
    dtype: torch.dtype | None = torch.float32,
    progress: bool = True,
) -> tuple[np.ndarray, dict[str, int]]:
    """Encode each distinct text once; return the vectors, [n, d], and the row of each text."""
    distinct = list(dict.fromkeys(texts))
    if isinstance(model, SentenceTransformer) and isinstance(model[0], Transformer):
        limit = token_limit(model)
        vectors = encode(model, distinct, max_length=limit, dtype=dtype, progress=progress)
    else:
        vectors = np.asarray(model.encode(distinct))
    usable = vectors.ndim == 2 and len(vectors) == len(distinct) and np.isfinite(vectors).all()
    if not usable or (len(distinct) > 1 and (vectors == vectors[0]).all()):
        raise ValueError(
            f"the encoder must give {len(distinct)} sentences finite vectors that differ, got an "
            f"array of shape {vectors.shape}, with {(~np.isfinite(vectors)).sum()} NaN or infinity"
        )
    return vectors, {text: index for index, text in enumerate(distinct)}


def evaluate_transfer(
    model: Encoder,
    tasks: Sequence[str] | Mapping[str, Classification] | None = None,
    *,
    source: str | Path = "auto",
    classifier: str = "senteval",
    limit: int | None = None,
    dtype: torch.dtype | None = torch.float32,
    seed: int = 0,
    progress: bool = True,
    right: dict[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Score frozen embeddings by a logistic regression on them (Conneau & Kiela 2018).

    Args:
        model, dtype, progress: as for `evaluate_sts`.
        tasks, source, limit: what `load_transfer_tasks` returns, or its arguments.
        classifier: `senteval`, which is behind published figures (see `evaluation.classifier`); or
            `logistic`, scikit-learn's on scaled dimensions, three to four times as fast and 0.1 to
            3 points higher on the packaged tasks. Do not compare the two.
        seed: draws the sample and the folds of `logistic`; SentEval draws its folds with 1111.
        right: filled with each task's hits, bool, [tested sentences], to compare encoders by.

    Returns:
        Columns `task`, `classifier`, `sentences`, `classes`, `accuracy` and `largest_class`, the
        accuracy of always guessing that class; per cent.
    """
    classifiers = {"senteval": _senteval, "logistic": _logistic}
    check_choice("classifier", classifier, classifiers)
    if not isinstance(tasks, Mapping):
        tasks = load_transfer_tasks(tasks, source, limit=limit, seed=seed)
    for task, data in tasks.items():
        if np.ptp(data.labels[data.train]) == 0:
            raise ValueError(f"{task}: all training sentences are of one class")
    texts = [text for data in tasks.values() for text in (*data.first, *data.second)]
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    rows = []
    for task, data in tqdm(tasks.items(), desc="classify", unit="task", disable=not progress):
        features = vectors[[row[sentence] for sentence in data.first]]
        if data.second:
            other = vectors[[row[sentence] for sentence in data.second]]
            # SentEval's features of a pair, alike whichever sentence comes first.
            features = np.hstack([np.abs(features - other), features * other])
        tested = data.test if data.test.any() else data.train
        truth = data.labels[tested]
        accuracy, guesses = classifiers[classifier](features, data, seed)
        if right is not None:
            right[task] = guesses[tested] == truth
        rows.append({
            "task": task, "classifier": classifier, "sentences": len(data.labels),
            "classes": len(set(data.labels)), "accuracy": accuracy,
            "largest_class": 100 * np.bincount(truth).max() / len(truth),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _senteval(features: np.ndarray, data: Classification, seed: int) -> tuple[float, np.ndarray]:
    """Return the accuracy of SentEval's classifier, in per cent, and its guesses, [n]."""
    # SentEval sorts by length, to pad less; its folds and batches are drawn from that order.
    words = [[len(text.split()) for text in side] for side in (data.first, data.second)]
    order = np.lexsort([data.labels, *(side for side in reversed(words) if side)])
    dev = np.zeros_like(data.test) if data.dev is None else data.dev
    accuracy, guesses = senteval_classifier.evaluate(
        features[order], data.labels[order], test=data.test[order], dev=dev[order]
    )
    return accuracy, guesses[np.argsort(order)]


def _logistic(features: np.ndarray, data: Classification, seed: int) -> tuple[float, np.ndarray]:
    """Return the accuracy of scikit-learn's regression, in per cent, and its guesses, [n]."""
    search = model_selection.GridSearchCV(
        make_pipeline(preprocessing.StandardScaler(), LogisticRegression(max_iter=1_000)),
        {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]},
        cv=model_selection.StratifiedShuffleSplit(1, test_size=0.2, random_state=seed),
    )
    # A fold has one thread: on such small matrices, several wait longer than they compute.
    folds_at_once = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"), parallel_config("threading", n_jobs=folds_at_once):
        if data.test.any():
            guesses = search.fit(features[data.train], data.labels[data.train]).predict(features)
        else:
            folds = model_selection.StratifiedKFold(10, shuffle=True, random_state=seed)
            guesses = model_selection.cross_val_predict(search, features, data.labels, cv=folds)
    right = guesses == data.labels
    return 100 * float(np.mean(right[data.test] if data.test.any() else right)), guesses
