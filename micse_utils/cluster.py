"""Encode a large table, each row once, in this process or on Ray; run functions on Ray.

Every block of rows becomes one file, named by its place in the table and written atomically. So
after a crash only missing blocks are encoded.
"""

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.datasets.tables import Source
from micse_utils.device import allowed_cores
from micse_utils.encoding import WINDOW, encode
from micse_utils.job import job
from micse_utils.models import load_model, quiet
from micse_utils.provenance import Provenance, versions
from micse_utils.results import write_atomically

RECORD = "_encoding.json"  # in the output, of the finished work
METADATA = b"micse"  # key of a block's counts among the metadata of its file
CPUS = 8  # cores of a worker, if a machine has as many: batches are too small to keep more busy
TRIES = 3  # restarts of a worker that dies, and of its block


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that decide the output, the same on every machine.

    Attributes:
        model, source: a name or folder, and where to look for it, as for `load_model`.
        provenance: of the model; a worker that finds a different one refuses to work.
        into: name of the column for the embeddings.
        half: write float16 instead of float32.
        max_length: tokens kept of each text.
        block_rows: rows of a block.
    """

    model: str
    source: str
    provenance: Provenance
    into: str = "embedding"
    half: bool = False
    max_length: int = 128
    block_rows: int = WINDOW


def encode_files(
    source: Source,
    output: str | Path,
    recipe: Recipe,
    *,
    workers: int = 0,
    cpus: float = 1,
    gpus: float = 0,
    model: SentenceTransformer | None = None,
    progress: bool = True,
) -> dict[str, object]:
    """Write a table with its embeddings, a list of fixed size, null where a row has no text.

    Args:
        source: the table to encode.
        output: folder on a disk that all workers see, for Parquet files with the columns of the
            source, in its order. Finished blocks of the same work are kept.
        recipe: what decides the output.
        workers: number of them, on the Ray that is `connected`, each with a model of its own and
            `cpus` cores and `gpus` GPUs; 0: this process.
        model: the recipe's, if this process has loaded it; workers load their own.
        progress: show a bar.

    Returns:
        The record: `rows`, rows `without text`, `warnings` of the encoder, settings, versions;
        and `encoded`, the rows of this call.

    Raises:
        ValueError: a column `into` exists, `output` holds different work or a Parquet file that is
            not of it, or an embedding does not fit float16.
        FileExistsError: `output` holds files and is not the kit's, or another run writes there.
        RuntimeError: a worker could not go on.
    """
    if recipe.into in source.table.column_names:
        raise ValueError(f"the input has a column '{recipe.into}' already; say --into another name")
    settings = dataclasses.asdict(recipe) | {"column": source.column, "input_sha256": source.sha256}
    names = source.block_names(recipe.block_rows)
    with job(output, settings, record=RECORD) as work:
        _remove_unfinished(work.folder)
        there = {path.stem for path in work.folder.glob("*.parquet")}
        if foreign := sorted(there - {*names}):
            raise ValueError(f"{work.folder / foreign[0]}.parquet is not of this work: move it")
        before = _summary(work.folder, there)
        if work.record and len(there) == len(names):
            return work.record | {"encoded": 0}
        worker = Worker(recipe, source.column, work.folder.absolute(), model)
        blocks = source.blocks(recipe.block_rows, there)
        if workers:
            run = _on_workers(blocks, worker, workers, num_cpus=cpus, num_gpus=gpus)
        else:
            run = (worker.encode_block(*block) for block in blocks)
        with tqdm(
            total=len(source.table), initial=before["rows"], desc="encode", disable=not progress
        ) as bar:
            for rows in run:
                bar.update(rows)
        _remove_unfinished(work.folder)
        after = _summary(work.folder, names)
        encoded = {"encoded": after["rows"] - before["rows"], "versions": versions()}
        work.finish(settings | after | encoded)
        return work.record


def _remove_unfinished(folder: Path) -> None:
    """Delete what a worker that died had not renamed yet: a reader may take it for a block."""
    for unfinished in folder.glob(".[0-9]*-*.parquet"):
        unfinished.unlink()


def _summary(folder: Path, blocks: Iterable[str]) -> dict[str, object]:
    """Count rows, rows without a text, and warnings in the files themselves."""
    counts = []
    for block in sorted(blocks):
        file = folder / f"{block}.parquet"
        try:
            counts.append(json.loads(pa.parquet.read_schema(file).metadata[METADATA]))
        except (pa.ArrowInvalid, KeyError, TypeError, OSError) as error:
            raise ValueError(f"{file} is damaged, or the kit did not write it: move it") from error
    warned = [count["warning"] for count in counts if count["warning"]]
    return {
        "rows": sum(count["rows"] for count in counts),
        "without text": sum(count["without text"] for count in counts),
        "blocks": len(counts),
        "blocks with warnings": len(warned),
        "first warning": warned[0] if warned else None,
    }


@dataclasses.dataclass
class Worker:
    """Encode blocks with one model on one machine, and write their files."""

    recipe: Recipe
    column: str
    folder: Path
    given: SentenceTransformer | None = None

    @cached_property
    def model(self) -> SentenceTransformer:
        """Load the model of the recipe on this machine, unless it is given."""
        if self.given is not None:
            return self.given
        with quiet():
            engine = (self.recipe.provenance.engine or "torch").split()[0]
            model = load_model(self.recipe.model, source=self.recipe.source, engine=engine)
        if model.provenance != self.recipe.provenance:
            raise ValueError(
                f"this machine has {model.provenance}, the one that started the work "
                f"{self.recipe.provenance}; name a source that both have"
            )
        return model

    def encode_block(self, name: str, table: pa.Table) -> int:
        """Write a block with its embeddings; return its number of rows."""
        texts = table[self.column]
        is_text = texts.is_valid().to_numpy()
        size = self.model.get_embedding_dimension()
        vectors = np.zeros((len(texts), size), np.float32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if is_text.any():
                given, length = texts.drop_null().to_pylist(), self.recipe.max_length
                vectors[is_text] = encode(self.model, given, max_length=length, progress=False)
        if self.recipe.half:
            if (largest := np.abs(vectors).max()) > np.finfo(np.float16).max:
                raise ValueError(f"embeddings reach {largest:,.0f}, float16 65,504: omit --half")
            vectors = vectors.astype(np.float16)
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), size, mask=pa.array(~is_text)
        )
        counts = {
            "rows": len(texts),
            "without text": int((~is_text).sum()),
            "warning": str(caught[0].message) if caught else None,
        }
        columns = table.column_names
        table = table.append_column(self.recipe.into, column)
        table = table.replace_schema_metadata({METADATA: json.dumps(counts)})
        # Vectors are all distinct: looking for repeated values would only take time.
        write_atomically(
            self.folder / f"{name}.parquet",
            lambda path: pa.parquet.write_table(table, path, use_dictionary=columns),
        )
        return len(texts)


def _on_workers(
    blocks: Iterable[tuple[str, pa.Table]], worker: Worker, workers: int, **share: float
) -> Iterator[int]:
    """Encode blocks on Ray, two waiting for each worker; Ray restarts one that dies."""
    import ray
    from ray.util import ActorPool

    actor = ray.remote(max_restarts=TRIES, max_task_retries=TRIES, **share)(Worker)
    parts = worker.recipe, worker.column, worker.folder
    pool = ActorPool([actor.remote(*parts) for _ in range(workers)] * 2)
    try:
        for block in blocks:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda one, block: one.encode_block.remote(*block), block)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"a worker stopped: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(
            f"a block killed its worker {TRIES + 1} times; is there enough memory? Use fewer "
            "--workers or --block-rows"
        ) from error


def on_ray(
    function: Callable, items: Iterable, *, cpus: float = 1, gpus: float = 0
) -> Iterator[tuple[object, object]]:
    """Call a function of each item on the connected Ray, as many at a time as fit.

    Yields:
        An item with its result, or with the exception that ended it, in the order they finish.

    Raises:
        ValueError: no machine is large enough; Ray would wait for one.
    """
    import ray

    if not any(cpus <= c and gpus <= g for c, g in _machines()):
        there = ", ".join(f"{c:g} and {g:g}" for c, g in _machines())
        raise ValueError(f"{cpus:g} CPU cores and {gpus:g} GPUs fit no machine, there are {there}")
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(function)
    pending = {task.remote(item): item for item in items}
    while pending:
        (ready,), _ = ray.wait(list(pending))
        try:
            result = ray.get(ready)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            result = getattr(error, "cause", None) or RuntimeError(reason)
        yield pending.pop(ready), result


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block; without an address, start one here.

    Raises:
        ConnectionError: there is no cluster at that address.
        RuntimeError: Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes are no user's business
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # GPUs stay as they are
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # on a busy machine
    options = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if not address:
        options |= {"include_dashboard": False, "num_cpus": allowed_cores()}
        # Ray listens on all interfaces: only who has this token may connect. Read at its import.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    elif address != "auto":
        _check_address(address)
    import ray

    kind, doing = (ConnectionError, "answer") if address else (RuntimeError, "start")
    try:
        for seconds in (0,) if address else (5, 20, 0):  # a busy machine may need several tries
            try:
                ray.init(address or "local", **options)
                break
            except Exception as error:  # Ray has no class for this
                ray.shutdown()
                if not seconds:
                    reason = str(error).strip().partition("\n")[0]
                    raise kind(
                        f"Ray does not {doing} ({reason}); try again when the machine is less "
                        "busy, or set RAY_AUTH_MODE=token if a cluster asks for one"
                    ) from error
            time.sleep(seconds)
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ConnectionError if nobody listens at an address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"there is no Ray cluster at {address} ({error}); use the address that `ray start` "
            "printed on its head, such as 10.0.0.1:6379"
        ) from None


def shares(workers: int | None = None) -> tuple[int, float, float]:
    """Return the number of workers, and the CPUs and GPUs of each, for the connected cluster.

    By default a worker for each GPU; without any, one for every `CPUS` cores of a machine.
    """
    cpus = [int(c) for c, _ in _machines()]
    gpus = int(sum(g for _, g in _machines()))
    count = workers or gpus or sum(max(1, n // CPUS) for n in cpus if n)
    return count, max(1, min(sum(cpus) // count, max(cpus))), 1 if gpus >= count else 0


def _machines() -> list[tuple[float, float]]:
    """Return the CPU cores and GPUs of each machine of the connected cluster."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive]
