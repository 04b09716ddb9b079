"""The grid on a tiny BERT: every run once, whatever happens in between."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from micse_utils.datasets.sts import Pairs
from micse_utils.datasets.texts import Corpus
from micse_utils.models import load_model
from micse_utils.provenance import Provenance
from micse_utils.training import grid
from micse_utils.training.grid import train_grid
from micse_utils.training.monitor import TrainingDivergedError
from micse_utils.training.trainer import train_low_shot

WORDS = ["cat", "dog", "mat", "park", "sat", "ran", "red", "blue", "big"]
TEXTS = [f"the {a} and the {b}" for a, b in itertools.permutations(WORDS, 2)]
SOURCE = Provenance("made up", "folder", "test", sha256="0" * 64)
PAIRS = Pairs(TEXTS[:6], TEXTS[6:12], np.arange(6.0), SOURCE)
FAST = {"batch_size": 4, "max_length": 16, "learning_rate": 1e-3, "steps": 2, "eval_steps": 2}
FAST |= {"min_layer": 0, "max_layer": 2, "preset": "packaged"}


@pytest.fixture
def model(tiny_bert):
    return load_model(tiny_bert, pooling="cls", device="cpu")


@pytest.fixture
def calls(monkeypatch):
    """Size, method and seed of the sentences of every run that was trained."""
    seen = []

    def count(sentences, model, method, **options):
        assert options["preset"].seed == 42  # of training, the same for all
        seen.append((len(sentences), method, TEXTS.index(sentences[0])))
        return train_low_shot(sentences, model, method, **options)

    monkeypatch.setattr(grid, "train_low_shot", count)
    return seen


def run(model, folder, sizes=(4, 8), methods=("simcse", "micse"), seeds=(1, 2), **settings):
    sentences = {(n, s): Corpus(TEXTS[s : s + n], SOURCE) for n in sizes for s in seeds}
    return train_grid(
        model, sentences, folder, sizes=sizes, methods=methods, seeds=seeds, dev=PAIRS,
        progress=False, **{**FAST, **settings},
    )  # fmt: skip


def test_every_combination_is_trained_from_the_same_start_and_only_once(model, tmp_path, calls):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    table = run(model, tmp_path, independent=PAIRS)
    combinations = set(itertools.product((4, 8), ("simcse", "micse"), (1, 2)))
    assert set(table[["size", "method", "seed"]].itertuples(index=False, name=None)) == combinations
    assert set(calls) == combinations and len(calls) == 8
    assert table["before"].nunique() == table["independent_before"].nunique() == 1
    assert (table["independent"] == table["best"]).all()  # the same pairs here
    assert len({json.dumps(history) for history in table["history"]}) == 8
    assert table["error"].isna().all()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert {p.name for p in tmp_path.iterdir() if not p.name.startswith(".micse.")} == {
        f"{size}-{method}-{seed}.json" for size, method, seed in combinations
    }  # nothing else is left

    again = run(model, tmp_path, independent=PAIRS)
    assert len(calls) == 8
    pd.testing.assert_frame_equal(again, table)


def test_only_what_is_new_or_has_other_settings_is_trained(model, tmp_path, calls):
    run(model, tmp_path, sizes=[4], seeds=[1])
    run(model, tmp_path, sizes=[4], seeds=[1, 2])
    assert calls == [(4, "simcse", 1), (4, "micse", 1), (4, "simcse", 2), (4, "micse", 2)]
    run(model, tmp_path, sizes=[4], seeds=[2], methods=["micse"], ami_weight=0.5)
    assert calls[4:] == [(4, "micse", 2)]
    record = json.loads((tmp_path / "4-micse-2.json").read_text(encoding="utf-8"))
    assert record["settings"]["config"]["ami_weight"] == 0.5


def test_an_interrupted_grid_resumes(model, tmp_path, monkeypatch, calls):
    counted = grid.train_low_shot

    def stop(*arguments, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        return counted(*arguments, **options)

    monkeypatch.setattr(grid, "train_low_shot", stop)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path, sizes=[4])
    assert len(list(tmp_path.glob("[0-9]*.json"))) == 2
    monkeypatch.setattr(grid, "train_low_shot", counted)
    table = run(model, tmp_path, sizes=[4])
    assert len(calls) == len(set(calls)) == len(table) == 4


def test_a_run_that_diverges_is_recorded_and_stops_no_other(model, tmp_path, monkeypatch, calls):
    counted = grid.train_low_shot

    def diverge(sentences, model, method, **options):
        if method == "micse" and sentences[0] == TEXTS[1]:
            raise TrainingDivergedError("the loss is nan at step 1")
        return counted(sentences, model, method, **options)

    monkeypatch.setattr(grid, "train_low_shot", diverge)
    table = run(model, tmp_path, sizes=[4])
    failed = table[table["error"].notna()]
    assert failed[["method", "seed", "error"]].to_numpy().tolist() == [
        ["micse", 1, "the loss is nan at step 1"]
    ]
    assert failed["best"].isna().all() and table["best"].notna().sum() == 3
