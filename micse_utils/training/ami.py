"""AMI of the maps that `attention` records of two views, in six steps (paper, section 3.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_A_TIME = 128  # counted or drawn together: few enough for a CPU's cache


def attention_rows(maps: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Cut the attention maps of two views into rows (step 1).

    A row is one sentence, one head and one of two chunks of layers: the first, third, … or the
    second, fourth, … of them. All tokens x tokens positions belong to it, padding included.

    `maps` are log attention probabilities after dropout, [2n, heads, tokens, tokens] for each of an
    even number of layers: the first views of n sentences, then the second ones. The rows of each
    view are [n * heads * 2, layers / 2 * tokens * tokens].
    """
    dealt = torch.stack(maps[0::2] + maps[1::2], dim=2)  # [2n, heads, layers, queries, keys]
    chunks = dealt.unflatten(2, (2, -1))  # [2n, heads, chunk, layers of the chunk, queries, keys]
    rows = chunks.flatten(3).flatten(0, 2)
    return rows.chunk(2)  # the first views of all sentences come first


def attention_mutual_information(
    first: Tensor, second: Tensor, *, samples: int = 150, generator: torch.Generator | None = None
) -> Tensor:
    """Return the mutual information of the attention of two views (steps 2 to 6).

    Args:
        first, second: log attention probabilities of view one and two, float, [rows, positions];
            -inf where a key is padding or was dropped out.
        samples: positions drawn per row, the same in both views.
        generator: source of randomness on the tensors' device.

    Returns:
        Scalar tensor >= 0, in nats, differentiable in both arguments, always finite.
    """
    if first.shape != second.shape:
        raise ValueError(f"views must have one shape, got {[*first.shape]} and {[*second.shape]}")
    # 2. Keep the positions that both views have: dropped ones and padding keys fall away, padding
    #    queries stay.
    kept = (first > -torch.inf) & (second > -torch.inf)
    counts = torch.cat([part.sum(dim=1) for part in kept.split(ROWS_AT_A_TIME)])
    # 3. Use the rows that keep enough. In a batch of short sentences none may: then use all, with
    #    as many samples as the poorest row keeps.
    samples = samples if counts.max() >= samples else int(counts.min())
    used = counts >= samples
    # 4. Of each used row, draw kept positions without repetition, the same in both views.
    flat = used.nonzero() * first.shape[1] + _draw(kept[used], samples, generator)
    views = (view.flatten().gather(0, flat.flatten()).view_as(flat) for view in (first, second))
    # 5. Take attention for log-normal: correlate its logarithms, as if they were Gaussian.
    information = gaussian_mutual_information(*views)
    # 6. Average over the used rows, and weigh by the squared fraction of their positions, padding
    #    included, that both views kept.
    fraction = counts[used].sum().to(information.dtype) / kept[used].numel()
    return information.mean() * (fraction**2 + 1e-6)


def _draw(kept: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw `samples` kept positions of each row without repetition: [rows, samples]."""
    drawn = []
    for part in kept.split(ROWS_AT_A_TIME):
        # Those with the largest lots: the distribution of the authors' multinomial, but faster.
        lots = torch.rand(part.shape, device=part.device, generator=generator)
        drawn.append(lots.masked_fill_(~part, -1).topk(samples, dim=1, sorted=False).indices)
    return torch.cat(drawn)


def gaussian_mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Return I = -1/2 log(1 - rho^2) of two Gaussians with Pearson correlation rho.

    `first` and `second` are samples of two variables, float, [rows, samples]. The result, [rows],
    is in nats: 0 for a constant row, at most 6.9 as |rho| reaches 1.
    """
    first, second = (view - view.mean(dim=1, keepdim=True) for view in (first, second))
    rho = F.cosine_similarity(first, second, dim=1, eps=1e-4)  # a smaller norm is only rounding
    return -0.5 * torch.log((1 - rho**2).clamp(min=1e-6))
