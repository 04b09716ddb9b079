"""Tables in files: every row once, in order, unchanged, whatever the format and the disk."""

import bz2
import csv
import gzip
import json
import os
import re

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
    expected = TABLE.to_dict("list")
    if suffix != "parquet":  # no types
        expected["id"] = [str(number) for number in expected["id"]]
    if suffix == "csv":  # an empty cell is null
        expected["code"][2] = None
    assert read(file).to_pydict() == expected


def test_files_of_a_folder_or_a_pattern_come_in_order(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("b", "a", "_notes", ".a"):
        text = f"{name}1\n{name}2\n"
        (tmp_path / "in" / f"{name}.txt").write_text(text, encoding="utf-8")
    for place in (tmp_path / "in", tmp_path / "in" / "*.txt", tmp_path / "in" / "[ab].txt"):
        assert texts_of(place) == ["a1", "a2", "b1", "b2"]


@pytest.mark.parametrize("odd", ["part-3", "c.txt.zip", "c.txt.xz", "c.csv", "link", "lang=de"])
def test_a_folder_with_anything_else_is_rejected(tmp_path, odd):
    """Also one with a folder inside, or a link to one: nothing is left out silently."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("a\n", encoding="utf-8")
    match odd:
        case "link":
            (tmp_path / "in" / odd).symlink_to(tmp_path, target_is_directory=True)
        case "lang=de":
            (tmp_path / "in" / odd).mkdir()
        case _:
            (tmp_path / "in" / odd).write_text("text\nx\n", encoding="utf-8")
    for place in (tmp_path / "in", tmp_path / "in" / "*"):
        with pytest.raises(ValueError, match=rf"one kind and nothing else .*a\.txt, {odd}"):
            open_source(place, "text")
    assert texts_of(tmp_path / "in" / "*.txt") == ["a"]


def test_places_without_files_are_rejected(tmp_path):
    for place in (tmp_path, tmp_path / "none.csv", tmp_path / "*.csv", "s3://bucket/a.csv"):
        with pytest.raises(FileNotFoundError, match="does not exist, or is empty"):
            open_source(place, "text")


def test_compressed_files_are_read(tmp_path):
    packs = {"gz": gzip.compress, "GZ": gzip.compress, "bz2": bz2.compress, "zst": zst}
    for suffix, pack in packs.items():
        (tmp_path / f"t.jsonl.{suffix}").write_bytes(pack(b'{"text": "packed"}\n'))
        assert texts_of(tmp_path / f"t.jsonl.{suffix}") == ["packed"]


BIG = 2**60 + 1  # float64 cannot hold it


def test_json_values_become_text_and_stay_exact(tmp_path):
    values = [BIG, 0.5, True, "two", None, [BIG], {"k": 0.5}, {}]
    lines = [json.dumps({"text": "a", "n": value}) + "\n" for value in values]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "parts").mkdir()
    for number, line in enumerate(lines):
        (tmp_path / "parts" / f"{number}.jsonl").write_text(line)
    for place in (tmp_path / "a.jsonl", tmp_path / "parts"):
        expected = [str(BIG), "0.5", "true", "two", None, f"[{BIG}]", '{"k": 0.5}', "{}"]
        assert read(place)["n"].to_pylist() == expected


def test_a_column_that_some_rows_lack_is_null_there(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null, "n": "1"}\n')
    (tmp_path / "b.jsonl").write_text('{"m": "2", "text": "b"}\n')
    table = read(tmp_path)
    assert table["text"].to_pylist() == ["a", None, "b"]
    assert table["n"].to_pylist() == [None, "1", None]
    assert table["m"].to_pylist() == [None, None, "2"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"The cat sat\nThe dog ran\n", 1),  # no header
        ("t.csv", b"text,n\n" + b"a,1\n" * 9_000 + b"a\n", 9_002),
        ("t.csv", b"id,text\n\n1,no, yes\n", 3),
        ("t.csv", b'text\nx\n"open\n' + b"x\n" * 50 + b'closed"\n', 3),
        ("t.csv", b'id,text\n1, "quoted after a space"\n', 2),
        ("t.csv", b'text,"note\nhello,x\nbye,", foo"\nlast,y,z\n', 1),
        ("t.csv", b"id,text\r1,a\r2,b\r", 1),
        ("t.csv", "text\nx\n".encode("utf-16"), "save it as UTF-8"),
        ("t.tsv", b'id\ttext\n1\t5" wide\n', 2),  # a quote encloses, or is text: two readings
        (
            "t.tsv",
            b"\t".join([b"text", *(b"%d" % n for n in range(40))]) + b"\n" + b"\t" * 40 + b'"',
            2,
        ),
        ("t.txt", b"\xe4\n", "save it as UTF-8"),
        ("t.txt", b"a\nb\0\n", 2),
        ("t.txt", b"a\nb\rc\n", 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": 1}\n', 2),
        ("t.jsonl", b'{"text": "a"}\n{"id": "b"}\n', 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": "b", "text": "c"}\n', 2),
        ("t.jsonl", b'[{"text": "a"}]\n', 1),
        ("t.parquet", b"PAR1 and no more", ""),
    ],
)
def test_an_ambiguous_or_damaged_file_is_rejected_with_its_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    for call in (read, read_sentences):
        with pytest.raises(ValueError, match=re.escape(name)) as caught:
            call(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert (said if isinstance(said, str) else f"line {said}") in str(caught.value)


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
        ("t.csv", "text\nfirst\n\nthird\n", ["first", "third"]),
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
        ([pa.table([["a"], ["b"]], names=["text", "text"])], "duplicate field names"),
        ([pa.table({"other": ["a"]})], r"text in column 'text'; it has other \(string\)"),
        ([pa.table({"text": pa.array([], "string")})], "must have rows"),
        ([pa.table({"text": [["a"]]})], "must have rows, and text"),
        ([pa.table({"text": [1, 2]})], "must have rows, and text"),
        (
            [pa.table({"text": ["a"], "n": [1]}), pa.table({"text": ["b"], "n": ["1"]})],
            "Field n has incompatible types: int64 vs string",
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


def test_files_of_a_folder_are_read_one_at_a_time_with_the_columns_of_all(tmp_path):
    (tmp_path / "1.csv").write_text("text,a\nx,1\ny,2\nz,3\n", encoding="utf-8")
    (tmp_path / "2.csv").write_text("b,text\n4,w\n", encoding="utf-8")
    source = open_source(tmp_path, "text")
    blocks = dict(source.blocks(2))
    assert [*blocks] == source.block_names(2) == ["0000000", "0000001", "0000002"]
    assert [table.column_names for table in blocks.values()] == [["text", "a", "b"]] * 3
    assert blocks["0000002"].to_pylist() == [{"text": "w", "a": None, "b": "4"}]
    (tmp_path / "1.csv").unlink()  # a file whose blocks are done is not read again
    assert [name for name, _ in source.blocks(2, {"0000000", "0000001"})] == ["0000002"]


@pytest.mark.parametrize("inside", ["_temporary", "lang=de"])
@pytest.mark.parametrize("pattern", ["*/*.csv", "**/*.csv", "**"])
def test_a_pattern_takes_no_unfinished_file_and_drops_no_column_of_a_folder(
    tmp_path, inside, pattern
):
    (tmp_path / inside).mkdir()
    for folder in (tmp_path, tmp_path / inside):
        (folder / "a.csv").write_text("text\nx\n", encoding="utf-8")
    with pytest.raises((FileNotFoundError, ValueError)):
        open_source(tmp_path / pattern, "text")
