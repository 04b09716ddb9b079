"""The benchmarks run, compare what gives equal results, and keep what they measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parent / "benchmarks" / "run.py"


def bench(*arguments):
    return subprocess.run(
        [sys.executable, RUN, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_ratios_are_those_of_the_seconds_and_the_machine_is_named(tmp_path):
    items = ("encoding", "ami_term")
    done = bench(*items, "--texts", 8, "--rounds", 1, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "processor: " in done.stdout
    for item in items:
        kept = json.loads((tmp_path / f"{item}.json").read_text(encoding="utf-8"))
        assert kept["machine"]["cores"] > 0
        assert kept["versions"]["torch"]
        of = {(row["item"], row["variant"]): row["value"] for row in kept["rows"]}
        for row in kept["rows"]:
            ratio = of[row["item"], row["baseline"]] / row["value"]
            assert row["ratio"] == pytest.approx(ratio, rel=0.02)
            assert f"{row['ratio']:.3f}"[:4] in done.stdout
    assert (tmp_path / "speed.png").stat().st_size > 10_000
