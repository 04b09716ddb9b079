import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micse_utils.topics import cluster_names

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
        (["вкусная еда"], {"вкусная", "еда"}),
        (["नमस्ते दुनिया"], {"नमस्ते", "दुनिया"}),
        (["مرحبا بالعالم"], {"مرحبا", "بالعالم"}),
        (["天气好"], {"天气", "气好"}),
        (["これは"], {"これ", "れは"}),
        (["안녕 세계"], {"안녕", "세계"}),
    ],
)
def test_names_are_words_in_any_script(texts, name):
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


def test_words_of_too_few_texts_name_no_cluster():
    texts = ["rare tea", "tea", "odd", "milk"]
    assert cluster_names(texts, [0, 0, 1, 1], fewest=2) == {0: "tea", 1: "cluster 1"}
