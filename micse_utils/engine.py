"""Run a model's transformer by OpenVINO, on a CPU: a compiled snapshot in place of its weights."""

import hashlib
import json
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers import PretrainedConfig

from micse_utils.device import pick_dtype, pick_threads
from micse_utils.job import RECORD, cache_job
from micse_utils.provenance import sha256_of
from micse_utils.results import json_or_none
from micse_utils.settings import cache_folder

ENGINES = ("torch", "openvino", "auto")
SNAPSHOT = (
    "a model loaded with engine='openvino' is a snapshot without PyTorch weights: load it with "
    "engine='torch' to train, change, save or move it"
)
FORMATS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
TOLERANCE = 1e-4  # of the largest value, between the converted transformer and PyTorch's
TRIED = (["one"], ["a few words", "word " * 300, ""])
"""Texts on which they are compared: alone, and padded to the longest that fits."""


class Snapshot(nn.Module):
    """A compiled transformer, where a sentence-transformers module has its Hugging Face model.

    It computes in the number format `dtype`, and returns float32.
    """

    def __init__(self, file: Path, config: PretrainedConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.training = False
        self.file, self.config, self.dtype = file, config, dtype
        self.device, self.threads = torch.device("cpu"), pick_threads()
        self._graph = _openvino().Core().read_model(file)
        self._names = [port.any_name for port in self._graph.inputs]
        self._compiled, self._lock = {}, threading.Lock()

    def __reduce__(self) -> tuple:
        """Let a copy, or a different process, read the converted model itself."""
        return type(self), (self.file, self.config, self.dtype)

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """Compute one batch with all threads."""
        request = self._model(streams=1).create_infer_request()
        return {"last_hidden_state": torch.from_numpy(request.infer(self._inputs(features))[0])}

    def stream(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Yield batches with their `token_embeddings`, in order; each thread computes one."""
        model, pending = self._model(streams=self.threads), deque()
        requests = [model.create_infer_request() for _ in range(self.threads + 1)]

        def finished() -> dict[str, Tensor]:
            request, batch = pending.popleft()
            request.wait()
            hidden = torch.from_numpy(request.get_output_tensor().data.copy())
            return {**batch, "token_embeddings": hidden}

        for request, batch in zip(cycle(requests), batches, strict=False):
            if len(pending) == len(requests):
                yield finished()
            request.start_async(self._inputs(batch))
            pending.append((request, batch))
        while pending:
            yield finished()

    def _inputs(self, features: dict[str, Tensor]) -> dict[str, np.ndarray]:
        return {name: features[name].numpy() for name in self._names}

    def _model(self, streams: int) -> object:
        """Return the model compiled to compute so many batches at a time."""
        with self._lock:
            if streams not in self._compiled:
                self._compiled[streams] = _openvino().compile_model(self._graph, "CPU", {
                    "INFERENCE_NUM_THREADS": self.threads,
                    "NUM_STREAMS": streams,
                    "INFERENCE_PRECISION_HINT": FORMATS[self.dtype],
                    "ENABLE_CPU_PINNING": False,  # a busy core would hold its thread up
                })  # fmt: skip
            return self._compiled[streams]

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> "Snapshot":
        """Follow `.to()` to a different number format, and refuse the rest."""
        like = function(torch.empty(0, dtype=self.dtype))
        if like.device != self.device or like.dtype not in FORMATS:
            self._refuse()
        if like.dtype != self.dtype:
            self.dtype, self._compiled = like.dtype, {}
        return self

    def __getattr__(self, name: str) -> object:
        """Say why a layer, or a method that would change one, is not there."""
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise AttributeError(f"{error}: {SNAPSHOT}") from None

    def train(self, mode: bool = True) -> "Snapshot":
        """Refuse to be trained."""
        return self._refuse() if mode else self

    def _refuse(self, *arguments: object, **options: object) -> None:
        raise RuntimeError(SNAPSHOT)

    state_dict = _load_from_state_dict = save_pretrained = get_input_embeddings = _refuse


def use_snapshot(module: Transformer, sha256: str) -> str:
    """Replace a module's transformer by a snapshot of it; return OpenVINO's name and version.

    It is converted once, and kept in the cache under all that decides the result, such as the
    SHA-256 of the weights. The module is the first of a model, in float32 on a CPU, as loaded.

    Raises:
        ValueError: OpenVINO is not installed or cannot convert this model; the cache is unusable.
    """
    openvino, model = _openvino(), module.model
    engine = f"openvino {version('openvino')}"
    decides = {
        "weights": sha256,
        "config": model.config.to_json_string(use_diff=False),
        "shapes": {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        "versions": [engine, *map(version, ("torch", "transformers"))],
    }
    key = hashlib.sha256(json.dumps(decides).encode()).hexdigest()
    folder = cache_folder() / "openvino" / key[:32]
    files = [folder / "model.xml", folder / "model.bin"]
    if not _intact(files):
        try:
            graph = _convert(module, openvino)
        except Exception as error:  # OpenVINO has many classes for this
            kind, reason = model.config.model_type, str(error).strip().split("\n")[0]
            raise ValueError(f"OpenVINO cannot convert a {kind} model ({reason})") from error
        with cache_job(folder, ValueError) as work:
            if not _intact(files):  # another process may have been faster
                for file in files:  # not overwritten, as another process may be reading it
                    file.unlink(missing_ok=True)
                openvino.save_model(graph, files[0], compress_to_fp16=False)
                work.finish({"sha256": sha256_of(files)})
    module.model = Snapshot(files[0], model.config, pick_dtype("cpu"))
    return engine


def _intact(files: list[Path]) -> bool:
    record = json_or_none(files[0].with_name(RECORD)) or {}
    return all(map(Path.is_file, files)) and sha256_of(files) == record.get("sha256")


class _Hidden(nn.Module):
    """A transformer as a function of its inputs in order, which can be traced."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).last_hidden_state


@torch.no_grad()
def _convert(module: Transformer, openvino: ModuleType) -> object:
    """Convert a transformer; refuse a conversion that computes something else."""
    example, known = module.preprocess(TRIED[1]), module.model_forward_params
    tensors = [name for name, value in example.items() if isinstance(value, Tensor)]
    names = [name for name in tensors if known is None or name in known]
    traced = _Hidden(module.model, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trace; the comparison below finds out
        graph = openvino.convert_model(traced, example_input=tuple(example[n] for n in names))
    for port, name in zip(graph.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for texts in TRIED:
        features = module.preprocess(texts)
        inputs, mask = [features[name] for name in names], features["attention_mask"].bool()
        expected = traced(*inputs)[mask]
        found = torch.from_numpy(compiled([value.numpy() for value in inputs])[0])[mask]
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            raise RuntimeError("the converted model gives different vectors")
    return graph


def _openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would report each import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)
    try:
        import openvino
    except ImportError as error:
        raise ValueError("OpenVINO is not installed: pip install -e '.[fast]'") from error
    return openvino
