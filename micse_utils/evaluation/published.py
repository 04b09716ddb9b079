"""Published scores, and the report of `micse score`, which sets measured ones beside them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import STS_TASKS
from micse_utils.datasets.transfer import TRANSFER_TASKS
from micse_utils.provenance import versions
from micse_utils.results import records, save_table, write_json, write_text


class Published(NamedTuple):
    """Spearman x 100 of a model on the STS tasks, as its authors or a leaderboard report it."""

    scores: Mapping[str, float]  # by task
    pooling: str  # that the figures were made with
    source: str  # where they were published


def _by_task(*figures: float) -> dict[str, float]:
    return dict(zip(STS_TASKS, figures, strict=False))


PUBLISHED = {
    "miCSE": Published(
        _by_task(71.71, 83.09, 75.46, 83.13, 80.22, 79.70, 73.62),
        "cls", "model card of sap-ai-research/miCSE",
    ),
    "unsup-simcse-bert-base-uncased": Published(
        _by_task(68.40, 82.41, 74.38, 80.91, 78.56, 76.85, 72.23),
        "cls", "Gao et al. 2021, table 5",
    ),
    "all-MiniLM-L6-v2": Published(
        _by_task(72.37, 80.60, 75.59, 85.39, 78.99, 82.03), "mean", "MTEB leaderboard"
    ),
}  # fmt: skip
# Rated pairs of each task in SentEval's files. SICK as a whole, which MTEB scores, has 9,927.
OFFICIAL_PAIRS = _by_task(3_108, 1_500, 3_750, 3_000, 1_186, 1_379, 4_927)
KINDS = {  # task and metric of a kind of tasks, as the hub names them
    "sts": ("semantic-similarity", "spearman_cosine"),
    "transfer": ("text-classification", "accuracy"),
    "triplets": ("sentence-similarity", "accuracy"),
}


def other_data(sizes: Mapping[str, int] | pd.Series) -> dict[str, str]:
    """Return the tasks not scored on their official pairs, and how many they were scored on."""
    other = {}
    for task, size in dict(sizes).items():
        if size != OFFICIAL_PAIRS.get(task, size):
            other[task] = f"{size:,} pairs, officially {OFFICIAL_PAIRS[task]:,}"
    return other


def score_row(
    scores: Mapping[str, float] | pd.Series, other: Collection[str] = ()
) -> dict[str, str]:
    """Return scores as papers print them: one column per task, two digits, the average last.

    Only all seven STS tasks, or all seven transfer tasks, have an average, and only if none of them
    was scored on `other` data (see `other_data`).
    """
    scores = dict(scores)
    row = {task: f"{score:.2f}" for task, score in scores.items() if pd.notna(score)}
    if row.keys() in (set(STS_TASKS), set(TRANSFER_TASKS)) and not other:
        row["Avg."] = f"{sum(scores.values()) / len(scores):.2f}"
    return row


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    """Return a Markdown table, one row per model; missing values are left blank."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["model", *columns]]
    lines += [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    cells = ([" ".join(str(text).split()).replace("|", "\\|") for text in line] for line in lines)
    heading, *body = (f"| {' | '.join(line)} |\n" for line in cells)
    return "".join([heading, f"|{'---|' * len(lines[0])}\n", *body])


def report_scores(
    scored: Sequence[tuple[SentenceTransformer, pd.DataFrame]],
    folder: Path,
    name: str,
    settings: Mapping[str, object],
) -> str:
    """Return scores as papers print them, above the published ones; write them to a folder.

    `scored` holds the model in question with its scores, and perhaps the untouched model that it
    was trained from. The folder gets `name.csv`, `name.json` (with provenance), `name.md` and
    `name.yaml`, a block for the head of a model card; the name is one of `KINDS`.
    """
    (model, table), *untouched = scored
    task, metric = KINDS[name]
    measure = "spearman" if name == "sts" else "accuracy"
    other = other_data(_pooled(table).filter(["pairs", "sentences"]).squeeze(axis=1))
    by = f", classifier: {settings['classifier']}" if "classifier" in settings else ""
    rows = {
        f"{before}{label_of(each)}{by}": score_row(_pooled(own)[measure], other)
        for before, (each, own) in zip(("", "untouched: "), scored, strict=False)
    }
    paper = PUBLISHED.get(model.provenance.name)
    if name == "sts" and paper and paper.pooling == model.provenance.pooling:
        rows[f"published ({paper.source})"] = score_row(paper.scores)
    text = markdown(rows)
    results = [
        EvalResult(
            task_type=task, dataset_type=of.lower(), dataset_name=of, metric_type=metric,
            metric_value=round(score, 2),
        )
        for of, score in _pooled(table)[measure].dropna().items()
    ]  # fmt: skip
    card = ModelCardData(model_name=model.provenance.name, eval_results=results)
    save_table(folder, name, table)
    write_text(folder / f"{name}.md", text)
    write_text(folder / f"{name}.yaml", card.to_yaml())
    write_json(folder / f"{name}.json", {
        "scores": records(table), "model": asdict(model.provenance), "versions": versions(),
        "untouched": [{"model": asdict(m.provenance), "scores": records(t)} for m, t in untouched],
        "settings": {key: str(value) for key, value in settings.items()},
    })  # fmt: skip
    for each, own in scored:
        if "low" in own:
            rows = _pooled(own).itertuples()
            spans = ", ".join(f"{row.Index} {row.low:.2f} to {row.high:.2f}" for row in rows)
            text += f"95 % intervals, {label_of(each)}: {spans}\n"
    if other:
        named = ", ".join(f"{task} ({data})" for task, data in other.items())
        text += f"not on the official data, so without an average: {named}\n"
    return f"{text}results: {folder}"


def label_of(model: SentenceTransformer) -> str:
    """Return a model's name and pooling."""
    return f"{model.provenance.name}, {model.provenance.pooling}"


def _pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of whole tasks by name, without those of their subsets."""
    whole = table[table["subset"] == "all"] if "subset" in table else table
    return whole.set_index("task")
