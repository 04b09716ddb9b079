"""What is recorded of the attention, against the library's own eager attention."""

import pytest
import torch
from transformers import AutoModel, DistilBertConfig, ElectraConfig, RobertaConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from micse_utils.training.attention import attention_modules, recorded_attention


def transformer_of(config):
    torch.manual_seed(0)
    return AutoModel.from_config(config).train()


CONFIGS = {
    "bert": None,  # the tiny BERT of the fixture
    "roberta": RobertaConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=40,
    ),
    "distilbert": DistilBertConfig(
        vocab_size=120, dim=32, n_layers=4, n_heads=4, hidden_dim=64, max_position_embeddings=40
    ),
}  # fmt: skip
ELECTRA = ElectraConfig(
    vocab_size=120, hidden_size=32, embedding_size=32, num_hidden_layers=2, num_attention_heads=4,
    intermediate_size=64,
)  # fmt: skip


@pytest.fixture(params=CONFIGS)
def backbone(request, tiny_bert):
    """One small transformer of each architecture, in training mode."""
    config = CONFIGS[request.param]
    if config is None:
        return AutoModel.from_pretrained(tiny_bert).train()
    return transformer_of(config)


@pytest.fixture
def batch():
    """Token ids of three sentences, the last two padded."""
    ids = torch.arange(10, 31).reshape(3, 7)
    mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])
    return {"input_ids": ids, "attention_mask": mask}


def test_recorded_maps_are_those_of_eager_attention_and_change_nothing(backbone, batch):
    backbone.eval()
    maps = []
    with torch.no_grad():
        expected = backbone(**batch).last_hidden_state
        with recorded_attention(attention_modules(backbone), maps):
            output = backbone(**batch).last_hidden_state
        eager = type(backbone)(backbone.config)
        eager.load_state_dict(backbone.state_dict())
        eager.set_attn_implementation("eager")
        attentions = eager.eval()(**batch, output_attentions=True).attentions
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(output[real], expected[real], atol=1e-5, rtol=1e-5)
    assert len(maps) == len(attentions) == len(attention_modules(backbone))
    for recorded, attention in zip(maps, attentions, strict=True):
        torch.testing.assert_close(recorded.exp(), attention, atol=1e-6, rtol=1e-4)
        padding = ~batch["attention_mask"].bool()[:, None, None].expand_as(recorded)
        assert recorded[padding].isneginf().all()
    assert backbone.config._attn_implementation != "recorded"


def test_dropped_positions_are_lost_to_the_recorded_map_and_to_the_output(backbone, batch):
    """The output of the layer is made of the very probabilities that are recorded."""
    module = attention_modules(backbone)[0]
    module.dropout.p = 0.5
    maps = []
    query = key = value = torch.eye(7).expand(3, 4, 7, 7)
    with recorded_attention([module], maps):
        output, _ = ALL_ATTENTION_FUNCTIONS["recorded"](
            module, query, key, value, None, scaling=1.0, dropout=0.5
        )
    kept = maps[0].isfinite()
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(output.transpose(1, 2), maps[0].exp() * 2)  # value: the identity


def test_another_architecture_is_refused():
    with pytest.raises(ValueError, match=r"must be a bert .* got electra"):
        attention_modules(transformer_of(ELECTRA))
