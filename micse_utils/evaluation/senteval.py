"""Score an encoder on SentEval's STS and transfer tasks.

STS in the "all" setting of SimCSE (Gao et al. 2021, appendix B): the pairs of all subsets of a year
are pooled, and one Spearman is taken of the cosines of the raw embeddings, without a regressor.
Transfer tasks with the classifier of its "test" mode.
"""

from collections.abc import Iterable, Mapping, Sequence
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
        and for their `mean` and `weighted mean` follow, which have no interval. A subset of one
        pair, or of equal gold scores, has no score: a line says so, and the means leave it out.

    Raises:
        ValueError: an unknown task, a damaged file, or an encoder without usable vectors.
        FileNotFoundError, HubError, FetchError: a task requested by name is missing.
    """
    pairs = tasks if isinstance(tasks, Mapping) else load_sts_tasks(tasks, source)
    texts = {task: [*p.first, *p.second] for task, p in pairs.items()}
    for task, p in pairs.items():
        if np.ptp(p.gold) == 0:
            raise ValueError(f"{task}: all gold scores are {p.gold[0]}; nothing to correlate with")
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    vectors = unit(vectors)  # in float64: cosines of a cone of vectors differ in the seventh digit
    rows = []
    for task, p in tqdm(pairs.items(), desc="score", unit="task", delay=1, disable=not progress):
        first, second = ([row[sentence] for sentence in side] for side in (p.first, p.second))
        cosines = (vectors[first] * vectors[second]).sum(axis=1)
        if np.ptp(cosines) == 0:
            raise ValueError(f"{task}: all cosines are {cosines[0]:.4f}; the vectors are constant")
        rows += _scores(task, cosines, p, seed)
    return pd.DataFrame(rows)


def _scores(task: str, cosines: np.ndarray, pairs: Pairs, seed: int) -> list[dict[str, object]]:
    sides, columns = (pairs.first, pairs.second), ("spearman", "low", "high", "pearson")

    def score(subset: str, chosen: np.ndarray) -> dict[str, object]:
        x, gold = cosines[chosen], pairs.gold[chosen]
        first, second = ([side[row] for row in np.flatnonzero(chosen)] for side in sides)
        row = {"task": task, "subset": subset, "pairs": len(gold)}
        if np.ptp(x) == 0 or np.ptp(gold) == 0:  # one pair, for example
            print(
                f"{task}: subset {subset} has no score and counts in no mean: its gold scores, or "
                "its cosines, are all the same"
            )
            return row | dict.fromkeys(columns, np.nan)
        [[spearman, *drawn]] = resampled_sts(x[None], gold, first, second, seed=seed)
        found = spearman, *interval(drawn), 100 * float(pearsonr(x, gold)[0])
        return row | dict(zip(columns, found, strict=True))

    # SimCSE's "all": one Spearman over the pooled pairs of a year. The mean over its subsets, which
    # older papers print, differs by points.
    rows = [score("all", np.full(len(pairs), True))]
    subsets = np.array(pairs.subsets)
    parts = [score(subset, subsets == subset) for subset in dict.fromkeys(pairs.subsets)]
    if scored := [part for part in parts if not np.isnan(part["spearman"])]:
        sizes = [part["pairs"] for part in scored]
        for name, weights in (("mean", None), ("weighted mean", sizes)):
            mean = {"task": task, "subset": name, "pairs": sum(sizes)}
            for column in ("spearman", "pearson"):
                mean[column] = np.average([part[column] for part in scored], weights=weights)
            parts.append(mean)
    return rows + parts


def encode_distinct(
    model: SentenceTransformer | Encoder,
    texts: Mapping[str, Iterable[str]],
    *,
    dtype: torch.dtype | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, dict[str, int]]:
    """Encode each distinct text of several tasks once.

    Args:
        model, dtype, progress: as for `evaluate_sts`.
        texts: the texts of each task.

    Returns:
        Embeddings, [n, d], and the row of each text in them.

    Raises:
        ValueError: the embeddings have a wrong shape, NaN or infinity, or are all the same.
    """
    task_of = {text: task for task, group in texts.items() for text in group}
    distinct = list(task_of)
    if isinstance(model, SentenceTransformer) and isinstance(model[0], Transformer):
        limit = token_limit(model)
        vectors = encode(model, distinct, max_length=limit, dtype=dtype, progress=progress)
    else:
        vectors = np.asarray(model.encode(distinct))
    if vectors.ndim != 2 or len(vectors) != len(distinct) or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"the encoder gave an array of shape {vectors.shape} for {len(distinct)} sentences; "
            f"expected ({len(distinct)}, dimensions)"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        text = distinct[int(np.argmin(finite))]
        raise ValueError(
            f"{task_of[text]}: the encoder gave NaN or infinity for {(~finite).sum()} of "
            f"{len(distinct)} sentences, the first of them '{text}'"
        )
    if len(distinct) > 1 and (vectors == vectors[0]).all():
        raise ValueError("the encoder gave one and the same vector for every sentence")
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

    Pairs become [|u - v|, u * v]. Accuracies of the two classifiers must not be compared with each
    other:

    - `senteval` is the one behind published figures (see `evaluation.classifier`): raw embeddings,
      Adam, ten folds. A cross-validated task of 10,000 sentences takes about a minute on two cores.
    - `logistic` is scikit-learn's, three to four times as fast: each dimension is scaled to unit
      variance, and the regularisation is chosen on a fifth of the training sentences. With the
      packaged encoder it is 0.1 to 1.1 higher on the packaged tasks, up to 3 on 1,500 sentences.

    Args:
        model, dtype, progress: as for `evaluate_sts`.
        tasks, source, limit: what `load_transfer_tasks` returns, or its arguments.
        classifier: `senteval` or `logistic`.
        seed: draws the sample and the folds of `logistic`; SentEval draws its folds with 1111.
        right: a dictionary to fill with each task's hits, bool, [tested sentences], for paired
            comparisons of encoders.

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
    texts = {task: [*data.first, *data.second] for task, data in tasks.items()}
    for task, data in tasks.items():
        if len(np.unique(data.labels[data.train])) < 2:
            raise ValueError(f"{task}: the training sentences must be of two classes or more")
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
        try:
            accuracy, guesses = CLASSIFIERS[classifier](features, data, seed)
        except ValueError as error:
            raise ValueError(f"{task}: {error}") from error
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
    outcome = senteval_classifier.evaluate(features[order], data.labels[order], **parts)
    guesses = np.empty_like(data.labels)
    guesses[order] = outcome.guesses
    return outcome.accuracy, guesses


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
