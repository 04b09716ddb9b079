"""How the sentences of an epoch become steps."""

from itertools import chain

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from micse_utils.training.batches import Batches
from micse_utils.training.config import PRESETS, LowShotConfig
from micse_utils.training.run import total_steps


@pytest.mark.parametrize(
    ("sentences", "preset", "steps"),
    [
        (64, "0.01%", 2_500),  # one step an epoch
        (100, "0.01%", 5_000),  # 64 and 36
        (1_000, "0.1%", 8_000),
        (10_000, "1%", 157 * 50),
        (100_000, "10%", 1_563 * 10),
    ],
)
def test_a_recipe_takes_as_many_steps_as_the_authors(sentences, preset, steps):
    assert total_steps(sentences, PRESETS[preset]) == steps


def test_steps_win_over_epochs():
    assert total_steps(100, LowShotConfig(epochs=3, steps=7)) == 7


@pytest.mark.parametrize("sentences", [8, 9, 11, 16, 23])
def test_the_last_batch_is_used_unless_it_is_a_single_sentence(sentences):
    batches = Batches(range(sentences), 8, generator=torch.Generator().manual_seed(0))
    left = sentences % 8
    for _ in range(3):
        sizes = [len(batch) for batch in batches]
        assert sizes == [8] * (sentences // 8) + [left] * (left > 1)
        assert len(batches) == len(sizes)
        seen = list(chain(*batches))
        assert len(seen) == len(set(seen)) and seen != sorted(seen)


@pytest.mark.parametrize("sentences", [8, 9, 12, 13, 14, 23])
def test_two_processes_get_equal_batches_without_a_repetition(sentences, monkeypatch):
    """As the trainer's own sharding deals them out: it fills up from the epoch's first ones."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = [
        list(BatchSamplerShard(Batches(range(sentences), 4, generator=order), 2, rank))
        for rank, order in enumerate(torch.Generator().manual_seed(3) for _ in range(2))
    ]
    steps = [first + second for first, second in zip(*parts, strict=True)]
    assert all(len(first) == len(second) == 4 for first, second in zip(*parts, strict=True))
    assert all(len(set(step)) == len(step) for step in steps)
    assert len(set(chain(*steps))) == sentences - (sentences % 4 == 1)
    assert total_steps(sentences, LowShotConfig(batch_size=8)) == len(steps)
