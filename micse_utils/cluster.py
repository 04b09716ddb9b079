"""Encode a large table, each row once, in this process or on Ray; run functions on Ray.

Every block of rows becomes one file, written atomically: after a crash only the rest is encoded.
"""

import contextlib
import dataclasses
import logging
import os
import secrets
import socket
import warnings
from collections import Counter
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
from micse_utils.models import load_model
from micse_utils.provenance import Provenance, versions
from micse_utils.results import write_atomically
from micse_utils.settings import folder_setting

RECORD = "_encoding.json"  # in the output, of the finished work
CPUS = 8  # cores of a worker, if a machine has as many: batches are too small to keep more busy
TRIES = 3  # restarts of a worker that dies, and of its block


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings that decide the output, the same on every machine."""

    model: str  # a name or folder, as for `load_model`
    source: str  # where to look for it
    provenance: Provenance  # of the model; a worker that finds a different one refuses to work
    into: str = "embedding"  # name of the column for the embeddings
    half: bool = False  # float16 instead of float32
    max_length: int = 128  # tokens kept of each text
    block_rows: int = WINDOW


def encode_files(
    source: Source,
    output: str | Path,
    recipe: Recipe,
    model: SentenceTransformer | None = None,
    *,
    workers: int | None = None,
) -> Counter[str]:
    """Write a table with its embeddings, a list of fixed size, null where a row has no text.

    Args:
        output: folder on a disk that all workers see, for Parquet files with the rows in order.
        model: the recipe's, to encode in this process. Without it, workers on the Ray that is
            `connected` load their own.
        workers: number of them; by default as in `shares`.

    Returns:
        Rows `encoded` by this call, those of them `without text`, and `blocks with warnings`.

    Raises:
        ValueError: a column `into` exists, `output` holds a Parquet file that is not of this work,
            the input changed meanwhile, or an embedding does not fit float16.
    """
    if recipe.into in source.schema.names:
        raise ValueError(f"the input has a column '{recipe.into}' already; say --into another name")
    settings = dataclasses.asdict(recipe) | {"column": source.column, "input_sha256": source.sha256}
    done = Counter()
    with job(output, settings, record=RECORD) as work:
        names = source.block_names(recipe.block_rows)
        finished = {path.stem for path in work.folder.glob("[!.]*.parquet")}
        if foreign := sorted(finished - {*names}):
            raise ValueError(f"{work.folder / foreign[0]}.parquet is not of this work: move it")
        if work.record and len(finished) == len(names):
            return done
        blocks = source.blocks(recipe.block_rows, finished)
        worker = Worker(recipe, source.column, work.folder.absolute())
        if model is not None:
            worker.model = model
            run = (worker.encode_block(*block) for block in blocks)
        else:
            run = _on_workers(blocks, worker, workers)
        bar = tqdm(run, "encode", len(names), initial=len(finished), unit="block")
        for counts, warning in bar:
            if warning and not done["blocks with warnings"]:
                bar.write(f"the first warning: {warning}")
            done.update(counts)
        for unfinished in work.folder.glob(".[0-9]*-*.parquet"):  # of a worker that died
            unfinished.unlink()
        work.finish(settings | {"rows": source.rows, "versions": versions()})
    return done


@dataclasses.dataclass
class Worker:
    """Encode blocks with one model on one machine, and write their files."""

    recipe: Recipe
    column: str
    folder: Path

    @cached_property
    def model(self) -> SentenceTransformer:
        """Load the model of the recipe on this machine."""
        recipe, wanted = self.recipe, self.recipe.provenance
        engine = (wanted.engine or "torch").split()[0]
        model = load_model(recipe.model, source=recipe.source, engine=engine)
        if (found := model.provenance) != wanted:
            raise ValueError(f"this machine has {found}, not {wanted}; name a source of both")
        return model

    def encode_block(self, name: str, table: pa.Table) -> tuple[dict[str, int], str | None]:
        """Write a block with its embeddings; return its counts, and a warning of the encoder."""
        is_text = table[self.column].is_valid().to_numpy()
        texts = [text for text in table[self.column].to_pylist() if text is not None]
        size, length = self.model.get_embedding_dimension(), self.recipe.max_length
        vectors = np.zeros((len(table), size), np.float32)
        with warnings.catch_warnings(record=True, action="always") as caught:
            if texts:
                vectors[is_text] = encode(self.model, texts, max_length=length, progress=False)
        if self.recipe.half:
            if (largest := np.abs(vectors).max()) > np.finfo(np.float16).max:
                raise ValueError(f"embeddings reach {largest:,.0f}, float16 65,504: omit --half")
            vectors = vectors.astype(np.float16)
        empty = pa.array(~is_text)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size, mask=empty)
        # Vectors are all distinct: looking for repeated values would only take time.
        options = {"use_dictionary": table.column_names}
        table = table.append_column(self.recipe.into, column).replace_schema_metadata()
        file = self.folder / f"{name}.parquet"
        write_atomically(file, lambda path: pa.parquet.write_table(table, path, **options))
        counts = {"encoded": len(table), "without text": len(table) - len(texts)}
        counts["blocks with warnings"] = int(bool(caught))
        return counts, str(caught[0].message) if caught else None


def _on_workers(blocks: Iterable[tuple], worker: Worker, workers: int | None) -> Iterator[tuple]:
    """Encode blocks on Ray, two waiting for each worker; Ray restarts one that dies."""
    import ray
    from ray.util import ActorPool

    count, cpus, gpus = shares(workers)
    print(f"workers: {count}, each with {cpus} CPU cores and {gpus} GPUs")
    again = {"max_restarts": TRIES, "max_task_retries": TRIES}
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus, **again)(Worker)
    parts = worker.recipe, worker.column, worker.folder  # without a model
    pool = ActorPool([actor.remote(*parts) for _ in range(count)] * 2)
    try:
        for block in blocks:
            if not pool.has_free():
                yield pool.get_next_unordered()
            pool.submit(lambda one, block: one.encode_block.remote(*block), block)
        while pool.has_next():
            yield pool.get_next_unordered()
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a worker stopped: {_cause(error)}") from error


def on_ray(function: Callable, items: Iterable, *, cpus: float, gpus: float) -> Iterator[tuple]:
    """Call a function of each item on the connected Ray, as many at a time as fit.

    Yields an item with its result, or with the exception that ended it, in the order they finish.
    The folders that `MICSE_DATA` and `MICSE_SENTEVAL` name here are used there, too.
    """
    import ray

    if not any(cpus <= c and gpus <= g for c, g in _machines()):  # Ray would wait for one
        raise ValueError(f"{cpus:g} CPU cores and {gpus:g} GPUs fit no machine of the cluster")
    folders = {name: folder_setting(name) for name in ("MICSE_DATA", "MICSE_SENTEVAL")}
    folders = {name: str(folder.resolve()) for name, folder in folders.items() if folder}

    def call(item: object) -> object:  # a function of its own, as Ray takes no method
        os.environ.update(folders)
        return function(item)

    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(call)
    pending = {task.remote(item): item for item in items}
    while pending:
        (ready,), _ = ray.wait(list(pending))
        try:
            result = ray.get(ready)
        except ray.exceptions.RayError as error:
            result = _cause(error)
        yield pending.pop(ready), result


def _cause(error: Exception) -> Exception:
    """Return what a function raised on Ray, or the last line of Ray's own error."""
    return getattr(error, "cause", None) or RuntimeError(str(error).strip().splitlines()[-1])


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block; without an address, start one here.

    Raises ConnectionError if there is none at that address, or Ray does not start.
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
    import ray

    try:
        try:
            if address and address != "auto":  # Ray itself would try for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), timeout=5).close()
            ray.init(address or "local", **options)
        except Exception as error:  # Ray has no class for this
            what = f"there is no Ray cluster at {address}" if address else "Ray does not start"
            reason = str(error).strip().split("\n")[0]
            raise ConnectionError(f"{what} ({reason})") from error
        yield
    finally:
        ray.shutdown()


def shares(workers: int | None = None) -> tuple[int, float, float]:
    """Return the number of workers, and the CPUs and GPUs of each, for the connected cluster.

    By default one for each GPU; without any, one for every `CPUS` cores of a machine.
    """
    cpus = [int(c) for c, _ in _machines()]
    gpus = int(sum(g for _, g in _machines()))
    count = workers or gpus or sum(max(1, n // CPUS) for n in cpus if n)
    return count, max(1, min(sum(cpus) // count, max(cpus))), 1 if gpus >= count else 0


def _machines() -> list[tuple[float, float]]:
    """Return the CPU cores and GPUs of each machine of the connected cluster."""
    import ray

    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(each.get("CPU", 0), each.get("GPU", 0)) for each in resources]
