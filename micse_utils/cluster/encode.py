"""Bulk encoding on Ray: a table of any size, beside it its embeddings, each row exactly once.

Every block of the input becomes one file of the output, named by its place in the input and
written whole or not at all. So a block that a dying worker leaves is made again, one that stands
never is, and nothing has to be kept in memory to know it.
"""

import dataclasses
import json
from collections.abc import Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data
from tqdm.auto import tqdm

from micse_utils.cluster.worker import METADATA, TEXTS, Recipe, Worker, write_whole
from micse_utils.datasets.tables import Source
from micse_utils.provenance import versions

RECORD = "_encoding.json"


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
        RuntimeError: a worker could not go on; what it said.
    """
    if recipe.into in source.schema.names:
        raise ValueError(f"the input has a column '{recipe.into}' already; say --into another name")
    filesystem, folder = fsspec.url_to_fs(output)
    settings = dataclasses.asdict(recipe) | {
        "column": source.column,
        "input_sha256": source.sha256,
    }
    done = _claim(filesystem, folder, output, settings)
    output = filesystem.unstrip_protocol(folder)  # a worker may stand in another folder
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
    stands = _summary(filesystem, folder)["rows"]
    bar = tqdm(desc="encode", unit="row", total=source.rows, initial=stands, disable=not progress)
    with bar:
        for part in results.iter_rows():
            if part["error"]:
                raise RuntimeError(f"a worker stopped; {part['error']}")
            encoded += part["rows"]
            memory[part["process"]] = max(part["MiB"], memory.get(part["process"], 0))
            bar.update(part["rows"])
    record = (
        settings
        | _summary(filesystem, folder)
        | {
            "files": list(map(_name, source.files)),
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
    try:
        for block in source.blocks(int(batch["number"][0]), rows, done):
            table = block.table.append_column(TEXTS, pa.array(block.texts, pa.string()))
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            content = sink.getvalue().to_pybytes()
            yield {"name": [block.name], "table": [content], "error": [""]}
    except (ValueError, OSError) as error:
        yield {"name": [""], "table": [b""], "error": [str(error)]}


def _claim(
    filesystem: fsspec.AbstractFileSystem, folder: str, output: str, settings: dict
) -> frozenset[str]:
    """Take a folder for this work, or refuse one that holds other work; what is done already."""
    if filesystem.isfile(folder):
        raise ValueError(f"{output} is a file; name a folder for the embeddings")
    filesystem.makedirs(folder, exist_ok=True)
    there = filesystem.ls(folder, detail=False)
    if earlier := _read_record(filesystem, folder):
        differing = [name for name, value in settings.items() if earlier.get(name) != value]
        if differing:
            raise ValueError(
                f"{output} holds other work, with another {', '.join(differing)}; name another "
                "folder, or delete it"
            )
    elif there:
        raise ValueError(f"{output} is not empty, and nothing the kit wrote; name another folder")
    else:
        _write_record(output, settings)
    for name in there:
        if _name(name).startswith("."):  # a worker died while it wrote
            filesystem.rm(name)
    parts = set(filter(_is_part, there))
    damaged = {name for name in parts if _counts(filesystem, name) is None}
    for name in damaged:
        filesystem.rm(name)
    return frozenset(_name(name).removesuffix(".parquet") for name in parts - damaged)


def _counts(filesystem: fsspec.AbstractFileSystem, name: str) -> dict[str, object] | None:
    """What a worker wrote at a block's end; None where a copy that broke off has lost it."""
    with filesystem.open(name) as stream:
        try:
            written = pa.parquet.read_schema(stream).metadata or {}
        except pa.ArrowInvalid:
            return None
    return json.loads(written[METADATA]) if METADATA in written else None


def _summary(filesystem: fsspec.AbstractFileSystem, folder: str) -> dict[str, object]:
    """Rows, rows without a text, and the warnings, counted in the files themselves."""
    parts = filter(_is_part, filesystem.ls(folder, detail=False))
    counts = [_counts(filesystem, name) for name in parts]
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
    write_whole(f"{output}/{RECORD}", lambda stream: stream.write(text.encode()))


def _name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]


def _is_part(path: str) -> bool:
    return path.endswith(".parquet") and not _name(path).startswith(".")
