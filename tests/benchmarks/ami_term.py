"""The AMI term: position by position along each row, or by the correlation matrix of all rows."""

from functools import partial

import torch
from compare import interleaved, peak_mebibytes, speed_rows

from micse_utils.training.ami import attention_mutual_information, attention_rows

SENTENCES, HEADS, LAYERS, LENGTH, SAMPLES = 64, 12, 4, 32, 150


def rows_by_rows(first, second, *, samples=SAMPLES, generator=None):
    """AMI as the paper's code is described: correlate all rows with all, then read the diagonal."""
    kept = first.isfinite() & second.isfinite()
    enough = kept.sum(dim=1) >= samples
    order = torch.rand(kept.shape, generator=generator).masked_fill(~kept, -1)
    drawn = order.topk(samples, dim=1).indices[enough]
    views = [view[enough].gather(1, drawn) for view in (first, second)]
    rows = len(views[0])
    rho = torch.corrcoef(torch.cat(views))  # [2 rows, 2 rows]
    information = -0.5 * torch.log((1 - rho**2).clamp(min=1e-6))
    fraction = kept[enough].sum() / kept[enough].numel()
    return information[:rows, rows:].diagonal().mean() * (fraction**2 + 1e-6)


def views():
    """Log attention of two views that resemble each other, of full length, with dropout."""
    torch.manual_seed(0)
    shape = (SENTENCES, HEADS, LENGTH, LENGTH)
    maps = []
    for _ in range(LAYERS):
        scores = torch.randn(shape).repeat(2, 1, 1, 1) + 0.3 * torch.randn(
            2 * SENTENCES, *shape[1:]
        )
        dropped = torch.rand(scores.shape) < 0.1
        maps.append(scores.log_softmax(dim=-1).masked_fill(dropped, -torch.inf))
    first, second = attention_rows(maps)
    return first.requires_grad_(), second.requires_grad_()


def measure(options) -> list[dict]:
    """Time of the forward and backward pass; memory of the forward pass.

    In the backward pass the gradients of the views, 24 MiB, are the same for both.
    """
    first, second = views()
    terms = {"rows x rows": rows_by_rows, "ours": attention_mutual_information}

    def run(term):
        term(first, second).backward()
        first.grad = second.grad = None

    item = f"AMI of {len(first)} rows of {first.shape[1]} positions"
    seconds = interleaved({n: partial(run, t) for n, t in terms.items()}, 3 * options.rounds)
    rows = speed_rows(item, seconds, "rows x rows", {"ours": ">= 10"})
    memory = {name: peak_mebibytes(partial(term, first, second)) for name, term in terms.items()}
    for row in speed_rows(f"{item}, memory", memory, "rows x rows", {"ours": ">= 20"}):
        rows.append(row | {"value": round(row["value"], 1), "unit": "MiB"})
    return rows
