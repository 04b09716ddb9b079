"""The recorded comparison of miCSE and SimCSE: one run made again, and what is quoted from it."""

import re
from pathlib import Path

import pandas as pd
import pytest

from micse_utils.datasets.sts import load_sample
from micse_utils.training import experiment
from micse_utils.training.monitor import Monitor
from micse_utils.training.run_table import ALONE, Run

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "data" / "recorded" / "low_shot"
FOLDERS = ("low_shot", "shipped")
QUOTED = re.compile(r"([+−]\d+\.\d) ?[(（]([+−]\d+\.\d) (?:to|到) ([+−]\d+\.\d)[)）]")
PAGES = (
    "README.md",
    "README.zh-CN.md",
    "docs/results.md",
    "notebooks/TEACHING.md",
    "notebooks/04_low_shot_training.ipynb",
)


@pytest.mark.slow
def test_a_recorded_cell_is_made_again(tmp_path, monkeypatch):
    """AMI alone: of all runs the one that depends least on the machine, and most on the rule.

    Its best checkpoint is the one after 20 of 160 steps, so the test stops there.
    """
    run = Run("raw", "AMI alone", 3e-5, ALONE, 0.05, 64, 48, 160)
    go_on = Monitor.on_step_end

    def stop_after_20(self, args, state, control, **others):
        go_on(self, args, state, control, **others)
        control.should_training_stop |= state.global_step == 20

    monkeypatch.setattr(Monitor, "on_step_end", stop_after_20)
    monkeypatch.setattr(experiment, "load_dev", load_sample)
    made = experiment.Experiment(tmp_path, tasks=("Lee",)).carry_out(run)
    assert [row["step"] for row in made["history"]] == [0, 20]

    [recorded] = (
        pd.read_csv(RECORDED / "runs.csv")
        .query(
            "start == 'raw' and objective == 'AMI alone' and rate == 3e-5 and seed == 48"
            " and size == 64 and checkpoint == 'selected' and task == 'Lee'"
        )
        .to_dict("records")
    )
    # The recorded run was made on a GPU, which draws another dropout.
    assert made["history"][-1]["ami"] == pytest.approx(recorded["ami"], abs=0.02)
    assert made["scores"]["last"]["Lee"] == pytest.approx(recorded["score"], abs=1.5)


def quoted(page):
    return [
        tuple(float(figure.replace("−", "-")) for figure in found)
        for found in QUOTED.findall((ROOT / page).read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize("page", PAGES)
def test_quoted_differences_are_recorded(page):
    tables = [pd.read_csv(ROOT / f"data/recorded/{of}/differences.csv") for of in FOLDERS]
    figures = pd.concat(tables)[["difference", "low", "high"]].round(1)
    known = set(figures.itertuples(index=False, name=None))
    assert quoted(page)
    assert [found for found in quoted(page) if found not in known] == []


def test_every_objective_was_searched_and_run_as_often_as_its_rivals():
    search, runs = (pd.read_csv(RECORDED / f"{name}.csv") for name in ("search", "runs"))
    counts = search.pivot_table("rate", "start", "objective", "count")
    assert (counts["SimCSE"] == counts["miCSE"]).all()
    assert counts["miCSE"].to_dict() == {"raw": 18, "centred": 18, "whole": 18, "shipped": 6}
    best = search[search["chosen"]].set_index(["start", "objective"])["best"]
    assert (best == search.groupby(["start", "objective"])["best"].max()[best.index]).all()
    # No reported run trains on a set of the search, and all of a start have the same seeds.
    trained = runs[runs["checkpoint"] != "untrained"]
    assert not set(search["size"]) & set(trained["size"])
    seeds = trained.groupby(["start", "objective", "size"])["seed"].agg(set)
    assert (seeds["shipped"] == {53, 54, 55, 56, 57}).all()
    assert (seeds.drop("shipped") == {48, 49, 50, 51, 52}).all()
    sizes = trained.groupby(["start", "objective"])["size"].agg(set)
    assert sizes["shipped", "miCSE"] == sizes["shipped", "SimCSE"] == {64, 1_000, 10_000}
    assert (sizes.drop([("shipped", "miCSE"), ("shipped", "SimCSE")]) == {64}).all()
