"""Tables in files: every row once, in order, unchanged, whatever the format and the disk."""

import csv
import gzip
import json
import lzma
import os
import re

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micse_utils.datasets.tables import open_source
from micse_utils.datasets.texts import read_sentences

TEXTS = ["one", "two, with", 'three "quoted"', "four\nin two lines", "fünf 🙂", "six", "seven"]
TABLE = pd.DataFrame(
    {"id": range(7), "text": TEXTS, "code": ["007", "08", "", "x", "1e5", "-", "9"]}
)


def read(place, column="text", rows=3):
    """Read all blocks of a place as one table."""
    return pa.concat_tables([t for _, t in open_source(str(place), column).blocks(rows)])


def texts_of(place):
    return read(place)["text"].to_pylist()


def zst(content):
    return pa.compress(content, "zstd", asbytes=True)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
def test_rows_come_in_order_and_unchanged(tmp_path, suffix):
    file = tmp_path / f"table.{suffix}"
    match suffix:
        case "parquet":
            TABLE.to_parquet(file, index=False, row_group_size=2)
        case "jsonl":
            TABLE.to_json(file, orient="records", lines=True)
        case "csv":
            TABLE.to_csv(file, index=False)
    source = open_source(file, "text")
    names = source.block_names(3)
    assert source.rows == 7 and names == ["0000000", "0000001", "0000002"]
    assert [name for name, _ in source.blocks(3)] == names
    assert [name for name, _ in source.blocks(3, {names[0], names[2]})] == [names[1]]
    assert list(source.texts()) == TEXTS
    expected = TABLE.to_dict("list")
    if suffix == "csv":  # it has no types, and an empty cell is null
        expected["id"] = [str(number) for number in expected["id"]]
        expected["code"][2] = None
    assert read(file).to_pydict() == expected


def test_files_of_a_folder_come_in_order_and_what_is_not_read_is_named(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/b", "in/a", "elsewhere/c", "in/_notes", "in/.a"):
        file, letter = tmp_path / f"{name}.txt", name[-1]
        file.write_text(f"{letter}1\n{letter}2\n", encoding="utf-8")
    for place in (tmp_path / "in", tmp_path / "in" / "*.txt"):
        assert texts_of(place)[-4:] == ["a1", "a2", "b1", "b2"]
    assert capsys.readouterr().out == ""

    (tmp_path / "in" / "part-3").write_text("x\n")
    (tmp_path / "in" / "c.txt.zip").write_bytes(b"PK")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert texts_of(tmp_path / "in") == ["a1", "a2", "b1", "b2"]
    assert capsys.readouterr().out.endswith(': "c.txt.zip, link, part-3"\n')


def test_compressed_files_and_urls_are_read(tmp_path):
    for suffix, pack in {"gz": gzip.compress, "xz": lzma.compress, "zst": zst}.items():
        (tmp_path / f"t.jsonl.{suffix}").write_bytes(pack(b'{"text": "packed"}\n'))
        assert texts_of(tmp_path / f"t.jsonl.{suffix}") == ["packed"]
    with fsspec.open("memory://folder/t.csv", "w") as stream:
        stream.write("text,n\nfar away,1\n")
    for place in ("memory://folder/t.csv", "memory://folder"):
        assert read(place).to_pydict() == {"text": ["far away"], "n": ["1"]}


BIG = 2**60 + 1  # float64 cannot hold it


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([BIG, None, 3], [BIG, None, 3]),
        ([BIG, 0.5], [str(BIG), "0.5"]),
        ([2**63, 1], [str(2**63), "1"]),
        ([1, "two", None, True], ["1", "two", None, "true"]),
        ([[BIG], [0.5], None], [f"[{BIG}]", "[0.5]", None]),
        ([{"k": BIG}, {"other": 0.5}, {}], [f'{{"k": {BIG}}}', '{"other": 0.5}', "{}"]),
    ],
)
def test_json_values_stay_exact_or_their_whole_column_becomes_text(tmp_path, values, expected):
    lines = [json.dumps({"text": "a", "n": value}) + "\n" for value in values]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "parts").mkdir()
    for number, line in enumerate(lines):
        (tmp_path / "parts" / f"{number}.jsonl").write_text(line)
    for place in (tmp_path / "a.jsonl", tmp_path / "parts"):
        pa.parquet.write_table(read(place), tmp_path / "again.parquet")
        assert pa.parquet.read_table(tmp_path / "again.parquet")["n"].to_pylist() == expected


def test_a_file_that_changes_after_it_was_opened_is_rejected(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("a\n" * 5_000)
    source = open_source(file, "text")
    blocks = source.blocks(4096)
    assert len(next(blocks)[1]) == 4096
    file.write_text("b\n" * 5_000)
    for rest in (blocks, source.blocks(4096)):
        with pytest.raises(ValueError, match=r"t\.txt has changed"):
            next(rest)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.csv", b"The cat sat\nThe dog ran\n", 1),  # no header
        ("t.csv", b"text,n\n" + b"a,1\n" * 9_000 + b"a\n", 9_002),
        ("t.csv", b"id,text\n\n1,no, yes\n", 3),
        ("t.csv", b'text\nx\n"open\n' + b"x\n" * 50 + b'closed"\n', 3),
        ("t.csv", b'id,text\n1, "quoted after a space"\n', 2),
        ("t.csv", b"id,text\r1,a\r2,b\r", 1),
        ("t.csv", "text\nx\n".encode("utf-16"), None),
        ("t.tsv", b'id\ttext\n1\t5" wide\n', 2),  # a quote encloses, or is text: two readings
        ("t.txt", b"\xe4\n", None),
        ("t.txt", b"a\n" + b"b" * (2**24 + 1), 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": 1}\n', 2),
        ("t.parquet", b"PAR1 and no more", None),
    ],
)
def test_an_ambiguous_or_damaged_file_is_rejected_with_its_line(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    for call in (read, read_sentences):
        with pytest.raises(ValueError, match=re.escape(name)) as caught:
            call(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert line is None or f"line {line}" in str(caught.value)


def test_a_cut_compressed_file_is_rejected_by_name(tmp_path):
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress(os.urandom(3000).hex().encode())[:-9])
    with pytest.raises(ValueError, match=r"t\.txt\.gz"):
        read(tmp_path / "t.txt.gz")


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        (
            "t.txt",
            "\ufefffirst\r\n\r\n  third \nfünf, last",
            ["first", "", "  third ", "fünf, last"],
        ),
        ("t.csv", "text\nNA\nNone\nnull\nnan\nn/a\n", ["NA", "None", "null", "nan", "n/a"]),
        ("t.csv", "text\nfirst\n\nthird\n", ["first", None, "third"]),
        ("t.csv", 'id,text\r\n1,"a\r\nb"\r\n2,"c\nd"\r\n', ["a\r\nb", "c\nd"]),
        ("t.csv", "id\ttext\n1\ta, b\n", ["a, b"]),
        ("t.csv", "\ufeffid;text\n1;a, b\n", ["a, b"]),
        (
            "t.jsonl",
            r'{"text": "cut \ud83d"}' + "\n" + r'{"text": "\ud83d\ude42"}',
            ["cut �", "🙂"],
        ),
        ("a::b[1] 50%25 *.csv", "text\na\nb\n", ["a", "b"]),
    ],
)
def test_a_file_is_read_as_it_is_written(tmp_path, monkeypatch, name, content, texts):
    (tmp_path / name).write_bytes(content.encode())
    assert texts_of(tmp_path / name) == texts
    assert read_sentences(tmp_path / name).texts == [t.strip() for t in texts if t]
    monkeypatch.chdir(tmp_path)
    assert texts_of(name) == texts


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([pa.table([["a"], ["b"]], names=["text", "text"])], "two columns"),
        ([pa.table({"text": [1, 2]})], "must hold text"),
        (
            [pa.table({"text": ["a"], "n": [1]}), pa.table({"text": ["b"], "n": ["1"]})],
            r"1\.parquet: column 'n' is string, in files before it int64",
        ),
    ],
)
def test_parquet_of_unfit_columns_is_rejected(tmp_path, tables, message):
    for number, table in enumerate(tables):
        pa.parquet.write_table(table, tmp_path / f"{number}.parquet")
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path, "text")


FRAGMENTS = st.sampled_from(
    ['"', '""', "\n", "\r\n", "\ufeff", "\\", *",\t; 'aé🙂1", "NA", "null"]
)  # fmt: skip


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    texts=st.lists(
        st.lists(FRAGMENTS, max_size=6).map("".join)
        | st.text(st.characters(exclude_categories=["Cs"])),
        min_size=1,
        max_size=8,
    ),
    suffix=st.sampled_from(["csv", "tsv", "parquet", "jsonl", "txt"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    columns=st.sampled_from([1, 2]),
)
def test_any_texts_come_back_or_the_file_is_rejected(
    tmp_path_factory, texts, suffix, quoting, columns
):
    file = tmp_path_factory.mktemp("any") / f"t.{suffix}"
    if suffix == "txt":  # it cannot hold line ends, or begin with a mark
        texts = [text for text in texts if text and not set(text) & set("\r\n\ufeff")] or ["x"]
        file.write_text("\n".join(texts), encoding="utf-8", newline="\n")
    frame = pd.DataFrame({"text": texts, "id": [f"n{n}" for n in range(len(texts))]}, dtype=object)
    frame = frame.iloc[:, :columns]
    if suffix in ("csv", "tsv"):
        sep = "," if suffix == "csv" else "\t"
        frame.to_csv(file, index=False, sep=sep, quoting=quoting, lineterminator="\n")
    elif suffix == "parquet":
        frame.to_parquet(file)
    elif suffix == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    try:
        found = texts_of(file)
    except ValueError:
        quoted = suffix == "tsv" and b'"' in file.read_bytes()  # else only traps are rejected
        assert quoted or not all(re.fullmatch(r"\w[\w ,;]*", text) for text in texts)
        with pytest.raises(ValueError):
            read_sentences(file)
        return
    # A carriage return that ends a row is part of the line's end; pandas does not quote it.
    ends = "\r" if suffix in ("csv", "tsv") else ""
    assert [(text or "").rstrip(ends) for text in found] == [text.rstrip(ends) for text in texts]
    sentences = [text.strip() for text in texts if text.strip()]
    if sentences:
        assert read_sentences(file).texts == sentences


def test_places_without_one_table_are_rejected(tmp_path):
    for place in (tmp_path, tmp_path / "none.csv", tmp_path / "*.csv"):
        with pytest.raises(FileNotFoundError):
            open_source(place, "text")
    for folder in ("lang=de", "both"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.csv").write_text("text\nx\n", encoding="utf-8")
    with pytest.raises(ValueError, match="folder's name is a column"):
        open_source(tmp_path, "text")
    assert texts_of(tmp_path / "lang=de") == ["x"]
    (tmp_path / "both" / "b.txt").write_text("x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="one kind"):
        open_source(tmp_path / "both", "text")


def test_folders_that_a_pattern_matches_are_named(tmp_path, capsys):
    (tmp_path / "more").mkdir()
    for name in ("a.csv", "more/b.csv"):
        (tmp_path / name).write_text(f"text\n{name}\n", encoding="utf-8")
    assert texts_of(tmp_path / "*") == ["a.csv"]
    assert capsys.readouterr().out == f'not read in {tmp_path / "*"}: "more"\n'
    assert texts_of(tmp_path / "**") == ["a.csv", "more/b.csv"]
    assert capsys.readouterr().out == ""
