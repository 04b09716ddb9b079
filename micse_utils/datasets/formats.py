"""Read each kind of file with a table: Parquet, CSV, JSON lines, text.

CSV goes through Python's own `csv` module in strict mode, which knows the line of every row.
"""

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import PurePosixPath
from typing import BinaryIO, TextIO

import fsspec
import pyarrow as pa
import pyarrow.parquet

from micse_utils.checks import repaired, shown

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TEXT = "text"  # name of the one column of a text file
DELIMITERS = (",", "\t", ";", "|")
CELL_LINES = 20  # of a row of CSV: a longer one has a stray quote
CHUNK = 4096  # rows that are read together
SCALARS = {
    type(None): pa.null(), bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()
}  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """A file with a table. `scan` returns its columns and number of rows, `tables` yields them."""

    filesystem: fsspec.AbstractFileSystem
    file: str
    column: str | None

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return self.scan()[0].names

    @contextlib.contextmanager
    def text(self) -> Iterator[TextIO]:
        """Open the file as text, UTF-8 or UTF-16 with its mark, in lines that keep their ends."""
        with self.filesystem.open(self.file, "rb") as stored, self._unpacked(stored) as stream:
            stream = io.BufferedReader(stream)
            encoding = "utf-16" if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            yield io.TextIOWrapper(stream, encoding, newline="\n")

    def _unpacked(self, stored: BinaryIO) -> BinaryIO:
        if self.file.lower().endswith(".zst"):  # Python's own library has it from 3.14
            return pa.CompressedInputStream(stored, "zstd")
        compression = fsspec.utils.infer_compression(self.file.lower())
        return fsspec.compression.compr[compression](stored, mode="rb") if compression else stored

    def lines(self, stream: TextIO) -> Iterator[str]:
        """Yield the lines with their ends."""
        for number, line in enumerate(stream, 1):
            if "\0" in line:
                raise self.wrong(number, "holds NUL characters; if it is UTF-16, save it as UTF-8")
            yield line

    def plain_lines(self) -> Iterator[str]:
        """Yield the lines without their ends."""
        with self.text() as stream:
            for number, line in enumerate(self.lines(stream), 1):
                line = line.removesuffix("\n").removesuffix("\r")
                if "\r" in line:
                    raise self.wrong(number, "holds a carriage return; end lines with a line feed")
                yield line

    def wrong(self, line: int, what: str) -> ValueError:
        """Return an error with the file and the line."""
        return ValueError(f"{self.file}, line {line}: {what}")


class Text(Reader):
    """Text, one row per line."""

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once."""
        return pa.schema([(TEXT, pa.string())]), sum(1 for _ in self.plain_lines())

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows."""
        for lines in _chunks(self.plain_lines()):
            yield pa.table({TEXT: pa.array(lines, pa.string())})


class Parquet(Reader):
    """Parquet, the one format with types."""

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once."""
        with self.filesystem.open(self.file, "rb") as stream:
            parquet = pa.parquet.ParquetFile(stream)
            return parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows."""
        with self.filesystem.open(self.file, "rb") as stream:
            for batch in pa.parquet.ParquetFile(stream).iter_batches():
                yield pa.Table.from_batches([batch])


class JSONLines(Reader):
    """JSON lines, one object per line."""

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once."""
        kinds, rows = {}, 0
        for record in self._records():
            rows += 1
            for name, value in record.items():
                kind = _kind(value) or pa.string()
                kinds[name] = _common(kinds.get(name, kind), kind) or pa.string()
        return pa.schema(kinds), rows

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows; values in a column of text are written as JSON."""
        for records in _chunks(self._records()):
            columns = {}
            for name, kind in zip(schema.names, schema.types, strict=True):
                values = [record.get(name) for record in records]
                if pa.types.is_string(kind):
                    values = [v if isinstance(v, str | None) else json.dumps(v) for v in values]
                columns[name] = pa.array(values, kind)
            yield pa.table(columns)

    def _records(self) -> Iterator[dict]:
        """Yield the objects; blank lines are skipped."""
        for number, line in enumerate(self.plain_lines(), 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line, object_pairs_hook=_distinct)
                if "\\ud" in line.lower():  # perhaps half of a surrogate pair
                    record = json.loads(repaired(json.dumps(record, ensure_ascii=False)))
            except (ValueError, RecursionError) as error:
                reason = getattr(error, "msg", error)
                raise self.wrong(number, f"not JSON, one object a line: {reason}") from None
            if not isinstance(record, dict):
                raise self.wrong(number, f"must be an object, got {shown(line)}")
            if not isinstance(text := record.get(self.column), str | None):
                raise self.wrong(number, f"'{self.column}' must be text, got {shown(text)}")
            yield record


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("an object names a value twice")
    return record


def _kind(value: object) -> pa.DataType | None:
    """Return the type of a value of JSON, or None if no column can hold it exactly."""
    if isinstance(value, list):
        kind = pa.null()
        for item in value:
            other = _kind(item)
            if other is None or (kind := _common(kind, other)) is None:
                return None
        return pa.list_(kind)
    if isinstance(value, dict):
        kinds = [(name, _kind(item)) for name, item in value.items()]
        return pa.struct(kinds) if kinds and all(kind for _, kind in kinds) else None
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return None
    return SCALARS[type(value)]


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds values of both unchanged, or None."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_list(one) and pa.types.is_list(other):
        kind = _common(one.value_type, other.value_type)
        return kind and pa.list_(kind)
    if pa.types.is_struct(one) and pa.types.is_struct(other) and one.names == other.names:
        kinds = [(a.name, _common(a.type, b.type)) for a, b in zip(one, other, strict=True)]
        return pa.struct(kinds) if all(kind for _, kind in kinds) else None
    return None


class CSV(Reader):
    """CSV and TSV."""

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return self.form[0]

    @cached_property
    def form(self) -> tuple[list[str], str]:
        """Return header and delimiter; one that yields the wanted column overrules the suffix."""
        own = "\t" if ".tsv" in PurePosixPath(self.file.lower()).suffixes else ","
        forms, problems = [], []
        for delimiter in [own, *(d for d in DELIMITERS if d != own)]:
            try:
                with self.text() as stream:
                    header = next(self._read(stream, delimiter), (1, []))[1]
            except UnicodeError:
                raise
            except ValueError as problem:
                problems.append(problem)
                continue
            if self.column in header:
                return header, delimiter
            forms.append((header, delimiter))
        if not forms:
            raise problems[0]
        if not forms[0][0]:
            raise ValueError(f"{self.file} is empty, or its line 1 is not a header")
        return forms[0]

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once."""
        header = self.form[0]
        if self.column not in header:
            raise ValueError(
                f"{self.file} has no column {shown(self.column)}; name one of its first line, "
                f"{shown(', '.join(header))}, or add a header"
            )
        return pa.schema([(name, pa.string()) for name in header]), sum(1 for _ in self._rows())

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows."""
        for rows in _chunks(self._rows()):
            arrays = [pa.array([c or None for c in cells], pa.string()) for cells in zip(*rows)]  # noqa: B905  checked
            yield pa.table(arrays, names=self.form[0])

    def _rows(self) -> Iterator[list[str]]:
        """Yield the cells of each row after the header."""
        header, delimiter = self.form
        with self.text() as stream:
            for line, cells in islice(self._read(stream, delimiter), 1, None):
                if not cells and len(header) > 1:
                    continue
                cells = cells or [""]
                if len(cells) != len(header):
                    counts = f"{len(cells)} cells, but {len(header)} in the header"
                    raise self.wrong(line, f"{counts}; quote a cell with {shown(delimiter)} in it")
                yield cells

    def _read(self, stream: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yield line and cells of each row and of the header."""
        raw = []  # lines of the row that is being read

        def lines() -> Iterator[str]:
            for number, line in enumerate(self.lines(stream), 1):
                if delimiter == "\t" and '"' in line:
                    what = "a quote in tab-separated values may be text or may enclose it"
                    raise self.wrong(number, f"{what}; save the table as .csv or .parquet")
                raw.append(line)
                if len(raw) > CELL_LINES:
                    raise csv.Error(f"a quote is still open {CELL_LINES} lines later")
                yield line

        csv.field_size_limit(2**30)
        reader, line, crlf = csv.reader(lines(), delimiter=delimiter, strict=True), 1, None
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                ends = "\r" in raw[-1].rstrip("\r\n") and "end lines with a line feed, "
                way_out = f"{ends or ''}quote every cell as CSV does, or save the table as .parquet"
                raise self.wrong(line, f"{error}; {way_out}") from None
            if cells is None:
                return
            text = "".join(raw)
            crlf = text.endswith("\r\n") if crlf is None else crlf
            if not crlf and text.endswith("\r\n"):  # pandas leaves such texts unquoted
                raise self.wrong(line, "a carriage return before the line feed, unlike line 1")
            for cell in cells if '"' in text else ():
                if '"' in cell and '"{}"'.format(cell.replace('"', '""')) not in text:
                    rule = "a cell with quotes must be enclosed in quotes, and those in it doubled"
                    raise self.wrong(line, f"{rule}, got {shown(text)}")
            fitting = sum(part.count(delimiter) == len(cells) - 1 for part in raw)
            if len(cells) > 1 and fitting == len(raw) > 3:  # hardly by chance
                what = "a cell holds lines that look like rows; close its quote"
                raise self.wrong(line, f"{what}, or save the table as .parquet")
            yield line, cells
            line += len(raw)
            raw.clear()


READERS = {
    ".parquet": Parquet, ".csv": CSV, ".tsv": CSV, ".txt": Text,
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), JSONLines),
}  # fmt: skip
"""Readers by suffix, in any case; all but Parquet may be compressed: `.csv.gz`."""


def reader_of(name: str) -> type[Reader] | None:
    """Return the reader for a file name, or None if its suffix is unknown."""
    suffixes = PurePosixPath(name.lower()).suffixes
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
        if suffixes[-1:] == [".parquet"]:
            return None
    return READERS.get(suffixes[-1]) if suffixes else None


def unified(first: pa.Schema, second: pa.Schema, file: str, *, as_text: bool) -> pa.Schema:
    """Merge two schemas; types that differ become text, or an error that names the file."""
    kinds = dict(zip(first.names, first.types, strict=True))
    for name, kind in zip(second.names, second.types, strict=True):
        common = _common(kinds.get(name, kind), kind)
        if common is None and not as_text:
            raise ValueError(
                f"{file}: column '{name}' holds {kind}, in files before it {kinds[name]}"
            )
        kinds[name] = common or pa.string()
    return pa.schema(kinds)


def _chunks(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while chunk := list(islice(items, CHUNK)):
        yield chunk
