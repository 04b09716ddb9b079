"""Exact search by cosine in blocks that fit in memory, and the speed of any search."""

import time
from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 2**24  # cosines held at a time: 64 MiB of float32


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int = 10) -> np.ndarray:
    """Find the vectors with the largest dot product with each query; of unit vectors, the cosine.

    Args:
        queries, vectors: to search for, [n, d], and in, [m, d].
        count: how many to find for each query, 1 to m.

    Returns:
        Rows of `vectors`, [n, count], best first.

    Raises:
        ValueError: an invalid `count`; vectors with NaN or infinity.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count must be from 1 to {len(vectors)}, got {count}")
    found = np.empty((len(queries), count), dtype=np.int64)
    for rows, cosines in _blocks(queries, vectors):
        best = np.argpartition(cosines, -count, axis=1)[:, -count:]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, axis=1)
    return found


def pairs_above(vectors: np.ndarray, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Find every pair of unit vectors [n, d] with at least this cosine.

    Returns:
        Rows of each pair, smaller one first, [pairs, 2], in order, and their cosines, [pairs].

    Raises:
        ValueError: vectors with NaN or infinity.
    """
    pairs, values = [], []
    for rows, cosines in _blocks(vectors, vectors):
        first, second = np.nonzero(cosines >= cosine)
        once = first + rows.start < second
        first, second = first[once], second[once]
        pairs.append(np.column_stack([first + rows.start, second]))
        values.append(cosines[first, second])
    return np.concatenate(pairs), np.concatenate(values)


def queries_per_second(search: Callable[[np.ndarray], object], queries: np.ndarray) -> float:
    """Return queries per second, from the fastest of five calls of `search`.

    The fastest, because other processes and a cold start can only slow a call down.
    """
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        search(queries)
        seconds.append(time.perf_counter() - start)
    return len(queries) / min(seconds)


def _blocks(queries: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of the queries and their dot products with all vectors."""
    size = max(1, BLOCK // len(vectors))
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        cosines = queries[rows] @ vectors.T
        if not np.isfinite(cosines).all():  # here, for d times fewer numbers than in the vectors
            raise ValueError("vectors and queries must be finite, got NaN, infinity or overflow")
        yield rows, cosines
