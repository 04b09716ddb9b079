"""What `micse score` and `micse train` report: scores beside published ones, or the untrained."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import Pairs
from micse_utils.datasets.triplets import TRIPLETS, load_triplets
from micse_utils.evaluation.metrics import compare_runs
from micse_utils.evaluation.published import (
    PUBLISHED,
    markdown,
    not_reproduced,
    other_data,
    score_row,
)
from micse_utils.evaluation.reported import resampled_scores
from micse_utils.provenance import versions
from micse_utils.results import records, save_table, write_json, write_text
from micse_utils.sources.packaged import FetchError

COUNT = 1_000
"""Triplets of each form that a trained encoder is compared on."""


def report_scores(
    model: SentenceTransformer,
    table: pd.DataFrame,
    folder: Path,
    name: str,
    settings: Mapping[str, object],
) -> str:
    """Return scores as papers print them, beside the published ones; write them to a folder.

    Args:
        model: as `load_model` returns it.
        table: its scores from `evaluate_sts`, `evaluate_transfer` or `evaluate_triplets`.
        folder: gets `name.csv`, `name.json` (with provenance) and `name.md`.
        name: `sts`, `transfer` or `triplets`.
        settings: what decided the scores.
    """
    provenance, lines = model.provenance, []
    pooled = (table[table["subset"] == "all"] if name == "sts" else table).set_index("task")
    scores = pooled["spearman" if name == "sts" else "accuracy"]
    other = other_data(pooled.get("pairs", pooled.get("sentences", {})), settings.get("limit"))
    by = f", classifier: {settings['classifier']}" if "classifier" in settings else ""
    rows = {_label(model) + by: score_row(scores, other)}
    if other:
        named = ", ".join(f"{task} ({data})" for task, data in other.items())
        lines.append(f"not on the official data, so without an average: {named}")
    published = PUBLISHED.get(provenance.name)
    if name == "sts" and published and published.pooling == provenance.pooling:
        rows[f"published ({published.source})"] = score_row(published.scores)
        for task, apart in not_reproduced(scores, published).items():
            lines.append(f"{task}: {apart:+.2f} from the published score")
    text = markdown(rows)
    save_table(folder, name, table)
    write_text(folder / f"{name}.md", text)
    record = {
        "scores": records(table), "model": asdict(provenance), "versions": versions(),
        "settings": {key: str(value) for key, value in settings.items()},
    }  # fmt: skip
    write_json(folder / f"{name}.json", record)
    return "\n".join([text.rstrip(), *lines, f"results: {folder}"])


def _label(model: SentenceTransformer) -> str:
    return f"{model.provenance.name}, {model.provenance.pooling}"


def report_training(
    untouched: SentenceTransformer,
    start: SentenceTransformer,
    trained: SentenceTransformer,
    *,
    best_step: int,
    dev: Pairs,
) -> str:
    """Return a table of what a run started from and what it gave, and a verdict in a sentence.

    The verdict follows from 95 % intervals over items: of the pairs that selected, and of section
    triplets, which selected nothing.

    Args:
        untouched: the encoder before anything was done to it, in its own pooling.
        start, trained: what was trained, before and after; `start` may be `untouched` itself.
        best_step: the step of the trained one; 0 if it is the start.
        dev: the pairs that selected the checkpoint.
    """
    print("scoring the untouched encoder, the start and the trained one: a minute or more")
    tasks = {f"{dev.provenance.name} (selects)": dev}
    try:
        tasks |= {task: load_triplets(task, count=COUNT) for task in TRIPLETS}
    except FetchError as error:
        print(f"without triplets: {error}")
    scores = {model: resampled_scores(model, tasks) for model in {untouched, start, trained}}
    rows = {f"untouched: {_label(untouched)}": untouched, f"start: {_label(start)}": start}
    rows[f"trained, step {best_step}"] = trained
    table = markdown({
        label: {task: f"{found[0]:.2f}" for task, found in scores[model].items()}
        for label, model in rows.items()
    })  # fmt: skip
    one, other = ({task: s[None] for task, s in scores[m].items()} for m in (trained, untouched))
    compared = compare_runs(one, other).set_index("task")
    better, worse = compared["low"] > 0, compared["high"] < 0
    ways = {"better": better, "worse": worse, "no clear difference": ~(better | worse)}
    said = [f"{way} on {', '.join(compared.index[own])}" for way, own in ways.items() if own.any()]
    return f"{table}trained, compared with the untouched encoder: {'; '.join(said)}"
