"""Record the attention maps of two dropout views in the forward pass."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


def two_views(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Repeat a batch, [2n, tokens]: dropout makes two views of each sentence."""
    return {
        name: torch.cat([value, value]) if torch.is_tensor(value) else value
        for name, value in features.items()
    }


def attention_modules(transformer: PreTrainedModel) -> list[nn.Module]:
    """Return the self-attention of each layer, first to last."""
    kind = transformer.config.model_type
    if kind in ("bert", "roberta"):  # MiniLM is a BERT
        return [layer.attention.self for layer in transformer.encoder.layer]
    if kind == "distilbert":
        return [layer.attention for layer in transformer.transformer.layer]
    raise ValueError(f"the model must be a bert (MiniLM is one), roberta or distilbert, got {kind}")


@contextlib.contextmanager
def recorded_attention(modules: Sequence[nn.Module], maps: list[Tensor]) -> Iterator[None]:
    """Append the log attention probabilities of `modules` to `maps` in each forward pass.

    One tensor a module, float32, [n, heads, queries, keys], after attention dropout: -inf where a
    key is padding or was dropped. The other layers of the model keep the fused attention.
    """
    config = modules[0].config  # one object, shared by all layers
    usual = config._attn_implementation
    for module in modules:
        module.recorded = maps
    config._attn_implementation = RECORDED
    try:
        yield
    finally:
        config._attn_implementation = usual
        for module in modules:
            del module.recorded


def _recording_attention(
    module, query, key, value, attention_mask, *, scaling: float, dropout: float = 0.0, **options
) -> tuple[Tensor, None]:
    """Compute attention; keep its log-probabilities if the module asks for them."""
    if not hasattr(module, "recorded"):
        options |= {"scaling": scaling, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Log-probabilities by log-softmax of the scores: the gradient of log(p) overflows where p is
    # tiny, and a run of the plain formula ends in NaN.
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    log_probabilities = scores.log_softmax(dim=-1)
    # The fused attention drops inside, where it cannot be seen; so dropout is drawn here.
    dropped = torch.rand_like(scores) < dropout
    module.recorded.append(log_probabilities.masked_fill(dropped, -torch.inf))
    probabilities = log_probabilities.exp().masked_fill(dropped, 0) / (1 - dropout)
    output = probabilities.to(value.dtype) @ value
    return output.transpose(1, 2).contiguous(), None


RECORDED = "recorded"
AttentionInterface.register(RECORDED, _recording_attention)
AttentionMaskInterface.register(RECORDED, sdpa_mask)
