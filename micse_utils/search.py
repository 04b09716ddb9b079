"""Exact search by cosine in blocks that fit in memory, and the speed of any search."""

import time
from collections.abc import Callable, Iterator

import numpy as np

from micse_utils.checks import numbers, shown, whole

BLOCK = 2**24
"""Cosines that are held at a time, 64 MiB of float32."""


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int = 10) -> np.ndarray:
    """The vectors with the largest dot product with each query; of unit vectors, the cosine.

    Args:
        queries: [n, d].
        vectors: to search in, [m, d].
        count: how many to find for each query.

    Returns:
        Rows of `vectors`, [n, count], best first.

    Raises:
        ValueError: `count` is not from 1 to m; arrays of other shapes, or with NaN or infinity.
    """
    queries = numbers("queries", queries, "nd", finite=False)
    vectors = numbers("vectors", vectors, "md", finite=False)
    if queries.shape[1] != vectors.shape[1]:
        raise ValueError(
            f"queries of {queries.shape[1]} dimensions cannot be compared with vectors of "
            f"{vectors.shape[1]}"
        )
    if not 1 <= whole("count", count) <= len(vectors):
        raise ValueError(f"count={count} is not from 1 to the number of vectors, {len(vectors)}")
    found = np.empty((len(queries), count), dtype=np.int64)
    for rows, cosines in _blocks(queries, vectors):
        best = np.argpartition(cosines, -count, axis=1)[:, -count:]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, axis=1)
    return found


def pairs_above(vectors: np.ndarray, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of unit vectors with at least this cosine.

    Args:
        vectors: of length one, [n, d].
        cosine: the least one.

    Returns:
        Rows of each pair, the smaller one first, [pairs, 2], and their cosines, [pairs]; in the
        order of the rows.

    Raises:
        ValueError: `cosine` is no number, or `vectors` are of another shape, or not finite.
    """
    vectors = numbers("vectors", vectors, "nd", finite=False)
    if not isinstance(cosine, (int, float)) or cosine != cosine:
        raise ValueError(f"cosine={shown(cosine)} is not a number")
    if not len(vectors):
        return np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=vectors.dtype)
    pairs, values = [], []
    for rows, cosines in _blocks(vectors, vectors):
        first, second = np.nonzero(cosines >= cosine)
        once = first + rows.start < second
        first, second = first[once], second[once]
        pairs.append(np.column_stack([first + rows.start, second]))
        values.append(cosines[first, second])
    return np.concatenate(pairs), np.concatenate(values)


def queries_per_second(
    search: Callable[[np.ndarray], object], queries: np.ndarray, *, rounds: int = 5
) -> float:
    """Queries a second: `search` is called with all of them, `rounds` times.

    Returns:
        The number of queries by the seconds of the fastest round: whatever else the machine does
        can only slow a round, as can the first one, which warms up.

    Raises:
        ValueError: `rounds` is not a whole number from 1.
    """
    seconds = []
    for _ in range(whole("rounds", rounds, 1)):
        start = time.perf_counter()
        search(queries)
        seconds.append(time.perf_counter() - start)
    return len(queries) / min(seconds)


def _blocks(queries: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Some of the queries at a time, as a slice, and their dot products with all vectors."""
    size = max(1, BLOCK // len(vectors))
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        cosines = queries[rows] @ vectors.T
        if not np.isfinite(cosines).all():  # here, for d times fewer numbers than in the vectors
            raise ValueError("the vectors or queries hold NaN or infinity, or too large numbers")
        yield rows, cosines
