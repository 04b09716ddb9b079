"""What all comparisons share: interleaved timing, memory, real texts, the machine's name."""

import contextlib
import io
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from micse_utils.datasets.sts import load_sts_tasks
from micse_utils.datasets.texts import load_sentences, load_tweets
from micse_utils.datasets.transfer import load_transfer_tasks
from micse_utils.device import pick_device, pick_dtype


def interleaved(
    variants: dict[str, Callable], rounds: int, *, warm_up: bool = True
) -> dict[str, float]:
    """Median seconds of each variant; all take turns, so that what slows one slows its baseline.

    With `warm_up`, each runs once before, untimed.
    """
    seconds = {name: [] for name in variants}
    for number in range(rounds + warm_up):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            if number >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def speed_rows(
    item: str, seconds: dict[str, float], baseline: str, wanted: dict[str, str]
) -> list[dict[str, object]]:
    """Rows of the table: how many times as fast as the baseline each variant is.

    Args:
        item: what was timed.
        seconds: of each variant.
        baseline: the variant the others are compared with.
        wanted: of some variants, the ratio asked of them, as text.
    """
    return [
        {
            "item": item,
            "variant": name,
            "value": round(value, 4),
            "unit": "s",
            "baseline": baseline,
            "ratio": round(seconds[baseline] / value, 3),
            "wanted": wanted.get(name, ""),
        }
        for name, value in seconds.items()
    ]


def machine() -> dict[str, object]:
    """The machine that was measured: processor, cores, formats, device."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line for line in lines if "model name" in line).split(": ")[1]
    units = torch.cpu.get_capabilities()
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bf16 units": [n for n in ("amx_bf16", "avx512_bf16", "bf16") if units.get(n)],
        "device": str(pick_device()),
        "format": str(pick_dtype(pick_device())),
    }


def peak_mebibytes(call: Callable) -> float:
    """MiB that tensors on the CPU take at their peak during a call, beyond those there before."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return np.cumsum([event.nbytes() for event in events]).max() / 2**20


def workloads(limit: int | None = None) -> dict[str, list[str]]:
    """Distinct texts in file order: tweets; and STS, where MICSE_SENTEVAL is set, or Wikipedia."""
    with contextlib.redirect_stdout(io.StringIO()):
        tweets = load_tweets(source="package").texts
        if os.environ.get("MICSE_SENTEVAL"):
            pairs = load_sts_tasks().values()
            sentences = [text for p in pairs for text in (*p.first, *p.second)]
            name = "STS sentences"
        else:
            sentences = load_sentences(source="package").texts
            name = "Wikipedia sentences"
    texts = {name: sentences, "tweets": tweets}
    return {name: list(dict.fromkeys(texts))[: limit or 4000] for name, texts in texts.items()}


def pool() -> list[str]:
    """All the real short texts that the packages carry: tweets, reviews, news, Wikipedia."""
    with contextlib.redirect_stdout(io.StringIO()):
        texts = list(load_tweets(source="package").texts)
        for task in load_transfer_tasks(source="package").values():
            texts += task.first
        texts += load_sentences(source="package").texts
    return list(dict.fromkeys(texts))
