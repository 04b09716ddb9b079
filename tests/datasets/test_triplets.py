import numpy as np
import pytest

from micse_utils.datasets.texts import load_low_shot
from micse_utils.datasets.triplets import TRIPLETS, draw_triplets, load_triplets

ARTICLES = [
    [[f"a{s}{n}" for n in range(3)] for s in range(2)],
    [["b00", "b01"], ["b10"], []],
    [["c00", "c01"]],  # one section: nothing to draw the hard form's negative from
]


def place(sentence):
    return sentence[0], sentence[:2]


@pytest.mark.parametrize("apart", ["section", "article"])
def test_the_positive_shares_the_anchors_section_and_the_negative_does_not(apart):
    anchors, positives, negatives, articles = draw_triplets(
        ARTICLES, apart=apart, count=300, seed=1
    )
    for anchor, positive, negative in zip(anchors, positives, negatives, strict=True):
        assert positive != anchor
        assert place(positive) == place(anchor)
        assert place(negative)[1] != place(anchor)[1]
        assert (place(negative)[0] == place(anchor)[0]) == (apart == "section")
    assert set(anchors) == {*ARTICLES[0][0], *ARTICLES[0][1], "b00", "b01"}
    assert [ARTICLES[n][0][0][0] for n in articles] == [anchor[0] for anchor in anchors]


def test_both_forms_have_the_same_anchors_and_positives():
    hard, easy = (
        draw_triplets(ARTICLES, apart=apart, count=50, seed=1) for apart in ("section", "article")
    )
    assert hard[:2] == easy[:2]


def test_sentences_of_two_sections_and_excluded_ones_are_not_drawn():
    articles = [[["one", "two", "both"], ["both", "three", "four"]], [["five", "six", "out"]]]
    for apart in ("section", "article"):
        anchors, positives, negatives, _ = draw_triplets(
            articles, ["out"], apart=apart, count=200, seed=0
        )
        assert {*anchors, *positives} == {"one", "two", "three", "four"}
        assert not {"both", "out"} & set(negatives)


def test_packaged_triplets_share_no_sentence_with_the_training_sentences():
    hard, easy = (load_triplets(task) for task in TRIPLETS)
    used = {s for t in (hard, easy) for s in (*t.anchor, *t.positive, *t.negative)}
    assert len(used) > 4_000
    assert len(np.unique(hard.articles)) > 25
    training = load_low_shot([10_000], source="package")[10_000, 48]
    assert not used & set(training.texts)
