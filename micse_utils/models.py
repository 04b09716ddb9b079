"""Load a model by name or folder, with the right pooling and its provenance."""

import contextlib
import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers.utils import logging as transformers_logging

from micse_utils.device import pick_device, use_threads
from micse_utils.encoding import token_limit
from micse_utils.engine import ENGINES, SNAPSHOT, Snapshot, use_snapshot
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import folder_at, setting, shown
from micse_utils.sources import hub
from micse_utils.sources.locate import Found, Need, files_in, locate

MICSE = "sap-ai-research/miCSE"
PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"
BERT = "bert-base-uncased"
OWN = ("auto", "start")  # names that may mean a folder's own model, or the packaged one
SHORT_NAMES = {"auto": MICSE, "start": BERT, "miCSE": MICSE, "all-MiniLM-L6-v2": PACKAGED}

# Pooling belongs to the model: a checkpoint read with a different pooling than in its training
# gives vectors that look fine and compare badly. The first that the name contains decides.
TRAINED_POOLING = {"micse": "cls", "simcse": "cls", "all-minilm": "mean"}

CONFIGURATION = [
    "*.json", "*.txt", "*.model", "*.codes", "*.spm", "*.vocab", "*.tiktoken", "*.tokenizer",
    "[0-9]_*/*",
]  # fmt: skip
WEIGHTS = ["model*.safetensors", "pytorch_model*.bin"]  # in order of preference
CONFIGURED = [["config.json"], ["modules.json"]]
PLACES = ["", "model"]  # in a folder, for a model
QUANTISED = "its weights are quantised; use it in float32 or half precision"
DAMAGE = (
    ValueError, TypeError, LookupError, OSError, EOFError, RuntimeError, ImportError,
    SafetensorError, pickle.UnpicklingError,
)  # fmt: skip
"""What the libraries raise of a damaged folder."""


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
        pooling: `cls`, `mean`, or another mode of `sentence_transformers`. By default that of a
            sentence-transformers folder; `cls` for miCSE and SimCSE, `mean` for all-MiniLM; else
            `cls`, with a note.
        device: by default `pick_device()`.
        engine: `torch`; `openvino`, faster on a CPU, for encoding only: a snapshot of the model,
            compiled from a conversion in the kit's cache; or `auto`, which is `openvino` on a CPU
            if it is installed and can run this model, with a note if not. By default `MICSE_ENGINE`
            or `torch`; for `start` always `torch`.

    Returns:
        The model, with the attribute `provenance`, a `Provenance`.

    Raises:
        ValueError: an unknown source, folder or pooling; a folder that is damaged, quantised or
            asks to run its own code; an engine that cannot run it here.
        HubError, FetchError: the hub, or the package index, does not have it.
    """
    use_threads()
    if pooling not in (None, *Pooling.POOLING_MODES):
        modes = ", ".join(Pooling.POOLING_MODES)
        raise ValueError(f"pooling must be one of {modes}, got {shown(pooling)}")
    engine = engine or (name != "start" and setting("MICSE_ENGINE")) or "torch"
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {shown(engine)}")
    device = torch.device(device or pick_device())
    if folder := folder_at(name):
        found = Found(files_in(folder, CONFIGURED, PLACES), Provenance("", "folder", ""))
    else:
        found = locate(_need(name), source, revision)
    folder, origin = found.files[0].parent, found.provenance
    if origin.source == "folder":
        place = folder.resolve()
        own = place.parent.name if place.name == "model" else place.name
        origin = replace(origin, name=own, origin=own)
    with quiet():
        model = _read(folder, origin.name, pooling)
        mode = next((m.pooling_mode for m in model if isinstance(m, Pooling)), None)
        origin = replace(origin, sha256=sha256_of(_weights(folder)), pooling=mode)
        model.provenance = _start_engine(model, engine, device, origin)
        model.to(device)
    if not folder_at(name):
        print(f"model: {model.provenance}{found.reason}")
    return model


def _start_engine(
    model: SentenceTransformer, engine: str, device: torch.device, origin: Provenance
) -> Provenance:
    """Let an engine other than PyTorch run the model; return the provenance that names it."""
    if engine == "torch" or (engine == "auto" and device.type != "cpu"):
        return origin
    try:
        if device.type != "cpu":
            raise ValueError(f"it runs on a CPU, not on {device}")
        return replace(origin, engine=use_snapshot(model[0], origin.sha256))
    except ValueError as error:
        if engine == "openvino":
            raise ValueError(
                f"{origin.name} cannot run with engine='openvino': {error}; use engine='torch'"
            ) from error
        print(f"note: {origin.name} runs in PyTorch: {error}")
        return origin


def _need(name: str | Path) -> Need:
    """Return what to look for to load a model by its name."""
    if isinstance(name, Path) or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise ValueError(f"there is no model folder {name}")
    repository = SHORT_NAMES.get(name, name)
    title = repository.split("/")[-1]
    places = [place if name in OWN else f"{title}/{place}" for place in PLACES]
    packaged = name in OWN or repository == PACKAGED
    return Need(
        "model", title, CONFIGURED, places, repository, fetch=partial(_fetch, repository),
        stand_in="encoder" if packaged else None,
    )  # fmt: skip


def keep_first_layers(model: SentenceTransformer, count: int) -> SentenceTransformer:
    """Cut a BERT, RoBERTa or DistilBERT encoder down to its first layers, in place.

    That gives a rawer start to train from: its vectors were never meant as embeddings. Raises
    ValueError for a different architecture, a snapshot (engine="openvino"), or fewer layers.
    """
    transformer = model.transformers_model
    if isinstance(transformer, Snapshot):
        raise ValueError(SNAPSHOT)
    stack = getattr(transformer, "encoder", None) or getattr(transformer, "transformer", None)
    if not hasattr(stack, "layer"):
        raise ValueError(f"cannot cut a {transformer.config.model_type} model: unknown layers")
    depth = len(stack.layer)
    if not 1 <= count <= depth:
        raise ValueError(f"layers must be from 1 to {depth} for this model, got {count}")
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
        raise hub.HubError(
            repository, "its weights are missing", "is incomplete, or no PyTorch model"
        )
    return folder, commit


def _transformer(folder: Path) -> Path:
    """Return the folder of the transformer: the first module in modules.json."""
    file = folder / "modules.json"
    if not file.is_file():
        return folder
    try:
        return folder / json.loads(file.read_text(encoding="utf-8"))[0]["path"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{file} is damaged: it must list the modules of the model") from error


def _weights(folder: Path) -> list[Path]:
    """Return the weight files of all modules; none if the transformer's are missing."""
    modules = [_transformer(folder), *sorted(p for p in folder.glob("[0-9]_*") if p.is_dir())]
    files = []
    for place in dict.fromkeys(modules):
        found = (sorted(place.glob(pattern)) for pattern in WEIGHTS)
        files += next((some for some in found if some), [])
    return files if any(file.parent == modules[0] for file in files) else []


def _read(folder: Path, name: str, pooling: str | None) -> SentenceTransformer:
    """Load the modules in a folder, in float32, and check them."""
    try:
        if not _weights(folder):
            raise ValueError(f"it holds no weights ({' or '.join(WEIGHTS)})")
        _check_configuration(_transformer(folder))
        model = _modules(folder, name, pooling).float().eval()
        _check(model, folder)
        return model
    except DAMAGE as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded as a sentence encoder: {reason}") from error


def _check_configuration(folder: Path) -> None:
    """Refuse a model that asks for code of its own, or whose weights are quantised."""
    for file in (folder / "config.json", folder / "tokenizer_config.json"):
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if "auto_map" in config:
            raise ValueError(f"{file.name} asks to run code of the model's own; the kit never does")
        if "quantization_config" in config:
            raise ValueError(QUANTISED)


def _modules(folder: Path, name: str, pooling: str | None) -> SentenceTransformer:
    here = {"trust_remote_code": False, "local_files_only": True}
    if (folder / "modules.json").is_file():
        model = SentenceTransformer(str(folder), device="cpu", **here)
        for module in model:
            if pooling is not None and isinstance(module, Pooling):
                module.pooling_mode = pooling
        return model
    transformer = Transformer(
        str(folder), model_kwargs={**here, "weights_only": True}, config_kwargs=here,
        processor_kwargs=here,
    )  # fmt: skip
    pooling = Pooling(transformer.get_embedding_dimension(), pooling or _trained_pooling(name))
    return SentenceTransformer(modules=[transformer, pooling], device="cpu")


def _trained_pooling(name: str) -> str:
    """Return the pooling that a model was trained with; `cls`, with a note, if unknown."""
    if re.search(r"(?<!un)sup-simcse", name, re.IGNORECASE):
        print(f"note: the published figures of {name} use its pooler's output, not the [CLS] here")
    for part, pooling in TRAINED_POOLING.items():
        if part in name.lower():
            return pooling
    print(f'note: the pooling of {name} is unknown: using [CLS]. Set pooling="mean" if it averages')
    return "cls"


def _check(model: SentenceTransformer, folder: Path) -> None:
    """Reject models with meaningless vectors, of which the libraries only warn."""
    model.max_seq_length = token_limit(model)
    # On the meta device: compare the names of the weights without reading their numbers.
    _, report = type(model.transformers_model).from_pretrained(
        _transformer(folder), output_loading_info=True, device_map="meta", local_files_only=True,
        trust_remote_code=False,
    )  # fmt: skip
    # The pooler may be random, because nothing uses it.
    if missing := [key for key in report["missing_keys"] if "pooler" not in key]:
        raise ValueError(f"its weights lack {len(missing)} of the model, such as {min(missing)}")
    if not all(tensor.is_floating_point() for tensor in model.parameters()):
        raise ValueError(QUANTISED)
    words = model.tokenizer.get_vocab()
    known = model.transformers_model.get_input_embeddings().num_embeddings
    if max(words.values()) >= known or words.keys() <= set(model.tokenizer.all_special_tokens):
        raise ValueError("its tokenizer is missing or of a different model")


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
