"""Make the batches of an epoch: the last, partial one counts, and all processes share each."""

from collections.abc import Iterator

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler
from torch.utils.data import RandomSampler

from micse_utils.settings import process


class JointBatches(DefaultBatchSampler):
    """Batches in random order, a partial one last, each cut into equal parts, one per process.

    A batch sampler for `SentenceTransformerTrainer`, which hands the parts out in turn, so that
    one step sees one joint batch however many processes there are. What cannot be shared out
    equally, and a single sentence, which would have no negatives, is left out of that epoch.

    Args:
        dataset: the sentences.
        batch_size: sentences of a full batch that one process gets.
        generator: draws the order.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        **options: object,
    ) -> None:
        super().__init__(RandomSampler(dataset, generator=generator), batch_size, drop_last=False)
        self.processes = process()[1]
        self.joint_size = batch_size * self.processes
        self.batch_size = None  # tells accelerate that the parts differ in size

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the parts of each batch, first to last process."""
        order = list(self.sampler)
        for start in range(0, len(order), self.joint_size):
            batch = order[start : start + self.joint_size]
            share = len(batch) // self.processes
            # One sentence alone has no negative to be told from; InfoNCE would be 0.
            if share * self.processes >= 2:
                for part in range(self.processes):
                    yield batch[part * share : (part + 1) * share]

    def __len__(self) -> int:
        """Return the number of parts in an epoch."""
        full, rest = divmod(len(self.sampler), self.joint_size)
        return self.processes * (full + (rest - rest % self.processes >= 2))
