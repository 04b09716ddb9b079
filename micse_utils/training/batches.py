"""Make the batches of an epoch."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import RandomSampler


class Batches(DefaultBatchSampler):
    """Batches in random order; the last may be partial, but a single sentence is left out."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        **_: object,
    ) -> None:
        super().__init__(RandomSampler(dataset, generator=generator), batch_size, drop_last=False)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches; a sentence alone would have no negative, and InfoNCE would be 0."""
        return (batch for batch in super().__iter__() if len(batch) > 1)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 1)
