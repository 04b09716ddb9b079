import time

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from micse_utils import search
from micse_utils.search import nearest, pairs_above, queries_per_second


def unit(count, dimensions=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 1000, 2**24])
def test_nearest_agrees_with_scikit_learn_for_any_block_size(monkeypatch, block):
    monkeypatch.setattr(search, "BLOCK", block)
    queries, vectors = unit(23, seed=1), unit(300)
    expected = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(vectors)
    np.testing.assert_array_equal(
        nearest(queries, vectors), expected.kneighbors(queries, return_distance=False)
    )


def test_nearest_may_be_all_of_them_in_order():
    vectors = np.array([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    assert nearest(np.array([[1.0, 0.0]]), vectors, 3).tolist() == [[1, 2, 0]]
    assert nearest(np.array([[0.0, 2.0]]), vectors, 1).tolist() == [[0]]


@pytest.mark.parametrize("count", [0, 4])
def test_an_invalid_count_is_rejected(count):
    with pytest.raises(ValueError, match="count must be from 1 to 3"):
        nearest(unit(1), unit(3), count)


@pytest.mark.parametrize("block", [7, 2**24])
def test_pairs_are_found_once_each_and_never_with_themselves(monkeypatch, block):
    monkeypatch.setattr(search, "BLOCK", block)
    vectors = unit(60, dimensions=3)
    exact = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    first, second = np.nonzero(np.triu(exact, k=1) >= 0.9)
    pairs, cosines = pairs_above(vectors, 0.9)
    assert len(first) > 10
    np.testing.assert_array_equal(pairs, np.column_stack([first, second]))
    np.testing.assert_allclose(cosines, exact[first, second], atol=1e-6)


def test_no_pairs_give_empty_arrays():
    pairs, cosines = pairs_above(np.eye(3), 0.5)
    assert pairs.shape == (0, 2) and cosines.shape == (0,)


def test_the_fastest_round_decides_the_speed(monkeypatch):
    clock = iter([0, 100, 100, 102, 102, 107, 0, 9, 0, 8])  # rounds of 100 s, 2 s, 5 s, 9 s, 8 s
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    asked = []
    assert queries_per_second(asked.append, np.zeros((8, 2))) == 8 / 2
    assert [len(queries) for queries in asked] == [8] * 5
