from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from micse_utils.datasets.sts import load_sample
from micse_utils.models import keep_first_layers, load_model
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError, history_of


@pytest.fixture(scope="module")
def pairs():
    """A few of the kit's pairs."""
    sample = load_sample()
    parts = {name: getattr(sample, name)[:120] for name in ("first", "second", "gold")}
    return replace(sample, **parts, subsets=())


def test_spearman_is_that_of_the_librarys_evaluator(encoder, pairs):
    library = EmbeddingSimilarityEvaluator(
        pairs.first, pairs.second, pairs.gold, main_similarity="cosine", write_csv=False
    )
    measured = DevelopmentEvaluator(pairs)(encoder)["dev_spearman"]
    assert measured == pytest.approx(100 * library(encoder)["spearman_cosine"], abs=0.01)


def test_vectors_that_all_but_coincide_are_still_told_apart(pairs):
    """A raw start's cosines differ after the sixth digit; squared distances keep them apart."""
    raw = keep_first_layers(load_model(source="package", pooling="cls", device="cpu"), 3)
    first, second = (
        raw.encode(texts, normalize_embeddings=False, convert_to_numpy=True).astype("float64")
        for texts in (pairs.first, pairs.second)
    )
    first, second = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second))
    distances = ((first - second) ** 2).sum(axis=1)
    assert distances.max() < 1e-4
    expected = 100 * spearmanr(-distances, pairs.gold)[0]
    assert DevelopmentEvaluator(pairs)(raw)["dev_spearman"] == pytest.approx(expected, abs=0.05)


def test_pairs_of_equal_gold_are_refused_as_they_select_nothing(pairs):
    with pytest.raises(ValueError, match="all gold scores are the same"):
        DevelopmentEvaluator(replace(pairs, gold=np.full(len(pairs), 3.0)))


def test_an_encoder_with_one_vector_for_all_sentences_has_diverged(tiny_bert, pairs):
    model = load_model(tiny_bert, pooling="cls", device="cpu")
    model.transformers_model.encoder.layer[-1].output.LayerNorm.weight.data.zero_()
    model.transformers_model.encoder.layer[-1].output.LayerNorm.bias.data.fill_(1.0)
    with pytest.raises(TrainingDivergedError, match="finite vectors that differ"):
        DevelopmentEvaluator(pairs)(model)


def test_an_evaluation_without_a_spearman_stays_in_the_history():
    log = [{"step": 4, "loss": 1.0}, {"step": 4, "eval_dev_spearman": 60.0}, {"step": 6, "loss": 1}]
    log.append({"step": 8, "eval_dev_spearman": float("nan")})
    assert history_of({"dev_spearman": 50.0}, log)["step"].tolist() == [0, 4, 8]
