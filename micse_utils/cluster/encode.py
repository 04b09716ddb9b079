"""Bulk encoding on Ray: a table of any size, beside it its embeddings, each row exactly once.

Every block of the input becomes one file of the output, named by its place in the input and
written whole or not at all. So a block that a dying worker leaves is made again, one that stands
never is, and nothing has to be kept in memory to know it.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import ray
import ray.data
from tqdm.auto import tqdm

from micse_utils.cluster.worker import METADATA, Recipe, Worker, write_whole
from micse_utils.datasets.tables import Source, located
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
            Existing results of the same work are kept. Files that the kit did not write are never
            changed or deleted.
        recipe: what decides the output.
        workers: number of them.
        cpus, gpus: of each.
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
    filesystem, folder = located(output)
    settings = dataclasses.asdict(recipe) | {
        "column": source.column,
        "input_sha256": source.sha256,
    }
    names = source.block_names(recipe.block_rows)
    done = _claim(filesystem, folder, names, settings)
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
        fn_constructor_args=(recipe, source.column, filesystem, folder),
        compute=ray.data.ActorPoolStrategy(size=workers),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cpus,
        num_gpus=gpus,
    )
    encoded, memory = 0, {}
    bar = tqdm(desc="encode", unit="row", total=source.rows, disable=not progress)
    bar.update(_summary(filesystem, folder, done)["rows"])
    with bar:
        for part in results.iter_rows():
            if part["error"]:
                raise RuntimeError(f"a worker stopped; {part['error']}")
            encoded += part["rows"]
            memory[part["process"]] = max(part["MiB"], memory.get(part["process"], 0))
            bar.update(part["rows"])
    record = (
        settings
        | _summary(filesystem, folder, names)
        | {
            "files": list(map(_name, source.files)),
            "encoded": encoded,
            "worker MiB": sorted(round(most) for most in memory.values()),
            "versions": versions() | {"ray": ray.__version__},
        }
    )
    _write_record(filesystem, folder, record)
    return record


def _read(
    batch: dict[str, np.ndarray], source: Source, rows: int, done: frozenset[str]
) -> Iterator:
    """The blocks of a file that are still to be encoded, a row each, as Arrow's own bytes."""
    try:
        for block in source.blocks(int(batch["number"][0]), rows, done):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, block.table.schema) as stream:
                stream.write_table(block.table)
            content = sink.getvalue().to_pybytes()
            yield {"name": [block.name], "table": [content], "error": [""]}
    except (ValueError, OSError) as error:
        yield {"name": [""], "table": [b""], "error": [str(error)]}


def _claim(
    filesystem: fsspec.AbstractFileSystem, folder: str, names: list[str], settings: dict
) -> frozenset[str]:
    """Return the blocks of this work that exist; refuse a folder that holds something else.

    Of what the kit wrote, only temporary files are deleted: a worker that died left them.
    """
    if filesystem.isfile(folder):
        raise ValueError(f"{folder} is a file; name a folder for the embeddings")
    filesystem.makedirs(folder, exist_ok=True)
    found = {_name(path): path for path in filesystem.ls(folder, detail=False)}
    parts = {f"{name}.parquet": name for name in names}
    needed = {RECORD, *parts, *names}
    if RECORD in found:
        earlier = _read_record(filesystem, folder)
        differing = [name for name, value in settings.items() if earlier.get(name) != value]
        if differing:
            raise ValueError(
                f"{folder} holds different work, with a different {', '.join(differing)}; name a "
                "different folder, or delete it"
            )
    elif visible := sorted(name for name in found if name[0] != "."):
        raise ValueError(
            f"{folder} must be empty, got {visible[0]}, which the kit did not write; name a "
            "different folder"
        )
    done = {parts[name] for name in parts.keys() & found.keys()}
    for name in sorted(done):
        _counts(filesystem, f"{folder}/{name}.parquet")  # refuses one that is not the kit's
    for name, path in found.items():
        temporary = re.fullmatch(r"\.(.+?)(?:-try)?-[0-9a-f]{32}", name)
        if temporary and temporary[1] in needed:
            filesystem.rm(path)
    if RECORD not in found:
        _write_record(filesystem, folder, settings)
    return frozenset(done)


def _counts(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, object]:
    """Read what a worker wrote at a block's end."""
    try:
        with filesystem.open(path) as stream:
            return json.loads(pa.parquet.read_schema(stream).metadata[METADATA])
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, or the kit did not write it; delete it, or name a different folder"
        ) from error


def _summary(
    filesystem: fsspec.AbstractFileSystem, folder: str, names: Iterable[str]
) -> dict[str, object]:
    """Count rows, rows without a text, and warnings in the files themselves."""
    counts = [_counts(filesystem, f"{folder}/{name}.parquet") for name in sorted(names)]
    warned = [count["warning"] for count in counts if count["warning"]]
    return {
        "rows": sum(count["rows"] for count in counts),
        "without text": sum(count["without text"] for count in counts),
        "blocks": len(counts),
        "blocks with warnings": len(warned),
        "first warning": warned[0] if warned else None,
    }


def _read_record(filesystem: fsspec.AbstractFileSystem, folder: str) -> dict[str, object]:
    try:
        with filesystem.open(f"{folder}/{RECORD}") as stream:
            record = json.load(stream)
    except (ValueError, IsADirectoryError):
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"{folder}/{RECORD} is damaged, or the kit did not write it; name a different folder, "
            "or delete this one"
        )
    return record


def _write_record(filesystem: fsspec.AbstractFileSystem, folder: str, record: dict) -> None:
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    write_whole(filesystem, f"{folder}/{RECORD}", lambda stream: stream.write(text.encode()))


def _name(path: str) -> str:
    return path.replace("\\", "/").rsplit("/", 1)[-1]
