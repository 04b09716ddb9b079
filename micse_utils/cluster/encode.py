"""Encode a table of any size on Ray, each row exactly once.

Every block of the input becomes one file of the output, named by its place in the input and
written atomically. So after a crash only missing blocks are encoded, and nothing has to be kept in
memory to know them.
"""

import dataclasses
import json
import warnings
from collections.abc import Iterator
from functools import cached_property
from uuid import uuid4

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.cluster.output import METADATA, Output
from micse_utils.datasets.tables import Source, located
from micse_utils.encoding import WINDOW, encode
from micse_utils.models import load_model, quiet
from micse_utils.provenance import Provenance, versions

TRIES = 3
"""Worker crashes allowed per block before aborting; Ray itself never does."""


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
    output: str,
    recipe: Recipe,
    *,
    workers: int,
    cpus: float,
    gpus: float = 0,
    progress: bool = True,
) -> dict[str, object]:
    """Encode a table with several workers, each with a model of its own.

    Args:
        source: the table to encode.
        output: folder, on any disk that all workers see or at a URL that fsspec knows: Parquet
            files with the columns of the source, untouched and in its order, and the embeddings,
            a list of fixed size, null where a row has no text; and a record, `_encoding.json`.
            Existing results of the same work are kept. Files that the kit did not write are never
            changed or deleted. On a disk, a second run into the folder is refused.
        recipe: what decides the output.
        workers: number of them.
        cpus, gpus: what each worker gets.
        progress: show a bar.

    Returns:
        The record: `rows`, rows `without text`, `warnings` of the encoder, the settings, where
        model and rows came from, versions; of this call, `encoded` rows, and for each worker the
        largest memory `MiB` seen after a block.

    Raises:
        ValueError: the source has a column of the name `into`; `output` holds different work,
            files that the kit did not write, or such a file under a name that is needed.
        RuntimeError: a worker could not go on; what it said.
    """
    if recipe.into in source.schema.names:
        raise ValueError(f"the input has a column '{recipe.into}' already; say --into another name")
    folder = Output(*located(output))
    settings = dataclasses.asdict(recipe) | {"column": source.column, "input_sha256": source.sha256}
    blocks = source.block_names(recipe.block_rows)
    with folder.claimed(blocks, settings) as done:
        record = folder.read_record()
        if record.get("blocks") == len(done):
            return record | {"encoded": 0}
        encoded, memory = 0, {}
        bar = tqdm(desc="encode", unit="row", total=source.rows, disable=not progress)
        bar.update(folder.summary(done)["rows"])
        with bar:
            for part in _encoded(source, recipe, folder, done, workers, cpus, gpus):
                if part["error"]:
                    raise RuntimeError(f"a worker stopped; {part['error']}")
                encoded += part["rows"]
                memory[part["process"]] = max(part["MiB"], memory.get(part["process"], 0))
                bar.update(part["rows"])
        record = settings | folder.summary(blocks)
        record |= {
            "files": [file.replace("\\", "/").rsplit("/", 1)[-1] for file in source.files],
            "encoded": encoded,
            "worker MiB": sorted(round(most) for most in memory.values()),
            "versions": versions() | {"ray": ray.__version__},
        }
        folder.write_record(record)
        return record


def _encoded(
    source: Source,
    recipe: Recipe,
    output: Output,
    done: frozenset[str],
    workers: int,
    cpus: float,
    gpus: float,
) -> Iterator[dict[str, object]]:
    """Encode the missing blocks; yield the row that `Worker` returns for each."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # each block goes to a worker when it has been read
    parts = ray.data.from_items([{"number": n} for n in range(len(source.files))]).map_batches(
        _read, fn_args=(source, recipe.block_rows, done), batch_size=1, num_cpus=0
    )
    results = parts.map_batches(
        Worker,
        fn_constructor_args=(recipe, source.column, output),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cpus,
        num_gpus=gpus,
    )
    return results.iter_rows()


def _read(
    batch: dict[str, np.ndarray], source: Source, rows: int, done: frozenset[str]
) -> Iterator:
    """Yield the missing blocks of a file, one row each, as serialised Arrow tables."""
    try:
        for block in source.blocks(int(batch["number"][0]), rows, done):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, block.table.schema) as stream:
                stream.write_table(block.table)
            content = sink.getvalue().to_pybytes()
            yield {"name": [block.name], "table": [content], "error": [""]}
    except (ValueError, OSError) as error:
        yield {"name": [""], "table": [b""], "error": [str(error)]}


class Worker:
    """Encode blocks with one model on one machine, and write their files."""

    def __init__(self, recipe: Recipe, column: str, output: Output) -> None:
        self.recipe = recipe
        self.column = column
        self.output = output

    @cached_property
    def model(self) -> SentenceTransformer:
        """Load the model of the recipe on this machine."""
        with quiet():
            model = load_model(self.recipe.model, source=self.recipe.source)
        if model.provenance != self.recipe.provenance:
            raise ValueError(
                f"this machine has {model.provenance}, the one that started the work "
                f"{self.recipe.provenance}; name a source that both have"
            )
        return model

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Encode blocks; return for each its number of rows, or the error that stopped it."""
        process, rows = psutil.Process(), []
        for part in parts.to_pylist():
            count, error = 0, part["error"]
            if not error:
                try:
                    count = self.encode_block(part["name"], part["table"])
                except Exception as problem:  # whatever it is, one sentence says it better
                    error = f"{type(problem).__name__}: {problem}"
            memory = process.memory_full_info().uss / 2**20  # its own, not what it shares
            rows.append({"rows": count, "error": error, "process": process.pid, "MiB": memory})
        return pa.Table.from_pylist(rows)

    def encode_block(self, name: str, block: bytes) -> int:
        """Write a block with its embeddings; return its number of rows."""
        tries = self._tries(name)
        table = pa.ipc.open_stream(block).read_all()
        texts = table[self.column].to_pylist()
        is_text = np.array([text is not None for text in texts])
        size = self.model.get_embedding_dimension()
        vectors = np.zeros((len(texts), size), np.float16 if self.recipe.half else np.float32)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if is_text.any():
                vectors[is_text] = encode(
                    self.model,
                    [text for text in texts if text is not None],
                    max_length=self.recipe.max_length,
                    progress=False,
                )
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), size, mask=pa.array(~is_text)
        )
        columns = table.column_names
        table = table.append_column(self.recipe.into, column)
        counts = {
            "rows": len(texts),
            "without text": int((~is_text).sum()),
            "warning": str(caught[0].message) if caught else None,
        }
        table = table.replace_schema_metadata({METADATA: json.dumps(counts)})
        # Vectors are all distinct: looking for repeated values would only take time.
        self.output.write(
            f"{name}.parquet",
            lambda stream: pa.parquet.write_table(table, stream, use_dictionary=columns),
        )
        for mark in tries:
            self.output.filesystem.rm(f"{self.output.path}/{mark}")
        return len(texts)

    def _tries(self, name: str) -> list[str]:
        """Return the marker files of this try and of earlier ones, whose workers died."""
        before = [mark for mark in self.output.names() if mark.startswith(f".{name}-try-")]
        if len(before) >= TRIES:
            raise RuntimeError(
                f"block {name} killed its worker {TRIES} times; is there enough memory? Say fewer "
                "--workers or --block-rows"
            )
        mark = f".{name}-try-{uuid4().hex}"
        self.output.filesystem.touch(f"{self.output.path}/{mark}")
        return [*before, mark]
