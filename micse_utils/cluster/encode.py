"""Bulk encoding on Ray: a table of any size, beside it its embeddings, each row exactly once.

Every block of the input becomes one file of the output, named by its place in the input and
written whole or not at all. So a block that a dying worker leaves is made again, one that stands
never is, and nothing has to be kept in memory to know it.
"""

import contextlib
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
from filelock import Timeout
from tqdm.auto import tqdm

from micse_utils.cluster.worker import METADATA, Recipe, Worker, write_whole
from micse_utils.datasets.tables import Source, located
from micse_utils.provenance import versions
from micse_utils.system import hold

RECORD = "_encoding.json"
LOCK = ".encoding.lock"
"""Held by a run while it writes into a folder of this machine or of a shared disk."""


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
            changed or deleted. On a disk, a second run into the folder is refused.
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
    settings = dataclasses.asdict(recipe) | {"column": source.column, "input_sha256": source.sha256}
    names = source.block_names(recipe.block_rows)
    with _claimed(filesystem, folder, names, settings) as done:
        return _encode_rest(
            source, recipe, filesystem, folder, names, done, settings,
            workers=workers, cpus=cpus, gpus=gpus, progress=progress,
        )  # fmt: skip


def _encode_rest(
    source: Source,
    recipe: Recipe,
    filesystem: fsspec.AbstractFileSystem,
    folder: str,
    names: list[str],
    done: frozenset[str],
    settings: dict,
    *,
    workers: int,
    cpus: float,
    gpus: float,
    progress: bool,
) -> dict[str, object]:
    """Encode the blocks that are not done; return the record."""
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


@contextlib.contextmanager
def _claimed(
    filesystem: fsspec.AbstractFileSystem, folder: str, names: list[str], settings: dict
) -> Iterator[frozenset[str]]:
    """Hold a folder for this work; give the blocks of it that exist.

    Only temporary files are deleted, and only where the record says that the kit wrote before.
    """
    _finished(filesystem, folder, names, settings)  # so a refused folder gets no lock file
    filesystem.makedirs(folder, exist_ok=True)
    with contextlib.ExitStack() as held:
        if "file" in filesystem.protocol:
            try:
                held.enter_context(hold(f"{folder}/{LOCK}", timeout=0))
            except Timeout as error:
                raise ValueError(
                    f"{folder} is being written to by a different run; wait for it, or name a "
                    "different folder"
                ) from error
        done = _finished(filesystem, folder, names, settings)
        if filesystem.exists(f"{folder}/{RECORD}"):
            for path in filesystem.ls(folder, detail=False):
                if _is_temporary(_name(path)) and filesystem.isfile(path):
                    filesystem.rm(path)  # a worker died while it wrote
        else:
            _write_record(filesystem, folder, settings)
        yield done


def _finished(
    filesystem: fsspec.AbstractFileSystem, folder: str, names: list[str], settings: dict
) -> frozenset[str]:
    """Return the blocks of this work that exist; refuse a folder that holds something else."""
    if filesystem.isfile(folder):
        raise ValueError(f"{folder} is a file; name a folder for the embeddings")
    if not filesystem.exists(folder):
        return frozenset()
    found = {_name(path) for path in filesystem.ls(folder, detail=False)}
    if RECORD in found:
        earlier = _read_record(filesystem, folder)
        differing = [name for name, value in settings.items() if earlier.get(name) != value]
        if differing:
            raise ValueError(
                f"{folder} holds different work, with a different {', '.join(differing)}; name a "
                "different folder, or delete it"
            )
    elif visible := sorted(n for n in found if n[0] != "." or _is_temporary(n)):
        raise ValueError(
            f"{folder} must be empty, got {visible[0]}, which the kit did not write; name a "
            "different folder"
        )
    done = frozenset(name for name in names if f"{name}.parquet" in found)
    for name in sorted(done):
        _counts(filesystem, f"{folder}/{name}.parquet")  # refuses one that is not the kit's
    return done


def _is_temporary(name: str) -> bool:
    """Whether a name is one that workers use while they write."""
    return bool(
        re.fullmatch(r"\.(\d{5,}-\d{7,}(\.parquet|-try)|_encoding\.json)-[0-9a-f]{32}", name)
    )


def _counts(filesystem: fsspec.AbstractFileSystem, path: str) -> dict[str, object]:
    """Read what a worker wrote at a block's end."""
    try:
        with filesystem.open(path) as stream:
            return json.loads(pa.parquet.read_schema(stream).metadata[METADATA])
    except (pa.ArrowInvalid, KeyError, TypeError, IsADirectoryError) as error:
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
