"""Read a file with a table exactly, or refuse it: text, CSV, JSON lines and Parquet.

CSV goes through Python's own `csv` module in strict mode, which knows the line of every row.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from micse_utils.settings import repaired, shown

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
TEXT = "text"  # name of the one column of a text file
DELIMITERS = (",", "\t", ";", "|")
CELL_LINES = 20  # of a row of CSV: a longer one has a stray quote
CHUNK = 4096  # rows that are converted together

Lines = Iterable[tuple[int, str]]  # number of each line, from 1, and the line with its end
Rows = Iterator[dict[str, str | None]]  # values by column


def read_table(file: Path, column: str) -> tuple[pa.Table, str]:
    """Return the table in a file, and the file's SHA-256; `column` is the one with the texts."""
    kind = kind_of(file)
    with readable(file):
        content = file.read_bytes()
        if kind == ".parquet":
            parquet = pa.parquet.ParquetFile(pa.BufferReader(content))
            table = pa.Table.from_batches(parquet.iter_batches(CHUNK), parquet.schema_arrow)
        else:
            table = _as_table(READERS[kind](_lines(file, content), column))
    return table, hashlib.sha256(content).hexdigest()


def kind_of(file: Path) -> str | None:
    """Return the suffix that tells the kind of a file, or None if it is unknown."""
    *_, last, packed = ["", "", *Path(file.name.lower()).suffixes]
    if packed == ".parquet":
        return packed
    kind = last if packed in COMPRESSED else packed
    return kind if kind in READERS else None


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Return the rows of all tables; refuse differing types and repeated names of columns."""
    return pa.concat_tables([pa.table({}), *tables], promote_options="default")


def read_lines(file: Path, encoding: str = "utf-8-sig") -> list[str]:
    """Read the lines of a text file. Only line feeds end them: tweets hold other separators."""
    with readable(file):
        return [row[TEXT] for row in _text(_lines(file, file.read_bytes(), encoding))]


def read_rows(file: Path, pattern: str, encoding: str = "utf-8-sig") -> list[dict[str, str]]:
    """Return the named groups of a pattern in each line of a file of a benchmark."""
    rows = []
    for number, line in enumerate(read_lines(file, encoding), start=1):
        if not (found := re.fullmatch(pattern, line)):
            raise ValueError(f"{file}, line {number} is not in the official format: {shown(line)}")
        rows.append(found.groupdict())
    return rows


def parallel_rows(first: Path, second: Path, *patterns: str) -> list[dict[str, str]]:
    """Read two files whose lines correspond, each by its pattern."""
    one, other = map(read_rows, (first, second), patterns)
    if len(one) != len(other):
        raise ValueError(f"{first} has {len(one)} lines but {second.name} has {len(other)}")
    return [row | more for row, more in zip(one, other, strict=True)]


@contextlib.contextmanager
def readable(place: str | Path) -> Iterator[None]:
    """Name the place in what libraries and readers raise of a damaged file."""
    try:
        yield
    except (OSError, ValueError, RecursionError, MemoryError, pa.ArrowException) as error:
        reason = " ".join(str(error).split()) or "it does not fit in memory; divide it"
        raise ValueError(f"{place}: {reason}") from error


def _as_table(rows: Rows) -> pa.Table:
    parts = []
    while chunk := list(islice(rows, CHUNK)):
        names = dict.fromkeys(chain.from_iterable(chunk))
        parts.append(pa.Table.from_pylist(chunk, pa.schema((n, pa.string()) for n in names)))
    return joined(parts)


def _lines(file: Path, content: bytes, encoding: str = "utf-8-sig") -> Lines:
    stream = pa.input_stream(pa.py_buffer(content), compression=COMPRESSED.get(file.suffix.lower()))
    for number, line in enumerate(io.TextIOWrapper(stream, encoding, newline="\n"), 1):
        if "\0" in line or "\r" in line.removesuffix("\n").removesuffix("\r"):
            what = "NUL or a carriage return; save as UTF-8, with line feeds"
            raise ValueError(f"line {number} holds {what}")
        yield number, line


def _text(lines: Lines, column: str = TEXT) -> Rows:
    """Yield the lines, as the one column of a text file."""
    for _, line in lines:
        yield {TEXT: line.removesuffix("\n").removesuffix("\r")}


def _json(lines: Lines, column: str) -> Rows:
    """Yield the objects, one a line; numbers, lists and objects in them as JSON writes them."""
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_distinct)
            if "\\ud" in line.lower():  # perhaps half of a surrogate pair
                record = json.loads(repaired(json.dumps(record, ensure_ascii=False)))
            is_record = isinstance(record[column], str | None)
        except (ValueError, LookupError, TypeError):
            is_record = False
        if not is_record:
            what = f"a JSON object with text as '{column}' and each name once"
            raise ValueError(f"line {number} must be {what}, got {shown(line)}")
        yield {n: v if isinstance(v, str | None) else json.dumps(v) for n, v in record.items()}


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("an object names a value twice")
    return record


def _csv(lines: Lines, column: str, delimiter: str = ",") -> Rows:
    """Yield the rows, split by the delimiter that yields the wanted column; no text is null."""
    lines = iter(lines)
    first = next(lines, (1, ""))
    names = first[1].strip().replace('"', "")
    delimiter = next((d for d in (delimiter, *DELIMITERS) if column in names.split(d)), delimiter)
    rows = _cells(chain([first], lines), delimiter)
    _, header = next(rows)
    if column not in header or len({*header}) < len(header):
        raise ValueError(
            f"line 1 must name each column once, and {shown(column)} among them, got "
            f"{shown(', '.join(header))}; name one of these (--column), or add a header"
        )
    for number, cells in rows:
        if not cells and len(header) > 1:
            continue
        cells = cells or [""]
        if len(cells) != len(header):
            counts = f"{len(cells)} cells, but {len(header)} in the header"
            raise ValueError(f"line {number}: {counts}; quote a cell with {shown(delimiter)} in it")
        yield dict(zip(header, (cell or None for cell in cells), strict=True))


def _cells(lines: Lines, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line of each row, and its cells."""
    raw = {}  # lines of the row that is being read, by number

    def remembered() -> Iterator[str]:
        for number, line in lines:
            raw[number] = line
            if delimiter == "\t" and '"' in line:
                raise csv.Error("a quote in tab-separated values may be text or may enclose it")
            if len(raw) > CELL_LINES:
                raise csv.Error(f"a quote is still open {CELL_LINES} lines later")
            yield line

    try:
        for cells in csv.reader(remembered(), delimiter=delimiter, strict=True):
            row = "".join(raw.values())
            for cell in cells if '"' in row else ():
                if '"' in cell and '"{}"'.format(cell.replace('"', '""')) not in row:
                    raise csv.Error(f"a quote inside a cell, in {shown(row)}")
            yield min(raw), cells
            raw.clear()
    except csv.Error as error:
        way_out = "save as CSV with every cell quoted and lines ended by line feeds, or as Parquet"
        raise ValueError(f"line {min(raw)}: {error}; {way_out}") from None


READERS = {
    ".csv": _csv, ".tsv": partial(_csv, delimiter="\t"), ".txt": _text,
    ".jsonl": _json, ".ndjson": _json, ".json": _json,
}  # fmt: skip
"""Readers of lines by suffix, in any case; the files may be compressed: `.csv.gz`."""
