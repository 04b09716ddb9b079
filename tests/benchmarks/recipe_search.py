"""The search behind the presets `packaged` and `packaged-raw`.

    MICSE_SENTEVAL=/path/to/SentEval python tests/benchmarks/recipe_search.py

Each objective gets the same number of settings, on the same sentences, which no reported figure
uses: SimCSE nine learning rates, miCSE three rates at three weights of AMI. Spearman x 100
on the development pairs chooses. Runs are kept in `results/recipe_search`;
called again, it resumes.
"""

import argparse
import itertools
from pathlib import Path

import pandas as pd

from micse_utils.datasets.sts import load_stsb
from micse_utils.datasets.texts import load_low_shot
from micse_utils.models import keep_first_layers, load_model
from micse_utils.results import save_table
from micse_utils.training.config import LowShotConfig
from micse_utils.training.grid import train_grid

RESULTS = Path(__file__).parents[2] / "results" / "recipe_search"
RATES = (1e-6, 3e-6, 1e-5, 2e-5, 3e-5, 6e-5, 1e-4, 2e-4, 3e-4)
STARTS = {
    # layers kept, layers compared, weights of AMI
    "raw": (4, (2, 4), (0.03, 0.1, 0.3)),
    "whole": (6, (2, 6), (0.01, 0.1, 1.0)),
}


def settings(start):
    """Yield the settings of each arm: two arms of nine."""
    _, (first, last), weights = STARTS[start]
    shared = {"min_layer": first, "max_layer": last, "steps": 20, "eval_steps": 10}
    for rate in RATES:
        yield "SimCSE", LowShotConfig("simcse", learning_rate=rate, **shared)
    for rate, weight in itertools.product(RATES[4::2], weights):
        yield "miCSE", LowShotConfig(learning_rate=rate, ami_weight=weight, **shared)


def main():
    """Try every setting and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--size", type=int, default=64, help="training sentences")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="of the sentences")
    parser.add_argument("--best", action="store_true", help="only the best setting of each arm")
    options = parser.parse_args()

    dev = load_stsb("dev")
    sentences = load_low_shot([options.size], seeds=options.seeds, source="package")
    rows = []
    for start in options.starts:
        base = load_model(source="package", pooling="cls")
        base = keep_first_layers(base, STARTS[start][0])
        chosen = list(settings(start))
        if options.best:
            found = pd.read_csv(RESULTS / "search.csv").query("start == @start")
            best = found.loc[found.groupby("arm")["best"].idxmax()]
            keys = set(zip(best["arm"], best["rate"], best["lambda"], strict=True))
            chosen = [(a, c) for a, c in chosen if (a, c.learning_rate, c.ami_weight) in keys]
        for arm, config in chosen:
            name = f"{start}-{arm}-{config.learning_rate}-{config.ami_weight}"
            runs = train_grid(
                base, sentences, RESULTS / name, sizes=[options.size], methods=[config.method],
                seeds=options.seeds, dev=dev, preset=config, progress=False,
            )  # fmt: skip
            setting = {"start": start, "arm": arm, "rate": config.learning_rate}
            setting |= {"lambda": config.ami_weight}
            rows += [
                setting | run for run in runs.drop(columns=["method", "history"]).to_dict("records")
            ]
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    save_table(RESULTS, "best" if options.best else "search", table)
    print(table.to_string(index=False, float_format="{:.5g}".format))


if __name__ == "__main__":
    main()
