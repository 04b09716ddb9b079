"""Time of encoding against the number of texts and against their length: is it linear?"""

import numpy as np
import pandas as pd
from compare import interleaved, pool

from micse_utils.encoding import encode
from micse_utils.models import load_model

COUNTS = (1_000, 3_000, 10_000, 30_000, 100_000, 200_000)
LENGTHS = (8, 16, 32, 64, 128)
TOKENS = 40_000


def measure(options) -> list[dict]:
    """Microseconds a token, which are level where time is linear."""
    model = load_model(source="package")
    texts = pool()
    random = np.random.default_rng(0)
    tokens = model.tokenizer(texts)["input_ids"]
    size = np.array([min(len(ids), 128) for ids in tokens])
    words = [model.tokenizer.decode(ids[1:-1]) for ids in tokens]
    running = " ".join(random.permutation(words)).split()

    def timed(texts):
        calls = {"encode": lambda: encode(model, texts, progress=False)}
        rounds = options.rounds if len(texts) < 20_000 else 1  # for they are long
        return interleaved(calls, rounds, warm_up=False)["encode"]

    encode(model, texts[:3_000], progress=False)  # warm up
    rows = []
    for count in (count for count in COUNTS if count <= (options.texts or count)):
        chosen = random.integers(0, len(texts), count)  # the same mixture of lengths at each size
        sample = [texts[row] for row in chosen]
        seconds = timed(sample)
        rows.append(_row("number of texts", count, seconds, size[chosen].sum()))
    for length in LENGTHS:
        count = (options.texts or TOKENS) // length
        starts = random.integers(0, len(running) - length, count)
        sample = [" ".join(running[start : start + length]) for start in starts]
        ids = model.tokenizer(sample, truncation=True, max_length=length)["input_ids"]
        sample = [model.tokenizer.decode(row[1:-1]) for row in ids]
        seconds = timed(sample)
        rows.append(_row("tokens of a text", length, seconds, count * length))
    for item, part in pd.DataFrame(rows).groupby("item"):
        level = part["value"].median()
        for row in (row for row in rows if row["item"] == item):
            row |= {"baseline": "the median", "ratio": round(row["value"] / level, 3)}
    return rows


def _row(kind: str, x: int, seconds: float, tokens: int) -> dict:
    return {
        "item": f"growth with {kind}",
        "variant": f"{x:,}",
        "x": x,
        "value": round(1e6 * seconds / tokens, 3),
        "unit": "µs a token",
        "seconds": seconds,
        "wanted": "0.9 to 1.1",
    }
