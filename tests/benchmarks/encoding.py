"""Encoding: the model card's loop, sentence-transformers, and the kit's `encode` on each engine."""

import numpy as np
import torch
import torch.nn.functional as F
from compare import interleaved, speed_rows, workloads
from sentence_transformers import SentenceTransformer

from micse_utils.device import pick_dtype
from micse_utils.encoding import encode
from micse_utils.models import load_model

CARD = "model card's loop"
LIBRARY = "sentence-transformers"
FAIR = "sentence-transformers, bfloat16, batch 128"
OURS_EXACT, OURS, ENGINE = "encode, float32", "encode", "encode by OpenVINO"


def model_cards_loop(model: SentenceTransformer, texts: list[str]) -> np.ndarray:
    """Batches of 50 in file order, float32, all hidden states, as the card has it.

    But for its mistakes: the last batch is not dropped, and tokens are pooled as this model was
    trained.
    """
    vectors = []
    with torch.no_grad():
        for start in range(0, len(texts), 50):
            batch = model.tokenizer(
                texts[start : start + 50],
                padding=True, truncation=True, max_length=128, return_tensors="pt",
            ).to(model.device)  # fmt: skip
            output = model.transformers_model(**batch, output_hidden_states=True)
            hidden, mask = output.hidden_states[-1], batch["attention_mask"][..., None]
            vectors.append((hidden * mask).sum(dim=1) / mask.sum(dim=1))
    return F.normalize(torch.cat(vectors), dim=1).cpu().numpy()


def measure(options) -> list[dict]:
    """Both workloads, in the format that is the best of the machine and in float32."""
    exact, rough = load_model(source="package"), load_model(source="package")
    rough.to(torch.bfloat16)
    fast = load_model(source="package", engine="auto")
    return [
        row | {"workload": f"{len(texts)} {name}"}
        for name, texts in workloads(options.texts).items()
        for row in _compare((exact, rough, fast), texts, name, options.rounds)
    ]


def _compare(
    models: tuple[SentenceTransformer, ...], texts: list[str], name: str, rounds: int
) -> list[dict]:
    exact, rough, fast = models
    item = f"encoding {len(texts)} {name}"
    variants = {
        CARD: lambda: model_cards_loop(exact, texts),
        LIBRARY: lambda: exact.encode(texts, show_progress_bar=False),
        FAIR: lambda: rough.encode(texts, batch_size=128, show_progress_bar=False),
        OURS_EXACT: lambda: encode(exact, texts, dtype=torch.float32, progress=False),
        OURS: lambda: encode(exact, texts, progress=False),
        ENGINE: lambda: encode(fast, texts, progress=False),
    }
    if not fast.provenance.engine:  # on a GPU, or without the extra
        del variants[ENGINE]
    if pick_dtype(exact.device) == torch.float32:  # bfloat16 would be emulated
        del variants[FAIR], variants[OURS]
    reference = variants[CARD]()
    for name, call in variants.items():
        closest = (reference * call()).sum(axis=1).min()
        assert closest > (0.9999 if name in (LIBRARY, OURS_EXACT) else 0.99), f"{name}: {closest}"
    seconds = interleaved(variants, rounds)
    rows = speed_rows(item, seconds, CARD, {OURS: ">= 5"})
    for name, baseline, wanted in (
        (OURS_EXACT, LIBRARY, ">= 1.3"),
        (OURS, FAIR, ">= 1.5"),
        (ENGINE, LIBRARY, ""),
        (ENGINE, FAIR, ">= 2"),
        (ENGINE, OURS_EXACT, ">= 1"),
        (ENGINE, OURS, ">= 1.2"),
    ):
        if {name, baseline} <= seconds.keys():
            pair = {variant: seconds[variant] for variant in (baseline, name)}
            rows += speed_rows(item, pair, baseline, {name: wanted})
    return rows
