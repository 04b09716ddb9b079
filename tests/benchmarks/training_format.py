"""Training in bfloat16 against float32: the time, and what is learnt, over seeds."""

import contextlib
import io
import time
from tempfile import TemporaryDirectory

import numpy as np

from micse_utils.datasets.sts import load_stsb
from micse_utils.datasets.texts import load_low_shot
from micse_utils.models import load_model
from micse_utils.training.trainer import train_low_shot

SIZE = 1000


def measure(options) -> list[dict]:
    """miCSE on [CLS] of the packaged encoder; the best checkpoint's Spearman x 100, mean ± s.d."""
    with contextlib.redirect_stdout(io.StringIO()):
        dev = load_stsb("dev")
        sentences = load_low_shot([SIZE], seeds=options.seeds, source="package")
    scores, seconds = {False: [], True: []}, {False: [], True: []}
    for seed in options.seeds:
        for bf16 in (False, True):
            with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                model = load_model(source="package", pooling="cls")
                start = time.perf_counter()
                trained = train_low_shot(
                    sentences[SIZE, seed].texts, model, output=folder, dev=dev, seed=seed,
                    bf16=bf16, progress=False,
                )  # fmt: skip
                seconds[bf16].append(time.perf_counter() - start)
            scores[bf16].append(trained.best)
    rows = []
    for bf16, name in ((False, "float32"), (True, "bfloat16")):
        spread = np.std(scores[bf16], ddof=1) if len(options.seeds) > 1 else 0
        median = float(np.median(seconds[bf16]))
        rows.append({
            "item": f"low-shot training, {SIZE} sentences",
            "variant": name,
            "value": round(median, 2),
            "unit": "s",
            "baseline": "float32",
            "ratio": round(float(np.median(seconds[False])) / median, 3),
            "note": f"Spearman x 100 {np.mean(scores[bf16]):.2f} ± {spread:.2f}",
        })  # fmt: skip
    return rows
