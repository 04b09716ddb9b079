"""Run a model's transformer by OpenVINO, on a CPU: a compiled snapshot in place of its weights."""

import hashlib
import json
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor, nn
from transformers import PretrainedConfig

from micse_utils.device import pick_dtype, pick_threads
from micse_utils.job import RECORD, cache_job
from micse_utils.provenance import sha256_of
from micse_utils.results import json_or_none
from micse_utils.settings import cache_folder

sys.modules.setdefault("openvino_telemetry", None)  # it would report each import and conversion

SNAPSHOT = "this model is a snapshot without PyTorch weights: load it with engine='torch'"
FORMATS = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
TOLERANCE = 1e-4  # of the largest value, between the converted transformer and PyTorch's
TRIED = (["one"], ["a few words", "word " * 300, ""])  # texts: alone, padded to the longest


def prefetch(function: Callable, items: Iterable, workers: int = 1) -> Iterator:
    """Map in order, each worker a thread that is at most one item ahead."""
    pending = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


class Snapshot(nn.Module):
    """A compiled transformer in place of a Hugging Face model; it computes in `dtype`."""

    def __init__(self, file: Path, config: PretrainedConfig, dtype: torch.dtype) -> None:
        import openvino

        super().__init__()
        self.training = False
        self.file, self.config, self.dtype = file, config, dtype
        self.device, self.threads = torch.device("cpu"), pick_threads()
        self._core, self._compiled = openvino.Core(), {}
        self._graph = self._core.read_model(file)
        self._names = [port.any_name for port in self._graph.inputs]

    def __reduce__(self) -> tuple:
        """Let a copy, or a different process, read the converted model itself."""
        return type(self), (self.file, self.config, self.dtype)

    def forward(self, **features: Tensor) -> dict[str, Tensor]:
        """Compute one batch with all threads."""
        request = self._model(streams=1).create_infer_request()
        return {"last_hidden_state": self._infer(request, features)}

    def stream(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Yield batches with their `token_embeddings`, in order; each thread computes one."""
        requests = [self._model(self.threads).create_infer_request() for _ in range(self.threads)]

        def compute(batch: dict[str, Tensor]) -> dict[str, Tensor]:
            request = requests.pop()  # there is one for each thread
            hidden = self._infer(request, batch)
            requests.append(request)
            return {**batch, "token_embeddings": hidden}

        return prefetch(compute, batches, self.threads)

    def _infer(self, request: object, features: dict[str, Tensor]) -> Tensor:
        return torch.from_numpy(request.infer({n: features[n].numpy() for n in self._names})[0])

    def _model(self, streams: int) -> object:
        """Return the model compiled to compute so many batches at a time."""
        if streams not in self._compiled:
            self._compiled[streams] = self._core.compile_model(self._graph, "CPU", {
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

    def __getattr__(self, name: str) -> None:
        """Say why a layer, or a method that would change one, is not there."""
        raise AttributeError(f"no {name}: {SNAPSHOT}")

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
    Raises ValueError if OpenVINO cannot convert this model, or if the cache is unusable.
    """
    import openvino

    engine, config = f"openvino {version('openvino')}", module.model.config
    versions = [engine, version("torch"), version("transformers")]
    decides = json.dumps([sha256, config.to_json_string(use_diff=False), versions])
    folder = cache_folder() / "openvino" / hashlib.sha256(decides.encode()).hexdigest()[:32]
    files = [folder / "model.xml", folder / "model.bin"]
    if not _intact(files):
        try:
            graph = _convert(module)
        except Exception as error:  # OpenVINO has many classes for this
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"OpenVINO cannot convert it ({reason})") from error
        with cache_job(folder, ValueError) as work:
            if not _intact(files):  # another process may have been faster
                for file in files:  # not overwritten, as another process may be reading it
                    file.unlink(missing_ok=True)
                openvino.save_model(graph, files[0], compress_to_fp16=False)
                work.finish({"sha256": sha256_of(files)})
    module.model = Snapshot(files[0], config, pick_dtype("cpu"))
    return engine


def _intact(files: list[Path]) -> bool:
    """Return whether the files are those that were recorded."""
    record = json_or_none(files[0].with_name(RECORD))
    return all(map(Path.is_file, files)) and record == {"sha256": sha256_of(files)}


@torch.no_grad()
def _convert(module: Transformer) -> object:
    """Convert a transformer; refuse a conversion that computes something else."""
    import openvino

    example, known = module.preprocess(TRIED[1]), module.model_forward_params
    names = [name for name, value in example.items() if isinstance(value, Tensor)]
    names = [name for name in names if known is None or name in known]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trace; the comparison below finds out
        inputs = {name: example[name] for name in names}
        graph = openvino.convert_model(module.model, example_input=inputs)
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for texts in TRIED:
        features = module.preprocess(texts)
        inputs, mask = {name: features[name] for name in names}, features["attention_mask"].bool()
        expected = module.model(**inputs).last_hidden_state[mask]
        found = torch.from_numpy(compiled({n: v.numpy() for n, v in inputs.items()})[0])[mask]
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            raise RuntimeError("the converted model gives different vectors")
    return graph
