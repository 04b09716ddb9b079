"""Encode a large table block by block, in this process or on Ray; run functions on Ray."""

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.datasets.tables import Source
from micse_utils.encoding import WINDOW, encode
from micse_utils.job import job
from micse_utils.models import load_model
from micse_utils.provenance import Provenance, versions
from micse_utils.results import write_atomically
from micse_utils.settings import folder_setting

RECORD = "_encoding.json"  # in the output, of the finished work
CPUS = 8  # cores of a worker, if a machine has as many: batches are too small to keep more busy


@dataclass(frozen=True)
class Recipe:
    """Settings that decide the output, the same on every machine."""

    model: str  # a name or folder, as for `load_model`
    source: str  # where to look for it
    provenance: Provenance  # of the model; a worker that finds a different one refuses to work
    into: str = "embedding"  # name of the column for the embeddings
    max_length: int = 128  # tokens kept of each text
    block_rows: int = WINDOW


def encode_files(
    source: Source, output: str | Path, recipe: Recipe, model: SentenceTransformer | None = None
) -> int:
    """Write a table with its embeddings, null where a row has no text; return the rows encoded.

    Args:
        output: folder on a disk that all workers see, for Parquet files with the rows in order.
        model: the recipe's, to encode in this process; workers on the connected Ray load their own.

    Raises:
        ValueError: a column `into` exists, `output` holds different work, or the input changed.
    """
    if recipe.into in source.schema.names:
        raise ValueError(f"the input has a column '{recipe.into}' already; change it with --into")
    settings = asdict(recipe) | {"column": source.column, "input_sha256": source.sha256}
    encoded, warned = 0, None
    with job(output, settings, record=RECORD) as work:
        names = source.block_names(recipe.block_rows)
        finished = {name for name in names if (work.folder / f"{name}.parquet").exists()}
        if work.record and len(finished) == len(names):
            return 0
        blocks = source.blocks(recipe.block_rows, finished)
        encoder = BlockEncoder(recipe, source.column, work.folder.absolute())
        if model is not None:
            encoder.model = model
            run = ((block, encoder.encode(block)) for block in blocks)
        else:
            run = on_ray(encoder.encode, blocks, least=CPUS)
        bar = tqdm(run, "encode", len(names), initial=len(finished), unit="block")
        for _, result in bar:
            if isinstance(result, Exception):
                raise result
            rows, warning = result
            if warning and not warned:
                bar.write(warned := f"the first warning: {warning}")
            encoded += rows
        work.finish(settings | {"rows": source.rows, "versions": versions()})
    return encoded


@dataclass
class BlockEncoder:
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
            raise ValueError(f"this machine has {found}, not {wanted}; use a source of both")
        return model

    def encode(self, block: tuple[str, pa.Table]) -> tuple[int, str | None]:
        """Write a block with its embeddings; return its rows, and a warning of the encoder."""
        name, table = block
        is_text = table[self.column].is_valid().to_numpy()
        texts = [text for text in table[self.column].to_pylist() if text is not None]
        size, length = self.model.get_embedding_dimension(), self.recipe.max_length
        vectors = np.zeros((len(table), size), np.float32)
        with warnings.catch_warnings(record=True, action="always") as caught:
            if texts:
                vectors[is_text] = encode(self.model, texts, max_length=length, progress=False)
        empty = pa.array(~is_text)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size, mask=empty)
        table = table.append_column(self.recipe.into, column).replace_schema_metadata()
        # Vectors are all distinct: looking for repeated values would only take time.
        repeated = [name for name in table.column_names if name != self.recipe.into]
        write = partial(pa.parquet.write_table, table, use_dictionary=repeated)
        write_atomically(self.folder / f"{name}.parquet", write)
        return len(table), str(caught[0].message) if caught else None


class Worker:
    """Call a function on a machine of a Ray cluster."""

    def __init__(self, function: Callable, variables: dict[str, str]) -> None:
        os.environ.update(variables)
        self.function = function

    def call(self, number: int, item: object) -> tuple[int, object]:
        """Return the number of an item with what the function returns or raises."""
        try:
            return number, self.function(item)
        except Exception as error:
            return number, error


def on_ray(function: Callable, items: Iterable, *, least: int = 2) -> Iterator[tuple]:
    """Yield items with what a function returns or raises, from workers on the connected Ray.

    They see the folders that `MICSE_DATA` and `MICSE_SENTEVAL` name here.
    """
    import ray
    from ray.util import ActorPool

    names = [name for name in ("MICSE_DATA", "MICSE_SENTEVAL") if folder_setting(name)]
    folders = {name: str(folder_setting(name).resolve()) for name in names}
    count, cpus, gpus = shares(least)
    again = {"max_restarts": 3, "max_task_retries": 3}  # of a worker that dies, and of its item
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus, **again)(Worker)
    # Each twice: the next item is there before a worker is done with the one in hand.
    pool = ActorPool([actor.remote(function, folders) for _ in range(count)] * 2)
    sent = {}

    def next_done() -> tuple:
        number, result = pool.get_next_unordered()
        return sent.pop(number), result

    try:
        for number, item in enumerate(items):
            if not pool.has_free():
                yield next_done()
            sent[number] = item
            pool.submit(lambda worker, pair: worker.call.remote(*pair), (number, item))
        while pool.has_next():
            yield next_done()
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a worker stopped: {str(error).strip().splitlines()[-1]}") from error


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block, or raise ConnectionError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes are no user's business
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # GPUs stay as they are
    try:
        import ray

        if address != "auto":  # Ray itself would try for minutes
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=5).close()
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # Ray has no class for this
        reason = str(error).strip().split("\n")[0]
        raise ConnectionError(f"there is no Ray cluster at {address} ({reason})") from error
    try:
        yield
    finally:
        ray.shutdown()


def shares(least: int = CPUS) -> tuple[int, int, int]:
    """Return the number of workers on the connected cluster, and the CPUs and GPUs of each.

    One for each GPU; without any, one for every so many CPUs of a machine. Each fits everywhere.
    """
    import ray

    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    machines = [each for each in machines if each.get("CPU", 0) >= 1]
    gpus = any(each.get("GPU") for each in machines)
    number = [int(m.get("GPU", 0)) if gpus else max(1, int(m["CPU"]) // least) for m in machines]
    cpus = [int(m["CPU"]) // n for m, n in zip(machines, number, strict=True) if n]
    if not cpus:
        raise ValueError("the Ray cluster has no machine with CPU cores")
    return sum(number), max(1, min(cpus)), int(gpus)
