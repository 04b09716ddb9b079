import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from micse_utils import explore
from micse_utils.explore import cluster_names, nearest, pairs_above


def unit(count, dimensions=16, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(count, dimensions)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [1, 1000, 2**24])
def test_nearest_agrees_with_scikit_learn_for_any_block_size(monkeypatch, block):
    monkeypatch.setattr(explore, "BLOCK", block)
    queries, vectors = unit(23, seed=1), unit(300)
    expected = NearestNeighbors(n_neighbors=10, metric="cosine", algorithm="brute").fit(vectors)
    np.testing.assert_array_equal(
        nearest(queries, vectors), expected.kneighbors(queries, return_distance=False)
    )


@pytest.mark.parametrize("block", [7, 2**24])
def test_pairs_are_found_once_each_and_never_with_themselves(monkeypatch, block):
    monkeypatch.setattr(explore, "BLOCK", block)
    vectors = unit(60, dimensions=3)
    exact = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    first, second = np.nonzero(np.triu(exact, k=1) >= 0.9)
    pairs, cosines = pairs_above(vectors, 0.9)
    assert len(first) > 10
    np.testing.assert_array_equal(pairs, np.column_stack([first, second]))
    np.testing.assert_allclose(cosines, exact[first, second], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64, np.float16])
def test_integers_and_float16_are_not_multiplied_in_their_own_format(dtype):
    vectors = unit(40, dimensions=384)
    scale = 127 / np.abs(vectors).max() if dtype != np.float16 else 100
    vectors = np.concatenate([np.round(scale * vectors)] * 2)
    vectors = (vectors % 256 if dtype == np.uint8 else vectors).astype(dtype)
    exact = vectors.astype(float) @ vectors.astype(float).T
    found = nearest(vectors, vectors, 2)
    assert (np.sort(found) == np.sort(np.argsort(-exact)[:, :2])).all()
    pairs, cosines = pairs_above(vectors, 1)
    assert pairs.tolist() == [[row, row + 40] for row in range(40)] and (cosines <= 1).all()
    assert cosines == pytest.approx(1)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, 1e30])
def test_what_is_not_finite_is_rejected(wrong):
    vectors = unit(3)
    vectors[1, 0] = wrong
    with pytest.raises(ValueError, match="infs or NaNs"):
        nearest(vectors, vectors * np.float32(1e20), 1)
    with pytest.raises(ValueError, match="infs or NaNs"):
        pairs_above(vectors, 0.5)


CLUSTERS = st.lists(st.tuples(st.text(max_size=30), st.integers(-1, 5)), min_size=1, max_size=20)


@given(CLUSTERS)
def test_every_cluster_has_a_name_of_its_own(rows):
    texts, clusters = zip(*rows, strict=True)
    names = cluster_names(texts, clusters)
    assert names.keys() == set(clusters) - {-1}
    assert len(set(names.values())) == len(names)
    assert all(name.strip() and name != "no cluster" for name in names.values())


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (["Schöne Grüße"], {"schöne", "grüße"}),
        (["مرحبا بالعالم"], {"مرحبا", "بالعالم"}),
        (["좋아요"], {"좋아요"}),
    ],
)
def test_names_are_words_also_in_other_scripts(texts, name):
    assert set(cluster_names(texts, [0])[0].split(", ")) == name


def test_a_cluster_without_words_is_named_by_its_number():
    assert cluster_names(["red cats", "😀 😀", "don't"], [0, 1, -1])[1] == "cluster 1"


def test_the_best_word_has_the_largest_class_based_tf_idf():
    texts = ["tea tea milk", "tea bread", "rain milk", "rain snow", "rain wind"]
    clusters = np.array([0, 0, 1, 1, 1])
    bags = [set(text.split()) for text in texts]  # a word counts once per text
    vocabulary = sorted(set().union(*bags))
    counts = np.array(
        [
            [sum(w in b for b, c in zip(bags, clusters, strict=True) if c == k) for w in vocabulary]
            for k in (0, 1)
        ]
    )
    weight = counts / counts.sum(1, keepdims=True) * np.log(1 + counts.sum() / 2 / counts.sum(0))
    best = {k: vocabulary[weight[k].argmax()] for k in (0, 1)}
    names = cluster_names(texts, clusters)
    assert {k: name.split(", ")[0] for k, name in names.items()} == best
