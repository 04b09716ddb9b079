"""What scoring STS costs beyond encoding the distinct sentences of all its tasks."""

import contextlib
import io
import os

from compare import interleaved, speed_rows

from micse_utils.datasets.sts import load_sts_tasks
from micse_utils.encoding import encode
from micse_utils.evaluation.senteval import evaluate_sts
from micse_utils.models import load_model


def measure(options) -> list[dict]:
    """Nothing without the official folder: the packaged pairs are too few to time."""
    if "MICSE_SENTEVAL" not in os.environ:
        print("sts_overhead is left out: it needs MICSE_SENTEVAL, the folder of SentEval's data")
        return []
    model = load_model(source="package")
    with contextlib.redirect_stdout(io.StringIO()):
        tasks = load_sts_tasks()
    pairs = list(tasks.values())
    sentences = sorted({text for p in pairs for text in (*p.first, *p.second)})
    longest = model.get_max_seq_length()
    variants = {
        "encode only": lambda: encode(model, sentences, max_length=longest, progress=False),
        "encode and score": lambda: evaluate_sts(model, tasks, progress=False),
    }
    item = f"scoring {', '.join(tasks)}: {sum(map(len, pairs))} pairs"
    wanted = {"encode and score": ">= 0.91"}  # at most 1.1 times the time
    return speed_rows(item, interleaved(variants, options.rounds), "encode only", wanted)
