"""A table in files becomes numbered blocks of rows: Parquet, CSV, JSON lines, text, on any disk."""

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from gzip import BadGzipFile
from itertools import islice
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from micse_utils.checks import shown, whole

KINDS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".txt": "text",
}
"""What a file holds, by its suffix; all but Parquet may be compressed, as in `.csv.gz`."""
TEXT = "text"
"""Name of the one column of a text file, a line a row."""
CHUNK = 4096
"""Lines of a text file that are read together."""


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of a file.

    Attributes:
        name: of the block, from the numbers of its file and of itself; names sort as the rows do.
        table: the rows, with the columns and types of `Source.schema`.
        texts: of each row, the text to encode; None where there is none.
    """

    name: str
    table: pa.Table
    texts: list[str | None]


@dataclass(frozen=True)
class Source:
    """Files with a table, which can be read anew on another machine.

    Attributes:
        files: addresses of the files.
        kind: of all of them, a value of `KINDS`.
        column: the one with the texts.
        schema: columns and types of all files together.
        rows: of all files together.
        sha256: SHA-256 of the files' hex digests, one after the other.
    """

    files: list[str]
    kind: str
    column: str
    schema: pa.Schema
    rows: int
    sha256: str

    def blocks(self, number: int, rows: int, done: frozenset[str] = frozenset()) -> Iterator[Block]:
        """Blocks of one file, `rows` each (the last one fewer), a few in memory at a time.

        Args:
            number: of the file, from 0.
            rows: of a block; the same number gives the same blocks.
            done: names of blocks to leave out.

        Raises:
            ValueError: the file cannot be read as what its suffix says; `rows` is none.
        """
        file, rows = self.files[number], whole("rows", rows, 1)
        with _readable(file):
            for position, (table, texts) in enumerate(_of_size(self._read(file), rows)):
                name = f"{number:05d}-{position:07d}"
                if name not in done:
                    yield Block(name, table, texts)

    def _read(self, file: str) -> Iterator[tuple[pa.Table, list[str | None]]]:
        """Rows of a file, piece by piece, and the text of each."""
        if self.kind == "json":
            for records in _records(file, CHUNK):
                columns = [_column([r.get(f.name) for r in records], f.type) for f in self.schema]
                values = [record.get(self.column) for record in records]
                texts = [value if isinstance(value, str) else None for value in values]
                yield pa.table(columns, schema=self.schema), texts
            return
        for table in _tables(file, self.kind):
            for field in self.schema:
                if field.name not in table.column_names:
                    table = table.append_column(field, pa.nulls(len(table), field.type))
            yield table.select(self.schema.names).cast(self.schema), table[self.column].to_pylist()


def open_source(place: str | os.PathLike, column: str = TEXT) -> Source:
    """Find the files of a table, read them once, and look at their columns.

    So what is damaged is found before the work begins. Any line of JSON may bring a new column or
    another type; where types do not go together, a column becomes text, each value as JSON writes
    it. Columns of CSV have no types and are carried as text, as they stand; an empty cell is null.

    Args:
        place: a file, a folder, a pattern such as `folder/*.csv`, or any of these as a URL that
            fsspec knows.
        column: the one with the texts.

    Raises:
        FileNotFoundError: no such place, or no table in it.
        ValueError: files of several kinds, no such column or one of numbers, or a file that
            cannot be read.
    """
    place = os.fspath(place)
    filesystem, path = fsspec.url_to_fs(place)
    found = filesystem.glob(path) if any(c in path for c in "*?[") else filesystem.find(path)
    hidden = [name for name in found if PurePosixPath(name).name.startswith((".", "_"))]
    kinds = {name: _kind(name) for name in sorted(set(found) - set(hidden)) if _kind(name)}
    if not found:
        raise FileNotFoundError(f"{shown(place)} is not there, or holds nothing")
    if not kinds:
        raise FileNotFoundError(f"{shown(place)} is or holds no {', '.join(KINDS)} (or .gz of it)")
    if len(set(kinds.values())) > 1:
        raise ValueError(
            f"{place} holds files of several kinds ({', '.join(sorted(set(kinds.values())))}); "
            "name those of one, such as 'folder/*.csv'"
        )
    kind = next(iter(kinds.values()))
    files = [filesystem.unstrip_protocol(name) if "://" in place else name for name in kinds]
    schema, rows = pa.schema([]), 0
    for file in files:
        with _readable(file):
            columns, more = _columns_and_rows(file, kind)
        schema, rows = _unified(schema, columns, file), rows + more
    if column not in schema.names:
        names = ", ".join(schema.names)
        raise ValueError(f"{place} has no column {column!r}; it has {names}")
    if not _is_text(schema.field(column).type):
        raise ValueError(f"column '{column}' of {place} holds {schema.field(column).type}, no text")
    if not rows:
        raise ValueError(f"{place} has no rows")
    digests = "".join(map(_sha256, files))
    return Source(files, kind, column, schema, rows, hashlib.sha256(digests.encode()).hexdigest())


def _sha256(file: str) -> str:
    with fsspec.open(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _kind(name: str) -> str | None:
    suffixes = PurePosixPath(name.lower()).suffixes
    if suffixes and suffixes[-1] in (".gz", ".bz2", ".xz", ".zst"):
        suffixes.pop()
        if suffixes[-1:] == [".parquet"]:
            return None
    return KINDS.get(suffixes[-1]) if suffixes else None


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        check(kind)
        for check in (
            pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null,
        )
    )  # fmt: skip


@contextlib.contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turns what libraries say of a damaged file into one sentence with its name."""
    try:
        yield
    except (UnicodeDecodeError, pa.ArrowInvalid, EOFError, BadGzipFile, zlib.error) as error:
        if isinstance(error, UnicodeDecodeError) or "UTF8" in str(error):
            raise ValueError(f"{file} is not UTF-8; convert it first") from error
        raise ValueError(f"{file} cannot be read: {str(error).strip()}") from error


def _columns_and_rows(file: str, kind: str) -> tuple[pa.Schema, int]:
    """Columns and types of one file, and its number of rows."""
    if kind == "json":
        schema, rows = pa.schema([]), 0
        for records in _records(file, CHUNK):
            names = dict.fromkeys(name for record in records for name in record)
            columns = {name: _column([r.get(name) for r in records]) for name in names}
            schema, rows = _unified(schema, pa.table(columns).schema), rows + len(records)
        return schema, rows
    if kind == "parquet":
        with fsspec.open(file) as stream:
            there = pa.parquet.ParquetFile(stream)
            return there.schema_arrow.remove_metadata(), there.metadata.num_rows
    names = [TEXT] if kind == "text" else _header(file)
    return pa.schema([(name, pa.string()) for name in names]), sum(map(len, _tables(file, kind)))


def _unified(first: pa.Schema, second: pa.Schema, file: str | None = None) -> pa.Schema:
    """Both schemas in one; types that do not go together become text, if no file is to blame."""
    fields = {field.name: field for field in first}
    for field in second:
        there = fields.setdefault(field.name, field)
        try:
            both = pa.unify_schemas(
                [pa.schema([there]), pa.schema([field])], promote_options="permissive"
            ).field(0)
        except pa.ArrowTypeError:
            if file is not None:
                raise ValueError(
                    f"{file}: column '{field.name}' holds {field.type}, in files before it "
                    f"{there.type}; convert one of them"
                ) from None
            both = pa.field(field.name, pa.string())
        fields[field.name] = both
    return pa.schema(list(fields.values()))


def _tables(file: str, kind: str) -> Iterator[pa.Table]:
    """Rows of a Parquet, CSV or text file, piece by piece."""
    if kind == "parquet":
        with fsspec.open(file) as stream:
            for batch in pa.parquet.ParquetFile(stream).iter_batches():
                yield pa.Table.from_batches([batch])
    elif kind == "csv":
        types = dict.fromkeys(_header(file), pa.string())
        with fsspec.open(file, compression="infer") as stream:
            reader = _csv(stream, file, column_types=types, strings_can_be_null=True)
            for batch in reader:
                yield pa.Table.from_batches([batch])
    else:
        for lines in _lines(file, CHUNK):
            yield pa.table({TEXT: lines})


def _csv(stream: object, file: str, **conversion: object) -> pa.csv.CSVStreamingReader:
    delimiter = "\t" if ".tsv" in PurePosixPath(file.lower()).suffixes else ","
    return pa.csv.open_csv(
        stream,
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa.csv.ConvertOptions(
            null_values=[""], quoted_strings_can_be_null=False, **conversion
        ),
    )


def _header(file: str) -> list[str]:
    with fsspec.open(file, compression="infer") as stream:
        names = _csv(stream, file).schema.names
    if len(set(names)) < len(names):
        raise ValueError(f"{file} has two columns of one name: {', '.join(names)}")
    return names


def _lines(file: str, count: int) -> Iterator[list[str]]:
    """Lines of a text file without their ends, `count` at a time."""
    with fsspec.open(file, "rt", encoding="utf-8-sig", compression="infer", newline=None) as stream:
        while lines := [line.removesuffix("\n") for line in islice(stream, count)]:
            yield lines


def _records(file: str, count: int) -> Iterator[list[dict]]:
    """Objects of JSON lines, `count` at a time; blank lines are none."""
    number = 0
    for lines in _lines(file, count):
        records = []
        for line in lines:
            number += 1
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number} is not JSON: {error.msg}") from None
            if not isinstance(record, dict):
                raise ValueError(f"{file}, line {number} is not an object: {line.strip()[:40]}")
            if "\\ud" in line.lower():  # perhaps half of a surrogate pair, which is no text
                whole = json.dumps(record, ensure_ascii=False).encode("utf-16", "surrogatepass")
                record = json.loads(whole.decode("utf-16", "replace"))
            records.append(record)
        yield records


def _column(values: list, kind: pa.DataType | None = None) -> pa.Array:
    """Values of JSON as a column; as text, where they have no common type."""
    try:
        if kind is None or not pa.types.is_string(kind):
            return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    as_text = (v if v is None or isinstance(v, str) else json.dumps(v) for v in values)
    return pa.array(as_text, pa.string())


def _of_size(
    pieces: Iterable[tuple[pa.Table, list]], rows: int
) -> Iterator[tuple[pa.Table, list[str | None]]]:
    """The same rows, `rows` at a time, the last ones fewer."""
    table, texts = None, []
    for piece, more in pieces:
        table = piece if table is None else pa.concat_tables([table, piece])
        texts = texts + more
        while len(texts) >= rows:
            yield table.slice(0, rows), texts[:rows]
            table, texts = table.slice(rows), texts[rows:]
    if texts:
        yield table, texts
