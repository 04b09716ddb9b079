"""Learn, use, train and reproduce miCSE sentence embeddings (Klein & Nabi, ACL 2023).

`training` holds the paper: its loss, recipes and trainer. `datasets`, `sources`, `encoding` and
`evaluation` load, embed and score texts; `cluster` does so on many machines. The names below are
imported on first use, so that `import micse_utils` stays quick.
"""

from __future__ import annotations  # the doctor imports this in any Python

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from micse_utils.datasets.sts import load_sts as load_sts
    from micse_utils.datasets.texts import read_sentences as read_sentences
    from micse_utils.device import pick_device as pick_device
    from micse_utils.encoding import encode as encode
    from micse_utils.evaluation.senteval import evaluate_sts as evaluate_sts
    from micse_utils.evaluation.senteval import evaluate_transfer as evaluate_transfer
    from micse_utils.models import load_model as load_model
    from micse_utils.training.ami import (
        attention_mutual_information as attention_mutual_information,
    )
    from micse_utils.training.losses import MiCSELoss as MiCSELoss
    from micse_utils.training.trainer import train_low_shot as train_low_shot

__version__ = "0.1.0"

_MODULES = {
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


def __dir__() -> list[str]:
    """List the names above too, for tab completion."""
    return sorted({*globals(), *__all__})
