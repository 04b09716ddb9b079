"""Score an encoder on section triplets: how often is the anchor closer to its own section?"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

from micse_utils.datasets.triplets import TRIPLETS, Triplets, load_triplets
from micse_utils.evaluation.metrics import interval, resampled_accuracy, unit
from micse_utils.evaluation.senteval import Encoder, encode_distinct


def evaluate_triplets(
    model: SentenceTransformer | Encoder,
    tasks: Sequence[str] | Mapping[str, Triplets] = TRIPLETS,
    *,
    dtype: torch.dtype | None = torch.float32,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Score an encoder on section triplets (Dor et al., ACL 2018).

    A triplet is right if cosine(anchor, positive) > cosine(anchor, negative); chance is 50.

    Args:
        model, dtype, seed, progress: as for `evaluate_sts`.
        tasks: names for `load_triplets`, or what it returned.

    Returns:
        Columns `task`, `triplets`, `articles`, `accuracy`, `low`, `high`: per cent, with a 95 %
        interval by bootstrap over articles, as triplets of one article are not independent.

    Raises:
        ValueError: an unknown task, or an encoder without usable vectors.
        FetchError: the package with the text could not be fetched.
    """
    if not isinstance(tasks, Mapping):
        tasks = {task: load_triplets(task) for task in tasks}
    texts = {task: [*t.anchor, *t.positive, *t.negative] for task, t in tasks.items()}
    vectors, row = encode_distinct(model, texts, dtype=dtype, progress=progress)
    vectors = unit(vectors)
    rows = []
    for task, triplets in tasks.items():
        anchor, positive, negative = (
            vectors[[row[sentence] for sentence in part]]
            for part in (triplets.anchor, triplets.positive, triplets.negative)
        )
        right = (anchor * (positive - negative)).sum(axis=1) > 0
        accuracy, *resampled = resampled_accuracy(right[None], triplets.articles, seed=seed)[0]
        low, high = interval(resampled)
        rows.append({
            "task": task, "triplets": len(triplets), "articles": len(np.unique(triplets.articles)),
            "accuracy": accuracy, "low": low, "high": high,
        })  # fmt: skip
    return pd.DataFrame(rows)
