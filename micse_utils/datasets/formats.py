"""Read each kind of file with a table, row by row: CSV, JSON lines, text; and Parquet.

CSV goes through Python's own `csv` module in strict mode, which knows the line of every row.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.parquet

from micse_utils.settings import repaired, shown

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TEXT = "text"  # name of the one column of a text file
DELIMITERS = (",", "\t", ";", "|")
LONGEST = 2**24  # characters of a line: a longer one is hardly a text
CELL_LINES = 20  # of a row of CSV: a longer one has a stray quote
CHUNK = 4096  # rows that are read together
SCALARS = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), type(None): pa.null()}


@dataclass(frozen=True)
class Reader:
    """A file with a table: text, one row per line."""

    filesystem: fsspec.AbstractFileSystem
    file: str
    column: str  # the one with the texts

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the rows."""
        for number, line in self.lines():
            line = line.removesuffix("\n").removesuffix("\r")
            if "\r" in line:
                raise self.wrong(number, "holds a carriage return; end lines with a line feed")
            yield {TEXT: line}

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the file once; return the types of the columns and the number of rows.

        A column of whole numbers, fractions or booleans has that type. Every other one is text: in
        JSON (lists, objects, several types) each value as JSON writes it.
        """
        kinds, count = {}, 0
        for count, row in enumerate(self.rows(), 1):  # noqa: B007  used after the loop
            for name, value in row.items():
                kind = SCALARS.get(type(value), pa.string())
                if kind == pa.int64() and not -(2**63) <= value < 2**63:
                    kind = pa.string()
                kinds[name] = common(kinds.get(name, kind), kind) or pa.string()
        return pa.schema(kinds), count

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows as tables with the columns of the schema."""
        rows = self.rows()
        while chunk := list(islice(rows, CHUNK)):
            columns = []
            for name, kind in zip(schema.names, schema.types, strict=True):
                values = [row.get(name) for row in chunk]
                if pa.types.is_string(kind):
                    values = [v if isinstance(v, str | None) else json.dumps(v) for v in values]
                columns.append(pa.array(values, kind))
            yield pa.table(columns, schema=schema)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield the number of each line, from 1, and the line with its end."""
        if "zstd" not in fsspec.compression.compr:  # Python's own library has it from 3.14
            fsspec.compression.register_compression(
                "zstd", lambda stream, **_: pa.CompressedInputStream(stream, "zstd"), "zst"
            )
        form = {"encoding": "utf-8-sig", "newline": "\n", "compression": "infer"}
        with self.filesystem.open(self.file, "r", **form) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LONGEST + 1), ""), 1):
                if len(line) > LONGEST:
                    raise self.wrong(number, f"more than {LONGEST:,} characters; divide it")
                if "\0" in line:
                    raise self.wrong(number, "holds NUL characters; if it is UTF-16, save as UTF-8")
                yield number, line

    def wrong(self, line: int, what: str) -> ValueError:
        """Return an error with the file and the line."""
        return ValueError(f"{self.file}, line {line}: {what}")


class Parquet(Reader):
    """Parquet, the one format with types."""

    def scan(self) -> tuple[pa.Schema, int]:
        """Read the columns and the number of rows."""
        with self.filesystem.open(self.file, "rb") as stream:
            parquet = pa.parquet.ParquetFile(stream)
            return parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows

    def tables(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yield the rows as tables; a column that the file lacks is null."""
        with self.filesystem.open(self.file, "rb") as stream:
            for batch in pa.parquet.ParquetFile(stream).iter_batches():
                there = dict(zip(batch.schema.names, batch.columns, strict=True))
                columns = (there.get(name, pa.nulls(len(batch))) for name in schema.names)
                kinds = zip(columns, schema.types, strict=True)
                yield pa.table([column.cast(kind) for column, kind in kinds], schema=schema)


class JSONLines(Reader):
    """JSON lines, one object per line; blank lines are skipped."""

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the objects."""
        for number, line in self.lines():
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


class CSV(Reader):
    """CSV and TSV, with the delimiter that yields the wanted column; an empty cell is null."""

    def rows(self) -> Iterator[dict[str, str | None]]:
        """Yield the rows after the header."""
        first = next(self.lines(), (1, ""))[1].strip().replace('"', "")
        own = "\t" if ".tsv" in PurePosixPath(self.file.lower()).suffixes else ","
        fits = (d for d in (own, *DELIMITERS) if self.column in first.split(d))
        delimiter = next(fits, own)
        parsed = self._parsed(delimiter)
        _, header = next(parsed, (1, []))
        if self.column not in header or len({*header}) < len(header):
            raise self.wrong(
                1, f"must name each column once, and {shown(self.column)} among them, got "
                f"{shown(', '.join(header))}; name one of these, or add a header",
            )  # fmt: skip
        for line, cells in parsed:
            if not cells and len(header) > 1:
                continue
            cells = cells or [""]
            if len(cells) != len(header):
                counts = f"{len(cells)} cells, but {len(header)} in the header"
                raise self.wrong(line, f"{counts}; quote a cell with {shown(delimiter)} in it")
            yield dict(zip(header, (cell or None for cell in cells), strict=True))

    def _parsed(self, delimiter: str) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of the first line of each row, and its cells."""
        raw = []  # lines of the row that is being read

        def lines() -> Iterator[str]:
            for number, line in self.lines():
                if delimiter == "\t" and '"' in line:
                    what = "a quote in tab-separated values may be text or may enclose it"
                    raise self.wrong(number, f"{what}; save the table as .csv or .parquet")
                raw.append(line)
                if len(raw) > CELL_LINES:
                    raise csv.Error(f"a quote is still open {CELL_LINES} lines later")
                yield line

        csv.field_size_limit(CELL_LINES * LONGEST)
        reader, number = csv.reader(lines(), delimiter=delimiter, strict=True), 1
        try:
            for cells in reader:
                text = "".join(raw)
                for cell in cells if '"' in text else ():
                    if '"' in cell and '"{}"'.format(cell.replace('"', '""')) not in text:
                        raise csv.Error(f"a quote inside a cell, in {shown(text)}")
                yield number, cells
                number += len(raw)
                raw.clear()
        except csv.Error as error:
            way_out = "quote every cell as CSV does, end lines with a line feed, or use .parquet"
            raise self.wrong(number, f"{error}; {way_out}") from None


READERS = {
    ".parquet": Parquet, ".csv": CSV, ".tsv": CSV, ".txt": Reader,
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), JSONLines),
}  # fmt: skip
"""Readers by suffix, in any case; all but Parquet may be compressed: `.csv.gz`."""


def reader_of(name: str) -> type[Reader] | None:
    """Return the reader for a file name, or None if its suffix is unknown."""
    *_, last, packed = ["", "", *PurePosixPath(name.lower()).suffixes]
    if packed not in COMPRESSED:
        return READERS.get(packed)
    return READERS.get(last) if last != ".parquet" else None


def common(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type of a column that holds values of both, or None."""
    if one == other or pa.types.is_null(other):
        return one
    return other if pa.types.is_null(one) else None
