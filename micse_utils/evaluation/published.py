"""What others report, and how far from it we are."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from micse_utils.datasets.sts import STS_TASKS
from micse_utils.datasets.transfer import TRANSFER_TASKS
from micse_utils.provenance import Provenance


@dataclass(frozen=True)
class Published:
    """Spearman x 100 of a model on the STS tasks, as its authors or a leaderboard report it.

    Attributes:
        scores: by task.
        pooling: with which the figures were made.
        source: where they stand.
    """

    scores: Mapping[str, float]
    pooling: str
    source: str


PUBLISHED = {
    "miCSE": Published(
        dict(zip(STS_TASKS, (71.71, 83.09, 75.46, 83.13, 80.22, 79.70, 73.62), strict=True)),
        "cls",
        "model card of sap-ai-research/miCSE",
    ),
    "unsup-simcse-bert-base-uncased": Published(
        dict(zip(STS_TASKS, (68.40, 82.41, 74.38, 80.91, 78.56, 76.85, 72.23), strict=True)),
        "cls",
        "Gao et al. 2021, table 5",
    ),
    "all-MiniLM-L6-v2": Published(
        dict(zip(STS_TASKS[:6], (72.37, 80.60, 75.59, 85.39, 78.99, 82.03), strict=True)),
        "mean",
        "MTEB leaderboard",
    ),
}
OFFICIAL_PAIRS = dict(
    zip(STS_TASKS, (3_108, 1_500, 3_750, 3_000, 1_186, 1_379, 4_927), strict=True)
)
"""Rated pairs of each task in SentEval's files, from which published figures are made. SICK as a
whole, which MTEB scores, has 9,927."""
TOLERANCE = 0.05
"""Largest difference from a published Spearman x 100 that rounding and hardware explain."""

REASONS = (
    "another pooling or revision than the published one, another protocol (subsets averaged "
    "instead of pooled), or sentences tokenised and lower-cased otherwise"
)


def published_for(provenance: Provenance) -> Published | None:
    """What is published of a model, if it is read with the pooling of those figures."""
    published = PUBLISHED.get(provenance.name)
    return published if published and published.pooling == provenance.pooling else None


def compare_published(table: pd.DataFrame, published: Published) -> pd.DataFrame:
    """Measured beside published Spearman x 100, for the tasks that are in both.

    Args:
        table: of `evaluate_sts`.
        published: of the same model.

    Returns:
        Columns `task`, `published`, `measured` (both x 100), `difference`, `reproduced` (whether
        that is within `TOLERANCE`, on as many pairs) and `note`, which names the count of pairs
        if it is not the official one.
    """
    pooled = table[table["subset"] == "all"].set_index("task")
    scores = pd.Series(published.scores, name="published").rename_axis("task")
    measured = pooled["spearman"].rename("measured")
    both = pd.concat([scores, measured], axis=1, join="inner").reset_index()
    both["difference"] = both["measured"] - both["published"]
    other = other_data(pooled.get("pairs", {}))
    both["note"] = [other.get(task, "") for task in both["task"]]
    both["reproduced"] = (both["difference"].abs().round(6) <= TOLERANCE) & (both["note"] == "")
    return both


def other_data(sizes: Mapping[str, int] | pd.Series, limit: int | None = None) -> dict[str, str]:
    """Return the tasks that were not scored on their official data, and what they were scored on.

    Args:
        sizes: pairs or sentences of each task, as `evaluate_sts` and `evaluate_transfer` count.
        limit: sentences that transfer tasks were sampled to, if they were.
    """
    other = {}
    for task, size in dict(sizes).items():
        if size != OFFICIAL_PAIRS.get(task, size):
            other[task] = f"{size:,} pairs, officially {OFFICIAL_PAIRS[task]:,}"
        elif task in TRANSFER_TASKS and size == limit:
            other[task] = f"a sample of {size:,} sentences"
    return other


def score_row(
    scores: Mapping[str, float] | pd.Series, other: Collection[str] = ()
) -> dict[str, str]:
    """Return scores as papers print them: one column a task, two digits, the average last.

    The average is there only for all seven STS tasks, or all seven transfer tasks, each on its
    official data.

    Args:
        scores: by task.
        other: tasks that were scored on different data, as `other_data` finds them.
    """
    scores = dict(scores)
    row = {task: f"{score:.2f}" for task, score in scores.items()}
    official = scores.keys() in (set(STS_TASKS), set(TRANSFER_TASKS))
    if official and not scores.keys() & set(other):
        row["Avg."] = f"{sum(scores.values()) / len(scores):.2f}"
    return row


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A Markdown table, one row a model; a column that a row lacks is left blank there."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [["model", *columns]]
    lines += [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
    heading, *body = (f"| {' | '.join(map(_cell, line))} |\n" for line in lines)
    return "".join([heading, f"|{'---|' * len(lines[0])}\n", *body])


def _cell(text: str) -> str:
    """A text that stays in its cell."""
    return " ".join(str(text).split()).replace("|", "\\|")
