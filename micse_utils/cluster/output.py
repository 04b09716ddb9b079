"""The output folder of bulk encoding: one file per block, a record, one run at a time."""

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet
from filelock import Timeout

from micse_utils.system import hold

RECORD = "_encoding.json"
LOCK = ".encoding.lock"
"""Held by a run while it writes into a folder of this machine or of a shared disk."""
METADATA = b"micse"
"""Key of a block's counts among the metadata of its file."""
TEMPORARY = re.compile(r"\.(\d{5,}-\d{7,}(\.parquet|-try)|_encoding\.json)-[0-9a-f]{32}")
"""Names that workers use while they write."""


@dataclass(frozen=True)
class Output:
    """A folder on any disk, or at any URL that fsspec knows."""

    filesystem: fsspec.AbstractFileSystem
    path: str

    def names(self) -> set[str]:
        """Names of files and folders in it."""
        paths = self.filesystem.ls(self.path, detail=False)
        return {path.replace("\\", "/").rsplit("/", 1)[-1] for path in paths}

    def write(self, name: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file atomically."""
        temporary = f"{self.path}/.{name}-{uuid4().hex}"
        with self.filesystem.open(temporary, "wb") as stream:
            write(stream)
        self.filesystem.mv(temporary, f"{self.path}/{name}")

    def write_record(self, record: dict[str, object]) -> None:
        """Write the record of the work."""
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        self.write(RECORD, lambda stream: stream.write(text.encode()))

    def read_record(self) -> dict[str, object]:
        """Read the record of the work."""
        record = None
        with contextlib.suppress(ValueError, IsADirectoryError):
            record = json.loads(self.filesystem.cat_file(f"{self.path}/{RECORD}"))
        if not isinstance(record, dict):
            raise ValueError(
                f"{self.path}/{RECORD} is damaged, or the kit did not write it; name a different "
                "folder, or delete this one"
            )
        return record

    def summary(self, blocks: Iterable[str]) -> dict[str, object]:
        """Count rows, rows without a text, and warnings in the files themselves."""
        counts = [self._counts(block) for block in sorted(blocks)]
        warned = [count["warning"] for count in counts if count["warning"]]
        return {
            "rows": sum(count["rows"] for count in counts),
            "without text": sum(count["without text"] for count in counts),
            "blocks": len(counts),
            "blocks with warnings": len(warned),
            "first warning": warned[0] if warned else None,
        }

    def _counts(self, block: str) -> dict[str, object]:
        path = f"{self.path}/{block}.parquet"
        try:
            with self.filesystem.open(path) as stream:
                return json.loads(pa.parquet.read_schema(stream).metadata[METADATA])
        except (pa.ArrowInvalid, KeyError, TypeError, IsADirectoryError) as error:
            raise ValueError(
                f"{path} is damaged, or the kit did not write it; delete it, or name a different "
                "folder"
            ) from error

    @contextlib.contextmanager
    def claimed(
        self, blocks: Iterable[str], settings: dict[str, object]
    ) -> Iterator[frozenset[str]]:
        """Lock the folder for this work; yield the names of the finished blocks.

        Raises:
            ValueError: it holds something else, or a different run writes to it.
        """
        self._finished(blocks, settings)  # so a refused folder gets no lock file
        self.filesystem.makedirs(self.path, exist_ok=True)
        with contextlib.ExitStack() as held:
            if "file" in self.filesystem.protocol:
                try:
                    held.enter_context(hold(f"{self.path}/{LOCK}", timeout=0))
                except Timeout as error:
                    raise ValueError(
                        f"{self.path} is being written to by a different run; wait for it, or "
                        "name a different folder"
                    ) from error
            done = self._finished(blocks, settings)
            names = self.names()
            if RECORD not in names:
                self.write_record(settings)
            else:  # only where the kit wrote before, the temporary files are surely its own
                for name in filter(TEMPORARY.fullmatch, names):
                    if self.filesystem.isfile(f"{self.path}/{name}"):
                        self.filesystem.rm(f"{self.path}/{name}")  # a worker died while it wrote
            yield done

    def _finished(self, blocks: Iterable[str], settings: dict[str, object]) -> frozenset[str]:
        """Return the finished blocks of this work; refuse a folder that holds something else."""
        if self.filesystem.isfile(self.path):
            raise ValueError(f"{self.path} is a file; name a folder for the embeddings")
        names = self.names() if self.filesystem.exists(self.path) else set()
        if RECORD in names:
            earlier = self.read_record()
            if differing := [key for key in settings if earlier.get(key) != settings[key]]:
                raise ValueError(
                    f"{self.path} holds different work, with a different {', '.join(differing)}; "
                    "name a different folder, or delete it"
                )
        elif visible := sorted(n for n in names if n[0] != "." or TEMPORARY.fullmatch(n)):
            raise ValueError(
                f"{self.path} must be empty, got {visible[0]}, which the kit did not write; name a "
                "different folder"
            )
        done = frozenset(block for block in blocks if f"{block}.parquet" in names)
        self.summary(done)  # refuses a file that is not the kit's
        return done
