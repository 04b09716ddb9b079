"""One query and small batches: `encode` beside sentence-transformers in its best number format."""

import torch
from compare import interleaved, speed_rows, workloads
from encoding import ENGINE, FAIR, LIBRARY, OURS, OURS_EXACT

from micse_utils.device import pick_dtype
from micse_utils.encoding import encode
from micse_utils.models import load_model

WANTED = {1: ">= 0.91", 8: ">= 0.91", 64: ">= 1"}
QUICK = {1: ">= 1.67", 8: ">= 1.25", 64: ">= 1.67"}
"""Of each number of texts, how fast `encode` should be in PyTorch, and by OpenVINO."""
ROUNDS = 25


def measure(options) -> list[dict]:
    """Medians of calls that take turns."""
    exact, rough = load_model(source="package"), load_model(source="package")
    rough.to(torch.bfloat16)
    fast = load_model(source="package", engine="auto")
    tweets = workloads()["tweets"]
    rows = []
    for count, wanted in WANTED.items():
        texts = tweets[:count]
        variants = {
            LIBRARY: lambda texts=texts: exact.encode(texts, show_progress_bar=False),
            FAIR: lambda texts=texts: rough.encode(texts, batch_size=128, show_progress_bar=False),
            OURS_EXACT: lambda texts=texts: encode(exact, texts, dtype=torch.float32),
            OURS: lambda texts=texts: encode(exact, texts),
            ENGINE: lambda texts=texts: encode(fast, texts),
        }
        if pick_dtype(exact.device) == torch.float32:  # bfloat16 would be emulated
            del variants[FAIR], variants[OURS_EXACT]
        if not fast.provenance.engine:  # on a GPU, or without the extra
            del variants[ENGINE]
        seconds = interleaved(variants, max(ROUNDS, options.rounds))
        best = min(variants.keys() & {LIBRARY, FAIR}, key=seconds.get)
        goals = {OURS: wanted, ENGINE: QUICK[count]}
        rows += speed_rows(f"encoding, {count} tweets in a call", seconds, best, goals)
    return rows
