"""The search behind the preset `packaged-raw`: who learns more from a raw start, and with what?

    MICSE_SENTEVAL=/path/to/SentEval python tests/benchmarks/raw_start.py

Both objectives are tried at the same numbers of kept layers, learning rates and steps, miCSE also
at each lambda and range of layers, on sentences and seeds that no reported figure uses. One line a
setting: Spearman x 100 on the development pairs before, and the mean of the best checkpoints over
the seeds. Runs are kept in `results/raw_start`; called again, it goes on where it was.
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd

from micse_utils.grid import train_grid
from micse_utils.models import keep_first_layers, load_model
from micse_utils.recipes import LowShotConfig
from micse_utils.results import save_table
from micse_utils.sentences import load_low_shot
from micse_utils.sts import load_stsb

RESULTS = Path(__file__).parents[2] / "results" / "raw_start"


def main():
    """Try every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kept-layers", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[1e-5, 3e-5, 1e-4])
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 30])
    parser.add_argument("--ami-weights", type=float, nargs="+", default=[0.01, 0.1, 1.0])
    parser.add_argument("--ranges", nargs="+", default=["1:3", "0:4", "2:4"],
                        help="first:last layer, the last not included")  # fmt: skip
    parser.add_argument("--size", type=int, default=256, help="training sentences")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    options = parser.parse_args()

    dev = load_stsb("dev")
    sentences = load_low_shot([options.size], seeds=options.seeds, source="package")
    rows = []
    for kept in options.kept_layers:
        base = keep_first_layers(load_model(source="package", pooling="cls"), kept)
        for rate, steps in itertools.product(options.learning_rates, options.steps):
            spans = [span for span in options.ranges if int(span.split(":")[1]) <= kept]
            micse = [("micse", *s) for s in itertools.product(options.ami_weights, spans)]
            for method, weight, span in [("simcse", 0.0, spans[0]), *micse]:
                first, last = map(int, span.split(":"))
                config = LowShotConfig(
                    ami_weight=weight, min_layer=first, max_layer=last, learning_rate=rate,
                    steps=steps, evaluations=5,
                )  # fmt: skip
                runs = train_grid(
                    base, sentences, RESULTS / f"{kept}-{rate}-{steps}-{weight}-{span}",
                    sizes=[options.size], methods=[method], seeds=options.seeds, dev=dev,
                    preset=config, progress=False,
                )  # fmt: skip
                setting = {"layers": kept, "method": method, "rate": rate, "steps": steps}
                setting |= {"lambda": weight, "range": span}
                rows.append(setting | runs[["before", "best", "last"]].mean().to_dict())
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).sort_values("best", ascending=False)
    save_table(RESULTS, "search", table)
    print(table.to_string(index=False, float_format="{:.5g}".format))


if __name__ == "__main__":
    main()
