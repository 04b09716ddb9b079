"""The attention maps of two dropout views: recorded in the forward pass, cut into rows."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


def two_views(features: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each sentence of a batch twice, [2n, tokens]: dropout makes two views of it."""
    return {
        name: torch.cat([value, value]) if torch.is_tensor(value) else value
        for name, value in features.items()
    }


def attention_rows(maps: list[Tensor], attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention maps of both views as rows, one a (sentence, head, chunk of layers).

    The layers are taken two at a time: of four, the first and the third make one chunk, the second
    and the fourth the other. Of an odd number, the last chunk has one.

    Args:
        maps: log attention probabilities, one [2n, heads, tokens, tokens] a layer; the first
            views of n sentences, then the second ones.
        attention_mask: 1 for real tokens, 0 for padding, [2n, tokens].

    Returns:
        Log-probabilities of view one, of view two, and whether both query and key are real tokens,
        each [n * heads * chunks, layers of a chunk * tokens * tokens].
    """
    chunks = (len(maps) + 1) // 2
    depth = -(-len(maps) // chunks)
    missing = [torch.full_like(maps[0], -torch.inf)] * (depth * chunks - len(maps))
    stacked = torch.stack([*maps, *missing]).unflatten(0, (depth, chunks)).unflatten(2, (2, -1))
    first, second = stacked.permute(2, 3, 4, 1, 0, 5, 6)  # view, n, head, chunk, depth, query, key

    token = attention_mask.bool().chunk(2)[0]
    pair = token[:, :, None] & token[:, None, :]
    there = torch.arange(depth * chunks, device=pair.device) < len(maps)
    there = there.unflatten(0, (depth, chunks)).T
    real = (pair[:, None, None, None] & there[:, :, None, None]).expand_as(first)
    return tuple(view.flatten(3).flatten(0, 2) for view in (first, second, real))


def attention_modules(transformer: PreTrainedModel) -> list[nn.Module]:
    """The self-attention of each layer, first to last.

    Raises:
        ValueError: an architecture whose attention the kit cannot record.
    """
    kind = transformer.config.model_type
    if kind in ("bert", "roberta"):  # MiniLM is a BERT
        return [layer.attention.self for layer in transformer.encoder.layer]
    if kind == "distilbert":
        return [layer.attention for layer in transformer.transformer.layer]
    raise ValueError(
        f"the attention of a {kind} model cannot be recorded; bert (MiniLM is one), roberta and "
        "distilbert can"
    )


@contextlib.contextmanager
def recorded_attention(modules: Iterable[nn.Module], maps: list[Tensor]) -> Iterator[None]:
    """Within, a forward pass appends the log attention probabilities of `modules` to `maps`.

    Args:
        modules: self-attentions of one model; all others of it keep the fused attention.
        maps: gets one tensor a module, float32, [n, heads, queries, keys], after attention
            dropout: -inf where a key is padding or was dropped.
    """
    modules = list(modules)
    if not modules:
        yield
        return
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
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    **options: object,
) -> tuple[Tensor, None]:
    """Attention that keeps its log-probabilities where a module asks for them."""
    if not hasattr(module, "recorded"):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
    scores = (query @ key.transpose(-1, -2)).float() * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, -torch.inf)
    log_probabilities = scores.log_softmax(dim=-1)
    dropped = torch.rand_like(scores) < dropout
    module.recorded.append(log_probabilities.masked_fill(dropped, -torch.inf))
    probabilities = log_probabilities.exp().masked_fill(dropped, 0) / (1 - dropout)
    output = probabilities.to(value.dtype) @ value
    return output.transpose(1, 2).contiguous(), None


RECORDED = "recorded"
AttentionInterface.register(RECORDED, _recording_attention)
AttentionMaskInterface.register(RECORDED, sdpa_mask)
