"""How often does a 95 % interval of the difference of two trainings cover the true one?

    .venv/bin/python tests/benchmarks/coverage.py

The difference of a seed and an item is an effect of the seed, one of the item and noise, each with
a standard deviation of its own; the true difference is 0. Three rules are tried: t over seeds; that
of `compare_runs`, which widens it by the variance over resampled items; and a bootstrap over seeds
and items. About a minute on one core.
"""

import numpy as np
from scipy.stats import t

from micse_utils.evaluation.metrics import compare_runs, interval

TRIALS, ITEMS, RESAMPLES = 1_000, 100, 200
EFFECTS = {  # standard deviations of seeds, of items and of noise
    "only seeds differ": (1, 0, 0),
    "seeds, a little noise": (1, 0, 3),
    "seeds, items half as much": (1, 5, 5),
    "seeds and items alike": (1, 10, 5),
    "items twice as much": (1, 20, 5),
    "only items differ": (0, 10, 5),
}


def differences(rng, seeds, of_seeds, of_items, noise):
    """Return each seed's difference on all items, and on each resample: [seeds, 1 + resamples]."""
    each = of_seeds * rng.normal(size=(seeds, 1)) + of_items * rng.normal(size=ITEMS)
    each = each + noise * rng.normal(size=(seeds, ITEMS))
    drawn = rng.multinomial(ITEMS, np.full(ITEMS, 1 / ITEMS), size=RESAMPLES) / ITEMS
    return np.column_stack([each.mean(axis=1), each @ drawn.T])


def over_seeds(found):
    """Return a t interval over seeds alone."""
    seeds = found[:, 0]
    width = t.ppf(0.975, len(seeds) - 1) * seeds.std(ddof=1) / np.sqrt(len(seeds))
    return seeds.mean() - width, seeds.mean() + width


def over_both(found):
    """Return the interval of `compare_runs`."""
    return tuple(compare_runs({"": found}, {"": np.zeros_like(found)}).loc[0, ["low", "high"]])


def bootstrap(found):
    """Return the interval of resamples that draw seeds and items."""
    drawn = np.random.default_rng(0).integers(len(found), size=(RESAMPLES, len(found)))
    return interval(found[drawn, 1 + np.arange(RESAMPLES)[:, None]].mean(axis=1))


RULES = {"t": over_seeds, "compare_runs": over_both, "bootstrap": bootstrap}


def coverage(seeds, effects, trials=TRIALS):
    """Return in how many per cent of simulated comparisons each rule holds the true value."""
    rng, held = np.random.default_rng(0), dict.fromkeys(RULES, 0)
    for _ in range(trials):
        found = differences(rng, seeds, *effects)
        for name, rule in RULES.items():
            low, high = rule(found)
            held[name] += low <= 0 <= high
    return {name: 100 * count / trials for name, count in held.items()}


if __name__ == "__main__":
    print(f"seeds {'':26}" + "".join(f"{name:>14}" for name in RULES))
    for seeds in (5, 10):
        for name, effects in EFFECTS.items():
            found = coverage(seeds, effects).values()
            print(f"{seeds:5} {name:26}" + "".join(f"{share:14.1f}" for share in found))
