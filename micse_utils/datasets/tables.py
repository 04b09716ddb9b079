"""Read a user's own tables block by block, for training and for bulk encoding."""

import hashlib
import math
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
        """Yield name and table of each block that is not `done`; refuse a file that has changed."""
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

    Args:
        place: a file, a folder, or a pattern for the names in a folder, such as `folder/*.csv`.
            Names that begin with a dot or an underscore are left out.
        column: the one with the texts.

    Raises:
        FileNotFoundError: no such place, or it is empty.
        ValueError: files of several kinds, no texts in that column, or a file that cannot be read,
            or can be read in two ways.
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
        source = Source(counts, column, joined(schemas).schema)
    texts = (pa.string(), pa.large_string(), pa.string_view(), pa.null())
    types = {field.name: field.type for field in source.schema}
    if not source.rows or types.get(column) not in texts:
        has = ", ".join(f"{name} ({kind})" for name, kind in types.items())
        what = f"rows, and text in the column {shown(column)}"
        raise ValueError(f"{place} must have {what}; it has {has}")
    return source


def _files(place: str | Path) -> list[Path]:
    """Return the files of a place, in order; a pattern takes those of one folder."""
    if file := file_at(place):
        return [file]
    folder, pattern = folder_at(place), "*"
    if folder is None:
        folder, pattern = expanded(place).parent, expanded(place).name
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith((".", "_")))
