"""Write what `micse score` reports: a table as in papers, and a block for the model card."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from sentence_transformers import SentenceTransformer

from micse_utils.evaluation.published import (
    REASONS,
    compare_published,
    markdown,
    other_data,
    published_for,
    score_row,
)
from micse_utils.provenance import versions
from micse_utils.results import records, save_table, write_json, write_text

KINDS = {
    "sts": ("semantic-similarity", "spearman_cosine"),
    "transfer": ("text-classification", "accuracy"),
    "triplets": ("sentence-similarity", "accuracy"),
}
"""Task and metric of a kind of tasks, as the hub names them."""


def report(
    table: pd.DataFrame,
    model: SentenceTransformer,
    folder: Path,
    name: str,
    settings: Mapping[str, object],
) -> str:
    """Return scores as papers print them, beside the published ones; write them in three formats.

    For a model from a folder, the block for its model card follows.

    Args:
        table: what `evaluate_sts`, `evaluate_transfer` or `evaluate_triplets` returned.
        model: as `load_model` returns it.
        folder: gets `name.csv`, `name.json` (with provenance) and `name.md`.
        name: `sts`, `transfer` or `triplets`.
        settings: what decided the scores.
    """
    provenance = model.provenance
    label = f"{provenance.name}, {provenance.pooling}"
    pooled = _pooled(table).set_index("task")
    if name == "sts":
        other = other_data(pooled["pairs"])
        rows = {label: score_row(pooled["spearman"], other)}
    elif name == "triplets":
        other, rows = {}, {label: score_row(pooled["accuracy"])}
    else:
        other = other_data(pooled["sentences"], settings["limit"])
        label += f", classifier: {settings['classifier']}"
        rows = {label: score_row(pooled["accuracy"], other)}
    published = published_for(provenance) if name == "sts" else None
    if published:
        rows[f"published ({published.source})"] = score_row(published.scores)
    text = markdown(rows)
    lines = [text.rstrip()]
    if other:
        named = ", ".join(f"{task} ({data})" for task, data in other.items())
        lines.append(f"not on the official data, so without an average: {named}")
    if published:
        differing = compare_published(table, published).query("not reproduced")
        for row in differing.itertuples():
            note = f" ({row.note})" if row.note else ""
            lines.append(f"{row.task}: {row.difference:+.2f} from the published score{note}")
        if len(differing):
            lines.append(f"likely reasons: {REASONS}")
    save_table(folder, name, table)
    write_text(folder / f"{name}.md", text)
    record = {
        "scores": records(table),
        "model": asdict(provenance),
        "settings": {key: str(value) for key, value in settings.items()},
        "versions": versions(),
    }
    write_json(folder / f"{name}.json", record)
    if provenance.source == "folder":  # the user's own model, which has a card of its own
        lines.append(card_block(table, provenance.name, name))
    return "\n".join([*lines, f"results: {folder}"])


def card_block(table: pd.DataFrame, model_name: str, name: str) -> str:
    """Return the scores in the hub's format, YAML for the head of a model card."""
    task, metric = KINDS[name]
    results = [
        EvalResult(
            task_type=task, dataset_type=row["task"].lower(), dataset_name=row["task"],
            metric_type=metric, metric_value=round(row[metric.partition("_")[0]], 2),
        )
        for row in _pooled(table).to_dict("records")
    ]  # fmt: skip
    return ModelCardData(model_name=model_name, eval_results=results).to_yaml()


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole tasks, without those of their subsets."""
    return table[table["subset"] == "all"] if "subset" in table else table
