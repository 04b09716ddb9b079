"""Settings of a training run, and the recipes: the paper's and the kit's own."""

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from micse_utils.settings import shown, whole

if TYPE_CHECKING:  # the command line reads the settings' names, and should not wait for torch
    from sentence_transformers import SentenceTransformer

METHODS = ("micse", "simcse")


@dataclass(frozen=True)
class LowShotConfig:
    """Settings of one training run.

    The defaults are the authors' (paper, section 4 and appendix): AdamW with betas 0.9 and 0.999,
    no weight decay, no warm-up, gradients clipped at norm 1, float32.

    Attributes:
        method: `micse`, or `simcse`, which is the same without attention mutual information.
        ami_weight: lambda of the paper; not used by SimCSE.
        min_layer, max_layer: layers whose attention is compared, an even number, the last not
            included; None: those of the paper in proportion (7 to 11 of 12).
        temperature: temperature of InfoNCE.
        batch_size: sentences of one step, over all processes together. The last batch of an epoch
            may have fewer; it is used, too.
        max_length: tokens kept of each sentence.
        learning_rate: at the first step; it falls linearly to 0.
        epochs: passes over the sentences.
        steps: number of steps, in place of `epochs`.
        eval_steps: steps between two evaluations on the development pairs, which choose among
            these checkpoints, the start and the last. (The authors choose among these only.)
        seed: seed of the head, dropout and order. The seeds 48 to 52 of the paper's splits are a
            different thing: they name files.
        bf16: train in bfloat16 (autocast).
    """

    method: str = "micse"
    ami_weight: float = 1e-3
    min_layer: int | None = None
    max_layer: int | None = None
    temperature: float = 0.05
    batch_size: int = 64
    max_length: int = 32
    learning_rate: float = 1e-5
    epochs: int = 1
    steps: int | None = None
    eval_steps: int = 500
    seed: int = 42
    bf16: bool = False

    def __post_init__(self) -> None:
        """Validate what no library would refuse in an understandable way."""
        if self.method not in METHODS:
            raise ValueError(f"method must be micse or simcse, got {shown(self.method)}")
        least_of = {"batch_size": 2, "epochs": 1, "steps": 1, "eval_steps": 1, "seed": 0}
        for name, least in least_of.items():
            if name != "steps" or self.steps is not None:
                # Frozen; and a record takes no NumPy numbers.
                object.__setattr__(self, name, whole(name, getattr(self, name), least))
        for name in ("ami_weight", "temperature", "learning_rate"):
            value, least = getattr(self, name), 0 if name == "ami_weight" else 1e-12
            if not isinstance(value, (int, float)) or not least <= value < float("inf"):
                raise ValueError(f"{name} must be a number from {least}, got {shown(value)}")

    def total_steps(self, sentences: int) -> int:
        """Return the number of optimiser steps; the last, partial batch of an epoch is one, too."""
        return self.steps or self.epochs * ceil(sentences / self.batch_size)


PRESETS = {
    # The paper's for BERT-base, by share of the million sentences; layers 7 to 11 in proportion.
    "10%": LowShotConfig(epochs=10, ami_weight=5e-4),
    "1%": LowShotConfig(epochs=50, ami_weight=1e-4),
    "0.1%": LowShotConfig(epochs=500, ami_weight=1e-3),
    "0.01%": LowShotConfig(epochs=2500, ami_weight=1e-3, eval_steps=250),
    # The kit's for the packaged six-layer encoder: as shipped, read at [CLS], and of its first four
    # layers. Found on STS-B dev with sentences that no reported run uses (data/recorded).
    "packaged": LowShotConfig(
        ami_weight=0.03, min_layer=2, max_layer=6, learning_rate=1e-5, steps=60, eval_steps=20
    ),
    "packaged-cls": LowShotConfig(
        ami_weight=1.0, min_layer=2, max_layer=6, learning_rate=1e-4, steps=20, eval_steps=5
    ),
    "packaged-raw": LowShotConfig(
        ami_weight=0.1, min_layer=2, max_layer=4, learning_rate=1e-4, steps=20, eval_steps=5
    ),
}
# The fewer the sentences, the more passes over them: all splits take some thousands of steps.
SPLITS = {100_000: "10%", 10_000: "1%", 1_000: "0.1%"}
"""Recipe of a split by its nominal size; smaller ones, of 64 to 500 sentences, take the 0.01 %."""
DUPLICATES = 0.05
"""Share of a split that may be missing, because duplicates were dropped, without changing it."""


def default_preset(model: "SentenceTransformer", sentences: int) -> str:
    """Return the name of the preset for a model and a number of distinct sentences.

    The kit's own for encoders of six layers, by their pooling, and of four. All others get the
    paper's, by nominal size: 999 sentences are the split of 1 000.
    """
    layers = model.transformers_model.config.num_hidden_layers
    if layers in (4, 6):
        cls = any(getattr(module, "pooling_mode", None) == "cls" for module in model)
        return "packaged-raw" if layers == 4 else "packaged-cls" if cls else "packaged"
    large_enough = (name for size, name in SPLITS.items() if sentences >= (1 - DUPLICATES) * size)
    return next(large_enough, "0.01%")


def configure(preset: str | LowShotConfig, **settings: object) -> LowShotConfig:
    """Return a preset with some of its settings replaced; refuse what is unknown or invalid."""
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {shown(preset)}")
        preset = PRESETS[preset]
    if "epochs" in settings:
        settings = {"steps": None} | settings
    return replace(preset, **settings)
