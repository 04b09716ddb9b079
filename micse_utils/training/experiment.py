"""The paper's experiment, the kit's own, and every search: a table of runs, trained and scored.

The untrained encoders are scored first. Each run then leaves `NAME.json`, and `NAME.npz` with what
scoring it again needs: of each pair 1 - cosine, of each triplet the lead of its positive, and the
resampled scores. A finished run is only read; one that was interrupted resumes.
"""

import contextlib
import io
import itertools
import multiprocessing
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.datasets.sts import Pairs, load_stsb
from micse_utils.datasets.texts import Corpus, load_low_shot
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.encoding import encode
from micse_utils.evaluation.reported import load_reported, measure, resampled_scores
from micse_utils.models import BERT, keep_first_layers, load_model
from micse_utils.provenance import versions
from micse_utils.results import json_or_none, records, write_atomically, write_json
from micse_utils.settings import KIT_DATA
from micse_utils.training.config import PRESETS, SPLITS, LowShotConfig
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError
from micse_utils.training.trainer import train_low_shot

ALONE = 1_000.0
"""Weight at which InfoNCE hardly counts; AdamW does not mind that the loss is large."""
OBJECTIVES = {
    "micse": "miCSE", "simcse": "SimCSE", "matched": "SimCSE at miCSE's settings",
    "ami": "AMI alone",
}  # fmt: skip
"""By short name. `matched` has the rate and temperature of miCSE: all but AMI."""
SEARCH_SIZE, SEARCH_SEED = 300, 7
"""Of the sentences of a search, which are in no other run of the kit's own starts."""
RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
SEARCHED = {
    # learning rates, weights of AMI, temperatures: each combination is a setting
    "simcse": (RATES, (0.0,), (0.05, 0.1, 0.2)),
    "micse": (RATES, (0.03, 0.1, 1.0), (0.05,)),
    "ami": (RATES, (ALONE,), (0.05,)),
}
CHOSEN = KIT_DATA / "recorded" / "low_shot" / "search.csv"
"""The recorded search, whose choice the kit's own starts are trained with."""
SHIPPED = {
    # The best of data/recorded/shipped_search.csv, which is not complete and has no AMI alone.
    "miCSE": (1e-5, 0.03, 0.05), "SimCSE": (3e-5, 0.0, 0.1), "AMI alone": (1e-5, ALONE, 0.05),
}  # fmt: skip
EVERY = 20
"""Steps between two evaluations on the development pairs, of the kit's own starts."""


@dataclass(frozen=True)
class Start:
    """What a run starts from: the packaged encoder in some form, or bert-base-uncased."""

    layers: int  # kept of the encoder
    pooling: str
    compared: tuple[int | None, int | None]  # layers whose attention is compared
    steps: int | None  # of a run; None: the epochs of the paper's recipe


STARTS = {
    "shipped": Start(6, "mean", (2, 6), 60),
    "whole": Start(6, "cls", (2, 6), 160),
    "raw": Start(4, "cls", (2, 4), 160),
    "centred": Start(4, "cls", (2, 4), 160),  # raw, less its mean vector
    "bert": Start(12, "cls", (None, None), None),
}
MADE_FROM = {"whole": ("shipped",), "raw": ("shipped",), "centred": ("shipped", "raw")}
"""Encoders that are scored beside a start, because it was made from them."""


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
        """Return the settings for `train_low_shot`.

        The seed draws sentences, head, dropout and order; of the paper's experiment it names the
        file of sentences, and the authors' training seed is the same for all.
        """
        own = {"steps": self.steps, "eval_steps": min(EVERY, self.steps or EVERY)}
        recipe = _recipe(self.size) if self.start == "bert" else LowShotConfig(seed=self.seed)
        first, last = STARTS[self.start].compared
        return replace(
            recipe, method="micse" if self.weight else "simcse", ami_weight=self.weight,
            learning_rate=self.rate, temperature=self.temperature, min_layer=first, max_layer=last,
            **(own if self.steps else {}),
        )  # fmt: skip

    @property
    def length(self) -> int:
        """Return the number of steps."""
        return self.steps or self.config.epochs * ceil(self.size / self.config.batch_size)


def _recipe(size: int) -> LowShotConfig:
    """Return the paper's recipe for a nominal number of sentences."""
    return PRESETS[next((name for least, name in SPLITS.items() if size >= least), "0.01%")]


def plan(
    starts: Sequence[str],
    objectives: Sequence[str],
    sizes: Sequence[int],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    chosen: Path = CHOSEN,
) -> list[Run]:
    """Return the runs of an experiment: each objective with its chosen setting.

    Args:
        starts, objectives: short names, from `STARTS` and `OBJECTIVES`.
        sizes, seeds: of the sets of sentences.
        steps: of each run; by default those of the start.
        chosen: table of a search, which says the settings of the kit's own starts.

    Raises:
        ValueError: the table has no setting for one of the objectives from one of the starts.
    """
    table, runs = pd.read_csv(chosen), {}
    for start, size, seed, short in itertools.product(starts, sizes, seeds, objectives):
        own = "miCSE" if short == "matched" else OBJECTIVES[short]
        if start == "bert":
            rate, weight, temperature = 1e-5, _recipe(size).ami_weight, 0.05
            weight = {"micse": weight, "ami": ALONE}.get(short, 0.0)
            if short == "matched" and "simcse" in objectives:
                continue  # the paper's SimCSE already has the settings of its miCSE
        else:
            marked = table[table["chosen" if "chosen" in table else "stopped"]]
            found = marked[(marked["start"] == start) & (marked["objective"] == own)]
            settings = found[["rate", "weight", "temperature"]].to_numpy(float).tolist()
            if not settings and start == "shipped" and chosen == CHOSEN:
                settings = [SHIPPED[own]]
            if len(settings) != 1:
                raise ValueError(f"{chosen} must choose one setting of {own} from {start}")
            rate, weight, temperature = settings[0]
        weight = 0.0 if short == "matched" else weight
        setting = rate, weight, temperature, size, seed, steps or STARTS[start].steps
        runs[Run(start, OBJECTIVES[short], *setting)] = None
    return list(runs)


def search_plan(starts: Sequence[str], objectives: Sequence[str] = tuple(SEARCHED)) -> list[Run]:
    """Return the runs of a search: every setting, on sentences that no other run uses.

    Raises:
        ValueError: there is nothing to search: bert has the authors' settings.
    """
    starts = [start for start in starts if start != "bert"]
    if not starts or not objectives:
        raise ValueError(
            "a search needs --starts made from the packaged encoder (bert has the authors' "
            f"settings) and --objectives of {', '.join(SEARCHED)}"
        )
    return [
        Run(start, OBJECTIVES[short], *setting, SEARCH_SIZE, SEARCH_SEED, STARTS[start].steps)
        for start, short in itertools.product(starts, objectives)
        for setting in itertools.product(*SEARCHED[short])
    ]


def load_start(name: str, source: str = "hub") -> SentenceTransformer:
    """Load a start; `source` is that of bert-base-uncased, the others are made from the package."""
    start = STARTS[name]
    if name == "bert":
        return load_model(BERT, source=source, pooling=start.pooling)
    model = load_model(source="package", pooling=start.pooling)
    model = keep_first_layers(model, start.layers)
    if name == "centred":
        # The last thing the encoder does is to add a bias, so that is where its mean can go.
        unscaled = SentenceTransformer(modules=list(model)[:2], device=str(model.device))
        texts = load_sentences_of("raw", SEARCH_SIZE, SEARCH_SEED).texts
        vectors = encode(unscaled, texts, dtype=torch.float32, progress=False)
        bias = model.transformers_model.encoder.layer[-1].output.LayerNorm.bias
        bias.data -= torch.as_tensor(vectors.mean(axis=0), device=bias.device)
        model.provenance = replace(model.provenance, name=f"{model.provenance.name}, centred")
    return model


@cache
def load_sentences_of(start: str, size: int, seed: int, source: str = "hub") -> Corpus:
    """Load the sentences of a run: the paper's splits, or from the package without the search's."""
    if start == "bert":
        return load_low_shot([size], seeds=[seed], source=source)[size, seed]
    searched = load_low_shot([SEARCH_SIZE], seeds=[SEARCH_SEED], source="package")
    searched = searched[SEARCH_SIZE, SEARCH_SEED]
    if (size, seed) == (SEARCH_SIZE, SEARCH_SEED):
        return searched
    others = dict.fromkeys(distinct_sentences(packaged_articles("training")))
    for text in searched.texts:
        del others[text]
    if size > len(others):
        raise ValueError(f"size must be at most {len(others)}, got {size}")
    return replace(searched, texts=list(others)).sample(size, seed=seed)


_tasks = cache(load_reported)
_dev = cache(load_stsb)
"""Loaded once in each process."""


@dataclass(frozen=True)
class Experiment:
    """Where an experiment is kept, and what all its runs share.

    Attributes:
        folder: holds the files of the runs; on a disk that all machines see.
        tasks: names of the reported tasks; none for a search.
        source: of bert-base-uncased and its sentences: `hub` or a folder.
    """

    folder: Path
    tasks: tuple[str, ...] = ()
    source: str = "hub"

    def untrained(self, start: str) -> dict[str, object]:
        """Score a start before training; return its record, only read if it is on file."""
        file = self.folder / f"untrained-{start}.json"
        if record := json_or_none(file):
            return record
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            model = load_start(start, self.source)
            scores = {"STS-B dev": DevelopmentEvaluator(_dev())(model)["dev_spearman"]}
            scores |= self._scored(file.with_suffix(".npz"), {"untrained": model})["untrained"]
        record = {"start": start, "model": str(model.provenance), "device": _device(model)}
        record |= {"scores": scores, "seconds": time.perf_counter() - began}
        write_json(file, record)
        return record

    def untrained_of(self, runs: Sequence[Run]) -> list[dict[str, object]]:
        """Score the starts of some runs, and the encoders that they were made from."""
        starts = {name for run in runs for name in (run.start, *MADE_FROM.get(run.start, ()))}
        return [self.untrained(name) for name in STARTS if name in starts]

    def carry_out(self, run: Run) -> dict[str, object]:
        """Train a run and score it; return its record, only read if it is on file."""
        file, work = self.folder / f"{run.name}.json", self.folder / f".{run.name}"
        if record := json_or_none(file):
            shutil.rmtree(work, ignore_errors=True)  # of a kill after the record was written
            return record
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):  # each run would say the same
            model = load_start(run.start, self.source)
            start = str(model.provenance)
            corpus = load_sentences_of(run.start, run.size, run.seed, self.source)
            record = asdict(run) | {
                "length": run.length, "config": asdict(run.config), "model": start,
                "data": str(corpus.provenance), "dev": str(_dev().provenance),
                "device": _device(model), "versions": versions(),
            }  # fmt: skip
            try:
                record |= self._trained(run, model, corpus, work)
            except TrainingDivergedError as error:
                record["diverged"] = str(error)
        write_json(file, record | {"seconds": time.perf_counter() - began})
        shutil.rmtree(work, ignore_errors=True)
        return json_or_none(file)

    def _trained(
        self, run: Run, model: SentenceTransformer, corpus: Corpus, work: Path
    ) -> dict[str, object]:
        trained = train_low_shot(
            corpus.texts, model, run.config.method, output=work, preset=run.config, dev=_dev(),
            keep_last=bool(self.tasks), progress=False,
        )  # fmt: skip
        last, step = trained.model, int(trained.history["step"].iloc[-1])
        if self.tasks and trained.best_step != step:
            last = SentenceTransformer(str(work / "last"), device=str(last.device))
            last.max_seq_length = trained.model.max_seq_length
        models = {"selected": trained.model, "last": last}
        return {
            "sentences": trained.sentences,
            "steps_of": {"selected": trained.best_step, "last": step},
            "history": records(trained.history),
            "scores": self._scored(self.folder / f"{run.name}.npz", models),
        }

    def _scored(
        self, file: Path, models: dict[str, SentenceTransformer]
    ) -> dict[str, dict[str, float]]:
        """Score some checkpoints on the reported tasks, and keep what that was made of."""
        if not self.tasks:
            return {}
        tasks, arrays, scores, of_model = _tasks(self.tasks), {}, {}, {}
        for checkpoint, model in models.items():
            if model not in of_model:
                measured = measure(model, tasks)
                of_model[model] = measured, resampled_scores(measured, tasks, _dev())
            measured, resampled = of_model[model]
            arrays |= {f"{checkpoint}, {task}": array for task, array in measured.items()}
            arrays |= {
                f"{checkpoint}, {task}, resampled": array for task, array in resampled.items()
            }
            scores[checkpoint] = {task: float(array[0]) for task, array in resampled.items()}
        write_atomically(file, lambda path: np.savez_compressed(path, **arrays))
        return scores

    def finished(self, run: Run) -> bool:
        """Tell whether the run's record is on file."""
        return json_or_none(self.folder / f"{run.name}.json") is not None

    def seconds_a_step(self, run: Run, steps: int = 20) -> float:
        """Train a run's first steps in a scratch folder; return the seconds of a step.

        Of the development pairs only two are scored, so that the time is that of training.
        """
        ends = [int(np.argmin(_dev().gold)), int(np.argmax(_dev().gold))]
        pair = Pairs(
            *([side[n] for n in ends] for side in (_dev().first, _dev().second)),
            _dev().gold[ends], _dev().provenance,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            model = load_start(run.start, self.source)
            texts = load_sentences_of(run.start, run.size, run.seed, self.source).texts
            config, began = replace(run.config, steps=steps, eval_steps=steps), time.perf_counter()
            train_low_shot(
                texts, model, config.method, output=Path(place, "run"), preset=config, dev=pair,
                progress=False,
            )  # fmt: skip
        return (time.perf_counter() - began) / steps


Mapper = Callable[[Callable[[Run], dict], Iterable[Run]], Iterable[tuple[Run, object]]]
"""Calls a function with each item; yields each with what the call returned or raised."""
LONG = 500
"""Steps from which the first ones of a run are timed before it begins."""


def run_experiment(
    experiment: Experiment,
    runs: Sequence[Run],
    each: Mapper | None = None,
    *,
    at_a_time: int | None = 1,
    progress: bool = True,
) -> list[dict[str, object]]:
    """Carry out what is missing of the runs; return the records of all, in their order.

    It says how many runs there are, and, after the first run or the first steps of a long one, how
    long all will take. A run that diverges is recorded as such, and the others go on; one that
    fails otherwise does not stop those that run beside it, and its error is raised in the end.

    Args:
        experiment: where the runs are kept.
        runs: the table.
        each: how they are made, several at a time; by default one after the other.
        at_a_time: how many then; None if that is not known.
        progress: show a bar over the runs.
    """
    missing = [run for run in runs if not experiment.finished(run)]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished")
    if experiment.tasks:
        experiment.untrained_of(runs)
    left = sum(run.length for run in missing)
    long = bool(missing and at_a_time and missing[0].length >= LONG)
    if long:
        seconds = experiment.seconds_a_step(missing[0])
        print(f"{_hours(seconds * left / at_a_time)} of training, at {seconds:.2f} s a step")
    began, failed = time.perf_counter(), None
    with tqdm(total=len(runs), desc="runs", unit="run", disable=not progress) as bar:
        bar.update(len(runs) - len(missing))
        for number, (_, record) in enumerate((each or _in_turn)(experiment.carry_out, missing)):
            if isinstance(record, BaseException):
                failed = record
            elif number == 0 and at_a_time and not long:
                left -= record["length"] * min(at_a_time, len(missing))  # the others are as far
                seconds = (time.perf_counter() - began) * left / record["length"] / at_a_time
                bar.write(f"{_hours(seconds)} for the other runs", file=sys.stdout)
            bar.update()
    if failed:
        raise failed
    return [experiment.carry_out(run) for run in runs]


def _in_turn(function: Callable[[Run], dict], items: Iterable[Run]) -> Iterator[tuple[Run, dict]]:
    for item in items:
        yield item, function(item)


def _hours(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"about {hours} h {minutes} min" if hours else f"about {minutes} min"


def in_processes(
    function: Callable[[Run], dict], items: Iterable[Run], workers: int
) -> Iterator[tuple[Run, object]]:
    """Yield items with what a function returns or raises, from processes that share the threads."""
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, spawn, initializer=_use_threads, initargs=(threads,))
    try:
        pending = {pool.submit(function, item): item for item in items}
        for future in as_completed(pending):
            yield pending[future], future.exception() or future.result()
    except BaseException:  # Ctrl-C, too: what they have done so far is in their folders
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _use_threads(threads: int) -> None:
    torch.set_num_threads(threads)


def search_table(records_of: Sequence[dict[str, object]]) -> pd.DataFrame:
    """Return the settings of a search, a row each; `chosen` marks the best of each objective.

    Spearman of the development pairs at the best checkpoint chooses, the start being one; of
    equals, such as settings that improve nothing, the one with the better last step.
    """
    rows = []
    for record in records_of:
        row = {field.name: record[field.name] for field in fields(Run)}
        if "diverged" not in record:  # a row without figures is never chosen
            history = {figures["step"]: figures for figures in record["history"]}
            best, last = (history[step] for step in record["steps_of"].values())
            row |= {"before": history[0]["spearman"], "best": best["spearman"]}
            row |= {"best_step": best["step"], "last": last["spearman"]}
            row |= {name: last[name] for name in ("info_nce", "ami", "uniformity", "alignment")}
        rows.append(row)
    table = pd.DataFrame(rows)
    if "best" not in table:
        raise ValueError("every run of the search diverged: none can be chosen")
    ranked = table.dropna(subset="best").sort_values(["best", "last"])
    chosen = ranked.groupby(["start", "objective"]).tail(1).index
    return table.assign(chosen=table.index.isin(chosen))


def shared_settings(runs: Sequence[Run], source: str, tasks: Sequence[str]) -> dict[str, object]:
    """Return what all runs of a folder share: encoders, sentences, development pairs, tasks.

    Raises:
        FileNotFoundError: the paper's encoder, sentences or development pairs cannot be had; it
            says which starts work without.
    """
    encoders, sentences, missing = {}, {}, []
    papers = [run for run in runs if run.start == "bert"]
    if len(papers) < len(runs):
        own = next(run for run in runs if run.start != "bert")
        encoders["packaged"] = str(load_start("shipped").provenance)
        sentences["packaged"] = str(load_sentences_of(own.start, own.size, own.seed).provenance)
    if papers:
        try:
            encoders["bert"] = str(load_start("bert", source).provenance)
        except OSError:
            missing.append(BERT)
        try:
            corpora = [load_sentences_of("bert", run.size, run.seed, source) for run in papers]
            # The commit is that of all files; of a folder there is one file.
            of_all = corpora[0].provenance.revision or corpora[0].provenance.sha256
            sentences["bert"] = f"{corpora[0].provenance.origin}, {of_all}"
        except OSError:
            missing.append("its sentences")
        if not _dev().provenance.name.startswith("STSBenchmark"):
            missing.append("STSBenchmark's development pairs")
    if missing:
        works = " ".join(name for name in STARTS if name != "bert")
        raise FileNotFoundError(
            f"the paper's experiment needs {' and '.join(missing)}, from the Hugging Face hub or a "
            f"folder (--source, MICSE_SENTEVAL); without, these work here: --starts {works}"
        )
    found = load_reported(tasks, missing_ok=True) if tasks else {}
    return {
        "encoders": encoders, "sentences": sentences, "dev": str(_dev().provenance),
        "tasks": {name: str(task.provenance) for name, task in found.items()},
    }  # fmt: skip


def _device(model: SentenceTransformer) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type}, {torch.get_num_threads()} threads"
