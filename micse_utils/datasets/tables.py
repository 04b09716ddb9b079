"""Find a table in files and read it exactly, or refuse it with file and line.

Training and bulk encoding both read through `open_source`; `formats` knows each kind of file.
"""

import glob
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from micse_utils.datasets.formats import COMPRESSED, READERS, joined, kind_of, read_table, readable
from micse_utils.settings import expanded, file_at, folder_at, shown


@dataclass(frozen=True)
class Source:
    """A table that was read from files."""

    table: pa.Table
    column: str  # the one with the texts
    sha256: str  # of the files' hex digests, one after the other; of one file its own

    def block_names(self, rows: int) -> list[str]:
        """Return the names of the blocks of `rows` rows; they sort as the rows do."""
        return [f"{number:07d}" for number in range(math.ceil(len(self.table) / rows))]

    def blocks(self, rows: int, done: set[str] = frozenset()) -> Iterator[tuple[str, pa.Table]]:
        """Yield the name and the table of each block of `rows` rows that is not `done`."""
        for number, name in enumerate(self.block_names(rows)):
            if name not in done:
                yield name, self.table.slice(number * rows, rows)


def open_source(place: str | Path, column: str) -> Source:
    """Read a table, which must fit in memory, from its files.

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
    tables, digests = zip(*(read_table(file, column) for file in files), strict=True)
    with readable(place):
        table = joined(tables)
    if column not in table.column_names or not len(table):
        has = ", ".join(table.column_names)
        raise ValueError(f"{place} has no rows or no column {shown(column)}; it has {has}")
    kind = table.schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind not in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        raise ValueError(f"column '{column}' of {place} must hold text, got {kind}")
    sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
    return Source(table, column, digests[0] if len(digests) == 1 else sha256)


def _files(place: str | Path) -> list[Path]:
    """Return the files of a place, in order."""
    if file := file_at(place):
        return [file]
    folder = folder_at(place)
    # Not Path.glob, which takes no absolute pattern.
    found = folder.iterdir() if folder else glob.glob(str(expanded(place)), recursive=True)  # noqa: PTH207
    return sorted(path for path in map(Path, found) if not path.name.startswith((".", "_")))
