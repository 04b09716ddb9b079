"""Load a model by name or folder, with the right pooling and its provenance."""

import contextlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers.utils import logging as transformers_logging

from micse_utils.device import pick_device, use_threads
from micse_utils.encoding import token_limit
from micse_utils.engine import use_snapshot
from micse_utils.provenance import sha256_of
from micse_utils.settings import ENGINES, check_choice, setting
from micse_utils.sources import hub
from micse_utils.sources.locate import PACKAGED, SHORT_NAMES, Need, locate, model_folder

OWN = ("auto", "start")  # names that may mean a folder's own model, or the packaged one

# Pooling belongs to the model: a checkpoint read with a different pooling than in its training
# gives vectors that look fine and compare badly. The first that the name contains decides.
TRAINED_POOLING = {"micse": "cls", "simcse": "cls", "all-minilm": "mean"}

CONFIGURATION = [
    "*.json", "*.txt", "*.model", "*.codes", "*.spm", "*.vocab", "*.tiktoken", "*.tokenizer",
    "[0-9]_*/*",
]  # fmt: skip
WEIGHTS = ["model*.safetensors", "pytorch_model*.bin"]  # in order of preference
REFUSED = {  # entries of a configuration
    "auto_map": "code of its own",  # without it, known weights may compute something else
    "quantization_config": "quantised weights (use the float32 or half-precision ones)",
}
SAFELY = {"trust_remote_code": False, "local_files_only": True}
DAMAGE = (  # what the libraries raise of a damaged folder
    ValueError, TypeError, LookupError, OSError, EOFError, RuntimeError, ImportError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip


@torch.inference_mode(False)  # or it could not be trained, nor encode
def load_model(
    name: str | Path = "auto",
    *,
    source: str | Path = "auto",
    revision: str | None = None,
    pooling: str | None = None,
    device: torch.device | str | None = None,
    engine: str | None = None,
) -> SentenceTransformer:
    """Load a sentence encoder in evaluation mode, and in float32, as half precision trains badly.

    Args:
        name: `auto` (a folder's own model, miCSE from the hub, or the packaged all-MiniLM-L6-v2),
            `start` (the same to train from, with bert-base-uncased from the hub), `miCSE`,
            `all-MiniLM-L6-v2`, any hub repository, or a folder.
        source: `auto` (folder MICSE_DATA, hub, package: the first that has it), `hub`, `package`,
            or a folder that holds the model itself or in `model/`. A model requested by name is
            looked up in a subfolder of that name, and never replaced by a different one.
        revision: commit, tag or branch of the hub repository.
        pooling: such as `mean`; by default a sentence-transformers folder's own, or that of the
            model's training if known, else `cls`, with a note.
        device: by default `pick_device()`.
        engine: `torch`; `openvino`, faster on a CPU, for encoding only: a snapshot of the model; or
            `auto`, which is `openvino` on a CPU if it can run this model, with a note if not. By
            default `MICSE_ENGINE` or `torch`; for `start` always `torch`.

    Returns:
        The model, with the attribute `provenance`, a `Provenance`.

    Raises:
        ValueError, OSError, FetchError: a wrong argument; a damaged model; no source has it.
    """
    use_threads()
    usual = None if name == "start" else setting("MICSE_ENGINE")
    engine = engine or usual or "torch"
    check_choice("engine", engine, ENGINES)
    if pooling:
        check_choice("pooling", pooling, Pooling.POOLING_MODES)
    device = torch.device(device or pick_device())
    own = model_folder(name, source)
    found = locate(_need("auto" if own else name, revision), own or source)
    folder, origin = found.files[0].parent, found.provenance
    if origin.source == "folder":
        place = folder.resolve()
        title = place.parent.name if place.name == "model" else place.name
        origin = replace(origin, name=title, origin=title)
    with quiet():
        model = _read(folder, origin.name, pooling)
        mode = next((m.pooling_mode for m in model if isinstance(m, Pooling)), None)
        model.provenance = replace(origin, sha256=sha256_of(_weights(folder)), pooling=mode)
        if engine == "openvino" or (engine == "auto" and device.type == "cpu"):
            _use_openvino(model, engine, device)
        model.to(device)
    if not own:
        print(f"model: {model.provenance}{found.reason}")
    return model


def _use_openvino(model: SentenceTransformer, engine: str, device: torch.device) -> None:
    """Let OpenVINO run the model, and name it in the provenance; with `auto`, only if it can."""
    origin, reason = model.provenance, f"OpenVINO runs on a CPU, not on {device}"
    try:
        if device.type == "cpu":
            model.provenance = replace(origin, engine=use_snapshot(model[0], origin.sha256))
            return
    except ImportError as error:
        reason = f"{error} (pip install -e '.[fast]')"
    except (ValueError, RuntimeError) as error:
        reason = str(error)
    if engine == "openvino":
        raise ValueError(f"{origin.name} cannot run with {engine=}: {reason}; use engine='torch'")
    print(f"note: {origin.name} runs in PyTorch: {reason}")


def _need(name: str, revision: str | None) -> Need:
    """Return what to look for to load a model by its name."""
    repository = SHORT_NAMES.get(name, name)
    title = repository.split("/")[-1]
    places = [place if name in OWN else f"{title}/{place}" for place in ("", "model")]
    packaged = name in OWN or repository == PACKAGED
    return Need(
        title, ["config.json"], places, repository, fetch=partial(_fetch, repository, revision),
        stand_in="encoder" if packaged else None,
    )  # fmt: skip


def keep_first_layers(model: SentenceTransformer, count: int) -> SentenceTransformer:
    """Cut a BERT, RoBERTa or DistilBERT encoder down to its first layers, in place.

    That gives a rawer start to train from: its vectors were never meant as embeddings. Raises
    ValueError for a different architecture, a snapshot (engine="openvino"), or fewer layers.
    """
    transformer = model.transformers_model
    stack = getattr(transformer, "encoder", None) or getattr(transformer, "transformer", None)
    depth = len(getattr(stack, "layer", ()))
    if not 1 <= count <= depth:
        kind = f"{type(transformer).__name__} of {depth} known layers"
        raise ValueError(f"cannot cut a {kind} to {count}; a snapshot needs engine='torch'")
    stack.layer = stack.layer[:count]
    transformer.config.num_hidden_layers = count
    if hasattr(model, "provenance") and count < depth:
        name = f"{model.provenance.name}, first {count} of {depth} layers"
        model.provenance = replace(model.provenance, name=name)
    return model


def _fetch(repository: str, revision: str | None) -> tuple[Path, str]:
    """Return the folder with a model's files from the hub, and its commit."""
    folder, commit = hub.snapshot(repository, [*CONFIGURATION, WEIGHTS[0]], revision=revision)
    if not any(folder.glob(WEIGHTS[0])):
        folder, commit = hub.snapshot(repository, [WEIGHTS[1]], revision=commit)
    if not _weights(folder):
        reason = hub.hub_problem() or "it has no PyTorch weights"
        raise hub.HubError(repository, reason, "is incomplete")
    return folder, commit


def _weights(folder: Path) -> list[Path]:
    """Return the weight files of all modules."""
    files = []
    for place in (folder, *sorted(folder.glob("[0-9]_*"))):
        files += sorted(place.glob(WEIGHTS[0])) or sorted(place.glob(WEIGHTS[1]))
    return files


def _read(folder: Path, name: str, pooling: str | None) -> SentenceTransformer:
    """Load the modules in a folder, in float32, and check them."""
    try:
        for file in (*folder.glob("*config.json"), *folder.glob("[0-9]_*/*config.json")):
            config = json.loads(file.read_text(encoding="utf-8"))
            if refused := REFUSED.keys() & config:
                raise ValueError(f"{file.name} asks for {REFUSED[min(refused)]}")
        model = SentenceTransformer(str(folder), device="cpu", **SAFELY)
        if not (folder / "modules.json").is_file():
            pooling = pooling or _trained_pooling(name)
        for place, module in enumerate(model):
            if isinstance(module, Pooling) and pooling:
                model[place] = Pooling(module.embedding_dimension, pooling, module.include_prompt)
        model.max_seq_length = token_limit(model)
        transformer, words = model.transformers_model, model.tokenizer.get_vocab()
        # On the meta device: compare the names of the weights without reading their numbers.
        _, report = type(transformer).from_pretrained(
            folder, output_loading_info=True, device_map="meta", **SAFELY
        )
        # The pooler may be random, because nothing uses it.
        if missing := [key for key in report["missing_keys"] if "pooler" not in key]:
            raise ValueError(f"its weights lack {len(missing)} of the model, such as {missing[0]}")
        known, special = transformer.get_input_embeddings(), model.tokenizer.all_special_tokens
        if max(words.values()) >= known.num_embeddings or words.keys() <= set(special):
            raise ValueError("its tokenizer is missing or of a different model")
        return model.float().eval()
    except DAMAGE as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded as a sentence encoder: {reason}") from error


def _trained_pooling(name: str) -> str:
    """Return the pooling that a model was trained with; `cls`, with a note, if unknown."""
    for part, pooling in TRAINED_POOLING.items():
        if part in name.lower():
            return pooling
    print(f'note: the pooling of {name} is unknown: using [CLS]. Set pooling="mean" if it averages')
    return "cls"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and load reports, such as of unused heads."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
