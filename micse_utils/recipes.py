"""Settings of a training run, and the recipes that are known to work."""

import math
from dataclasses import dataclass, fields, replace

from sentence_transformers import SentenceTransformer

from micse_utils.checks import shown

METHODS = ("micse", "simcse")


@dataclass(frozen=True)
class LowShotConfig:
    """Settings of one training run.

    Attributes:
        method: `micse`, or `simcse`, which is the same without attention mutual information.
        ami_weight: lambda of the paper; not used by SimCSE.
        min_layer, max_layer: layers whose attention is compared, the last not included; None:
            those of the paper in proportion (7 to 11 of 12).
        temperature: of InfoNCE.
        batch_size: sentences of one step, over all processes together.
        max_length: tokens kept of each sentence.
        learning_rate: at the first step; it falls linearly to 0.
        epochs: passes over the sentences; a last batch that is not full is left out.
        steps: number of steps, in place of `epochs`.
        evaluations: how often in all the development pairs are scored and a checkpoint is kept.
        seed: of everything random.
        bf16: train in bfloat16 (autocast); None: where the device has units for it.
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
    evaluations: int = 10
    seed: int = 48
    bf16: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.method not in METHODS:
            raise ValueError(f"method={shown(self.method)} is none of {', '.join(METHODS)}")
        for name in ("batch_size", "max_length", "epochs", "evaluations", "steps"):
            value = getattr(self, name)
            left_out = value is None and name == "steps"
            if not left_out and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={shown(value)} is not a positive whole number")
        for name in ("ami_weight", "temperature", "learning_rate"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name}={shown(value)} is not a number")
        if not 0 <= self.ami_weight < math.inf:
            raise ValueError(f"ami_weight={self.ami_weight} is not a number from 0")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} is not a number above 0")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate} is not between 0 and 1")
        for name in ("min_layer", "max_layer"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise ValueError(f"{name}={shown(value)} is not the number of a layer, from 0")
        if type(self.seed) is not int or not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={shown(self.seed)} is not a whole number from 0 to 2^32 - 1")
        if self.bf16 not in (None, True, False):
            raise ValueError(f"bf16={shown(self.bf16)} is neither True, False nor None")
        if self.batch_size < 2:
            raise ValueError("batch_size=1 leaves InfoNCE nothing to tell a sentence from")


PRESETS = {
    # The paper's for BERT-base, by share of the million sentences; layers 7 to 11 in proportion.
    "10%": LowShotConfig(epochs=10, ami_weight=5e-4),
    "1%": LowShotConfig(epochs=50, ami_weight=1e-4),
    "0.1%": LowShotConfig(epochs=500, ami_weight=1e-3),
    "0.01%": LowShotConfig(epochs=2500, ami_weight=1e-3),
    # The kit's for the packaged six-layer encoder: for the whole, and for its first four layers.
    "packaged": LowShotConfig(
        ami_weight=1e-2, min_layer=2, max_layer=6, learning_rate=1e-4, steps=20, evaluations=4
    ),
    "packaged-raw": LowShotConfig(
        ami_weight=0.1, min_layer=2, max_layer=4, learning_rate=1e-4, steps=15, evaluations=3
    ),
}


def default_preset(model: SentenceTransformer, sentences: int) -> str:
    """Name of the preset for a model and a number of sentences.

    The kit's own for encoders of six and of four layers; for all others the paper's, which has one
    for 100, 1 000, 10 000 and 100 000 sentences: the largest of these that is not more.
    """
    layers = model.transformers_model.config.num_hidden_layers
    if layers in (4, 6):
        return "packaged" if layers == 6 else "packaged-raw"
    splits = {100_000: "10%", 10_000: "1%", 1_000: "0.1%"}
    return next((name for size, name in splits.items() if sentences >= size), "0.01%")


def configure(preset: str | LowShotConfig, **settings: object) -> LowShotConfig:
    """A preset with some of its settings replaced.

    Raises:
        ValueError: an unknown preset, or a value that cannot be meant.
        TypeError: an unknown setting.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset={shown(preset)} is none of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    if not isinstance(preset, LowShotConfig):
        raise TypeError(
            f"preset={shown(preset)} is neither one of {', '.join(PRESETS)} nor settings"
        )
    known = [field.name for field in fields(LowShotConfig)]
    if unknown := settings.keys() - set(known):
        raise TypeError(f"{min(unknown)} is no setting; there are {', '.join(known)}")
    if "epochs" in settings:
        settings = {"steps": None} | settings
    return replace(preset, **settings)
