"""Write what `micse score` reports: a table as in papers, and a block for the model card."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from sentence_transformers import SentenceTransformer

from micse_utils.evaluation.published import (
    PUBLISHED,
    markdown,
    not_reproduced,
    other_data,
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


def report_scores(
    scored: Sequence[tuple[SentenceTransformer, pd.DataFrame]],
    folder: Path,
    name: str,
    settings: Mapping[str, object],
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
    provenance, scores, lines = model.provenance, _scores(table), []
    sizes = _pooled(table).filter(["pairs", "sentences"]).squeeze(axis=1)
    other = other_data(sizes, settings.get("limit"))
    by = f", classifier: {settings['classifier']}" if "classifier" in settings else ""
    rows = {
        f"{before}{label_of(each)}{by}": score_row(_scores(own), other)
        for before, (each, own) in zip(("", "untouched: "), scored, strict=False)
    }
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
    write_text(folder / f"{name}.yaml", card_block(scores, provenance.name, name))
    record = {
        "scores": records(table), "model": asdict(provenance), "versions": versions(),
        "untouched": [{"model": asdict(m.provenance), "scores": records(t)} for m, t in scored[1:]],
        "settings": {key: str(value) for key, value in settings.items()},
    }  # fmt: skip
    write_json(folder / f"{name}.json", record)
    return "\n".join([text.rstrip(), *lines, f"results: {folder}"])


def label_of(model: SentenceTransformer) -> str:
    """Return a model's name and pooling."""
    return f"{model.provenance.name}, {model.provenance.pooling}"


def card_block(scores: pd.Series, model_name: str, name: str) -> str:
    """Return the scores in the hub's format, YAML for the head of a model card."""
    task, metric = KINDS[name]
    results = [
        EvalResult(
            task_type=task, dataset_type=of.lower(), dataset_name=of, metric_type=metric,
            metric_value=round(score, 2),
        )
        for of, score in scores.dropna().items()
    ]  # fmt: skip
    return ModelCardData(model_name=model_name, eval_results=results).to_yaml()


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole tasks by name, without those of their subsets."""
    whole = table[table["subset"] == "all"] if "subset" in table else table
    return whole.set_index("task")


def _scores(table: pd.DataFrame) -> pd.Series:
    return _pooled(table)["spearman" if "spearman" in table else "accuracy"]
