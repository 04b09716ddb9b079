"""Write what `micse score` reports: a table as in papers, and a block for the model card."""

from collections.abc import Mapping, Sequence
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

Scored = tuple[SentenceTransformer, pd.DataFrame]


def report(
    scored: Sequence[Scored], folder: Path, name: str, settings: Mapping[str, object]
) -> str:
    """Return scores as papers print them, beside the published ones; write them to a folder.

    Args:
        scored: models as `load_model` returns them, each with its table from `evaluate_sts`,
            `evaluate_transfer` or `evaluate_triplets`: the one in question, and perhaps, for
            comparison, the untouched one that it was trained from.
        folder: gets `name.csv`, `name.json` (with provenance), `name.md` and `name.yaml`, a block
            for the head of a model card.
        name: `sts`, `transfer` or `triplets`.
        settings: what decided the scores.
    """
    model, table = scored[0]
    provenance = model.provenance
    pooled = _pooled(table)
    sizes = pooled.get("pairs", pooled.get("sentences", {}))
    other = other_data(sizes, settings.get("limit"))
    rows = {}
    for number, (each, scores) in enumerate(scored):
        label = (
            f"{'untouched: ' if number else ''}{each.provenance.name}, {each.provenance.pooling}"
        )
        if "classifier" in settings:
            label += f", classifier: {settings['classifier']}"
        rows[label] = score_row(_scores(scores), other)
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
    write_text(folder / f"{name}.yaml", card_block(table, provenance.name, name))
    record = {
        "scores": records(table),
        "model": asdict(provenance),
        "untouched": [{"model": asdict(m.provenance), "scores": records(t)} for m, t in scored[1:]],
        "settings": {key: str(value) for key, value in settings.items()},
        "versions": versions(),
    }
    write_json(folder / f"{name}.json", record)
    return "\n".join([*lines, f"results: {folder}"])


def card_block(table: pd.DataFrame, model_name: str, name: str) -> str:
    """Return the scores in the hub's format, YAML for the head of a model card."""
    task, metric = KINDS[name]
    results = [
        EvalResult(
            task_type=task, dataset_type=of.lower(), dataset_name=of, metric_type=metric,
            metric_value=round(score, 2),
        )
        for of, score in _scores(table).items()
    ]  # fmt: skip
    return ModelCardData(model_name=model_name, eval_results=results).to_yaml()


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole tasks by name, without those of their subsets."""
    whole = table[table["subset"] == "all"] if "subset" in table else table
    return whole.set_index("task")


def _scores(table: pd.DataFrame) -> pd.Series:
    return _pooled(table)["spearman" if "spearman" in table else "accuracy"]
