"""Read a file with a table exactly, or refuse it: text, CSV, JSON lines and Parquet."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from micse_utils.provenance import sha256_of
from micse_utils.settings import repaired, shown

COMPRESSED = (".gz", ".bz2", ".zst")
DELIMITERS = (",", "\t", ";", "|")
CELL_LINES = 20  # of a row of CSV: a longer one has a stray quote
CHUNK = 4096  # rows that are converted together

Rows = Iterable[dict[str, str | None]]  # values by column


def read_table(file: Path, column: str) -> tuple[pa.Table, str]:
    """Return the table in a file, and the file's SHA-256; `column` is the one with the texts."""
    kind = kind_of(file)
    with readable(file):
        digest = sha256_of([file])
        if kind == ".parquet":
            parquet = pa.parquet.ParquetFile(file)
            batches = parquet.iter_batches(CHUNK)
            return pa.Table.from_batches(batches, parquet.schema_arrow), digest
        rows, parts = iter(READERS[kind](_lines(file), column)), []
        while chunk := list(islice(rows, CHUNK)):
            names = dict.fromkeys(chain.from_iterable(chunk))
            parts.append(pa.Table.from_pylist(chunk, pa.schema((n, pa.string()) for n in names)))
        return joined(parts), digest


def kind_of(file: Path) -> str | None:
    """Return the suffix that tells the kind of a file, or None if it is unknown."""
    name = Path(file.name.lower())
    kind = Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix
    return kind if kind in READERS or name.suffix == ".parquet" else None


def joined(tables: Iterable[pa.Table]) -> pa.Table:
    """Return the rows of all tables; refuse differing types and repeated names of columns."""
    return pa.concat_tables([pa.table({}), *tables], promote_options="default")


def read_lines(file: Path, encoding: str = "utf-8-sig") -> list[str]:
    """Read the lines of a text file. Only line feeds end them: tweets hold other separators."""
    with readable(file):
        return [line.rstrip("\r\n") for line in _lines(file, encoding)]


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


def _lines(file: Path, encoding: str = "utf-8-sig") -> Iterator[str]:
    """Yield the lines with their ends."""
    with pa.input_stream(file) as stream:  # by its suffix, it unpacks what is compressed
        for number, line in enumerate(io.TextIOWrapper(stream, encoding, newline="\n"), 1):
            if re.search(r"\0|\r(?!\n|$)", line):
                what = "NUL or a carriage return; save as UTF-8, with line feeds"
                raise ValueError(f"line {number} holds {what}")
            yield line


def _json(lines: Iterable[str], column: str) -> Rows:
    """Yield the objects, one a line; numbers, lists and objects in them as JSON writes them."""
    for number, line in enumerate(lines, 1):
        if line.isspace():
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
    if len(dict(pairs)) < len(pairs):
        raise ValueError("an object names a value twice")
    return dict(pairs)


def _csv(lines: Iterable[str], column: str, delimiter: str = ",") -> Rows:
    """Yield the rows, split by the delimiter that yields the wanted column; no text is null."""
    lines = list(lines)
    names = lines[0].strip().replace('"', "") if lines else ""
    delimiter = next((d for d in (delimiter, *DELIMITERS) if column in names.split(d)), delimiter)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    end = 0  # of the row before, in lines
    try:
        header = next(reader, [])
        if column not in header or len({*header}) < len(header):
            what = f"name each column once, and {shown(column)} (--column) among them"
            raise ValueError(f"line 1 must {what}, got {shown(', '.join(header))}")
        end = reader.line_num
        for cells in reader:
            row = "".join(lines[end : reader.line_num])
            if cells and (len(cells) != len(header) or not _is_plain(row, cells, delimiter)):
                what = f"{len(header)} cells, split by {shown(delimiter)}, and no stray quotes"
                raise csv.Error(f"a row must have {what}, got {shown(row)}")
            if cells:
                yield dict(zip(header, (cell or None for cell in cells), strict=True))
            end = reader.line_num
    except csv.Error as error:
        raise ValueError(
            f"line {end + 1}: {error}; save as CSV with every cell quoted, or as Parquet"
        ) from None


def _is_plain(row: str, cells: list[str], delimiter: str) -> bool:
    """Return whether a row of CSV can be read in one way only."""
    if row.count("\n") > CELL_LINES or (delimiter == "\t" and '"' in row):
        return False
    quoted = ('"{}"'.format(cell.replace('"', '""')) for cell in cells if '"' in cell)
    return all(cell in row for cell in quoted)


READERS = {".csv": _csv, ".tsv": partial(_csv, delimiter="\t")}
READERS |= dict.fromkeys((".jsonl", ".ndjson", ".json"), _json)
READERS[".txt"] = lambda lines, column: ({"text": line.rstrip("\r\n")} for line in lines)
