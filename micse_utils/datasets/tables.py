"""Find a table in files and read it exactly, or refuse it with file and line.

Training and bulk encoding both read through `open_source`; `formats` knows each kind of file.
"""

import contextlib
import hashlib
import lzma
import math
import os
import posixpath
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa

from micse_utils.datasets.formats import COMPRESSED, READERS, Parquet, common, reader_of
from micse_utils.settings import expanded, file_at, folder_at, shown

DAMAGE = (UnicodeError, pa.lib.ArrowException, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What libraries raise of a damaged file."""


@dataclass(frozen=True)
class Source:
    """Files that hold a table."""

    filesystem: fsspec.AbstractFileSystem
    files: dict[str, tuple]  # size and time of each when it was hashed
    column: str  # the one with the texts
    schema: pa.Schema  # of all files together
    rows: int
    sha256: str  # of the files' hex digests, one after the other

    def block_names(self, rows: int) -> list[str]:
        """Return the names of the blocks of `rows` rows; they sort as the rows do."""
        return [f"{number:07d}" for number in range(math.ceil(self.rows / rows))]

    def blocks(self, rows: int, done: set[str] = frozenset()) -> Iterator[tuple[str, pa.Table]]:
        """Yield the name and the table of each block of `rows` rows that is not `done`.

        Raises:
            ValueError: a file cannot be read as what its suffix says, or has changed.
        """
        names = iter(self.block_names(rows))
        for table in _rebatch(self._tables(), rows):
            if (name := next(names)) not in done:
                yield name, table

    def texts(self) -> Iterator[str | None]:
        """Yield the text of each row, or None if it has none."""
        for table in self._tables():
            yield from table[self.column].to_pylist()

    def _tables(self) -> Iterator[pa.Table]:
        """Yield the rows of each file; what was read is yielded only if the file is unchanged."""
        seen = 0
        for file in self.files:
            self.check_unchanged(file)
            with _readable(file):
                for table in reader_of(file)(self.filesystem, file, self.column).tables(
                    self.schema
                ):
                    seen += len(table)
                    self.check_unchanged(file, grown=seen > self.rows)
                    yield table

    def check_unchanged(self, file: str, *, grown: bool = False) -> None:
        """Raise ValueError if the file is not the one that was hashed."""
        if grown or _state(self.filesystem, file) != self.files[file]:
            raise ValueError(f"{file} has changed since it was opened; start again")


def open_source(place: str | os.PathLike, column: str) -> Source:
    """Find the files of a table, read them once, and look at their columns.

    So a damaged file is found before the work begins. Columns of CSV are text; an empty cell is
    null, and words such as NA are words. JSON may bring a new column or type in any line; a column
    of several types becomes text in all files. What is not read in a folder is named in a printed
    line: linked folders, archives, files of an unknown suffix.

    Args:
        place: a file, a folder, a pattern such as `folder/*.csv`, or any of these as a URL that
            fsspec knows. The name of an existing file or folder is never taken for a pattern. In
            a folder, names that begin with a dot or an underscore are left out.
        column: the one with the texts.

    Raises:
        FileNotFoundError: no such place, or it is empty.
        ValueError: no table there, files of several kinds or in folders such as `lang=de`, no such
            column or one without text, or a file that cannot be read, can be read in two ways, or
            changes meanwhile.
    """
    filesystem, found, left = _found(os.fspath(place))
    if not found and not left:
        raise FileNotFoundError(f"{shown(str(place))} does not exist, or holds nothing")
    if len(kinds := {*found.values()}) != 1:
        raise ValueError(
            f"{shown(str(place))} must be or hold files of one kind: {', '.join(READERS)}, all but "
            f".parquet also as {', '.join(COMPRESSED)}; 'folder/*.csv' takes some of them"
        )
    if left:
        print(f"not read in {place}: {shown(', '.join(left))}")
    [reader], types, count, digests = kinds, {}, 0, ""
    states = {file: _state(filesystem, file) for file in found}
    for file in found:
        with _readable(file):
            schema, rows = reader(filesystem, file, column).scan()
        if len({*schema.names}) < len(schema):
            raise ValueError(f"{file} has two columns of one name; rename one")
        for name, kind in zip(schema.names, schema.types, strict=True):
            shared = common(earlier := types.get(name, kind), kind)
            if shared is None and reader is Parquet:
                raise ValueError(f"{file}: column '{name}' is {kind}, in files before it {earlier}")
            types[name] = shared or pa.string()
        count += rows
        with filesystem.open(file, "rb") as stream:
            digests += hashlib.file_digest(stream, "sha256").hexdigest()
    if reader is not Parquet:  # a column without any value
        types = {n: pa.string() if pa.types.is_null(kind) else kind for n, kind in types.items()}
    if column not in types:
        raise ValueError(f"{place} has no column {shown(column)}; it has {', '.join(types)}")
    if not _is_text(types[column]):
        raise ValueError(f"column '{column}' of {place} must hold text, got {types[column]}")
    if not count:
        raise ValueError(f"{place} has no rows")
    sha256 = hashlib.sha256(digests.encode()).hexdigest()
    source = Source(filesystem, states, column, pa.schema(types), count, sha256)
    for file in found:
        source.check_unchanged(file)
    return source


def _found(place: str) -> tuple[fsspec.AbstractFileSystem, dict[str, type], list[str]]:
    """Return the file system, the files with their readers, and the names of what is not read."""
    if "://" in place and not (file_at(place) or folder_at(place)):
        filesystem, path = fsspec.url_to_fs(place)
    else:
        filesystem, path = fsspec.filesystem("file"), expanded(place).absolute().as_posix()
    names = [path] if filesystem.isfile(path) else filesystem.find(path)
    names = names or ([] if filesystem.isdir(path) else filesystem.glob(path))
    above = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    root = path if filesystem.isdir(path) else posixpath.commonpath(names or [path])
    files, left = {}, []
    for name in sorted({*names} - above):
        inside = PurePosixPath(name).relative_to(root)
        if any(part[0] in "._" for part in inside.parts):
            continue
        if any("=" in part for part in inside.parts[:-1]):
            raise ValueError(f"{name}: its folder's name is a column; give each folder by itself")
        if reader := reader_of(name):
            files[name] = reader
        else:
            left.append(str(inside))
    return filesystem, files, left


def _state(filesystem: fsspec.AbstractFileSystem, file: str) -> tuple:
    about = filesystem.info(file)
    return tuple(str(about.get(key)) for key in ("size", "mtime", "LastModified", "ETag"))


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
