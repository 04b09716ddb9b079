"""Bulk encoding on Ray: a table of any size, beside it its embeddings, each row exactly once.

Every block of the input becomes one file of the output, named by its place in the input and
written whole or not at all. So a block that a dying worker leaves is made again, one that stands
never is, and nothing has to be kept in memory to know it.
"""

import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from typing import BinaryIO
from uuid import uuid4

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data
from tqdm.auto import tqdm

from micse_utils.blocks import Source
from micse_utils.encoding import WINDOW, encode
from micse_utils.models import load_model, quiet
from micse_utils.results import Provenance, versions

RECORD = "_encoding.json"
METADATA = b"micse"
"""Key of a file's counts among the metadata of its schema."""
TRIES = 3
"""Times that a block may cost a worker its life before all is given up; Ray itself never does."""
TEXTS = "__texts"
"""Column of a block on its way to a worker: what to encode of each row, null where nothing."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What decides the output, on whatever machine a block is encoded.

    Attributes:
        model, source: a name or folder, and where to look for it, as for `load_model`.
        provenance: of the model; a worker that finds another one refuses to work.
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


class Worker:
    """One model on one machine: takes blocks, writes files."""

    def __init__(self, recipe: Recipe, output: str) -> None:
        self.recipe = recipe
        self.output = output
        self.filesystem, self.folder = fsspec.url_to_fs(output)
        with quiet():
            self.model = load_model(recipe.model, source=recipe.source)
        if self.model.provenance != recipe.provenance:
            raise ValueError(
                f"this machine has {self.model.provenance}, the one that started the work "
                f"{recipe.provenance}; name a source that both have"
            )

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Encode blocks; returns a row each: its name, rows, those without a text, warnings."""
        return pa.Table.from_pylist([self._encode(part) for part in parts.to_pylist()])

    def _encode(self, part: dict) -> dict[str, object]:
        name = part["name"]
        tries = self._tries(name)
        table = pa.ipc.open_stream(part["table"]).read_all()
        texts = table[TEXTS].to_pylist()
        there = np.array([text is not None for text in texts])
        size = self.model.get_embedding_dimension()
        vectors = np.zeros((len(texts), size), np.float16 if self.recipe.half else np.float32)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            if there.any():
                vectors[there] = encode(
                    self.model,
                    [text for text in texts if text is not None],
                    max_length=self.recipe.max_length,
                    progress=False,
                )
        column = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors.ravel()), size, mask=pa.array(~there)
        )
        columns = table.drop_columns([TEXTS])
        table = columns.append_column(self.recipe.into, column)
        counts = {
            "rows": len(texts),
            "without text": int((~there).sum()),
            "warning": str(said[0].message) if said else None,
        }
        table = table.replace_schema_metadata({METADATA: json.dumps(counts)})
        # Vectors are all distinct: looking for repeated values would only take time.
        _write(
            f"{self.output}/{name}.parquet",
            lambda stream: pa.parquet.write_table(
                table, stream, use_dictionary=columns.column_names
            ),
        )
        for mark in tries:
            self.filesystem.rm(mark)
        process = psutil.Process()
        return counts | {"process": process.pid, "MiB": process.memory_info().rss / 2**20}

    def _tries(self, name: str) -> list[str]:
        """Marks of this try and those before, which did not live to remove theirs."""
        before = self.filesystem.glob(f"{self.folder}/.{name}-try-*")
        if len(before) >= TRIES:
            raise RuntimeError(
                f"block {name} killed its worker {TRIES} times; is there enough memory? Say fewer "
                "--workers or --block-rows"
            )
        mark = f"{self.folder}/.{name}-try-{uuid4().hex}"
        self.filesystem.touch(mark)
        return [*before, mark]


def _write(address: str, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, whole or not at all, on any disk or at any URL that fsspec knows."""
    filesystem, path = fsspec.url_to_fs(address)
    folder, name = path.rsplit("/", 1)
    temporary = f"{folder}/.{name}-{uuid4().hex}"
    with filesystem.open(temporary, "wb") as stream:
        write(stream)
    filesystem.mv(temporary, path)


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
        source: of the rows.
        output: folder, on any disk that all workers see or at a URL that fsspec knows: Parquet
            files with the columns of the source, untouched and in its order, and the embeddings,
            a list of fixed size, null where a row has no text; and a record, `_encoding.json`.
            What stands there of the same work is not done again.
        recipe: what decides the output.
        workers: number of them.
        cpus, gpus: of each.
        progress: show a bar.

    Returns:
        The record: `rows`, rows `without text`, `warnings` of the encoder, the settings, where
        model and rows came from, versions; of this call, `encoded` rows, and for each worker the
        largest memory `MiB` seen after a block.

    Raises:
        ValueError: the source has a column of the name `into`; `output` holds other work, or
            something that is none.
    """
    if recipe.into in source.schema.names:
        raise ValueError(f"the input has a column '{recipe.into}' already; say --into another name")
    filesystem, folder = fsspec.url_to_fs(output)
    settings = dataclasses.asdict(recipe) | {
        "column": source.column,
        "files": dict(zip(map(_name, source.files), source.sizes, strict=True)),
    }
    done = _claim(filesystem, folder, output, settings)
    record = _read_record(filesystem, folder)
    if record.get("blocks") == len(done):
        return record | {"encoded": 0}
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # each block goes to a worker when it has been read
    parts = ray.data.from_items([{"number": n} for n in range(len(source.files))]).map_batches(
        _read, fn_args=(source, recipe.block_rows, done), batch_size=1, num_cpus=0
    )
    results = parts.map_batches(
        Worker,
        fn_constructor_args=(recipe, output),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cpus,
        num_gpus=gpus,
    )
    encoded, memory = 0, {}
    with tqdm(desc="encode", unit="row", disable=not progress) as bar:
        for part in results.iter_rows():
            encoded += part["rows"]
            memory[part["process"]] = max(part["MiB"], memory.get(part["process"], 0))
            bar.update(part["rows"])
    record = (
        settings
        | _summary(filesystem, folder)
        | {
            "encoded": encoded,
            "worker MiB": sorted(round(most) for most in memory.values()),
            "versions": versions() | {"ray": ray.__version__},
        }
    )
    _write_record(output, record)
    return record


def _read(
    batch: dict[str, np.ndarray], source: Source, rows: int, done: frozenset[str]
) -> Iterator:
    """The blocks of a file that are still to be encoded, a row each, as Arrow's own bytes."""
    for block in source.blocks(int(batch["number"][0]), rows, done):
        table = block.table.append_column(TEXTS, pa.array(block.texts, pa.string()))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        yield {"name": [block.name], "table": [sink.getvalue().to_pybytes()]}


def _claim(
    filesystem: fsspec.AbstractFileSystem, folder: str, output: str, settings: dict
) -> frozenset[str]:
    """Take a folder for this work, or refuse one that holds other work; what is done already."""
    filesystem.makedirs(folder, exist_ok=True)
    there = filesystem.ls(folder, detail=False)
    if earlier := _read_record(filesystem, folder):
        differing = [name for name, value in settings.items() if earlier.get(name) != value]
        if differing:
            raise ValueError(
                f"{output} holds other work (its {', '.join(differing)} differ); name another "
                "folder, or delete it"
            )
    elif there:
        raise ValueError(f"{output} is not empty, and nothing the kit wrote; name another folder")
    else:
        _write_record(output, settings)
    for name in there:
        if _name(name).startswith("."):  # a worker died while it wrote
            filesystem.rm(name)
    return frozenset(_name(name).removesuffix(".parquet") for name in there if _is_part(name))


def _summary(filesystem: fsspec.AbstractFileSystem, folder: str) -> dict[str, object]:
    """Rows, rows without a text, and the warnings, counted in the files themselves."""
    counts = []
    for name in filter(_is_part, filesystem.ls(folder, detail=False)):
        with filesystem.open(name) as stream:
            counts.append(json.loads(pa.parquet.read_schema(stream).metadata[METADATA]))
    warned = [count["warning"] for count in counts if count["warning"]]
    return {
        "rows": sum(count["rows"] for count in counts),
        "without text": sum(count["without text"] for count in counts),
        "blocks": len(counts),
        "blocks with warnings": len(warned),
        "first warning": warned[0] if warned else None,
    }


def _read_record(filesystem: fsspec.AbstractFileSystem, folder: str) -> dict[str, object]:
    if not filesystem.exists(f"{folder}/{RECORD}"):
        return {}
    with filesystem.open(f"{folder}/{RECORD}") as stream:
        return json.load(stream)


def _write_record(output: str, record: dict) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    _write(f"{output}/{RECORD}", lambda stream: stream.write(text.encode()))


def _name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _is_part(path: str) -> bool:
    return path.endswith(".parquet") and not _name(path).startswith(".")
