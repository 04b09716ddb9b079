"""What the pages explore with: exact search by cosine, the speed of a search, names of clusters."""

import re
from collections.abc import Callable, Iterator, Sequence
from timeit import repeat

import numpy as np
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, CountVectorizer
from sklearn.utils import gen_batches

BLOCK = 2**24  # cosines held at a time: 64 MiB of float32
ROUNDING = 1e-6  # of a cosine in float32; two equal vectors may have 0.9999999

# Left out: links, user names, contractions (don't), and a swear word.
NOISE = re.compile(r"https?:\S+|@\w+|\w+['’]\w+|\w*fuck\w*")
TERM = re.compile(r"\b[^\W\d_]{3,}\b")  # words of three letters or more


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int = 10) -> np.ndarray:
    """Return the rows of the vectors [m, d] with the largest dot product with each query [n, d].

    Of unit vectors that is the cosine. The rows, [n, count], come best first.
    """
    found = np.empty((len(queries), count), dtype=np.int64)
    for rows, cosines in _products(queries, vectors):
        best = np.argpartition(cosines, -count, axis=1)[:, -count:]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, axis=1)
    return found


def pairs_above(vectors: np.ndarray, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of every pair of vectors [n, d] with at least this cosine, but for rounding.

    The smaller row comes first, [pairs, 2]; their cosines, [pairs], follow.
    """
    vectors = np.asarray(vectors, np.float32)
    norms = np.asarray_chkfinite(np.linalg.norm(vectors, axis=1, keepdims=True))
    vectors = vectors / np.where(norms == 0, 1, norms)
    pairs, values = [], []
    for rows, cosines in _products(vectors, vectors):
        first, second = np.nonzero(np.triu(cosines >= cosine - ROUNDING, rows.start + 1))
        pairs.append(np.column_stack([first + rows.start, second]))
        values.append(np.clip(cosines[first, second], -1, 1))
    return np.concatenate(pairs), np.concatenate(values)


def queries_per_second(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Return queries per second in the fastest of five calls: all else only slows a call down."""
    return len(queries) / min(repeat(lambda: search(queries), repeat=5, number=1))


def _products(queries: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of the queries and their products with all vectors; refuse NaN and infinity."""
    queries, vectors = np.asarray(queries, np.float32), np.asarray(vectors, np.float32)
    for rows in gen_batches(len(queries), max(1, BLOCK // len(vectors))):
        yield rows, np.asarray_chkfinite(queries[rows] @ vectors.T)


def terms(text: str) -> list[str]:
    """Return the words of a text in lower case, without stop words."""
    found = TERM.findall(NOISE.sub("", text.lower()))
    return [term for term in found if term not in ENGLISH_STOP_WORDS]


def cluster_names(
    texts: Sequence[str], clusters: Sequence[int], *, fewest: int = 1
) -> dict[int, str]:
    """Name each cluster, all differently, by its three most distinctive words (class-based TF-IDF).

    The weight of word w in cluster c is tf(w, c) · log(1 + A / f(w)), with A the mean number of
    words in a cluster and f(w) the frequency of w over all of them (Grootendorst 2022,
    arXiv:2203.05794). A word counts once per text.

    Number -1 means no cluster; a word of a name occurs in `fewest` texts of the cluster or more.
    """
    clusters = np.asarray(clusters)
    numbers = np.unique(clusters[clusters >= 0])
    chosen = [set(terms(text)) for text, c in zip(texts, clusters, strict=True) if c >= 0]
    if not any(chosen):
        return {int(number): f"cluster {number}" for number in numbers}
    counter = CountVectorizer(analyzer=list)
    members = (numbers[:, None] == clusters[clusters >= 0]).astype(int)
    counts = members @ counter.fit_transform(chosen)
    frequency = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    weight = frequency * np.log(1 + counts.sum() / len(counts) / counts.sum(axis=0))
    weight[counts < fewest] = 0
    words, names = counter.get_feature_names_out(), {}
    by_weight = weight.argsort(axis=1)[:, ::-1]  # the most distinctive word first
    for number, best, own in zip(numbers.tolist(), by_weight, counts, strict=True):
        chosen = [words[w] for w in best[:3] if own[w] >= fewest]
        names[number] = ", ".join(chosen) or f"cluster {number}"
    shared = [*names.values()]
    return {n: f"{name} ({n})" if shared.count(name) > 1 else name for n, name in names.items()}
