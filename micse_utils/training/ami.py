"""AMI: the mutual information of the attention maps of two views (paper, section 3.2)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentence_transformers.util import all_gather_with_grad
from torch import Tensor

SMALLEST_DISTANCE = 1e-6
"""Least 1 - rho^2, which keeps I finite where two views agree entirely: at most 6.9 nats."""
ROWS_AT_A_TIME = 128
"""Rows whose positions are counted, and drawn, together: what that takes stays in the cache."""
SMALLEST_NORM = 1e-4
"""Log-probabilities of a smaller norm are constant but for rounding: nothing to correlate."""


def attention_mutual_information(
    first: Tensor,
    second: Tensor,
    *,
    positions: Tensor | None = None,
    samples: int = 150,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mutual information of the attention maps of two views (paper, section 3.2).

    Attention probabilities are treated as log-normal, so that the mutual information of two rows
    is the one of two Gaussians. The result is the mean of `gaussian_mutual_information` over the
    used rows, times (fraction of their positions kept in both views)^2 + 1e-6.

    It takes log-probabilities, because the gradient of the logarithm of a probability overflows
    if the probability is tiny.

    Under `torch.distributed` the rows are those of all processes together.

    Args:
        first, second: log attention probabilities of view one and two, float, [rows, positions];
            -inf where a key is padding or was dropped out.
        positions: bool, [rows, positions], False for positions that do not exist: they are
            neither kept nor lost. By default all exist.
        samples: positions drawn per row, the same in both views, from those kept in both. Only
            rows that keep as many are used. If none does, all rows are used, with as many samples
            as the row that keeps the fewest.
        generator: source of randomness on the tensors' device.

    Returns:
        Scalar tensor >= 0, in nats, differentiable in both arguments, always finite; 0 if nothing
        is left to sample.

    Raises:
        ValueError: the two views differ in shape.
    """
    if first.shape != second.shape or first.ndim != 2 or not first.numel():
        raise ValueError(
            f"the views' attention must be two equal [rows, positions], not {tuple(first.shape)} "
            f"and {tuple(second.shape)}"
        )
    # Steps 1 and 2 (paper, section 3.2): a position that dropout took from either view, or whose
    # key is padding, has no logarithm to compare.
    kept = (first > -torch.inf) & (second > -torch.inf)
    if positions is not None:
        kept &= positions
    # Step 3: rows with enough kept positions are used. In a batch of short sentences no row has
    # enough; then all are, with as many samples as the poorest of them has.
    counts = torch.cat([part.sum(dim=1) for part in kept.split(ROWS_AT_A_TIME)])
    if over_processes(counts.max(), dist.ReduceOp.MAX) < samples:
        samples = int(over_processes(counts.min(), dist.ReduceOp.MIN))
    if samples == 0:  # AMI is 0, but still a function of both views, so that backward() works
        return 0 * (first.nan_to_num(neginf=0).sum() + second.nan_to_num(neginf=0).sum())
    used = counts >= samples

    # Step 4: the same positions in both views, or there would be nothing to correlate.
    drawn = _draw(kept[used], samples, generator)
    # Read where they are: a copy of the rows, and of their gradients, would be the larger part.
    places = used.nonzero() * first.shape[1] + drawn
    information = gaussian_mutual_information(
        *(view.flatten().gather(0, places.flatten()).view_as(places) for view in (first, second))
    )
    # Step 6: padding and dropout both lower the fraction, which is over every position of the used
    # rows. So a batch of sentences of one length, which are compared more fully, counts for more.
    sizes = used.sum() * first.shape[1] if positions is None else positions[used].count_nonzero()
    sums = [information.sum(), used.sum(), counts[used].sum(), sizes]
    sums = torch.stack([total.to(information.dtype) for total in sums])
    information, rows, kept, sizes = of_all_processes(sums[None]).sum(dim=0)
    return information / rows * ((kept / sizes) ** 2 + 1e-6)


def gaussian_mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Return I = -1/2 log(1 - rho^2) of two Gaussians with Pearson correlation rho.

    Args:
        first, second: samples of two variables, float, [rows, samples].

    Returns:
        Float, [rows], in nats; 0 for a constant row, at most 6.9 where rho reaches 1.

    Raises:
        ValueError: the two differ in shape.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(
            f"the samples must be two equal [rows, samples], not {tuple(first.shape)} and "
            f"{tuple(second.shape)}"
        )
    # Attention is taken for log-normal, and so its logarithms for Gaussian (paper, section 3.2): of
    # two Gaussians, rho alone decides the mutual information. Its sign does not matter.
    rho = F.cosine_similarity(
        first - first.mean(dim=1, keepdim=True),
        second - second.mean(dim=1, keepdim=True),
        dim=1,
        eps=SMALLEST_NORM,
    )
    return -0.5 * torch.log((1 - rho**2).clamp(min=SMALLEST_DISTANCE))


def _draw(kept: Tensor, samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw `samples` kept positions of each row without repetition: [rows, samples]."""
    drawn = []
    for part in kept.split(ROWS_AT_A_TIME):
        # The largest of random keys are a sample without repetition: as the authors' multinomial
        # over equal weights draws it, and several times as fast.
        order = torch.rand(part.shape, device=part.device, generator=generator)
        order.masked_fill_(~part, -1)
        drawn.append(order.topk(min(samples, part.shape[1]), dim=1, sorted=False).indices)
    return torch.cat(drawn)


def of_all_processes(rows: Tensor) -> Tensor:
    """Gather the rows of all processes in order of rank, gradients included."""
    return all_gather_with_grad(rows) if dist.is_initialized() else rows


def over_processes(value: Tensor, operation: dist.ReduceOp) -> Tensor:
    """Return the largest or smallest `value` over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value, operation)
    return value
