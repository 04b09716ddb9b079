"""Cost of a training step: SimCSE, miCSE, and miCSE with AMI by a rows x rows correlation matrix.

    python tests/benchmarks/training_step.py

One table: median seconds of interleaved steps, their ratio to SimCSE's, and the memory that a step
takes beyond the loaded model (each variant in a process of its own).
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from micse_utils import objective
from micse_utils.device import pick_dtype
from micse_utils.models import load_model
from micse_utils.sentences import load_low_shot

VARIANTS = ("simcse", "micse", "rows x rows")
BATCH, LENGTH, SAMPLES = 64, 32, 150


def rows_by_rows(first, second, *, real=None, samples=SAMPLES, generator=None):
    """AMI as the paper's code is described: correlate all rows with all, then read the diagonal."""
    kept = first.isfinite() & second.isfinite() & real
    enough = kept.sum(dim=1) >= samples
    order = torch.rand(kept.shape, generator=generator).masked_fill(~kept, -1)
    drawn = order.topk(samples, dim=1).indices[enough]
    views = [view[enough].gather(1, drawn) for view in (first, second)]
    rows = len(views[0])
    rho = torch.corrcoef(torch.cat(views))  # [2 rows, 2 rows]
    information = -0.5 * torch.log((1 - rho**2).clamp(min=1e-6))
    return information[:rows, rows:].diagonal().mean() * ((kept.sum() / real.sum()) ** 2 + 1e-6)


def stepper(variant):
    """A function that takes one training step of a variant."""
    torch.manual_seed(0)
    model = load_model(source="package", pooling="cls", device="cpu").train()
    loss = objective.MiCSELoss(model, 0 if variant == "simcse" else 1e-2, min_layer=2, max_layer=6)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-5)
    sentences = load_low_shot([BATCH], source="package")[BATCH, 48].texts
    batch = dict(
        model.tokenizer(
            sentences, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
    )
    linear = objective.attention_mutual_information
    bf16 = pick_dtype("cpu") == torch.bfloat16

    def step():
        objective.attention_mutual_information = (
            rows_by_rows if variant == "rows x rows" else linear
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss([batch])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        objective.attention_mutual_information = linear

    return step


def memory(variant):
    """MiB that three steps take at their peak beyond the loaded model, in this process (Linux)."""
    step = stepper(variant)
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = peak()
    for _ in range(3):
        step()
    return peak() - before


def peak():
    """Largest resident size so far, in MiB."""
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return int(line.split()[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(memory(options.memory))
        return
    steps = {variant: stepper(variant) for variant in VARIANTS}
    times = {variant: [] for variant in VARIANTS}
    for _ in range(options.rounds + 1):
        for variant, step in steps.items():
            start = time.perf_counter()
            step()
            times[variant].append(time.perf_counter() - start)
    print(f"{BATCH} sentences of {LENGTH} tokens, {torch.get_num_threads()} threads, "
          f"{pick_dtype('cpu')}")  # fmt: skip
    baseline = statistics.median(times["simcse"][1:])
    for variant in VARIANTS:
        seconds = statistics.median(times[variant][1:])
        call = [sys.executable, __file__, "--memory", variant]
        peak = float(
            subprocess.check_output(call, text=True, stderr=subprocess.DEVNULL).split()[-1]
        )
        print(f"{variant:12} {seconds:6.3f} s  {seconds / baseline:5.2f}x  {peak:6.0f} MiB")


if __name__ == "__main__":
    main()
