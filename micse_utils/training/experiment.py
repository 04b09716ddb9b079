"""Carry out the runs that `plan` lists: train and score what is missing, several at a time.

The untrained encoders are scored first. Each run leaves `NAME.json`, its record, and `NAME.npz`
with its scores on resampled items, for paired intervals. A finished run is only read; one that was
interrupted resumes.
"""

import contextlib
import io
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.evaluation.reported import resampled_scores
from micse_utils.evaluation.senteval import kept_pairs
from micse_utils.provenance import versions
from micse_utils.results import json_or_none, records, write_atomically, write_json
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError
from micse_utils.training.plan import STARTS, Run
from micse_utils.training.starts import (
    dev_name,
    load_dev,
    load_sentences_of,
    load_start,
    load_tasks,
)
from micse_utils.training.trainer import train_low_shot

Record = Mapping[str, object]
Mapper = Callable[[Callable[[Run], Record], Iterable[Run]], Iterable[tuple[Run, object]]]
"""Calls a function with each run; yields each with what the call returned or raised."""
LONG, TIMED = 500, 20
"""Steps from which so many first ones of a run are timed before it begins."""


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

    def untrained_of(self, runs: Sequence[Run]) -> list[Record]:
        """Score the starts of some runs, and the encoders that they were made from."""
        starts = {name for run in runs for name in (run.start, *STARTS[run.start].made_from)}
        return [self._untrained(name) for name in STARTS if name in starts]

    def _untrained(self, start: str) -> Record:
        """Score a start before training; return its record, only read if it is on file."""
        file = self.folder / f"untrained-{start}.json"
        if record := json_or_none(file):
            return record
        with _silent():
            model = load_start(start, self.source)
            scores = {dev_name(): DevelopmentEvaluator(load_dev())(model)["dev_spearman"]}
            scores |= self._scored(file.stem, {"untrained": model})["untrained"]
        record = {"start": start, "model": str(model.provenance), "scores": scores}
        write_json(file, record)
        return record

    def record(self, run: Run) -> Record | None:
        """Return the record of a run, or None if it is unfinished."""
        return json_or_none(self.folder / f"{run.name}.json")

    def carry_out(self, run: Run) -> Record:
        """Train a run and score it; return its record."""
        began, work = time.perf_counter(), self.folder / f".{run.name}"
        with _silent():  # each run would say the same
            model = load_start(run.start, self.source)
            corpus = load_sentences_of(run.start, run.size, run.seed, self.source)
            record = asdict(run) | {
                "length": run.length, "config": asdict(run.config), "model": str(model.provenance),
                "data": str(corpus.provenance), "dev": str(load_dev().provenance),
                "dev name": dev_name(), "device": _device(model), "versions": versions(),
            }  # fmt: skip
            try:
                trained = train_low_shot(
                    corpus.texts, model, run.config.method, output=work, preset=run.config,
                    dev=load_dev(), keep_last=bool(self.tasks), progress=False,
                )  # fmt: skip
            except TrainingDivergedError as error:
                record["diverged"] = str(error)
            else:
                step = int(trained.history["step"].iloc[-1])
                models = {"selected": trained.model, "last": trained.model}
                if self.tasks and trained.best_step != step:
                    models["last"] = SentenceTransformer(
                        str(work / "last"), device=str(trained.model.device)
                    )
                record |= {
                    "sentences": trained.sentences,
                    "steps_of": {"selected": trained.best_step, "last": step},
                    "history": records(trained.history),
                    "scores": self._scored(run.name, models),
                }
        record["seconds"] = time.perf_counter() - began
        write_json(self.folder / f"{run.name}.json", record)
        shutil.rmtree(work, ignore_errors=True)
        return record

    def _scored(
        self, name: str, models: Mapping[str, SentenceTransformer]
    ) -> dict[str, dict[str, float]]:
        """Score some checkpoints on the reported tasks, and keep what intervals need."""
        if not self.tasks:
            return {}
        tasks = load_tasks(self.tasks)
        of_model = {
            model: resampled_scores(model, tasks) for model in dict.fromkeys(models.values())
        }
        arrays = {
            f"{checkpoint}, {task}": scores
            for checkpoint, model in models.items()
            for task, scores in of_model[model].items()
        }
        file = self.folder / f"{name}.npz"
        write_atomically(file, lambda path: np.savez_compressed(path, **arrays))
        return {
            checkpoint: {task: float(scores[0]) for task, scores in of_model[model].items()}
            for checkpoint, model in models.items()
        }

    def resampled(self, name: str, checkpoint: str) -> dict[str, np.ndarray]:
        """Return a checkpoint's scores on all items and on resampled ones, by task."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            mine = [key for key in arrays if key.startswith(f"{checkpoint}, ")]
            return {key.partition(", ")[2]: arrays[key] for key in mine}

    def seconds_a_step(self, run: Run) -> float:
        """Train a run's first steps in a scratch folder; return the seconds of a step."""
        # Two development pairs will do: the time is that of training.
        gold = load_dev().gold
        ends = np.isin(np.arange(len(gold)), [gold.argmin(), gold.argmax()])
        config = replace(run.config, steps=TIMED, eval_steps=TIMED)
        with tempfile.TemporaryDirectory() as place, _silent():
            model = load_start(run.start, self.source)
            texts = load_sentences_of(run.start, run.size, run.seed, self.source).texts
            began = time.perf_counter()
            train_low_shot(
                texts, model, config.method, output=Path(place, "run"), preset=config,
                dev=kept_pairs(load_dev(), ends), progress=False,
            )  # fmt: skip
        return (time.perf_counter() - began) / TIMED


def run_experiment(
    experiment: Experiment,
    runs: Sequence[Run],
    each: Mapper | None = None,
    *,
    at_a_time: int | None = 1,
    progress: bool = True,
) -> list[Record]:
    """Carry out what is missing of the runs; return the records of all, in their order.

    It says how many runs there are and, after the first steps of a long one, how long all will
    take. A run that diverges is recorded as such, and the others go on; one that fails otherwise
    does not stop those that run beside it, and its error is raised in the end.

    Args:
        experiment: where the runs are kept.
        runs: the table.
        each: how they are made, several at a time; by default one after the other.
        at_a_time: how many then; None if that is not known.
        progress: show a bar over the steps of all runs.
    """
    done = {run: record for run in runs if (record := experiment.record(run))}
    missing = [run for run in runs if run not in done]
    print(f"{len(runs)} runs, {len(done)} of them finished")
    for run in done:
        shutil.rmtree(experiment.folder / f".{run.name}", ignore_errors=True)  # left by a kill
    if experiment.tasks:
        experiment.untrained_of(runs)
    total, left = (sum(run.length for run in some) for some in (runs, missing))
    if missing and missing[0].length >= LONG:
        seconds = experiment.seconds_a_step(missing[0])
        hours, minutes = divmod(round(seconds * left / (at_a_time or 1) / 60), 60)
        print(f"about {hours} h {minutes} min of training, at {seconds:.2f} s a step")
    failed = None
    with tqdm(total=total, initial=total - left, unit="step", disable=not progress) as bar:
        for run, result in (each or _in_turn)(experiment.carry_out, missing):
            bar.update(run.length)
            if isinstance(result, BaseException):
                failed = result
            else:
                done[run] = result
                bar.set_description(f"{len(done)} of {len(runs)} runs")
    if failed:
        raise failed
    return [done[run] for run in runs]


def _in_turn(
    function: Callable[[Run], Record], runs: Iterable[Run]
) -> Iterator[tuple[Run, Record]]:
    for run in runs:
        yield run, function(run)


def in_processes(
    function: Callable[[Run], Record], runs: Iterable[Run], workers: int
) -> Iterator[tuple[Run, object]]:
    """Yield runs with what a function returns or raises, from processes that share the threads."""
    threads = max(1, torch.get_num_threads() // workers)
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, spawn, initializer=torch.set_num_threads, initargs=(threads,)
    )
    try:
        pending = {pool.submit(function, run): run for run in runs}
        for future in as_completed(pending):
            yield pending[future], future.exception() or future.result()
    except BaseException:  # Ctrl-C, too: what they have done so far is in their folders
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _silent() -> contextlib.AbstractContextManager:
    return contextlib.redirect_stdout(io.StringIO())


def _device(model: SentenceTransformer) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return f"{model.device.type}, {torch.get_num_threads()} threads"
