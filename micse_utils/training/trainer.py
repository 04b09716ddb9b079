"""Train with few sentences; under `torchrun`, all processes share a batch, but for AMI."""

from collections.abc import Sequence
from pathlib import Path

from sentence_transformers import SentenceTransformer

from micse_utils.datasets.sts import Pairs, load_stsb
from micse_utils.encoding import UNKNOWN, Tokeniser, windows_of
from micse_utils.models import load_model
from micse_utils.settings import check_texts, expanded, process
from micse_utils.training.config import LowShotConfig, configure, papers_recipe
from micse_utils.training.run import Trained, Training


def train_low_shot(
    sentences: Sequence[str],
    base_model: SentenceTransformer | str | Path = "start",
    method: str | None = None,
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

    Called again with the same arguments after Ctrl-C or a power cut, a run resumes from its last
    complete checkpoint and ends with the very same weights. A finished run is only loaded.

    Args:
        sentences: n sentences. Blank ones and duplicates after tokenising (false negatives) are
            dropped; a line says how many, and how many are cut.
        base_model: a model, which is changed in place, or a name or folder for `load_model`.
        method: `micse` or `simcse`; by default the preset's.
        output: folder of the run: checkpoints while it goes, `model/` and `training.json` after.
        preset: one of `PRESETS`, or a configuration; by default `default_preset`.
        dev: rated pairs that select the checkpoint; by default `load_stsb("dev")`. The start
            counts as a checkpoint: if training only does harm, the start is kept.
        overwrite: if `output` holds a different run, delete that run instead of refusing.
        keep_last: also keep the encoder of the last step, in `last/`.
        settings: fields of `LowShotConfig` to override those of the preset.

    Raises:
        ValueError, FileExistsError: sentences, a setting or an `output` that cannot be used.
        TrainingDivergedError: NaN, infinity, or one vector for all sentences.
    """
    sentences = check_texts("sentences", sentences)
    if not isinstance(base_model, SentenceTransformer):
        base_model = load_model(base_model, engine="torch")
    preset = preset or default_preset(base_model, len(set(sentences)))
    if method is not None:
        settings["method"] = method
    config = configure(preset, **settings)
    sentences = _distinct(sentences, base_model, config.max_length)
    _, processes = process()
    least = 2 if processes == 1 else config.batch_size  # each process needs some in each step
    if len(sentences) < least:
        raise ValueError(f"sentences must be {least} different ones or more, got {len(sentences)}")
    if (size := config.batch_size) % processes:
        raise ValueError(f"batch_size must be divisible by the {processes} processes, got {size}")
    dev = load_stsb("dev") if dev is None else dev
    run = Training(expanded(output), base_model, sentences, config, dev, keep_last, progress)
    return run.carry_out(overwrite)


def default_preset(model: SentenceTransformer, sentences: int) -> str:
    """Return the kit's preset for encoders of six or four layers, and otherwise the paper's."""
    layers = model.transformers_model.config.num_hidden_layers
    if layers in (4, 6):
        cls = any(getattr(module, "pooling_mode", None) == "cls" for module in model)
        return "packaged-raw" if layers == 4 else "packaged-cls" if cls else "packaged"
    return papers_recipe(sentences)


def _distinct(sentences: list[str], model: SentenceTransformer, max_length: int) -> list[str]:
    """Drop blank and duplicate sentences; report how many are dropped, unknown or cut."""
    tokenise, of_tokens = Tokeniser(model, max_length), {}
    for window, features in map(tokenise, windows_of(sentences)):
        for sentence, ids in zip(window.texts, features["input_ids"], strict=True):
            if len(ids) > tokenise.added:
                of_tokens.setdefault(tuple(ids.tolist()), sentence.strip())
    total, empty = len(sentences), tokenise.empty
    if 2 * tokenise.unknown > total:
        raise ValueError(f"{tokenise.unknown} of {total} sentences {UNKNOWN}")
    # In one batch they would be false negatives.
    same = {"equal others once they are cut, and are dropped": total - empty - len(of_tokens)}
    lines = tokenise.reports("sentences", total, {"are blank and are dropped": empty, **same})
    if lines and process()[0] == 0:
        print(*lines, sep="\n")
    return list(of_tokens.values())
