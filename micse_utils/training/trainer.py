"""Low-shot training: `train_low_shot`.

Runs unchanged under `torchrun` and `accelerate launch`: the batch is the one of all processes
together, and so are loss and gradients.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

from micse_utils.checks import shown
from micse_utils.datasets.sts import Pairs, load_stsb
from micse_utils.models import load_model
from micse_utils.settings import expanded, process
from micse_utils.training.config import (
    LowShotConfig,
    configure,
    default_preset,
)
from micse_utils.training.runs import Run, Trained


def train_low_shot(
    sentences: Sequence[str],
    base_model: SentenceTransformer | str | Path = "start",
    method: str = "micse",
    *,
    output: str | Path,
    preset: str | LowShotConfig | None = None,
    dev: Pairs | None = None,
    overwrite: bool = False,
    keep_last: bool = False,
    progress: bool = True,
    **settings: object,
) -> Trained:
    """Train an encoder on a handful of unlabelled sentences, and keep the best checkpoint.

    A run that was stopped, however, goes on from its last whole checkpoint when it is called again
    with the same arguments, and ends with the very same weights; a finished one is only loaded.

    Args:
        sentences: n sentences. Blank ones and duplicates (false negatives) are dropped, and said.
        base_model: what to start from: a model, which is changed in place, or a name or folder
            for `load_model`, read with [CLS] pooling.
        method: `micse` or `simcse`.
        output: folder of the run: checkpoints while it goes, `model/` and `training.json` after.
        preset: one of `PRESETS`, or a configuration; by default `default_preset`.
        dev: rated pairs that choose the checkpoint; by default `load_stsb("dev")`. The start is a
            checkpoint, too: if training only does harm, the start is what is kept.
        overwrite: where `output` holds another run, delete that instead of refusing.
        keep_last: also keep the encoder of the last step, with its optimiser, in `last/`.
        progress: show a bar with loss, AMI and development figures.
        settings: fields of `LowShotConfig` to override those of the preset.

    Returns:
        The trained model and how it went.

    Raises:
        ValueError: fewer than two sentences, an unknown preset, an invalid setting, or an
            `output` that holds another run.
        TypeError: a sentence that is not a string, or an unknown setting.
        TrainingDivergedError: the loss became NaN or infinite; `model/` holds the best
            checkpoint before, if there was one.
    """
    sentences = _distinct(sentences)
    if preset is not None:
        config = configure(preset, method=method, **settings)  # refuse before a model is loaded
    if not isinstance(base_model, SentenceTransformer):
        base_model = load_model(base_model, pooling="cls")
    if preset is None:
        preset = default_preset(base_model, len(sentences))
        config = configure(preset, method=method, **settings)
    _, processes = process()
    if len(sentences) < 2 * processes:
        raise ValueError(
            f"training needs {2 * processes} sentences or more, got {len(sentences)}: each is told "
            "from the others of its batch"
        )
    if config.batch_size % processes:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared by {processes} processes"
        )
    if dev is None:
        dev = load_stsb("dev")
    if not isinstance(dev, Pairs):
        raise TypeError(f"dev={shown(dev)} are no rated pairs; load_stsb gives some")

    run = Run(expanded(output), base_model, sentences, config, dev, overwrite, keep_last)
    return run.finished() or run.train(progress)


def _distinct(sentences: Sequence[str]) -> list[str]:
    """The sentences that are neither blank nor there before."""
    if isinstance(sentences, str):
        raise TypeError("sentences is one string; give a list of strings")
    if not isinstance(sentences, Iterable):
        raise TypeError(f"sentences={shown(sentences)} is no list of strings")
    sentences = list(sentences)
    for position, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TypeError(f"sentences[{position}] is {shown(sentence)}, not a string")
    there = [sentence.strip() for sentence in sentences if sentence.strip()]
    distinct = list(dict.fromkeys(there))
    if not distinct:
        raise ValueError("there are no sentences to train on")
    if blank := len(sentences) - len(there):
        print(f"{blank} blank sentences were dropped")
    if duplicates := len(there) - len(distinct):
        print(f"{duplicates} duplicates were dropped: in one batch they are false negatives")
    return distinct
