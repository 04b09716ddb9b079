import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from micse_utils.development import DevelopmentEvaluator, alignment, uniformity
from micse_utils.sts import load_sample


def test_spearman_is_that_of_the_librarys_evaluator(encoder, monkeypatch):
    monkeypatch.setattr("micse_utils.encoding.pick_dtype", lambda device: torch.float32)
    pairs = load_sample()
    library = EmbeddingSimilarityEvaluator(
        pairs.first, pairs.second, pairs.gold, main_similarity="cosine", write_csv=False
    )
    measured = DevelopmentEvaluator(pairs)(encoder)["dev_spearman"]
    assert measured == pytest.approx(100 * library(encoder)["spearman_cosine"], abs=0.01)


def test_pairs_are_read_whole_while_training_cuts_sentences(encoder):
    evaluator = DevelopmentEvaluator(load_sample())
    whole, usual = evaluator(encoder), encoder.max_seq_length
    encoder.max_seq_length = 5
    try:
        assert evaluator(encoder) == whole
        assert encoder.max_seq_length == 5
    finally:
        encoder.max_seq_length = usual


def test_alignment_and_uniformity_are_those_of_wang_and_isola():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = vectors[:10], vectors[10:]
    distances = [np.linalg.norm(a - b) ** 2 for a, b in zip(first, second, strict=True)]
    assert alignment(first, second) == pytest.approx(np.mean(distances))
    potentials = [
        np.exp(-2 * np.linalg.norm(vectors[i] - vectors[j]) ** 2)
        for i in range(20)
        for j in range(i + 1, 20)
    ]
    assert uniformity(vectors) == pytest.approx(np.log(np.mean(potentials)))
    assert uniformity(np.ones((3, 1))) == pytest.approx(0)
