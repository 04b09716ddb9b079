"""The table of an experiment's runs; without PyTorch, as the command line lists its names."""

import csv
import itertools
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from micse_utils.settings import KIT_DATA
from micse_utils.training.config import PRESETS, LowShotConfig, papers_recipe

OBJECTIVES = {  # by short name; `matched` has the rate and temperature of miCSE: all but AMI
    "micse": "miCSE", "simcse": "SimCSE", "matched": "SimCSE at miCSE's settings",
    "ami": "AMI alone",
}  # fmt: skip
PAPERS_SIZES = (64, 100, 500, 1_000, 5_000, 10_000, 100_000)
QUICK_STEPS, QUICK_TASKS = 5, ("STS16", "SICK trial", "Lee")  # does an experiment work here?
ALONE = 1_000.0  # weight at which InfoNCE hardly counts; AdamW does not mind a large loss
SEARCH_SIZE, SEARCH_SEED = 300, 7  # sentences of a search, in no other run of the kit's own starts
RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
SEARCHED = {  # weights of AMI and temperatures: each combination at each rate is a setting
    "simcse": ((0.0,), (0.05, 0.1, 0.2)),
    "micse": ((0.03, 0.1, 1.0), (0.05,)),
    "ami": ((ALONE,), (0.05,)),
}
CHOSEN = KIT_DATA / "recorded" / "low_shot" / "search.csv"  # the kit's own starts train with it
EVERY = 20  # steps between two evaluations on the development pairs, of the kit's own starts


@dataclass(frozen=True)
class Start:
    """What a run starts from: the packaged encoder in some form, or bert-base-uncased."""

    layers: int  # kept of the encoder
    pooling: str
    compared: tuple[int | None, int | None]  # layers whose attention is compared
    steps: int | None  # of a run; None: the epochs of the paper's recipe
    made_from: tuple[str, ...] = ()  # starts that are scored beside it


STARTS = {
    "bert": Start(12, "cls", (None, None), None),
    "shipped": Start(6, "mean", (2, 6), 60),
    "whole": Start(6, "cls", (2, 6), 160, ("shipped",)),
    "raw": Start(4, "cls", (2, 4), 160, ("shipped",)),
    "centred": Start(4, "cls", (2, 4), 160, ("shipped", "raw")),  # raw, less its mean vector
}


@dataclass(frozen=True)
class Run:
    """One training run: from where, on what, and how."""

    start: str
    objective: str
    rate: float
    weight: float
    temperature: float
    size: int
    seed: int
    steps: int | None = None  # None: the epochs of the paper's recipe

    @property
    def name(self) -> str:
        """Return the name of the run's files."""
        return re.sub(r"[^\w.-]+", "_", "-".join(map(str, asdict(self).values())))

    @property
    def config(self) -> LowShotConfig:
        """Return the settings for `train_low_shot`; of bert, the seed only names its sentences."""
        papers, (first, last) = PRESETS[papers_recipe(self.size)], STARTS[self.start].compared
        own = {"steps": self.steps, "eval_steps": min(EVERY, self.steps)} if self.steps else {}
        return replace(
            papers if self.start == "bert" else LowShotConfig(seed=self.seed),
            method="micse" if self.weight else "simcse", ami_weight=self.weight,
            learning_rate=self.rate, temperature=self.temperature, min_layer=first, max_layer=last,
            **own,
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Return the number of steps."""
        return self.config.total_steps(self.size)


def chosen_runs(
    starts: Sequence[str],
    objectives: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    chosen: Path = CHOSEN,
) -> list[Run]:
    """Return the runs of an experiment: each objective with its chosen setting.

    The authors' for bert, and for the other starts that of a search's table, `chosen`. Objectives
    that have none, such as AMI alone from the shipped encoder, are left out with a note.
    """
    runs, missing, searched = [], {}, _chosen_settings(chosen)
    for start, size, seed, short in itertools.product(starts, sizes, seeds, objectives):
        if start == "bert" and short == "matched" and "simcse" in objectives:
            continue  # the paper's SimCSE already has the settings of its miCSE
        name = OBJECTIVES[short]
        setting = searched.get((start, OBJECTIVES["micse"] if short == "matched" else name))
        if start == "bert":
            papers = PRESETS[papers_recipe(size)]
            weight = ALONE if short == "ami" else papers.ami_weight
            setting = papers.learning_rate, weight, papers.temperature
        if setting:
            rate, weight, temperature = setting
            weight = weight if short in ("micse", "ami") else 0.0
            place = size, seed, steps or STARTS[start].steps
            runs.append(Run(start, name, rate, weight, temperature, *place))
        else:
            missing[f"{name} from {start}"] = None
    if missing:
        print(f"left out, as {chosen} chooses no setting: {', '.join(missing)}")
    return list(dict.fromkeys(runs))


def _chosen_settings(table: Path) -> dict[tuple[str, str], tuple[float, ...]]:
    """Return the rate, weight and temperature that a search chose, by start and objective."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("chosen") == "True"]
    names = ("rate", "weight", "temperature")
    if rows and not {"start", "objective", *names} <= rows[0].keys():
        raise ValueError(f"{table} must have the columns of a search.csv, such as start and rate")
    found = {
        (row["start"], row["objective"]): tuple(float(row[name]) for name in names) for row in rows
    }
    if len(found) < len(rows):
        raise ValueError(f"{table} chooses two settings of one objective from one start")
    return found


def search_runs(starts: Sequence[str], objectives: Sequence[str]) -> list[Run]:
    """Return the runs of a search: every setting, on sentences that no other run uses."""
    if "bert" in starts:
        print("bert is left out: it has the authors' settings, so there is no search for it")
    return [
        Run(start, OBJECTIVES[short], *setting, SEARCH_SIZE, SEARCH_SEED, STARTS[start].steps)
        for start, short in itertools.product(starts, objectives)
        if start != "bert" and short in SEARCHED
        for setting in itertools.product(RATES, *SEARCHED[short])
    ]
