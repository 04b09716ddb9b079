"""What did training bring? The untouched encoder, the start and the trained one side by side."""

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import YEARS, Pairs, load_sts
from micse_utils.datasets.triplets import TRIPLETS, Triplets, load_triplets
from micse_utils.evaluation.metrics import compare_runs
from micse_utils.evaluation.published import markdown
from micse_utils.evaluation.report import label_of
from micse_utils.evaluation.reported import leaked, resampled_scores
from micse_utils.evaluation.senteval import kept_pairs
from micse_utils.job import MARKER, job
from micse_utils.models import load_model
from micse_utils.results import json_or_none
from micse_utils.settings import folder_at, folder_setting
from micse_utils.sources.packaged import FetchError

RECORD = "training.json"
"""Record of a training run, in its folder."""
COUNT = 1_000
"""Triplets of each form that encoders are compared on."""


def report_training(
    folder: Path,
    untouched: SentenceTransformer,
    start: SentenceTransformer,
    trained: SentenceTransformer,
    *,
    best_step: int,
    dev: Pairs,
    **found_at: object,
) -> str:
    """Return a table of what a run started from and what it gave, and a verdict in a sentence.

    Noted in the run's record, and only read from there if the run is reported again. If the
    untouched encoder is as good on the pairs that select, it becomes `model/`, and the trained one
    is kept in `trained/`.

    Args:
        folder: of the finished run.
        untouched: the encoder before anything was done to it, in its own pooling.
        start, trained: what was trained, before and after; `start` may be `untouched` itself.
        best_step: the step of the trained one; 0 if it is the start.
        dev: the pairs that selected the checkpoint.
        found_at: where `load_model` found the untouched encoder, for `micse score`.
    """
    with job(folder, json_or_none(folder / MARKER), record=RECORD) as work:
        record, place = work.record, folder / "model"
        if "verdict" in record:
            return f"{record['table']}\n{record['verdict']}"
        selects = f"{dev.provenance.name} (selects)"
        print(
            "scoring the untouched encoder, the start and the trained one, on "
            f"{COUNT:,} triplets of each form (fewer than micse score takes): a minute or more"
        )
        trained = trained if best_step else start  # equal then, so scored once
        sets = {selects: {"dev": dev}, **independent_sets(dev)}
        models = dict.fromkeys((untouched, start, trained))
        scores = {model: scores_of(model, sets) for model in models}
        rows = {
            f"untouched: {label_of(untouched)}": untouched,
            f"start: {'the same' if start is untouched else label_of(start)}": start,
            f"trained, step {best_step}" if best_step else "trained: no step was better": trained,
        }
        table = markdown({
            label: {name: f"{found[0, 0]:.2f}" for name, found in scores[model].items()}
            for label, model in rows.items()
        }).rstrip()  # fmt: skip
        if scores[trained][selects][0, 0] > scores[untouched][selects][0, 0]:
            verdict = (
                f"{verdict_of(scores[trained], scores[untouched])}. It scores highest on the pairs "
                f"that select, so it is kept: {place}"
            )
        elif start is untouched and best_step == 0:
            verdict = f"no better on the pairs that select: {place} is the start, untouched"
        else:
            if record.get("encoder") != "trained":
                shutil.rmtree(folder / "trained", ignore_errors=True)
                shutil.copytree(place, folder / "trained")
                record["encoder"] = "trained"
                work.finish(record)  # from here on, model/ is not what was trained
            shutil.rmtree(place, ignore_errors=True)
            untouched.save_pretrained(str(place))
            verdict = (
                f"no better on the pairs that select: {place} is the untouched encoder; what was "
                f"trained is in {folder / 'trained'}"
            )
        work.finish(record | {"table": table, "verdict": verdict, "untouched": found_at})
    return f"{table}\n{verdict}"


def load_untouched(trained: SentenceTransformer, place: str) -> list[SentenceTransformer]:
    """Return the encoder that a folder's model was trained from, if `micse train` noted it there.

    Raises:
        ValueError: the folder's model is not the one that was trained.
    """
    folders = [folder_at(place), folder_at(Path(place, ".."))]
    records = [json_or_none(folder / RECORD) for folder in folders if folder]
    record = next((record for record in records if record and "untouched" in record), None)
    if record is None:
        return []
    weights = record["weights"].values()
    if "encoder" not in record and trained.provenance.sha256 not in weights and len(weights) == 1:
        raise ValueError(
            f"{place} is damaged, or was changed after training; move the model to a folder of its "
            "own to score it as it is"
        )
    found_at = dict(record["untouched"])
    sha256 = found_at.pop("sha256")
    try:
        model = load_model(**found_at)
    except (OSError, ValueError) as error:
        print(f"without the untouched encoder, as it is not found: {error}")
        return []
    if model.provenance.sha256 != sha256:
        print(f"without the untouched encoder, as {model.provenance} has changed since")
        return []
    return [model]


def independent_sets(dev: Pairs) -> dict[str, dict[str, Pairs | Triplets]]:
    """Return what selected nothing: triplets, and STS12 to STS16 from MICSE_SENTEVAL.

    Pairs that are in `dev`, too, are left out of the years.
    """
    sets = {}
    try:
        sets |= {task: {task: load_triplets(task, count=COUNT)} for task in TRIPLETS}
    except FetchError as error:
        print(f"without triplets: {error}")
    folder = folder_setting("MICSE_SENTEVAL")
    with suppress(FileNotFoundError):
        years = {year: load_sts(year, source=folder) for year in YEARS if folder}
        for year, pairs in years.items():
            fair = kept_pairs(pairs, ~leaked(pairs, dev))
            sets.setdefault("STS12 to STS16", {})[year] = fair
    return sets


def scores_of(
    model: SentenceTransformer, sets: Mapping[str, Mapping[str, Pairs | Triplets]]
) -> dict[str, np.ndarray]:
    """Return the mean score of each set's tasks, and of each resample: [1, 1 + resamples] each."""
    tasks = {task: part for parts in sets.values() for task, part in parts.items()}
    scores = resampled_scores(model, tasks)
    return {name: np.mean([[scores[t]] for t in parts], axis=0) for name, parts in sets.items()}


def verdict_of(trained: Mapping[str, np.ndarray], untouched: Mapping[str, np.ndarray]) -> str:
    """Return on which sets the trained encoder is better or worse, by 95 % intervals over items."""
    table = compare_runs(trained, untouched).set_index("task")
    better, worse = table["low"] > 0, table["high"] < 0
    ways = {"better": better, "worse": worse, "no clear difference": ~(better | worse)}
    said = "; ".join(
        f"{way} on {', '.join(table.index[own])}" for way, own in ways.items() if own.any()
    )
    return f"trained, compared with the untouched encoder: {said}"
