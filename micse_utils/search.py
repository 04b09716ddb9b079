"""Exact search by cosine in blocks that fit in memory, and the speed of any search."""

import time
from collections.abc import Callable, Iterator

import numpy as np

BLOCK = 2**24
"""Cosines that are held at a time, 64 MiB of float32."""


def nearest(queries: np.ndarray, vectors: np.ndarray, count: int = 10) -> np.ndarray:
    """Find the vectors with the largest dot product with each query; of unit vectors, the cosine.

    Args:
        queries: [n, d].
        vectors: to search in, [m, d].
        count: how many to find for each query.

    Returns:
        Rows of `vectors`, [n, count], best first.

    Raises:
        ValueError: `count` is not from 1 to m; vectors with NaN or infinity.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"count must be from 1 to {len(vectors)}, the vectors, got {count}")
    found = np.empty((len(queries), count), dtype=np.int64)
    for rows, cosines in _blocks(queries, vectors):
        best = np.argpartition(cosines, -count, axis=1)[:, -count:]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found[rows] = np.take_along_axis(best, order, axis=1)
    return found


def pairs_above(vectors: np.ndarray, cosine: float) -> tuple[np.ndarray, np.ndarray]:
    """Find every pair of unit vectors with at least this cosine.

    Args:
        vectors: of length one, [n, d].
        cosine: the least one.

    Returns:
        Rows of each pair, the smaller one first, [pairs, 2], and their cosines, [pairs]; in the
        order of the rows.

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


def queries_per_second(
    search: Callable[[np.ndarray], object], queries: np.ndarray, *, rounds: int = 5
) -> float:
    """Measure queries a second: `search` is called with all of them, `rounds` times.

    Returns:
        Queries divided by the seconds of the fastest round: whatever else the machine does can
        only slow a round, as can the first one, which warms up.
    """
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        search(queries)
        seconds.append(time.perf_counter() - start)
    return len(queries) / min(seconds)


def _blocks(queries: np.ndarray, vectors: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield some of the queries at a time, as a slice, and their dot products with all vectors."""
    size = max(1, BLOCK // len(vectors))
    for start in range(0, len(queries), size):
        rows = slice(start, start + size)
        cosines = queries[rows] @ vectors.T
        if not np.isfinite(cosines).all():  # here, for d times fewer numbers than in the vectors
            raise ValueError("the vectors or queries hold NaN or infinity, or too large numbers")
        yield rows, cosines
