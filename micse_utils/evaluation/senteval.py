"""Score an encoder on SentEval's STS and transfer tasks.

STS in the "all" setting of SimCSE (Gao et al. 2021, appendix B): the pairs of all subsets of a year
are pooled, and one Spearman is taken of the cosines of the raw embeddings, without a regressor.
Transfer tasks with the classifier of its "test" mode.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from joblib import parallel_config
from scipy.stats import pearsonr
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import (
    GridSearchCV,
    StratifiedKFold,
    StratifiedShuffleSplit,
    cross_val_predict,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from micse_utils.datasets.sts import Pairs, load_sts_tasks
from micse_utils.datasets.transfer import Classification, load_transfer_tasks
from micse_utils.encoding import encode, token_limit
from micse_utils.evaluation import classifier as senteval_classifier
from micse_utils.evaluation.metrics import interval, resampled_sts, unit
from micse_utils.settings import shown

FOLDS = 10
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
"""Inverse regularisation strengths (scikit-learn's C), chosen among on training folds."""


class Encoder(Protocol):
    """Any object that can encode strings."""

    def encode(self, sentences: list[str]) -> np.ndarray:
        """Return the embeddings of n sentences, [n, d], in the order given."""


def evaluate_sts(
    model: SentenceTransformer | Encoder,
    tasks: Sequence[str] | Mapping[str, Pairs] | None = None,
    *,
    source: str | Path = "auto",
    dtype: torch.dtype | None = torch.float32,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score an encoder on STS tasks; each distinct sentence is encoded once over all of them.

    Args:
        model: a `SentenceTransformer`, or any object with `encode(list of strings)`.
        tasks, source: what `load_sts_tasks` returns, or its arguments.
        dtype: number format of a `SentenceTransformer`. Published scores are made in float32; None
            picks the fastest format, which moves a score by up to 0.05 (on [CLS], STS-B dev).
        seed: seed of the bootstrap.
        progress: show a bar.

    Returns:
        Columns `task`, `subset`, `pairs`, `spearman`, `low`, `high` (its 95 % interval) and
        `pearson`, all x 100. `subset` is `all` for the pooled pairs; rows for each subset, if any,
        and for their `mean` and `weighted mean` follow, which have no interval. If all gold scores
        or all cosines are equal, the score is NaN: a line says so, and the means leave it out.

    Raises:
        ValueError: an unknown task, a damaged file, or an encoder without usable vectors.
        FileNotFoundError, HubError, FetchError: a task requested by name is missing.
    """
    pairs = tasks if isinstance(tasks, Mapping) else load_sts_tasks(tasks, source)
    texts = {task: [*p.first, *p.second] for task, p in pairs.items()}
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    vectors = unit(vectors)  # in float64: cosines of a cone of vectors differ in the seventh digit
    rows = []
    for task, p in tqdm(pairs.items(), desc="score", unit="task", delay=1, disable=not progress):
        first, second = ([row[sentence] for sentence in side] for side in (p.first, p.second))
        cosines = (vectors[first] * vectors[second]).sum(axis=1)
        # SimCSE's "all": one Spearman over the pooled pairs of a year. The mean over its subsets,
        # which older papers print, differs by points.
        rows.append({"task": task, "subset": "all"} | _score(cosines, p, seed))
        parts = []
        for subset in dict.fromkeys(p.subsets):
            own = np.array(p.subsets) == subset
            scores = _score(cosines[own], kept_pairs(p, own), seed)
            parts.append({"task": task, "subset": subset} | scores)
        rows += parts
        scored = [part for part in parts if "spearman" in part]
        sizes = [part["pairs"] for part in scored]
        for name, weights in (("mean", None), ("weighted mean", sizes)) if scored else ():
            mean = {"task": task, "subset": name, "pairs": sum(sizes)}
            for column in ("spearman", "pearson"):
                mean[column] = np.average([part[column] for part in scored], weights=weights)
            rows.append(mean)
    columns = ["task", "subset", "pairs", "spearman", "low", "high", "pearson"]
    table = pd.DataFrame(rows, columns=columns)
    for row in table[table["spearman"].isna()].itertuples():
        print(f"{row.task}, {row.subset}: no score, as its gold scores or cosines are all the same")
    return table


def _score(cosines: np.ndarray, pairs: Pairs, seed: int) -> dict[str, float]:
    """Return the scores x 100 of some pairs, with an interval; none if there is nothing to rank."""
    if np.ptp(cosines) == 0 or np.ptp(pairs.gold) == 0:  # one pair, for example
        return {"pairs": len(pairs)}
    texts = pairs.first, pairs.second
    [[spearman, *drawn]] = resampled_sts(cosines[None], pairs.gold, *texts, seed=seed)
    (low, high), pearson = interval(drawn), 100 * float(pearsonr(cosines, pairs.gold)[0])
    scores = {"spearman": spearman, "low": low, "high": high, "pearson": pearson}
    return {"pairs": len(pairs)} | scores


def kept_pairs(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """Return the pairs that are kept, without their subsets."""
    first, second = (list(itertools.compress(side, kept)) for side in (pairs.first, pairs.second))
    return replace(pairs, first=first, second=second, gold=pairs.gold[kept], subsets=())


def encode_distinct(
    model: SentenceTransformer | Encoder,
    texts: Mapping[str, Iterable[str]],
    *,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, dict[str, int]]:
    """Encode each distinct text of several tasks once; the options are those of `evaluate_sts`.

    Returns:
        Embeddings, [n, d], and the row of each text in them.

    Raises:
        ValueError: the embeddings have a wrong shape, NaN or infinity, or are all the same.
    """
    distinct = list(dict.fromkeys(itertools.chain(*texts.values())))
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
    model: SentenceTransformer | Encoder,
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

    Accuracies of the two classifiers must not be compared with each other:

    - `senteval` is the one behind published figures (see `evaluation.classifier`): raw embeddings,
      Adam, ten folds. A cross-validated task of 10,000 sentences takes about a minute on two cores.
    - `logistic` is scikit-learn's, three to four times as fast: each dimension is scaled to unit
      variance, and the regularisation is chosen on a fifth of the training sentences. With the
      packaged encoder it is 0.1 to 1.1 higher on the packaged tasks, up to 3 on 1,500 sentences.

    Args:
        model, dtype, progress: as for `evaluate_sts`.
        tasks, source, limit: what `load_transfer_tasks` returns, or its arguments.
        seed: draws the sample and the folds of `logistic`; SentEval draws its folds with 1111.
        right: filled with each task's hits, bool, [tested sentences], to compare encoders by.

    Returns:
        Columns `task`, `classifier`, `sentences`, `classes`, `accuracy`, `f1` (for MRPC) and
        `largest_class`, the accuracy of always guessing that class; per cent.

    Raises:
        As `evaluate_sts`; ValueError also for an unknown classifier or too few sentences.
    """
    if classifier not in CLASSIFIERS:
        names = " or ".join(CLASSIFIERS)
        raise ValueError(f"classifier must be {names}, got {shown(classifier)}")
    if not isinstance(tasks, Mapping):
        tasks = load_transfer_tasks(tasks, source, limit=limit, seed=seed)
    for task, data in tasks.items():
        if np.ptp(data.labels[data.train]) == 0:
            raise ValueError(f"{task}: all training sentences are of one class")
    texts = {task: [*data.first, *data.second] for task, data in tasks.items()}
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    rows = []
    for task, data in tqdm(tasks.items(), desc="classify", unit="task", disable=not progress):
        features = vectors[[row[sentence] for sentence in data.first]]
        if data.second:
            other = vectors[[row[sentence] for sentence in data.second]]
            # SentEval's features of a pair, alike whichever sentence comes first.
            features = np.hstack([np.abs(features - other), features * other])
        tested = data.test if data.test.any() else np.full(len(data.labels), True)
        truth = data.labels[tested]
        accuracy, guesses = CLASSIFIERS[classifier](features, data, seed)
        if right is not None:
            right[task] = guesses[tested] == truth
        two_classes_of_pairs = data.second and data.labels.max() == 1
        rows.append({
            "task": task, "classifier": classifier, "sentences": len(data.labels),
            "classes": len(set(data.labels)), "accuracy": accuracy,
            "f1": 100 * f1_score(truth, guesses[tested]) if two_classes_of_pairs else np.nan,
            "largest_class": 100 * np.bincount(truth).max() / len(truth),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _senteval(features: np.ndarray, data: Classification, seed: int) -> tuple[float, np.ndarray]:
    """Return the accuracy of SentEval's classifier, in per cent, and its guesses, [n]."""
    # SentEval sorts by length, to pad less; its folds and batches are drawn from that order.
    words = [[len(text.split()) for text in side] for side in (data.first, data.second)]
    order = np.lexsort([data.labels, *(side for side in reversed(words) if side)])
    parts = {"test": data.test, "dev": data.dev}
    parts = {name: part[order] for name, part in parts.items() if part is not None}
    accuracy, guesses = senteval_classifier.evaluate(features[order], data.labels[order], **parts)
    return accuracy, guesses[np.argsort(order)]


def _logistic(features: np.ndarray, data: Classification, seed: int) -> tuple[float, np.ndarray]:
    """Return the accuracy of scikit-learn's regression, in per cent, and its guesses, [n]."""
    classifier = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1_000)),
        {"logisticregression__C": STRENGTHS},
        cv=StratifiedShuffleSplit(1, test_size=0.2, random_state=seed),
    )
    # A fold has one thread: on such small matrices, several wait longer than they compute.
    folds_at_once = torch.get_num_threads()
    with threadpool_limits(1, user_api="blas"), parallel_config("threading", n_jobs=folds_at_once):
        if data.test.any():
            classifier.fit(features[data.train], data.labels[data.train])
            guesses = classifier.predict(features)
        else:
            folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
            guesses = cross_val_predict(classifier, features, data.labels, cv=folds)
    tested = data.test if data.test.any() else slice(None)
    return 100 * accuracy_score(data.labels[tested], guesses[tested]), guesses


CLASSIFIERS = {"senteval": _senteval, "logistic": _logistic}
