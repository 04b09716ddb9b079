"""The forward pass made fast, against transformers' own attention."""

import copy

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModel, BertTokenizerFast, DistilBertConfig, RobertaConfig

from micse_utils import inference
from micse_utils.inference import SHORT, ready_to_encode, short_text_attention
from micse_utils.models import load_model

SIZES = {"vocab_size": 120, "max_position_embeddings": 100}
CONFIGS = {
    "bert": None,  # the tiny BERT of the fixture
    "roberta": RobertaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, **SIZES
    ),
    "distilbert": DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=64, **SIZES),
}


@pytest.fixture(params=CONFIGS)
def model(request, tiny_bert, tmp_path):
    """One small encoder of each architecture."""
    config = CONFIGS[request.param]
    if config is None:
        return load_model(tiny_bert, device="cpu")
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    BertTokenizerFast.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    return SentenceTransformer(
        modules=[Transformer(str(tmp_path)), Pooling(32, "mean")], device="cpu"
    )


@pytest.mark.parametrize("tokens", [3, 20])
def test_short_text_attention_gives_what_the_library_gives(model, tokens):
    ids = 10 + torch.arange(4 * tokens).reshape(4, tokens) % 60
    mask = torch.ones_like(ids)
    mask[1, -1] = mask[3, 1:] = 0
    for features in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        features = {"attention_mask": torch.ones_like(ids), **features}
        with torch.no_grad():
            expected = model.eval()(dict(features))["sentence_embedding"]
        with ready_to_encode(model, torch.float32):
            assert model.transformers_model.config._attn_implementation == inference.SHORT_TEXT
            found = model(dict(features))["sentence_embedding"]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 14, SHORT, SHORT + 1])
def test_short_text_attention_is_softmax_of_scaled_products(tokens):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, tokens, 8, dtype=torch.float64, generator=generator)
    mask = torch.ones(2, 1, 1, tokens, dtype=torch.bool)
    mask[1, ..., tokens // 2 + 1 :] = False
    scores = torch.einsum("nhqd,nhkd->nhqk", query, key) * 0.3
    weights = torch.where(mask, scores.exp(), 0)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    expected = torch.einsum("nhqk,nhkd->nqhd", weights, value)
    module = torch.nn.Module()
    module.is_causal = False
    mask = mask.expand(-1, -1, tokens, -1)
    found, _ = short_text_attention(module, query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(found, expected)


def test_large_scores_do_not_overflow():
    query = torch.full((1, 1, 2, 8), 100.0)
    found, _ = short_text_attention(None, query, query, query, None, scaling=1.0)
    torch.testing.assert_close(found, query.transpose(1, 2))


def test_the_model_is_as_it_was_even_after_an_error(model):
    model.train()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="on purpose"), ready_to_encode(model, torch.bfloat16):
        assert not model.training
        assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
        raise RuntimeError("on purpose")
    assert model.training
    assert model.transformers_model.config._attn_implementation == "sdpa"
    assert not torch.is_inference_mode_enabled()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
    loss = model({"input_ids": torch.tensor([[7, 8]])})["token_embeddings"].sum()
    loss.backward()  # it can still be trained


def test_a_choice_of_another_attention_is_respected(tiny_bert):
    model = load_model(tiny_bert, device="cpu")
    model.transformers_model.set_attn_implementation("eager")
    with ready_to_encode(model, torch.float32):
        assert model.transformers_model.config._attn_implementation == "eager"
