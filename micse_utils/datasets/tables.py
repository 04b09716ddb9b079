"""Find a table in files and read it exactly, or refuse it with file and line.

Training and bulk encoding both read through `open_source`; `formats` knows each kind of file.
"""

import glob
import hashlib
import math
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from micse_utils.datasets.formats import COMPRESSED, READERS, joined, kind_of, read_table, readable
from micse_utils.settings import expanded, file_at, folder_at, shown


@dataclass(frozen=True)
class Source:
    """A table in files that were read once, to be read again block by block."""

    files: dict[Path, tuple[int, str]]  # rows and SHA-256 of each
    column: str  # the one with the texts
    schema: pa.Schema  # of all files together

    @property
    def rows(self) -> int:
        """Return the number of rows."""
        return sum(rows for rows, _ in self.files.values())

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of a single file, or of the hex digests of several."""
        digests = [digest for _, digest in self.files.values()]
        whole = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return digests[0] if len(digests) == 1 else whole

    def block_names(self, size: int) -> list[str]:
        """Return the names of the blocks of `size` rows; they sort as the rows do."""
        count = sum(math.ceil(rows / size) for rows, _ in self.files.values())
        return [f"{number:07d}" for number in range(count)]

    def blocks(self, size: int, done: Container[str] = ()) -> Iterator[tuple[str, pa.Table]]:
        """Yield the name and the table of each block that is not `done`, one file after the other.

        Raises:
            ValueError: a file has changed since the source was opened.
        """
        names = iter(self.block_names(size))
        for file, (rows, sha256) in self.files.items():
            own = dict(zip(range(0, rows, size), names, strict=False))
            if all(name in done for name in own.values()):
                continue
            table, found = read_table(file, self.column)
            if found != sha256:
                raise ValueError(f"{file} has changed since it was opened; start again")
            table = joined([self.schema.empty_table(), table])
            yield from ((n, table.slice(k, size)) for k, n in own.items() if n not in done)


def open_source(place: str | Path, column: str) -> Source:
    """Read the files of a table once, each of which must fit in memory, and look at its columns.

    Only Parquet has types: all else is text. An empty cell of CSV is null; NA is a word.

    Args:
        place: a file, a folder, or a pattern such as `folder/*.csv`, if nothing has that name.
            Names that begin with a dot or an underscore are left out.
        column: the one with the texts.

    Raises:
        FileNotFoundError: no such place, or it is empty.
        ValueError: not all there are files of one kind; no rows, no such column, or no text in it;
            a file that cannot be read, or can be read in two ways.
    """
    if not (files := _files(place)):
        raise FileNotFoundError(f"{shown(str(place))} does not exist, or holds nothing")
    kinds = {kind_of(file): file.name for file in files}
    if len(kinds) > 1 or None in kinds:
        raise ValueError(
            f"{shown(str(place))} must be or hold files of one kind and nothing else (.parquet, "
            f"{', '.join(READERS)}, all but .parquet also as {', '.join(COMPRESSED)}), got "
            f"{shown(', '.join(kinds.values()))}; 'folder/*.csv' takes some of them"
        )
    schemas, counts = [], {}
    for file in files:
        table, digest = read_table(file, column)
        schemas.append(table.schema.empty_table())
        counts[file] = (len(table), digest)
    with readable(place):
        schema = joined(schemas).schema
    if column not in schema.names or not any(rows for rows, _ in counts.values()):
        has = ", ".join(schema.names)
        raise ValueError(f"{place} has no rows or no column {shown(column)}; it has {has}")
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise ValueError(f"column '{column}' of {place} must hold text, got {kind}")
    return Source(counts, column, schema)


def _files(place: str | Path) -> list[Path]:
    """Return the files of a place, in order."""
    if file := file_at(place):
        return [file]
    folder = folder_at(place)
    # Not Path.glob, which takes no absolute pattern.
    found = folder.iterdir() if folder else glob.glob(str(expanded(place)), recursive=True)  # noqa: PTH207
    paths = [path for path in map(Path, found) if not path.name.startswith((".", "_"))]
    shared = len(Path(os.path.commonpath(paths)).parts) if len(paths) > 1 else 0
    for path in paths if shared else ():
        if any(part[0] in "._" or "=" in part for part in path.parts[shared:-1]):
            what = "begins with a dot or an underscore, or names a column: give each by itself"
            raise ValueError(f"a folder of {path} {what}")
    return sorted(paths)
