"""One worker of bulk encoding: a model, and blocks of rows that become files with embeddings."""

import dataclasses
import json
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import BinaryIO
from uuid import uuid4

import fsspec
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet
from sentence_transformers import SentenceTransformer

from micse_utils.encoding import WINDOW, encode
from micse_utils.models import load_model, quiet
from micse_utils.provenance import Provenance

METADATA = b"micse"
"""Key of a file's counts among the metadata of its schema."""
TRIES = 3
"""Times that a block may cost a worker its life before all is given up; Ray itself never does."""


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

    def __init__(
        self, recipe: Recipe, column: str, filesystem: fsspec.AbstractFileSystem, folder: str
    ) -> None:
        self.recipe = recipe
        self.column = column
        self.filesystem = filesystem
        self.folder = folder

    @cached_property
    def model(self) -> SentenceTransformer:
        """The model of the recipe, as this machine has it.

        Raises:
            ValueError: it is another one here.
        """
        with quiet():
            model = load_model(self.recipe.model, source=self.recipe.source)
        if model.provenance != self.recipe.provenance:
            raise ValueError(
                f"this machine has {model.provenance}, the one that started the work "
                f"{self.recipe.provenance}; name a source that both have"
            )
        return model

    def __call__(self, parts: pa.Table) -> pa.Table:
        """Encode blocks; returns a row each: how many rows it has, or the error that stopped it."""
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
        """Write a block with its embeddings; returns its number of rows."""
        tries = self._tries(name)
        table = pa.ipc.open_stream(block).read_all()
        texts = table[self.column].to_pylist()
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
        columns = table.column_names
        table = table.append_column(self.recipe.into, column)
        counts = {
            "rows": len(texts),
            "without text": int((~there).sum()),
            "warning": str(said[0].message) if said else None,
        }
        table = table.replace_schema_metadata({METADATA: json.dumps(counts)})
        # Vectors are all distinct: looking for repeated values would only take time.
        write_whole(
            self.filesystem,
            f"{self.folder}/{name}.parquet",
            lambda stream: pa.parquet.write_table(table, stream, use_dictionary=columns),
        )
        for mark in tries:
            self.filesystem.rm(mark)
        return len(texts)

    def _tries(self, name: str) -> list[str]:
        """Marks of this try and those before, which did not live to remove theirs."""
        paths = self.filesystem.ls(self.folder, detail=False)
        before = [path for path in paths if f"/.{name}-try-" in path.replace("\\", "/")]
        if len(before) >= TRIES:
            raise RuntimeError(
                f"block {name} killed its worker {TRIES} times; is there enough memory? Say fewer "
                "--workers or --block-rows"
            )
        mark = f"{self.folder}/.{name}-try-{uuid4().hex}"
        self.filesystem.touch(mark)
        return [*before, mark]


def write_whole(
    filesystem: fsspec.AbstractFileSystem, path: str, write: Callable[[BinaryIO], object]
) -> None:
    """Write a file atomically, on any disk or at any URL that fsspec knows."""
    folder, name = path.rsplit("/", 1)
    temporary = f"{folder}/.{name}-{uuid4().hex}"
    with filesystem.open(temporary, "wb") as stream:
        write(stream)
    filesystem.mv(temporary, path)
