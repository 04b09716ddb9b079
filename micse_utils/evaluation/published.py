"""Published scores, and their comparison with measured ones."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import pandas as pd

from micse_utils.datasets.sts import STS_TASKS
from micse_utils.datasets.transfer import TRANSFER_TASKS


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
OFFICIAL_PAIRS = _by_task(3_108, 1_500, 3_750, 3_000, 1_186, 1_379, 4_927)
"""Rated pairs of each task in SentEval's files, from which published figures are made. SICK as a
whole, which MTEB scores, has 9,927."""
TOLERANCE = 0.05
"""Largest difference from a published Spearman x 100 that rounding and hardware explain."""


def not_reproduced(scores: Mapping[str, float], published: Published) -> dict[str, float]:
    """Return measured less published score, for each task on which they differ by more than that.

    Likely reasons are a different pooling, revision, tokenisation or lower-casing, different data
    (see `other_data`), or a different protocol (subsets averaged instead of pooled).
    """
    found = {t: scores[t] - score for t, score in published.scores.items() if t in scores}
    return {task: apart for task, apart in found.items() if round(abs(apart), 6) > TOLERANCE}


def other_data(sizes: Mapping[str, int] | pd.Series, limit: int | None = None) -> dict[str, str]:
    """Return the tasks not scored on their official data, and what they were scored on instead.

    `sizes` are the pairs or sentences of each task, `limit` is that of `evaluate_transfer`.
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
    """Return scores as papers print them: one column per task, two digits, the average last.

    Only all seven STS tasks, or all seven transfer tasks, have an average, and only if none of them
    was scored on `other` data (see `other_data`).
    """
    scores = dict(scores)
    row = {task: f"{score:.2f}" for task, score in scores.items() if score == score}
    official = row.keys() in (set(STS_TASKS), set(TRANSFER_TASKS))
    if official and not scores.keys() & set(other):
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
