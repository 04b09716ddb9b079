"""Carry out the runs of a table: train and score what is missing, several at a time.

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
from micse_utils.training.inputs import (
    dev_name,
    load_dev,
    load_sentences_of,
    load_start,
    load_tasks,
)
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError
from micse_utils.training.run_table import STARTS, Run
from micse_utils.training.trainer import train_low_shot

Record = Mapping[str, object]
LONG, TIMED = 500, 20
"""Steps from which so many first ones of a run are timed before it begins."""


@dataclass(frozen=True)
class Experiment:
    """Where an experiment is kept, and what all its runs share."""

    folder: Path  # holds the files of the runs; on a disk that all machines see
    tasks: tuple[str, ...] = ()  # names of the reported ones; none for a search
    source: str = "hub"  # of bert-base-uncased and its sentences, or a folder

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

    def carry_out(self, run: Run) -> Record:
        """Train a run and score it; return its record."""
        began, work = time.perf_counter(), self.folder / f".{run.name}"
        with _silent():  # each run would say the same
            model = load_start(run.start, self.source)
            corpus = load_sentences_of(run.start, run.size, run.seed, self.source)
            device = model.device.type
            record = asdict(run) | {
                "length": run.length, "config": asdict(run.config), "model": str(model.provenance),
                "data": str(corpus.provenance), "dev": str(load_dev().provenance),
                "dev name": dev_name(), "versions": versions(),
                "device": torch.cuda.get_device_name(model.device) if device == "cuda" else device,
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
        distinct = dict.fromkeys(models.values())  # the last checkpoint may be the selected one
        of_model = {model: resampled_scores(model, tasks) for model in distinct}
        arrays, scores = {}, {}
        for checkpoint, model in models.items():
            found = of_model[model]  # by task: the score of all items, then of each resample
            arrays |= {f"{checkpoint}, {task}": values for task, values in found.items()}
            scores[checkpoint] = {task: float(values[0]) for task, values in found.items()}
        file = self.folder / f"{name}.npz"
        write_atomically(file, lambda path: np.savez_compressed(path, **arrays))
        return scores

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


def in_turn(function: Callable[[Run], Record], runs: Iterable[Run]) -> Iterator:
    """Yield runs with what a function returns, one after the other."""
    return ((run, function(run)) for run in runs)


def run_experiment(
    experiment: Experiment,
    runs: Sequence[Run],
    each: Callable[..., Iterable] = in_turn,
    *,
    at_a_time: int | None = 1,
) -> list[Record]:
    """Carry out what is missing of the runs; return the records of all, in their order.

    It says how many runs there are and, after the first steps of a long one, how long all will
    take, with so many `at_a_time` (None: not known, counted as one). `each` calls a function with
    each run, and yields runs with what it returned or raised. A run that diverges is recorded as
    such, and the others go on; one that fails otherwise does not stop those that run beside it, and
    its error is raised in the end.
    """
    files = {run: experiment.folder / f"{run.name}.json" for run in runs}
    done = {run: record for run, file in files.items() if (record := json_or_none(file))}
    print(f"{len(runs)} runs, {len(done)} of them finished")
    for run in done:  # left by a kill
        shutil.rmtree(experiment.folder / f".{run.name}", ignore_errors=True)
    if experiment.tasks:
        experiment.untrained_of(runs)
    missing, failed = [run for run in runs if run not in done], None
    if missing and missing[0].length >= LONG:
        with contextlib.suppress(TrainingDivergedError):  # its turn will record that
            seconds = experiment.seconds_a_step(missing[0])
            left = seconds * sum(run.length for run in missing) / (at_a_time or 1)
            hours, minutes = divmod(round(left / 60), 60)
            print(f"about {hours} h {minutes} min of training, at {seconds:.2f} s a step")
    with tqdm(total=len(runs), initial=len(done), unit="run") as bar:
        for run, result in each(experiment.carry_out, missing):
            if isinstance(result, BaseException):
                failed = result
            else:
                done[run] = result
                bar.update()
    if failed:
        raise failed
    return [done[run] for run in runs]


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
