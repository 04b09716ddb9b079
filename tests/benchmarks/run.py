"""How fast is the kit here? Each item beside a named baseline, in the same run.

    python tests/benchmarks/run.py                  every item, about an hour on two cores
    python tests/benchmarks/run.py encoding         one of them

Prints one table of ratios, and writes `results/benchmarks/`: a JSON file an item, `speed.png` and
`growth.png`. Sentences of STS are encoded where MICSE_SENTEVAL names the folder, else Wikipedia's.
"""

import argparse
import importlib
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from compare import machine

from micse_utils.plotting.style import BLUE, GREY, ORANGE
from micse_utils.provenance import versions
from micse_utils.results import save_figure, write_json

ITEMS = (
    "encoding", "few_texts", "busy_machine", "matrix_share", "ami_term", "training_step",
    "training_format", "sts_overhead", "tweet_map", "growth", "search", "bulk",
)  # fmt: skip
RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


def main() -> None:
    """Measure what was asked for, and show it: each item as it comes, all of them at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("items", nargs="*", metavar="item", help=f"of {', '.join(ITEMS)}")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each variant")
    parser.add_argument("--texts", type=int, help="at most so many texts (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[48, 49, 50])
    parser.add_argument("--map-sizes", type=int, nargs="+", default=[12_000, 46_000])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if unknown := set(options.items) - set(ITEMS):
        parser.error(f"{', '.join(sorted(unknown))}: the items are {', '.join(ITEMS)}")
    warnings.filterwarnings("ignore")  # of libraries, on texts that are cut
    here = {"machine": machine(), "versions": versions()}
    measured = []
    for name in options.items or ITEMS:
        print(f"measuring {name} …", flush=True)
        rows = importlib.import_module(name).measure(options)
        settings = {"rounds": options.rounds, "seeds": options.seeds}
        write_json(options.results / f"{name}.json", here | settings | {"rows": rows})
        if name in DRAW and rows:
            save_figure(options.results, *DRAW[name](pd.DataFrame(rows), here["machine"]))
        if rows:
            print(table(rows), "\n", flush=True)
        measured += rows
    print(", ".join(f"{name}: {value}" for name, value in here["machine"].items()))
    print(table(measured))


def table(rows: list[dict]) -> str:
    """The rows as text: ratio to the baseline, what was wanted, the figure itself."""
    shown = pd.DataFrame(rows).reindex(
        columns=["item", "variant", "value", "unit", "ratio", "baseline", "wanted", "note"]
    )
    return shown.fillna("").to_string(index=False)


def draw_speed(rows: pd.DataFrame, machine: dict) -> tuple[str, plt.Figure]:
    """Bars: texts a second of each way to encode, both workloads."""
    rows = rows.drop_duplicates(["workload", "variant"])
    workloads = rows["workload"].unique()
    figure, axes = plt.subplots(
        1, len(workloads), figsize=(11, 4), layout="constrained", sharey=True
    )
    for panel, workload in zip(axes, workloads, strict=True):
        part = rows[rows["workload"] == workload].iloc[::-1]
        rate = int(workload.split()[0]) / part["value"]
        colours = [ORANGE if name.startswith("encode") else GREY for name in part["variant"]]
        bars = panel.barh(part["variant"], rate, color=colours)
        labels = [f"{r:,.0f}  ({x:.1f}×)" for r, x in zip(rate, part["ratio"], strict=True)]
        panel.bar_label(bars, labels, padding=4)
        panel.set_xlim(0, 1.4 * rate.max())
        panel.set_title(workload)
        panel.set_xlabel("texts a second")
    figure.suptitle(f"Encoding with all-MiniLM-L6-v2: {machine['processor']}, "
                    f"{machine['threads']} threads")  # fmt: skip
    return "speed", figure


def draw_growth(rows: pd.DataFrame, machine: dict) -> tuple[str, plt.Figure]:
    """Lines: time of encoding against number of texts and against their length."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for panel, (item, part) in zip(axes, rows.groupby("item", sort=False), strict=False):
        level = part["value"].median()
        band = {"color": GREY, "alpha": 0.2, "label": "± 10 % of the median"}
        panel.axhspan(0.9 * level, 1.1 * level, **band)
        panel.plot(part["x"], part["value"], "o-", color=BLUE)
        panel.set_xscale("log", base=10 if part["x"].max() > 1000 else 2)
        panel.set_xticks(part["x"], [f"{x:,}" for x in part["x"]], rotation=30)
        panel.set_ylim(0, 1.6 * part["value"].max())
        panel.set_xlabel(item.removeprefix("growth with "))
        panel.set_ylabel("µs a token")
        panel.legend(loc="lower right")
    figure.suptitle("Time of encoding a token: level where the whole grows linearly")
    return "growth", figure


DRAW = {"encoding": draw_speed, "growth": draw_growth}


if __name__ == "__main__":
    main()
