"""Read each kind of file with a table: Parquet, CSV, JSON lines, text.

CSV goes through Python's own `csv` module in strict mode, which knows the line of every row.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple, TextIO

import fsspec
import pyarrow as pa
import pyarrow.parquet

from micse_utils.checks import repaired, shown

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TEXT = "text"  # name of the one column of a text file
DELIMITERS = (",", "\t", ";", "|")
CELL_LINES = 20  # of a row of CSV, unless all cells are quoted: a longer one has a stray quote
NUL = "holds NUL characters; if it is UTF-16, save it as UTF-8"
CHUNK = 4096  # rows that are read together
NO_TEXT = re.compile(
    r"(?![a-z])[-+\d\s.,:/%eETZ]*|true|false|\[.*\]|\{.*\}", re.IGNORECASE | re.ASCII | re.DOTALL
)
"""Cells that are numbers, dates, truth values, or lists: a column of nothing else is not text."""


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
    def text(self, newline: str) -> Iterator[TextIO]:
        """Open the file as text: UTF-8, or UTF-16 with its mark."""
        with self.filesystem.open(self.file, "rb") as stored, self._unpacked(stored) as stream:
            stream = io.BufferedReader(stream)
            encoding = "utf-16" if stream.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
            yield io.TextIOWrapper(stream, encoding, newline=newline)

    def _unpacked(self, stored: BinaryIO) -> BinaryIO:
        if self.file.lower().endswith(".zst"):  # Python's own library has it from 3.14
            return pa.CompressedInputStream(stored, "zstd")
        compression = fsspec.utils.infer_compression(self.file.lower())
        return fsspec.compression.compr[compression](stored, mode="rb") if compression else stored

    @cached_property
    def head(self) -> str:
        """Return the first characters, with unchanged line ends."""
        with self.text(newline="") as stream:
            return stream.read(2**16)

    @cached_property
    def newline(self) -> str:
        """Return what ends a line; a carriage return may precede a line feed."""
        end = re.search(r"\r\n?|\n", self.head)
        return "\r" if end and end[0] == "\r" else "\n"

    def lines(self) -> Iterator[str]:
        """Yield the lines without their ends."""
        with self.text(self.newline) as stream:
            for number, line in enumerate(stream, 1):
                line = line.removesuffix(self.newline)
                line = line.removesuffix("\r") if self.newline == "\n" else line
                if "\0" in line:
                    raise self.wrong(number, NUL)
                if "\r" in line or "\n" in line:
                    raise self.wrong(number, "lines must end alike, got a second line end")
                yield line

    def wrong(self, line: int, what: str) -> ValueError:
        """Return an error with the file and the line."""
        return ValueError(f"{self.file}, line {line}: {what}")


class Text(Reader):
    """Text, one row per line."""

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once."""
        return pa.schema([(TEXT, pa.string())]), sum(1 for _ in self.lines())

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows."""
        for lines in _chunks(self.lines()):
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
        schema, rows = pa.schema([]), 0
        for records in _chunks(self._records()):
            names = dict.fromkeys(name for record in records for name in record)
            columns = {name: _column([r.get(name) for r in records]) for name in names}
            schema = unified(schema, pa.table(columns).schema)
            rows += len(records)
        return pa.schema([f if _storable(f) else (f.name, pa.string()) for f in schema]), rows

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows."""
        for records in _chunks(self._records()):
            present = {name for record in records for name in record} | {self.column}
            fields = [field for field in schema if field.name in present]
            arrays = [_column([r.get(f.name) for r in records], f.type) for f in fields]
            yield pa.table(arrays, schema=pa.schema(fields))

    def _records(self) -> Iterator[dict]:
        """Yield the objects; blank lines are skipped."""
        for number, line in enumerate(self.lines(), 1):
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


def _storable(column: pa.Field) -> bool:
    """Return whether Parquet can hold the type: it cannot hold an object without entries."""
    try:
        pa.parquet.write_table(pa.schema([column]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowNotImplementedError:
        return False
    return True


def _column(values: list, kind: pa.DataType | None = None) -> pa.Array:
    """Return values of JSON as a column; as text if they have no common type."""
    try:
        if kind is None or not pa.types.is_string(kind):
            return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        pass
    as_text = (v if v is None or isinstance(v, str) else json.dumps(v) for v in values)
    return pa.array(as_text, pa.string())


class CSVForm(NamedTuple):
    """How a CSV file is written."""

    header: list[str]
    delimiter: str
    start: int  # lines before the header: 1 after Excel's `sep=;`, else 0
    spaced: bool  # a space follows each delimiter, as in `id, text`
    quotes: bool  # quotes enclose cells; else they are literal
    all_quoted: bool  # every cell of the header is quoted


class CSV(Reader):
    """CSV and TSV."""

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return self.form.header

    @cached_property
    def form(self) -> CSVForm:
        """Detect the format; a delimiter that yields the wanted column overrules the suffix."""
        own = "\t" if ".tsv" in PurePosixPath(self.file.lower()).suffixes else ","
        delimiters, start, head = [own, *(d for d in DELIMITERS if d != own)], 0, self.head
        if (nul := head.find("\0")) >= 0:
            raise self.wrong(head.count(self.newline, 0, nul) + 1, NUL)
        if announced := re.match(r'"?sep=(.)"?\r?[\n\r]', head):  # Excel's
            delimiters, start, head = [announced[1]], 1, head[announced.end() :]
        forms = [form for d in delimiters if (form := self._formed(head, d, start)).header]
        if not forms:
            raise ValueError(f"{self.file} is empty, or its line {start + 1} is not a header")
        return next((form for form in forms if self.column in form.header), forms[0])

    def _formed(self, head: str, delimiter: str, start: int) -> CSVForm:
        header = next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), [])
        every = delimiter.join('"{}"'.format(name.replace('"', '""')) for name in header)
        quotes = delimiter != "\t" or '"' in head.split(self.newline)[0]
        spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
        header = [name.strip(" ") for name in header] if spaced else header
        return CSVForm(header, delimiter, start, spaced, quotes, head.startswith(every))

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once."""
        form, rows, text, doubtful = self.form, 0, False, False
        if self.column not in form.header:
            raise ValueError(
                f"{self.file} has no column {shown(self.column)}; name one of its first line, "
                f"{shown(', '.join(form.header))}, or add a header"
            )
        place = form.header.index(self.column)
        for _, cells in self._rows(form.quotes):
            rows += 1
            text = text or not NO_TEXT.fullmatch(cells[place])
            doubtful = doubtful or any(cell.startswith('"') for cell in cells)
        if rows and not text:
            raise ValueError(
                f"column '{self.column}' of {self.file} must hold text, got only values such as "
                f"{shown(cells[place])}"
            )
        if doubtful and not form.quotes:
            self._reject_two_readings(place)
        return pa.schema([(name, pa.string()) for name in form.header]), rows

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows."""
        for rows in _chunks(self._rows(self.form.quotes)):
            columns = zip(*(cells for _, cells in rows), strict=True)
            arrays = [pa.array([c or None for c in cells], pa.string()) for cells in columns]
            yield pa.table(arrays, names=self.form.header)

    def _reject_two_readings(self, place: int) -> None:
        """Reject a TSV whose rows depend on whether quotes are literal or enclose cells.

        They are literal if they cannot enclose cells, or if they do so without need: programs
        quote a cell because of what is in it, or else the header, too.
        """
        first, needless, bare = None, False, False
        try:
            for literal, quoted in zip_longest(self._rows(False), self._rows(True)):
                if literal != quoted and first is None:
                    first = (literal or quoted)[0]
                if literal and quoted:
                    pairs = zip(literal[1], quoted[1], strict=True)
                    needless |= any(q and '"' not in q and c == f'"{q}"' for c, q in pairs)
                    bare |= not literal[1][place].startswith('"')
        except ValueError:
            return
        if not (needless and bare):
            reason = "quotes may be part of the text or may enclose it"
            raise self.wrong(first, f"{reason}; save the table as .csv or .parquet")

    def _rows(self, quotes: bool) -> Iterator[tuple[int, list[str]]]:
        """Yield line and cells of each row; quotes enclose cells, or are literal."""
        form, raw, unquoted = self.form, [], False  # raw: lines of the row that is being read
        exempt = form.all_quoted or form.quotes != quotes
        csv.field_size_limit(2**30)

        def lines(stream: TextIO) -> Iterator[str]:
            for number, line in enumerate(stream, form.start + 1):
                if "\0" in line:
                    raise self.wrong(number, NUL)
                raw.append(line)
                if len(raw) > CELL_LINES and (unquoted or not exempt):
                    raise csv.Error(f"a quote is still open {CELL_LINES} lines later")
                yield line

        with self.text(self.newline) as stream:
            for _ in range(form.start):
                stream.readline()
            quoting = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
            reader = csv.reader(
                lines(stream), delimiter=form.delimiter, quoting=quoting,
                skipinitialspace=form.spaced, strict=True,
            )  # fmt: skip
            line, crlf = form.start + 1, None
            while True:
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    way_out = "quote every cell as CSV does, or save the table as .parquet"
                    raise self.wrong(line, f"{error}; {way_out}") from None
                if cells is None:
                    return
                crlf = raw[-1].endswith("\r\n") if crlf is None else crlf
                if not crlf and raw[-1].endswith("\r\n"):  # pandas leaves such texts unquoted
                    raise self.wrong(line, "a carriage return before the line feed, unlike line 1")
                if line > form.start + 1 and (cells or len(form.header) == 1):
                    cells = cells or [""]
                    self._check(line, cells, raw, quotes)
                    unquoted = unquoted or (quotes and '"' not in raw[0] and any(cells))
                    yield line, cells
                line += len(raw)
                raw.clear()

    def _check(self, line: int, cells: list[str], raw: list[str], quotes: bool) -> None:
        """Reject a row that does not fit the header, or is not quoted as CSV requires."""
        form = self.form
        if len(cells) != len(form.header):
            counts = f"{len(cells)} cells, but {len(form.header)} in the header"
            raise self.wrong(line, f"{counts}; quote a cell with {shown(form.delimiter)} in it")
        if not quotes or all('"' not in part for part in raw):
            return
        # Three rows or more that fit the header lie in one cell, hardly by chance.
        fits = all(part.count(form.delimiter) == len(cells) - 1 for part in raw)
        if len(raw) > 3 and len(cells) > 1 and fits and not form.all_quoted:
            raise self.wrong(line, "a cell holds rows; close its quote, or quote every cell")
        text = "".join(raw)
        for cell in cells:
            doubtful = '\\"' in cell or cell.lstrip().startswith('"')
            if doubtful and '"{}"'.format(cell.replace('"', '""')) not in text:
                rule = f"a quote must follow {shown(form.delimiter)}, or be doubled in the text"
                raise self.wrong(line, f"{rule}, got {shown(text)}")


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


def unified(first: pa.Schema, second: pa.Schema, file: str | None = None) -> pa.Schema:
    """Merge two schemas; incompatible types become text, or an error that names the file."""
    fields = {field.name: field for field in first}
    for new in second:
        old = fields.setdefault(new.name, new)
        try:
            both = pa.unify_schemas(
                [pa.schema([old]), pa.schema([new])], promote_options="permissive"
            ).field(0)
        except pa.ArrowTypeError:
            if file is not None:
                raise ValueError(
                    f"{file}: column '{new.name}' holds {new.type}, in files before it {old.type}"
                ) from None
            both = pa.field(new.name, pa.string())
        fields[new.name] = both
    return pa.schema(list(fields.values()))


def _chunks(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while chunk := list(islice(items, CHUNK)):
        yield chunk
