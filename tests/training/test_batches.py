"""How the sentences of an epoch become steps."""

from itertools import chain

import pytest
import torch

from micse_utils.training.batches import JointBatches
from micse_utils.training.config import PRESETS, LowShotConfig
from micse_utils.training.run import total_steps


@pytest.fixture
def in_processes(monkeypatch):
    """Set the number of processes that a launcher would have started."""
    return lambda count: monkeypatch.setenv("WORLD_SIZE", str(count))


@pytest.mark.parametrize(
    ("sentences", "preset", "steps"),
    [
        (64, "0.01%", 2_500),  # one step an epoch
        (100, "0.01%", 5_000),  # 64 and 36
        (999, "0.1%", 8_000),
        (1_000, "0.1%", 8_000),
        (10_000, "1%", 157 * 50),
        (100_000, "10%", 1_563 * 10),
    ],
)
def test_a_recipe_takes_as_many_steps_as_the_authors(sentences, preset, steps):
    assert total_steps(sentences, PRESETS[preset]) == steps


def test_steps_win_over_epochs():
    assert total_steps(100, LowShotConfig(epochs=3, steps=7)) == 7


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("sentences", [8, 9, 11, 16, 23, 24])
def test_every_process_gets_an_equal_part_of_each_joint_batch(sentences, processes, in_processes):
    in_processes(processes)
    generator = torch.Generator().manual_seed(3)
    batches = JointBatches(range(sentences), 8 // processes, generator=generator)
    parts = list(batches)
    assert len(parts) == len(batches) and len(parts) % processes == 0
    steps = range(0, len(parts), processes)
    joint = [list(chain(*parts[first : first + processes])) for first in steps]
    sizes = [len(batch) for batch in joint]
    left = sentences % 8 - sentences % 8 % processes
    assert sizes == [8] * (sentences // 8) + [left] * (left >= 2)
    assert len({len(part) for part in parts[-processes:]}) == 1
    seen = list(chain(*joint))
    assert len(seen) == len(set(seen))
    assert seen != sorted(seen)
    in_processes(1)  # the same order, whatever the number of processes
    alone = list(chain(*JointBatches(range(sentences), 8, generator=generator.manual_seed(3))))
    assert seen[: 8 * (sentences // 8)] == alone[: 8 * (sentences // 8)]


def test_a_sentence_alone_in_a_batch_is_left_out_of_that_epoch():
    batches = JointBatches(range(9), 8, generator=torch.Generator().manual_seed(0))
    left_out = [set(range(9)) - set(chain(*batches)) for _ in range(20)]
    assert all(len(each) == 1 for each in left_out)
    assert len(set.union(*left_out)) > 3  # a different one each time
