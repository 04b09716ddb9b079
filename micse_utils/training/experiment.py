"""Carry out runs: `NAME.json` is the record of one, `NAME.npz` its scores on resampled items."""

import io
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.datasets.sts import load_stsb
from micse_utils.datasets.texts import Corpus, drawn_rows, load_low_shot
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.device import pick_threads
from micse_utils.encoding import encode
from micse_utils.evaluation.reported import Reported, load_reported, resampled_scores, with_fair
from micse_utils.evaluation.senteval import kept_pairs
from micse_utils.models import keep_first_layers, load_model, quiet
from micse_utils.provenance import versions
from micse_utils.results import json_or_none, records, write_atomically, write_json
from micse_utils.sources.locate import BERT
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError
from micse_utils.training.run_table import SEARCH_SEED, SEARCH_SIZE, STARTS, Run
from micse_utils.training.trainer import train_low_shot

Record = Mapping[str, object]
LONG, TIMED = 500, 20  # steps from which so many first ones of a run are timed before it begins


def load_start(name: str, source: str = "hub") -> SentenceTransformer:
    """Load a start; `source` is that of bert-base-uncased, the others are made from the package."""
    start = STARTS[name]
    if name == "bert":
        return load_model(BERT, source=source, pooling=start.pooling, engine="torch")
    model = load_model(source="package", pooling=start.pooling, engine="torch")
    model = keep_first_layers(model, start.layers)
    if name == "centred":
        # The last thing the encoder does is to add a bias, so that is where its mean can go.
        unscaled = SentenceTransformer(modules=list(model)[:2], device=str(model.device))
        texts = load_sentences_of("raw", SEARCH_SIZE, SEARCH_SEED).texts
        mean = encode(unscaled, texts, dtype=torch.float32, progress=False).mean(axis=0)
        bias = model.transformers_model.encoder.layer[-1].output.LayerNorm.bias
        bias.data -= torch.as_tensor(mean, device=bias.device)
        model.provenance = replace(model.provenance, name=f"{model.provenance.name}, centred")
    return model


@cache
def load_sentences_of(start: str, size: int, seed: int, source: str = "hub") -> Corpus:
    """Load the sentences of a run: the paper's splits, or from the package without the search's."""
    if start == "bert":
        return load_low_shot([size], seeds=[seed], source=source)[size, seed]
    place = SEARCH_SIZE, SEARCH_SEED
    searched = load_low_shot([SEARCH_SIZE], seeds=[SEARCH_SEED], source="package")[place]
    if (size, seed) == place:
        return searched
    texts, used = distinct_sentences(packaged_articles("training")), set(searched.texts)
    others = [text for text in texts if text not in used]
    if size > len(others):
        raise ValueError(f"size must be at most {len(others)}, got {size}")
    return replace(searched, texts=[others[row] for row in drawn_rows(len(others), size, seed)])


load_dev = cache(load_stsb)  # the development pairs, loaded once in each process


def dev_name() -> str:
    """Return what the scores on the development pairs are called."""
    official = load_dev().provenance.name.startswith("STSBenchmark")
    return "STS-B dev" if official else "kit's own dev pairs"


@cache
def load_tasks(names: tuple[str, ...]) -> Reported:
    """Load reported tasks, and beside them those without the pairs of the development file."""
    return with_fair(load_reported(names), load_dev())


def shared_settings(runs: Sequence[Run], source: str, tasks: Sequence[str]) -> dict[str, object]:
    """Return what all runs of a folder share: encoders, sentences, development pairs, tasks.

    If something of the paper is missing, a FileNotFoundError says which starts work without.
    """
    if not runs:
        raise ValueError("there is nothing to run: change --starts, --objectives or --settings")
    encoders, sentences = {}, {}
    papers = [run for run in runs if run.start == "bert"]
    kits = [run for run in runs if run.start != "bert"]
    if own := max(kits, key=lambda run: run.size, default=None):  # too large a size is refused here
        encoders["packaged"] = str(load_start("shipped").provenance)
        sentences["packaged"] = str(load_sentences_of(own.start, own.size, own.seed).provenance)
    if papers:
        sizes, seeds = {run.size for run in papers}, {run.seed for run in papers}
        try:
            encoders["bert"] = str(load_start("bert", source).provenance)
            found = load_low_shot(sorted(sizes), seeds=sorted(seeds), source=source)
            if dev_name() != "STS-B dev":
                raise FileNotFoundError("no STS-B dev file")
        except OSError as error:
            works = " ".join(name for name in STARTS if name != "bert")
            raise FileNotFoundError(
                f"the paper's experiment needs {BERT}, its sentences and STS-B dev (from the hub, "
                f"--source or MICSE_SENTEVAL): {error}; these work here: --starts {works}"
            ) from error
        data = found[min(sizes), min(seeds)].provenance  # the commit is that of all files
        sentences["bert"] = f"{data.origin}, {data.revision or data.sha256}"
    reported = load_reported(tasks, missing_ok=True)
    tasks = {name: str(task.provenance) for name, task in reported.items()}
    dev = str(load_dev().provenance)
    return {"encoders": encoders, "sentences": sentences, "dev": dev, "tasks": tasks}


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
        with redirect_stdout(io.StringIO()):
            model = load_start(start, self.source)
            scores = {dev_name(): DevelopmentEvaluator(load_dev())(model)["dev_spearman"]}
            scores |= self._scored(file.stem, {"untrained": model})["untrained"]
        record = {"start": start, "model": str(model.provenance), "scores": scores}
        write_json(file, record)
        return record

    def carry_out(self, run: Run) -> Record:
        """Train a run and score it; return its record."""
        began, work = time.perf_counter(), self.folder / f".{run.name}"
        with redirect_stdout(io.StringIO()), quiet():  # each run would say the same
            dev, model = load_dev(), load_start(run.start, self.source)
            corpus = load_sentences_of(run.start, run.size, run.seed, self.source)
            device = model.device.type
            record = asdict(run) | {
                "length": run.length, "config": asdict(run.config), "model": str(model.provenance),
                "data": str(corpus.provenance), "dev": str(dev.provenance),
                "dev name": dev_name(), "versions": versions(),
                "device": torch.cuda.get_device_name(model.device) if device == "cuda" else device,
            }  # fmt: skip
            try:
                trained = train_low_shot(
                    corpus.texts, model, run.config.method, output=work, preset=run.config,
                    dev=dev, keep_last=bool(self.tasks), progress=False,
                )  # fmt: skip
            except TrainingDivergedError as error:
                record["diverged"] = str(error)
            else:
                step, last = int(trained.history["step"].iloc[-1]), trained.model
                if self.tasks and trained.best_step != step:
                    last = SentenceTransformer(str(work / "last"), device=str(last.device))
                record |= {
                    "sentences": trained.sentences,
                    "steps_of": {"selected": trained.best_step, "last": step},
                    "history": records(trained.history),
                    "scores": self._scored(run.name, {"selected": trained.model, "last": last}),
                }
        record["seconds"] = time.perf_counter() - began
        write_json(self.folder / f"{run.name}.json", record)
        shutil.rmtree(work, ignore_errors=True)
        return record

    def _scored(self, name: str, models: dict[str, SentenceTransformer]) -> dict[str, dict]:
        """Score some checkpoints on the reported tasks, and keep what intervals need."""
        if not self.tasks:
            return {}
        score = cache(partial(resampled_scores, tasks=load_tasks(self.tasks)))  # each model once
        arrays, scores = {}, {}
        for checkpoint, model in models.items():
            found = score(model)  # by task: the score of all items, then of each resample
            arrays |= {f"{checkpoint}, {task}": values for task, values in found.items()}
            scores[checkpoint] = {task: float(values[0]) for task, values in found.items()}
        write_atomically(self.folder / f"{name}.npz", lambda p: np.savez_compressed(p, **arrays))
        return scores

    def resampled(self, name: str, checkpoint: str) -> dict[str, np.ndarray]:
        """Return a checkpoint's scores on all items and on resampled ones, by task."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            mine = [key for key in arrays if key.startswith(f"{checkpoint}, ")]
            return {key.partition(", ")[2]: arrays[key] for key in mine}

    def seconds_a_step(self, run: Run) -> float:
        """Train a run's first steps in a scratch folder; return the seconds of a step."""
        config = replace(run.config, steps=TIMED, eval_steps=TIMED)
        with tempfile.TemporaryDirectory() as place, redirect_stdout(io.StringIO()):
            dev, model = load_dev(), load_start(run.start, self.source)
            # Two development pairs will do: the time is that of training.
            few = kept_pairs(dev, np.isin(np.arange(len(dev)), dev.gold.argsort()[[0, -1]]))
            texts = load_sentences_of(run.start, run.size, run.seed, self.source).texts
            began, options = time.perf_counter(), {"preset": config, "progress": False}
            train_low_shot(texts, model, config.method, output=f"{place}/run", dev=few, **options)
            return (time.perf_counter() - began) / TIMED

    def run_all(
        self, runs: Sequence[Run], each: Callable | None = None, *, at_a_time: int | None = 1
    ) -> list[Record]:
        """Carry out what is missing of the runs; return the records of all, in their order.

        `each` calls a function with each run, `at_a_time` of them (None: not known), and yields
        runs with what it returned or raised; by default one after the other. A run that diverges is
        recorded as such. An error is raised in the end: it does not stop the runs beside it.
        """
        files = {run: self.folder / f"{run.name}.json" for run in runs}
        done = {run: record for run, file in files.items() if (record := json_or_none(file))}
        print(f"{len(runs)} runs, {len(done)} of them finished")
        for run in done:  # left by a kill
            shutil.rmtree(self.folder / f".{run.name}", ignore_errors=True)
        if self.tasks:
            self.untrained_of(runs)
        missing, failed = [run for run in runs if run not in done], None
        if missing and missing[0].length >= LONG:
            with suppress(TrainingDivergedError):  # its turn will record that
                seconds = self.seconds_a_step(missing[0])
                hours = seconds * sum(run.length for run in missing) / (at_a_time or 1) / 3600
                time_left = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"
                print(f"about {time_left} of training, at {seconds:.2f} s a step")
        in_turn = ((run, self.carry_out(run)) for run in missing)
        with tqdm(total=len(runs), initial=len(done), unit="run") as bar:
            for run, result in each(self.carry_out, missing) if each else in_turn:
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
    spawn, threads = multiprocessing.get_context("spawn"), max(1, pick_threads() // workers)
    pool = ProcessPoolExecutor(workers, spawn, _let_models_use, (threads,))
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


def _let_models_use(threads: int) -> None:
    os.environ["MICSE_THREADS"] = str(threads)  # `load_model` would undo `torch.set_num_threads`
