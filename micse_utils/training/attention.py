"""The attention maps of two dropout views: recorded in the forward pass, cut into rows."""

import contextlib
from collections.abc import Iterable, Iterator

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


def attention_rows(
    maps: list[Tensor], attention_mask: Tensor, *, padding: str = "counted"
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cut the attention maps of two views into rows, one per (sentence, head, chunk of layers).

    There are two chunks, however many layers there are: the first, third, fifth, ... layer and
    the second, fourth, sixth, ... one. Of an odd number, the second chunk has a layer less; a
    single layer makes one chunk.

    Args:
        maps: log attention probabilities, one [2n, heads, tokens, tokens] a layer; the first
            views of n sentences, then the second ones.
        attention_mask: 1 for real tokens, 0 for padding, [2n, tokens].
        padding: `counted`: every position of a row counts, padding included (padding keys have
            log-probability -inf, so they count as lost). `ignored`: only real queries and keys.

    Returns:
        Log-probabilities of view one and of view two, each
        [n * heads * chunks, layers of a chunk * tokens * tokens], and which of these positions
        count, as a bool tensor of the same shape, or None if all do.
    """
    chunks = min(2, len(maps))
    depth = -(-len(maps) // chunks)
    missing = [torch.full_like(maps[0], -torch.inf)] * (depth * chunks - len(maps))
    # Layer min + 2 * depth + chunk: neighbouring layers go to different chunks, as the authors deal
    # them out. A row then holds the maps of every other layer, and AMI compares those of one head
    # in the first view with those of the same head in the second.
    stacked = torch.stack([*maps, *missing]).unflatten(0, (depth, chunks)).unflatten(2, (2, -1))
    views = stacked.permute(2, 3, 4, 1, 0, 5, 6)  # view, n, head, chunk, depth, query, key
    first, second = (view.flatten(3).flatten(0, 2) for view in views)
    # By the authors' rule padding queries are positions like any other: what they attend to are
    # real tokens. Padding keys are lost, because their probability is 0.
    if padding == "counted" and not missing:
        return first, second, None

    present = torch.arange(depth * chunks, device=first.device) < len(maps)
    counts = present.unflatten(0, (depth, chunks)).T[:, :, None, None]
    if padding == "ignored":
        token = attention_mask.bool().chunk(2)[0]
        counts = counts & (token[:, :, None] & token[:, None, :])[:, None, None, None]
    return first, second, counts.expand_as(views[0]).flatten(3).flatten(0, 2)


def attention_modules(transformer: PreTrainedModel) -> list[nn.Module]:
    """Return the self-attention of each layer, first to last.

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
    """Append the log attention probabilities of `modules` to `maps` in each forward pass.

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
    """Compute attention; keep its log-probabilities if the module asks for them."""
    if not hasattr(module, "recorded"):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **options
        )
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
