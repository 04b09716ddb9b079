"""The twin that encodes, against the model itself and transformers' own attention."""

import copy
import gc
import weakref

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import AutoModel, BertTokenizerFast, DistilBertConfig, RobertaConfig

from micse_utils.models import load_model
from micse_utils.twin import SHORT, SHORT_TEXT, forward_of, short_text_attention, twin_of

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
def test_the_twin_agrees_with_the_model(model, tokens):
    ids = 10 + torch.arange(4 * tokens).reshape(4, tokens) % 60
    mask = torch.ones_like(ids)
    mask[1, -1] = mask[3, 1:] = 0
    forward = forward_of(model.train(), torch.float32)
    assert twin_of(model[0], torch.float32).model.config._attn_implementation == SHORT_TEXT
    for features in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": mask}):
        features = {"attention_mask": torch.ones_like(ids), **features}
        with torch.no_grad():
            expected = model.eval()(dict(features))["sentence_embedding"]
        model.train()  # the twin drops nothing out
        torch.testing.assert_close(forward(features), expected, atol=1e-5, rtol=1e-5)


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


FEATURES = {"input_ids": torch.tensor([[7, 8, 9]]), "attention_mask": torch.ones(1, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_model_is_not_changed_and_can_still_be_trained(model, dtype):
    model.train()
    before = copy.deepcopy(model.state_dict())
    forward_of(model, dtype)(dict(FEATURES))
    assert model.training
    assert model.transformers_model.config._attn_implementation == "sdpa"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert tensor.dtype == before[name].dtype
    model(dict(FEATURES))["token_embeddings"].sum().backward()
    assert all(p.requires_grad for p in model.parameters())


def test_a_twin_in_the_models_own_format_shares_its_weights(model):
    own, rough = (twin_of(model[0], dtype) for dtype in (torch.float32, torch.bfloat16))
    weights = {t.data_ptr() for t in model.parameters()}
    assert {t.data_ptr() for t in own.parameters()} == weights
    assert not {t.data_ptr() for t in rough.parameters()} & weights
    assert {t.dtype for t in rough.parameters()} == {torch.bfloat16}


def step(model):
    model(dict(FEATURES))["sentence_embedding"].sum().backward()
    torch.optim.AdamW(model.parameters(), lr=0.1).step()


def through_data(model):
    for tensor in model.parameters():
        tensor.data.mul_(2)


def loaded(model):
    model.load_state_dict(
        {name: t + 1 for name, t in model.state_dict().items() if "pos" not in name}, strict=False
    )


def cut(model):
    if stack := getattr(model.transformers_model, "encoder", None):
        stack.layer = stack.layer[:1]


@pytest.mark.parametrize("change", [step, through_data, loaded, cut])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_twin_follows_changed_weights(model, change, dtype):
    before = forward_of(model, dtype)(dict(FEATURES))
    assert torch.equal(forward_of(model, dtype)(dict(FEATURES)), before)
    change(model)
    expected = forward_of(copy.deepcopy(model), dtype)(dict(FEATURES))
    assert torch.equal(forward_of(model, dtype)(dict(FEATURES)), expected)


def test_the_twin_goes_with_its_model(tiny_bert):
    model = load_model(tiny_bert, device="cpu")
    twins = [weakref.ref(twin_of(model[0], d)) for d in (torch.float32, torch.bfloat16)]
    assert all(twin() for twin in twins)
    del model
    gc.collect()
    assert not any(twin() for twin in twins)


def test_a_change_of_the_pooling_takes_effect_at_once(tiny_bert):
    model = load_model(tiny_bert, device="cpu", pooling="mean")
    forward_of(model, torch.float32)(dict(FEATURES))
    model[1].pooling_mode = "cls"
    with torch.no_grad():
        expected = model(dict(FEATURES))["sentence_embedding"]
    torch.testing.assert_close(forward_of(model, torch.float32)(dict(FEATURES)), expected)


def test_a_different_attention_is_kept(tiny_bert):
    model = load_model(tiny_bert, device="cpu")
    model.transformers_model.set_attn_implementation("eager")
    assert twin_of(model[0], torch.float32).model.config._attn_implementation == "eager"
