"""Is miCSE better than SimCSE? The recorded answer, and the search behind it.

    MICSE_SENTEVAL=/path/to/SentEval python tests/benchmarks/low_shot_evidence.py --workers 8

1. Search: for each start, as many settings of SimCSE (rate, temperature) as of miCSE (rate, weight
   of AMI), on 300 sentences that are in no recorded run. Spearman of STS-B dev chooses twice:
   `stopped`, the setting with the best checkpoint, the start being one; and `trained`, the best at
   the last step of those that have learnt to tell sentences apart (InfoNCE below 1). AMI alone does
   not learn that, so any may win.
2. Runs: what was chosen, and SimCSE at miCSE's rate, for each number of distinct sentences and each
   seed, which draws the sentences, the head, dropout and order. All take the same number of steps;
   AMI alone is trained on the first number only. Scored are the checkpoint that STS-B dev selects
   and the last one, on tasks that chose nothing.
3. Tables: `search.csv`, a row a setting; `courses.csv`, a row a run and evaluation; `runs.csv`, a
   row a run, checkpoint and task; `means.csv`, the means over seeds; `differences.csv`, miCSE less
   each other objective, both as chosen by `stopped` and selected, and as chosen by `trained` and
   last.

Each run leaves a JSON file, and an NPZ file with what scoring it again needs: of each pair 1 -
cosine, of each triplet the lead of its positive. Called again, this resumes.
"""

import argparse
import itertools
import multiprocessing
import shutil
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import Pairs, load_lee, load_sts, load_stsb
from micse_utils.datasets.texts import Corpus, load_low_shot
from micse_utils.datasets.triplets import TRIPLETS, Triplets, load_triplets
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.encoding import encode
from micse_utils.evaluation.metrics import compare_runs, resampled_accuracy, resampled_sts, unit
from micse_utils.evaluation.senteval import encode_distinct
from micse_utils.models import keep_first_layers, load_model
from micse_utils.provenance import versions
from micse_utils.results import json_or_none, records, save_table, write_atomically, write_json
from micse_utils.training.config import LowShotConfig
from micse_utils.training.monitor import TrainingDivergedError
from micse_utils.training.trainer import train_low_shot

RESULTS = Path(__file__).parents[2] / "results" / "low_shot_evidence"
STEPS, EVAL_STEPS = 160, 20
"""160 batches of 64 are one pass over 10,000 sentences."""
SEARCH_SIZE, SEARCH_SEED = 300, 7
SIZES, SEEDS = (64, 10_000, 1_000), (48, 49, 50, 51, 52)
YEARS = ("STS12", "STS13", "STS14", "STS15", "STS16")
ALONE = 1_000.0
"""Weight at which InfoNCE hardly counts; AdamW does not mind that the loss is large."""
RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
STARTS = {
    # layers kept, pooling, layers compared
    "raw": (4, "cls", (2, 4)),
    "centred": (4, "cls", (2, 4)),
    "mean": (4, "mean", (2, 4)),
    "whole": (6, "cls", (2, 6)),
}
OBJECTIVES = {
    # learning rates, weights of AMI, temperatures: each combination is a setting
    "SimCSE": (RATES, (0.0,), (0.05, 0.1, 0.2)),
    "miCSE": (RATES, (0.03, 0.1, 1.0), (0.05,)),
    "AMI alone": (RATES, (ALONE,), (0.05,)),
}
SAME_RATE = "SimCSE at miCSE's rate"
LEARNT = 1.0
"""InfoNCE, in nats, below which sentences are told apart; chance is log 64 = 4.16."""
CHECKPOINT = {"stopped": "selected", "trained": "last"}


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

    @property
    def name(self) -> str:
        return "-".join(str(part) for part in asdict(self).values())

    @property
    def config(self) -> LowShotConfig:
        first, last = STARTS[self.start][2]
        return LowShotConfig(
            "micse" if self.weight else "simcse", ami_weight=self.weight, min_layer=first,
            max_layer=last, temperature=self.temperature, learning_rate=self.rate, steps=STEPS,
            eval_steps=EVAL_STEPS, seed=self.seed,
        )  # fmt: skip


def load_start(start: str) -> SentenceTransformer:
    """Load a start; the centred one has its mean vector, which makes the cone, taken off.

    The last thing the encoder does is to add a bias, so that is where the mean can go.
    """
    layers, pooling, _ = STARTS[start]
    model = keep_first_layers(load_model(source="package", pooling=pooling), layers)
    if start == "centred":
        searched = sentences(SEARCH_SIZE, SEARCH_SEED).texts
        unscaled = SentenceTransformer(modules=list(model)[:2], device=str(model.device))
        vectors = encode(unscaled, searched, dtype=torch.float32, progress=False)
        bias = model.transformers_model.encoder.layer[-1].output.LayerNorm.bias
        bias.data -= torch.as_tensor(vectors.mean(axis=0), device=bias.device)
    return model


@cache
def sentences(size: int, seed: int) -> Corpus:
    """Sentences to train on, from articles that give no triplets; the search has its own."""
    searched = load_low_shot([SEARCH_SIZE], seeds=[SEARCH_SEED], source="package")
    searched = searched[SEARCH_SIZE, SEARCH_SEED]
    if (size, seed) == (SEARCH_SIZE, SEARCH_SEED):
        return searched
    others = dict.fromkeys(distinct_sentences(packaged_articles("training")))
    for text in searched.texts:
        del others[text]
    return replace(searched, texts=list(others)).sample(size, seed=seed)


@cache
def tasks() -> dict[str, Pairs | Triplets]:
    """What chooses nothing."""
    loaded = {task: load_sts(task) for task in YEARS}
    return {**loaded, "Lee": load_lee(), **{task: load_triplets(task) for task in TRIPLETS}}


def measure(model: SentenceTransformer) -> dict[str, np.ndarray]:
    """Return 1 - cosine of each task's pairs, and the lead of each triplet's positive; float32.

    1 - cosine, as the cosines of a cone are all 1 but for what float32 rounds away.
    """
    sides = {
        task: [t.anchor, t.positive, t.negative] if task in TRIPLETS else [t.first, t.second]
        for task, t in tasks().items()
    }
    texts = {task: itertools.chain(*parts) for task, parts in sides.items()}
    vectors, row = encode_distinct(model, texts, dtype=torch.float32, progress=False)
    vectors, measured = unit(vectors), {}
    for task, parts in sides.items():
        first, second, *third = (vectors[[row[text] for text in part]] for part in parts)
        found = (first * (second - third[0] if third else first - second)).sum(axis=1)
        measured[task] = found.astype(np.float32)
    return measured


def score(task: str, measured: np.ndarray) -> float:
    """Spearman x 100, or the per cent of triplets that are right."""
    if task in TRIPLETS:
        return 100 * float((measured > 0).mean())
    return 100 * float(spearmanr(-measured, tasks()[task].gold)[0])


def resampled(task: str, measured: np.ndarray) -> np.ndarray:
    """Return what `compare_runs` takes, of one task."""
    if task in TRIPLETS:
        return resampled_accuracy(measured > 0, tasks()[task].articles)
    pairs = tasks()[task]
    return resampled_sts(-measured, pairs.gold, pairs.first, pairs.second)


def scored(file: Path, models: dict[str, SentenceTransformer]) -> dict[str, dict[str, float]]:
    """Score some checkpoints, and keep what that was made of in `file`."""
    of_model = {model: measure(model) for model in set(models.values())}
    measured = {checkpoint: of_model[model] for checkpoint, model in models.items()}
    arrays = {
        f"{c}, {task}": array for c, found in measured.items() for task, array in found.items()
    }
    write_atomically(file, lambda path: np.savez(path, **arrays))
    return {c: {task: score(task, m) for task, m in found.items()} for c, found in measured.items()}


def carry_out(run: Run, folder: Path, report: bool) -> dict[str, object]:
    """Train a run and, for a `report`, score it, unless its file is there; return its record."""
    file = folder / f"{run.name}.json"
    if record := json_or_none(file):
        return record
    corpus = sentences(run.size, run.seed)
    dev, work = load_stsb("dev"), folder / f".{run.name}"
    try:
        trained = train_low_shot(
            corpus.texts, load_start(run.start), output=work, preset=run.config, dev=dev,
            keep_last=report, progress=False,
        )  # fmt: skip
    except TrainingDivergedError as error:
        if report:  # settings that diverge are never chosen
            raise
        record = asdict(run) | {"diverged": str(error)}
        write_json(file, record)
        return record
    scores = {}
    if report:
        last = trained.model
        if trained.best_step < STEPS:
            last = SentenceTransformer(str(work / "last"), device=str(last.device))
            last.max_seq_length = trained.model.max_seq_length
        scores = scored(file.with_suffix(".npz"), {"selected": trained.model, "last": last})
    record = asdict(run) | {
        "best_step": trained.best_step,
        "history": records(trained.history),
        "scores": scores,
        "config": asdict(run.config),
        "data": str(corpus.provenance),
        "dev": str(dev.provenance),
        "versions": versions(),
    }
    write_json(file, record)
    shutil.rmtree(work)
    return record


def checkpoints(record: dict[str, object]) -> dict[str, dict[str, float]]:
    """Return the history's rows of the selected and the last checkpoint."""
    rows = {row["step"]: row for row in record["history"]}
    return {"selected": rows[record["best_step"]], "last": record["history"][-1]}


def search(starts: list[str], folder: Path, pool: Executor) -> pd.DataFrame:
    """Try all settings; return a row each, with the ways in which it was `chosen`."""
    runs = [
        Run(start, objective, *setting, SEARCH_SIZE, SEARCH_SEED)
        for start, (objective, grid) in itertools.product(starts, OBJECTIVES.items())
        for setting in itertools.product(*grid)
    ]
    rows = []
    for record in pool.map(carry_out, runs, repeat(folder), repeat(False)):
        row = {name: record[name] for name in Run.__annotations__}
        if "diverged" not in record:  # a row without figures is never chosen
            selected, last = checkpoints(record).values()
            row |= {"before": record["history"][0]["spearman"], "best": selected["spearman"]}
            row |= {"best_step": selected["step"], "last": last["spearman"]}
            row |= {name: last[name] for name in ("info_nce", "ami", "uniformity", "alignment")}
        rows.append(row)
    table = pd.DataFrame(rows)
    learnt = (table["info_nce"] < LEARNT) | (table["objective"] == "AMI alone")
    ways = {"stopped": table["best"], "trained": table["last"].where(learnt)}
    for way, figure in ways.items():
        best = figure.groupby([table["start"], table["objective"]]).transform("max")
        table[way] = figure.notna() & (figure == best)
        # Of equals, such as starts that nothing improves: the one with the better last step.
        of_equals = table[table[way]].sort_values("last").groupby(["start", "objective"]).tail(1)
        table[way] = table.index.isin(of_equals.index)
    return table


def settings_of(found: pd.DataFrame) -> pd.DataFrame:
    """Return what to run: the settings chosen by the search, and SimCSE at miCSE's rate."""
    chosen = found[found["stopped"] | found["trained"]]
    same_rate = chosen[chosen["objective"] == "miCSE"].assign(objective=SAME_RATE, weight=0.0)
    same_rate = same_rate.groupby([*Run.__annotations__], as_index=False)[[*CHECKPOINT]].any()
    return pd.concat([chosen, same_rate])[[*Run.__annotations__, *CHECKPOINT]]


def score_start(start: str, folder: Path) -> dict[str, float]:
    """Score what there is before training, unless its file is there."""
    file = folder / f"before-{start}.json"
    if (scores := json_or_none(file)) is None:
        scores = scored(file.with_suffix(".npz"), {"before": load_start(start)})["before"]
        write_json(file, scores)
    return scores


def rows_of(record: dict[str, object], ways: dict[str, bool]) -> list[dict[str, object]]:
    """Return the lines of `runs.csv` of one run: one for each checkpoint and task."""
    rows = []
    for checkpoint, at in checkpoints(record).items():
        setting = {name: record[name] for name in Run.__annotations__} | ways
        setting |= {"checkpoint": checkpoint, "step": at["step"], "info_nce": at["info_nce"]}
        setting |= {"ami": at["ami"], "passes": at["step"] * 64 / record["size"]}
        scores = {"STS-B dev": at["spearman"]} | record["scores"][checkpoint]
        rows += [setting | {"task": task, "score": score} for task, score in scores.items()]
    return rows


def courses(folders: list[Path]) -> pd.DataFrame:
    """Return the histories of all runs that are there, the search's too."""
    records = [
        record
        for folder in folders
        for file in sorted(folder.glob("*-*-*.json"))
        if "history" in (record := json_or_none(file))
    ]
    names = list(Run.__annotations__)
    return pd.concat(
        [
            pd.DataFrame(record["history"]).assign(**{name: record[name] for name in names})
            for record in records
        ],
        ignore_index=True,
    )[[*names, "step", "spearman", "info_nce", "ami", "alignment", "uniformity"]]


def means(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of each checkpoint's score."""
    setting = ["start", "size", "objective", "rate", "weight", "temperature", "checkpoint", "task"]
    return (
        runs.drop_duplicates([*setting, "seed"])
        .groupby(setting, sort=False)["score"]
        .mean()
        .reset_index()
    )


def differences(runs: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Return miCSE less each other objective, with intervals, for each start and size."""
    tables = []
    for way, checkpoint in CHECKPOINT.items():
        chosen = runs[runs[way]].drop_duplicates([*Run.__annotations__])
        for (start, size), part in chosen.groupby(["start", "size"], sort=False):
            found = {}
            for objective, own in part.groupby("objective"):
                files = [
                    np.load(folder / f"{Run(*row).name}.npz")
                    for row in own.sort_values("seed")[[*Run.__annotations__]].itertuples(
                        index=False
                    )
                ]
                found[objective] = {
                    task: resampled(task, np.stack([f[f"{checkpoint}, {task}"] for f in files]))
                    for task in tasks()
                }
            mine = found.pop("miCSE", None)
            for objective, others in found.items() if mine else ():
                compared = [compare_runs(*({t: x[t] for t in YEARS} for x in (mine, others)))]
                compared += [compare_runs({t: mine[t]}, {t: others[t]}) for t in ("Lee", *TRIPLETS)]
                place = {"start": start, "size": size, "chosen": way, "checkpoint": checkpoint}
                tables.append(pd.concat(compared).assign(**place, less=objective))
    return pd.concat(tables, ignore_index=True)


def main() -> None:
    """Search, run, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    options = parser.parse_args()
    folder = options.results / "runs"

    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        found = search(options.starts, options.results / "search", pool)
        save_table(options.results, "search", found)
        wanted = itertools.product(
            options.sizes, options.seeds, settings_of(found).to_dict("records")
        )
        ways, runs = [], []
        for size, seed, setting in wanted:
            if setting["objective"] == "AMI alone" and size != options.sizes[0]:
                continue
            ways.append({way: setting[way] for way in CHECKPOINT})
            of_run = {name: setting[name] for name in Run.__annotations__}
            runs.append(Run(**of_run | {"size": size, "seed": seed}))
        before = list(pool.map(score_start, options.starts, repeat(folder)))
        records = list(pool.map(carry_out, runs, repeat(folder), repeat(True)))
    rows = []
    for start, scores in zip(options.starts, before, strict=True):
        dev = {"STS-B dev": float(found.loc[found["start"] == start, "before"].iloc[0])}
        row = {"start": start, "objective": "none", "checkpoint": "before", "step": 0}
        rows += [row | {"task": task, "score": value} for task, value in (dev | scores).items()]
    for record, chosen in zip(records, ways, strict=True):
        rows += rows_of(record, chosen)
    save_table(options.results, "runs", pd.DataFrame(rows))
    save_table(options.results, "courses", courses([options.results / "search", folder]))
    runs = pd.DataFrame(rows)
    runs = runs[runs["checkpoint"] != "before"].astype({"stopped": bool, "trained": bool})
    save_table(options.results, "means", means(runs))
    table = differences(runs.astype({"size": int, "seed": int}), folder)
    save_table(options.results, "differences", table)
    print(table.to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
