"""Learn, use, train and reproduce miCSE sentence embeddings (Klein & Nabi, ACL 2023)."""

from __future__ import annotations  # the doctor imports this in any Python

from importlib import import_module

__version__ = "0.1.0"

_MODULES = {  # imported on first use, so that `import micse_utils` stays quick
    "MiCSELoss": "training.losses",
    "attention_mutual_information": "training.ami",
    "encode": "encoding",
    "evaluate_sts": "evaluation.senteval",
    "evaluate_transfer": "evaluation.senteval",
    "load_model": "models",
    "load_sts": "datasets.sts",
    "pick_device": "device",
    "read_sentences": "datasets.texts",
    "train_low_shot": "training.trainer",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    """Import one of the names above."""
    if name not in _MODULES:
        raise AttributeError(f"module 'micse_utils' has no attribute {name!r}")
    return getattr(import_module(f"micse_utils.{_MODULES[name]}"), name)
