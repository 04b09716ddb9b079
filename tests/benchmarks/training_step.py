"""Cost of a training step: SimCSE, miCSE, and miCSE with the correlations of all rows with all."""

import torch
from ami_term import rows_by_rows
from compare import interleaved, peak_mebibytes, speed_rows

from micse_utils.datasets.texts import load_low_shot
from micse_utils.device import pick_dtype
from micse_utils.models import load_model
from micse_utils.training import losses
from micse_utils.training.ami import attention_mutual_information

BATCH, LENGTH = 64, 32


def stepper(method: str):
    """A function that takes one training step by a method."""
    torch.manual_seed(0)
    model = load_model(source="package", pooling="cls", device="cpu").train()
    weight = 0 if method == "SimCSE" else 1e-2
    loss = losses.MiCSELoss(model, weight, min_layer=2, max_layer=6)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-5)
    sentences = load_low_shot([BATCH], source="package")[BATCH, 48].texts
    batch = dict(
        model.tokenizer(
            sentences, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
        )
    )
    ours = attention_mutual_information
    rough = pick_dtype("cpu") == torch.bfloat16

    def step():
        losses.attention_mutual_information = rows_by_rows if "rows" in method else ours
        with torch.autocast("cpu", torch.bfloat16, enabled=rough):
            value = sum(loss([batch]).values())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.attention_mutual_information = ours

    return step


def measure(options) -> list[dict]:
    """Seconds and memory of a step of each."""
    variants = {name: stepper(name) for name in ("SimCSE", "miCSE", "miCSE, rows x rows")}
    item = f"training step, {BATCH} sentences of {LENGTH} tokens"
    seconds = interleaved(variants, 3 * options.rounds)
    rows = speed_rows(item, seconds, "SimCSE", {"miCSE": ">= 0.8"})  # at most 1.25 times the time
    memory = {name: peak_mebibytes(step) for name, step in variants.items()}
    for row in speed_rows(f"{item}, memory", memory, "SimCSE", {}):
        rows.append(row | {"value": round(row["value"], 1), "unit": "MiB"})
    return rows
