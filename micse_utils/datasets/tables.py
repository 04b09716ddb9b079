"""Read a user's own tables exactly, or refuse them: text, CSV, JSON lines and Parquet."""

import contextlib
import csv
import io
import json
import math
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from micse_utils.provenance import digest_of, sha256_of
from micse_utils.settings import expanded, repaired, shown

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
DELIMITERS = (",", "\t", ";", "|")
CELL_LINES = 20  # of a row of CSV: a longer one has a stray quote
CHUNK = 4096  # rows that are converted together
TEXTS = (pa.string(), pa.large_string(), pa.string_view(), pa.null())  # types of a text column
Rows = Iterable[dict[str, str | None]]  # values by column


def read_table(file: Path, column: str) -> tuple[pa.Table, str]:
    """Return the table in a file, and the file's SHA-256; `column` is the one with the texts."""
    kind = kind_of(file)
    with readable(file):
        digest = sha256_of([file])
        if kind == ".parquet":
            parquet = pa.parquet.ParquetFile(file)
            return pa.Table.from_batches(parquet.iter_batches(CHUNK), parquet.schema_arrow), digest
        rows, parts = iter(READERS[kind](_lines(file), column)), []
        while chunk := list(islice(rows, CHUNK)):
            names = dict.fromkeys(chain.from_iterable(chunk))
            parts.append(pa.Table.from_pylist(chunk, pa.schema((n, pa.string()) for n in names)))
        return joined(parts), digest


def kind_of(file: Path) -> str | None:
    """Return the suffix that tells the kind of a file, or None if it is unknown."""
    unpacked = Path(file.stem if file.suffix.lower() in COMPRESSED else file.name)
    kind = unpacked.suffix.lower()
    return kind if kind in READERS or kind == ".parquet" else None


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
        reason = " ".join(str(error).split()) or "it does not fit in memory; split it"
        if isinstance(error, UnicodeDecodeError):
            reason = f"this is not text in UTF-8; save it as UTF-8 ({reason})"
        raise ValueError(f"{place}: {reason}") from error


def _lines(file: Path, encoding: str = "utf-8-sig") -> Iterator[str]:
    """Yield the lines with their ends."""
    with pa.input_stream(file, COMPRESSED.get(file.suffix.lower())) as stream:
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
            if not isinstance(record[column], str | None):
                raise TypeError
        except (ValueError, LookupError, TypeError):
            what = f"a JSON object with text as '{column}' and each name once"
            raise ValueError(f"line {number} must be {what}, got {shown(line)}") from None
        yield {n: v if isinstance(v, str | None) else json.dumps(v) for n, v in record.items()}


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("an object names a value twice")
    return dict(pairs)


def _csv(lines: Iterable[str], column: str, delimiter: str = ",") -> Rows:
    """Yield the rows, split by the delimiter that yields the wanted column; empty is null."""
    lines = list(lines)
    names = lines[0].strip().replace('"', "") if lines else ""
    delimiter = next((d for d in (delimiter, *DELIMITERS) if column in names.split(d)), delimiter)
    # A quote encloses a whole cell, or is doubled in one; with tabs it may as well be text.
    value = r'[^"\t]*' if delimiter == "\t" else rf'[^"{delimiter}]*|"[^"]*(""[^"]*)*"'
    plain = re.compile(rf"({value})([{delimiter}]({value}))*[\r\n]*")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    end = 0  # of the row before, in lines
    try:
        header = next(reader, [])
        if column not in header or len({*header}) < len(header) or reader.line_num > 1:
            what = f"have the column {shown(column)} (--column), and each name once"
            raise ValueError(f"line 1 must {what}, got {shown(', '.join(header))}")
        end = reader.line_num
        for cells in reader:
            row = "".join(lines[end : reader.line_num])
            fits = len(cells) in (0, len(header)) and row.count("\n") <= CELL_LINES
            if not fits or ('"' in row and not plain.fullmatch(row)):
                what = f"as many cells as the header ({len(header)}), split by {shown(delimiter)}"
                raise csv.Error(f"a row must have {what}, and no stray quotes, got {shown(row)}")
            if cells:
                yield dict(zip(header, (cell or None for cell in cells), strict=True))
            end = reader.line_num
    except csv.Error as error:
        way_out = "save as CSV with every cell quoted, or as Parquet"
        raise ValueError(f"line {end + 1}: {error}; {way_out}") from None


READERS = {".csv": _csv, ".tsv": partial(_csv, delimiter="\t")}
READERS |= dict.fromkeys((".jsonl", ".ndjson", ".json"), _json)
READERS[".txt"] = lambda lines, column: ({"text": line.rstrip("\r\n")} for line in lines)


@dataclass(frozen=True)
class Source:
    """A table in files that were read once, to be read again block by block."""

    files: dict[Path, tuple[int, str]]  # number of rows and SHA-256 of each
    column: str  # the one with the texts
    schema: pa.Schema  # of all files together
    rows: int
    sha256: str  # of all files, as `sha256_of`

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
            for start, name in own.items():
                if name not in done:
                    yield name, table.slice(start, size)


def open_source(place: str | Path, column: str) -> Source:
    """Read the files of a table once, each of which must fit in memory, and look at its columns.

    The place is a file, a folder, or a pattern for the names in a folder, such as `folder/*.csv`;
    names that begin with a dot or an underscore are left out. Raises FileNotFoundError if nothing
    is there, and ValueError for files of several kinds, or that cannot be read in one way only.
    """
    if not (files := _files(place)):
        hint = "; a pattern selects names in one folder" if "*" in str(place) else ""
        raise FileNotFoundError(f"{shown(str(place))} does not exist, or is empty{hint}")
    kinds = {kind_of(file): file.name for file in files}
    if len(kinds) > 1 or None in kinds:
        raise ValueError(
            f"{shown(str(place))} must be or hold files of one kind and nothing else (.parquet, "
            f"{', '.join(READERS)}, all but .parquet also as {', '.join(COMPRESSED)}), got "
            f"{shown(', '.join(kinds.values()))}; 'folder/*.csv' takes some of them"
        )
    schemas, read = [], {}
    for file in files:
        table, digest = read_table(file, column)
        schemas.append(table.schema.empty_table())
        read[file] = (len(table), digest)
    with readable(place):
        schema = joined(schemas).schema
    rows = sum(count for count, _ in read.values())
    types = {field.name: field.type for field in schema}
    if rows == 0 or types.get(column) not in TEXTS:
        has = ", ".join(f"{name} ({kind})" for name, kind in types.items()) or "nothing"
        raise ValueError(f"{place} must have rows, and text in column '{column}'; it has {has}")
    return Source(read, column, schema, rows, digest_of([digest for _, digest in read.values()]))


def _files(place: str | Path) -> list[Path]:
    """Return the files of a place, in order; a pattern takes those of one folder."""
    if (place := expanded(place)).is_file():
        return [place]
    folder, pattern = (place, "*") if place.is_dir() else (place.parent, place.name)
    return sorted(p for p in folder.glob(pattern) if not p.name.startswith((".", "_")))
