"""What did training bring? The untouched encoder, the start and the trained one side by side."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import YEARS, Pairs, load_sts
from micse_utils.datasets.triplets import TRIPLETS, load_triplets
from micse_utils.evaluation.metrics import compare_runs
from micse_utils.evaluation.published import label_of, markdown
from micse_utils.evaluation.reported import FAIR, Reported, leaked, resampled_scores, with_averages
from micse_utils.evaluation.senteval import kept_pairs
from micse_utils.job import MARKER, job
from micse_utils.models import load_model
from micse_utils.results import json_or_none
from micse_utils.settings import folder_at, folder_setting
from micse_utils.sources.packaged import FetchError

RECORD = "training.json"  # of a training run, in its folder
COUNT = 1_000  # triplets of each form that encoders are compared on


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

    The run's record keeps it for the next call. If the untouched encoder is as good on the pairs
    that select, it becomes `model/`, and the trained one is kept in `trained/`.

    `untouched` is in its own pooling; `start` may be `untouched` itself, and `best_step` 0 if no
    step was better. `found_at` is where `load_model` found `untouched`, for `micse score`.
    """
    with job(folder, json_or_none(folder / MARKER), record=RECORD) as work:
        record, place = work.record, folder / "model"
        if "verdict" in record:
            return record["verdict"]
        print(f"comparing on {COUNT:,} triplets of each form (micse score takes 4,000): a minute")
        selects = f"{dev.provenance.name} (selects)"
        tasks = {selects: dev, **independent_tasks(dev)}
        trained = trained if best_step else start  # equal then, so scored once
        scores = {m: scores_of(m, tasks) for m in dict.fromkeys((untouched, start, trained))}
        rows = {
            f"untouched: {label_of(untouched)}": untouched,
            f"start: {'the same' if start is untouched else label_of(start)}": start,
            f"trained, step {best_step}" if best_step else "trained: no step was better": trained,
        }
        table = markdown({
            label: {name: f"{found[0, 0]:.2f}" for name, found in scores[model].items()}
            for label, model in rows.items()
        })  # fmt: skip
        no_gain = f"no better on the pairs that select: {place} is the"
        if scores[trained][selects][0, 0] > scores[untouched][selects][0, 0]:
            compared = verdict_of(scores[trained], scores[untouched])
            verdict = f"{compared}. It scores highest on the pairs that select, so it is in {place}"
        elif start is untouched and best_step == 0:
            verdict = f"{no_gain} start, untouched. Other settings: micse train --help"
        else:
            kept = folder / "trained"
            if record.get("encoder") != "trained":
                shutil.copytree(place, kept, dirs_exist_ok=True)
                record["encoder"] = "trained"
                work.finish(record)  # from here on, model/ is not what was trained
            shutil.rmtree(place, ignore_errors=True)
            untouched.save_pretrained(str(place))
            verdict = f"{no_gain} untouched encoder; what was trained is in {kept}"
        work.finish(record | {"verdict": table + verdict, "untouched": found_at})
        return table + verdict


def load_untouched(place: str, sha256: str) -> list[SentenceTransformer]:
    """Return what a folder's model, of this SHA-256, was trained from, if both are as recorded."""
    folders = [folder_at(place), folder_at(Path(place, ".."))]
    records = [json_or_none(folder / RECORD) for folder in folders if folder]
    record = next((record for record in records if record and "untouched" in record), None)
    if record is None:
        return []
    found_at, kept = dict(record["untouched"]), record["weights"].values()
    expected = found_at.pop("sha256")
    reason = f"{place} was changed after training, or is the last step: not what training kept"
    # One file only: the SHA-256 of several is not in the record.
    if "encoder" in record or len(kept) > 1 or sha256 in kept:
        try:
            model = load_model(**found_at)
            if model.provenance.sha256 == expected:
                return [model]
            reason = f"{model.provenance} has changed since"
        except (OSError, ValueError, FetchError) as error:
            reason = str(error)
    print(f"without the untouched encoder: {reason}")
    return []


def independent_tasks(dev: Pairs) -> Reported:
    """Return what selected nothing: triplets, and years in MICSE_SENTEVAL less pairs in `dev`."""
    tasks = {}
    try:
        tasks |= {task: load_triplets(task, count=COUNT) for task in TRIPLETS}
    except FetchError as error:
        print(f"without triplets: {error}")
    if folder := folder_setting("MICSE_SENTEVAL"):
        try:
            years = {year: load_sts(year, source=folder) for year in YEARS}
            tasks |= {y + FAIR: kept_pairs(p, ~leaked(p, dev)) for y, p in years.items()}
        except FileNotFoundError as error:
            print(f"without STS12 to STS16: {error}")
    return tasks


def scores_of(model: SentenceTransformer, tasks: Reported) -> dict[str, np.ndarray]:
    """Return the scores of tasks, of the years only the mean: [1, 1 + resamples] each."""
    scores = with_averages(resampled_scores(model, tasks))
    return {name: s[None] for name, s in scores.items() if name.removesuffix(FAIR) not in YEARS}


def verdict_of(trained: Mapping[str, np.ndarray], untouched: Mapping[str, np.ndarray]) -> str:
    """Return on which sets the trained encoder is better or worse, by 95 % intervals over items."""
    table = compare_runs(trained, untouched).set_index("task")
    better, worse = table["low"] > 0, table["high"] < 0
    ways = {"better": better, "worse": worse, "no clear difference": ~(better | worse)}
    said = [f"{way} on {', '.join(table.index[own])}" for way, own in ways.items() if own.any()]
    return f"trained, compared with the untouched encoder: {'; '.join(said)}"
