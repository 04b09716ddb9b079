"""Find a table in files and read it exactly, or refuse it with file and line.

Training and bulk encoding both read through `open_source`; `formats` knows each kind of file.
"""

import contextlib
import hashlib
import lzma
import math
import os
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote

import fsspec
import pyarrow as pa

from micse_utils.checks import shown
from micse_utils.datasets.formats import (
    CHUNK,
    COMPRESSED,
    CSV,
    READERS,
    TEXT,
    JSONLines,
    Reader,
    reader_of,
    unified,
)
from micse_utils.settings import expanded, file_at, folder_at

DAMAGE = (UnicodeError, pa.lib.ArrowException, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What libraries raise of a damaged file."""


class Block(NamedTuple):
    """Some consecutive rows of a file."""

    name: str  # from the numbers of the file and the block; names sort as the rows do
    table: pa.Table  # with the columns and types of `Source.schema`


@dataclass(frozen=True)
class Source:
    """Files with a table, which can be read again on a different machine."""

    filesystem: fsspec.AbstractFileSystem
    files: list[str]
    column: str  # the one with the texts
    schema: pa.Schema  # of all files together
    counts: list[int]  # rows of each file
    partitions: list[dict[str, str | None]]  # columns that folders name, as in `lang=de/a.parquet`
    sha256: str  # of the files' hex digests, one after the other
    states: list[tuple]  # size and time of each file when it was hashed

    @property
    def rows(self) -> int:
        """Rows of all files together."""
        return sum(self.counts)

    def block_names(self, rows: int) -> list[str]:
        """Return the names of all blocks of `rows` rows."""
        return [
            _block_name(number, position)
            for number, count in enumerate(self.counts)
            for position in range(math.ceil(count / rows))
        ]

    def blocks(self, number: int, rows: int, done: frozenset[str] = frozenset()) -> Iterator[Block]:
        """Yield the blocks of a file, `rows` each (the last fewer), without those `done`.

        Raises:
            ValueError: the file cannot be read as what its suffix says, or has changed.
        """
        file = self.files[number]
        self._check_unchanged(number)
        with _readable(file):
            tables = reader_of(file)(self.filesystem, file, self.column).tables(self.schema)
            tables = (self._as_schema(table, self.partitions[number]) for table in tables)
            for position, table in enumerate(_rebatch(tables, rows)):
                if (name := _block_name(number, position)) not in done:
                    self._check_unchanged(number)
                    yield Block(name, table)

    def _check_unchanged(self, number: int) -> None:
        if _state(self.filesystem, self.files[number]) != self.states[number]:
            raise ValueError(f"{self.files[number]} has changed since it was opened; start again")

    def texts(self) -> Iterator[str | None]:
        """Yield the text of each row, or None if it has none."""
        for number in range(len(self.files)):
            for block in self.blocks(number, CHUNK):
                yield from block.table[self.column].to_pylist()

    def _as_schema(self, table: pa.Table, partition: dict[str, str | None]) -> pa.Table:
        columns = []
        for field in self.schema:
            if field.name in partition:
                columns.append(pa.array([partition[field.name]] * len(table), field.type))
            elif field.name in table.column_names:
                columns.append(table[field.name].cast(field.type))  # null to what others hold
            else:
                columns.append(pa.nulls(len(table), field.type))
        return pa.table(columns, schema=self.schema)


def open_source(place: str | os.PathLike, column: str | None = TEXT) -> Source:
    """Find the files of a table, read them once, and look at their columns.

    So a damaged file is found before the work begins. Columns of CSV are text; an empty cell is
    null, and words such as NA are words. JSON may bring a new column or type in any line; a column
    of several types becomes text in all files, each value as JSON writes it. What is not read in a
    folder is named in a printed line: linked folders, archives, files of an unknown suffix.

    Args:
        place: a file, a folder, a pattern such as `folder/*.csv`, or any of these as a URL that
            fsspec knows. The name of an existing file or folder is never taken for a pattern. In
            a folder, names that begin with a dot or an underscore are left out.
        column: the one with the texts; None if there is just one.

    Raises:
        FileNotFoundError: no such place, or it is empty.
        ValueError: no table there, files of several kinds, no such column or one without text, or
            a file that cannot be read, can be read in two ways, or changes meanwhile.
    """
    filesystem, root, found = _found(os.fspath(place))
    files = {name: reader_of(name) for name in found if reader_of(name)}
    if not found:
        raise FileNotFoundError(f"{shown(str(place))} does not exist, or holds nothing")
    if not files:
        raise ValueError(
            f"{shown(str(place))} must be or hold {', '.join(READERS)}, all but .parquet also as "
            f"{', '.join(COMPRESSED)}"
        )
    if len(set(files.values())) > 1:
        raise ValueError(
            f"{place} must hold files of one kind, such as 'folder/*.csv', got {shown(list(files))}"
        )
    if left := [str(PurePosixPath(name).relative_to(root)) for name in found if name not in files]:
        print(f"not read in {place}: {shown(', '.join(left))}")
    if column is None:
        first = next(iter(files))
        with _readable(first):
            column = _only_column(reader_of(first)(filesystem, first, None))
    schema, counts, partitions, digests = pa.schema([]), [], [], ""
    states = [_state(filesystem, file) for file in files]
    for file, reader in files.items():
        partition = _partition(PurePosixPath(file).relative_to(root))
        with _readable(file):
            columns, rows = reader(filesystem, file, column).scan()
        columns = pa.schema([*columns, *(pa.field(name, pa.string()) for name in partition)])
        if repeated := [n for n in columns.names if columns.names.count(n) > 1]:
            raise ValueError(f"{file} has two columns named {shown(repeated[0])}; rename one")
        schema = unified(schema, columns, file, as_text=reader is JSONLines)
        counts.append(rows)
        partitions.append(partition)
        with filesystem.open(file, "rb") as stream:
            digests += hashlib.file_digest(stream, "sha256").hexdigest() + str(partition or "")
    if column not in schema.names:
        raise ValueError(f"{place} has no column {shown(column)}; it has {', '.join(schema.names)}")
    if not _is_text(kind := schema.field(column).type):
        raise ValueError(f"column '{column}' of {place} must hold text, got {kind}")
    if not any(counts):
        raise ValueError(f"{place} has no rows")
    sha256 = hashlib.sha256(digests.encode()).hexdigest()
    source = Source(filesystem, list(files), column, schema, counts, partitions, sha256, states)
    for number in range(len(files)):
        source._check_unchanged(number)
    return source


def located(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system and the path of a URL or of a local path."""
    if "://" in place and not (file_at(place) or folder_at(place)):
        return fsspec.url_to_fs(place)
    return fsspec.filesystem("file"), expanded(place).absolute().as_posix()


def _found(place: str) -> tuple[fsspec.AbstractFileSystem, str, list[str]]:
    """Return the file system, the folder that is searched, and the files found in it, sorted."""
    filesystem, path = located(place)
    if filesystem.isfile(path):
        return filesystem, str(PurePosixPath(path).parent), [path]
    root, names = path, None
    if not filesystem.isdir(path) and (magic := re.search(r"[*?[]", path)):
        root = path[: magic.start()].rpartition("/")[0] or "."
        found = filesystem.glob(path, detail=True)
        names = [name for name, about in found.items() if about["type"] == "file"]
    names = filesystem.find(path) if names is None else names
    parts = {name: PurePosixPath(name).relative_to(root).parts for name in names}
    return filesystem, root, sorted(n for n in names if all(p[0] not in "._" for p in parts[n]))


def _state(filesystem: fsspec.AbstractFileSystem, file: str) -> tuple:
    about = filesystem.info(file)
    return tuple(str(about.get(key)) for key in ("size", "mtime", "LastModified", "ETag"))


def _partition(file: PurePosixPath) -> dict[str, str | None]:
    """Return the columns that folder names hold, as Hive and Spark write them."""
    pairs = (part.split("=", 1) for part in file.parts[:-1] if "=" in part[1:])
    null = "__HIVE_DEFAULT_PARTITION__"
    return {name: None if value == null else unquote(value) for name, value in pairs}


def _only_column(reader: Reader) -> str:
    """Return the name of the one column; warn of a CSV, whose header may be a sentence."""
    names = reader.names()
    if len(names) != 1:
        raise ValueError(f"{reader.file} has several columns; name one: {', '.join(names)}")
    if isinstance(reader, CSV) and names[0] != TEXT:
        if not re.fullmatch(r"[A-Za-z]\w*", names[0], re.ASCII):
            raise ValueError(
                f"{reader.file}: the first line must be a header, got {shown(names[0])}; add one, "
                "or give it as the column if it is one"
            )
        warnings.warn(f"{reader.file}: line 1, {names[0]!r}, was taken as the header", stacklevel=4)
    return names[0]


def _block_name(number: int, position: int) -> str:
    return f"{number:05d}-{position:07d}"


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null())


@contextlib.contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turn the libraries' errors about a damaged file into one sentence with its name."""
    try:
        yield
    except DAMAGE as e:
        if isinstance(e, OSError) and e.filename is not None:  # has its name already
            raise
        if isinstance(e, UnicodeError) or "UTF8" in str(e):
            raise ValueError(f"{file} is not UTF-8; convert it first") from e
        raise ValueError(f"{file} cannot be read: {' '.join(str(e).split())}") from e


def _rebatch(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows, `rows` at a time, the last ones fewer."""
    rest = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while len(rest) >= rows:
            yield rest.slice(0, rows)
            rest = rest.slice(rows)
    if rest is not None and len(rest):
        yield rest
