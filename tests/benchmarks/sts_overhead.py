"""What scoring STS costs beyond encoding the distinct sentences of all its tasks.

    MICSE_SENTEVAL=/path/to/SentEval python tests/benchmarks/sts_overhead.py

One line: median seconds of both, in interleaved rounds, and their ratio.
"""

import argparse
import contextlib
import io
import statistics
import time

from micse_utils.encoding import encode
from micse_utils.models import load_model
from micse_utils.senteval import evaluate_sts
from micse_utils.tasks import load_sts_tasks


def main():
    """Time both and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    model = load_model(source="package")
    with contextlib.redirect_stdout(io.StringIO()):
        tasks = load_sts_tasks()
    pairs = list(tasks.values())
    sentences = sorted({text for p in pairs for text in (*p.first, *p.second)})

    def encode_only():
        encode(model, sentences, max_length=model.get_max_seq_length(), progress=False)

    def score():
        evaluate_sts(model, tasks, progress=False)

    times = {encode_only: [], score: []}
    for _ in range(rounds):
        for call, seconds in times.items():
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    alone, whole = (statistics.median(seconds) for seconds in times.values())
    print(f"{', '.join(tasks)}: {len(sentences)} distinct sentences, {sum(map(len, pairs))} pairs")
    print(f"encode {alone:.2f} s, score {whole:.2f} s, ratio {whole / alone:.3f}")


if __name__ == "__main__":
    main()
