"""Tables in files: every row once, in order, unchanged, whatever the format and the disk."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import re

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
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
    """Read all blocks of a place; return their names, one table, and the texts."""
    source = open_source(str(place), column)
    blocks = [b for n in range(len(source.files)) for b in source.blocks(n, rows)]
    table = pa.concat_tables([block.table for block in blocks])
    return [b.name for b in blocks], table, table[column].to_pylist()


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
    source = open_source(str(file))
    names, table, texts = read(file)
    assert source.rows == 7 and names == source.block_names(3)
    assert names == ["00000-0000000", "00000-0000001", "00000-0000002"]
    assert texts == list(source.texts()) == TEXTS
    left = list(source.blocks(0, 3, frozenset({names[0], names[2]})))
    assert [block.name for block in left] == [names[1]]
    expected = TABLE.to_dict("list")
    if suffix == "csv":  # it has no types, and an empty cell is null
        expected["id"] = [str(number) for number in expected["id"]]
        expected["code"][2] = None
    assert table.to_pydict() == expected


def test_a_text_file_is_a_row_a_line(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufefffirst\r\n\r\n  third \nfünf, last".encode())
    _, table, texts = read(file)
    assert texts == table["text"].to_pylist() == ["first", "", "  third ", "fünf, last"]


def test_files_of_a_folder_come_in_order_and_what_is_not_read_is_named(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for name in ("in/b", "in/a", "elsewhere/c", "in/_notes", "in/.a"):
        file, letter = tmp_path / f"{name}.txt", name[-1]
        file.write_text(f"{letter}1\n{letter}2\n", encoding="utf-8")
    for place in (tmp_path / "in", tmp_path / "in" / "*.txt"):
        names, _, texts = read(place)
        assert names == ["00000-0000000", "00001-0000000"]
        assert texts == ["a1", "a2", "b1", "b2"]
    assert capsys.readouterr().out == ""

    (tmp_path / "in" / "part-3").write_text("x\n")
    (tmp_path / "in" / "c.txt.zip").write_bytes(b"PK")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert read(tmp_path / "in")[2] == ["a1", "a2", "b1", "b2"]
    assert capsys.readouterr().out.endswith(': "c.txt.zip, link, part-3"\n')


def test_compressed_files_and_urls_are_read(tmp_path):
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    assert read(tmp_path / "t.jsonl.gz")[2] == ["packed"]
    with fsspec.open("memory://folder/t.csv", "w") as stream:
        stream.write("text,n\nfar away,1\n")
    for place in ("memory://folder/t.csv", "memory://folder"):
        _, table, texts = read(place)
        assert texts == ["far away"] and table["n"].to_pylist() == ["1"]


BIG = 2**60 + 1  # float64 cannot hold it


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([BIG, None, 3], [BIG, None, 3]),
        ([BIG, 0.5], [str(BIG), "0.5"]),
        ([2**63, 1], [str(2**63), "1"]),
        ([1, "two", None, True], ["1", "two", None, "true"]),
        ([[BIG], [], None, [None]], [[BIG], [], None, [None]]),
        ([[BIG], [0.5]], [f"[{BIG}]", "[0.5]"]),
        ([{"k": BIG}, {"k": None}], [{"k": BIG}, {"k": None}]),
        ([{"k": BIG}, {"k": 0.5}], [f'{{"k": {BIG}}}', '{"k": 0.5}']),
        ([{"k": 1}, {"other": 1}], ['{"k": 1}', '{"other": 1}']),
        ([{}, {"k": {}}], ["{}", '{"k": {}}']),
    ],
)
def test_json_values_stay_exact_or_their_whole_column_becomes_text(tmp_path, values, expected):
    lines = [json.dumps({"text": "a", "n": value}) + "\n" for value in values]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    (tmp_path / "parts").mkdir()
    for number, line in enumerate(lines):
        (tmp_path / "parts" / f"{number}.jsonl").write_text(line)
    for place in (tmp_path / "a.jsonl", tmp_path / "parts"):
        table = read(place, rows=2)[1]
        assert table["n"].to_pylist() == expected
        pa.parquet.write_table(table, tmp_path / "again.parquet")
        assert pa.parquet.read_table(tmp_path / "again.parquet")["n"].to_pylist() == expected


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(r'{"text": "cut \ud83d"}' + "\n" + r'{"text": "whole \ud83d\ude42"}')
    assert read(file)[2] == ["cut \ufffd", "whole 🙂"]


def test_a_file_that_changes_after_it_was_opened_is_rejected(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("a\nb\n")
    source = open_source(file)
    blocks = source.blocks(0, 1)
    assert next(blocks).table["text"].to_pylist() == ["a"]
    file.write_text("a\nother\n")
    for rest in (blocks, source.blocks(0, 1)):
        with pytest.raises(ValueError, match=r"t\.txt has changed"):
            next(rest)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("t.csv", b"The cat sat\nThe dog ran\n", None),  # no header
        ("t.csv", b"", None),
        ("t.csv", b"text,text\na,b\n", None),
        ("t.csv", b"text,n\n" + b"a,1\n" * 9_000 + b"a\n", 9_002),
        ("t.csv", b"id,text\n1,no, yes\n", 2),
        ("t.csv", b'text\nx\n"open\n' + b"x\n" * 50 + b'closed"\n', 3),
        ("t.csv", b'id,text\n1,"open\n2,x\n3,x\n4,closed"\n', 2),
        ("t.csv", b'id,text\n1,"say \\"so\\" now"\n', 2),
        ("t.csv", b'id,text\n1, "quoted after a space"\n', 2),
        ("t.csv", b"id,text\n1,a\rb\n", 2),
        ("t.csv", b"id,text\n1,a\r\n", 2),
        ("t.csv", b"id,text\n1,a\0b\n", 2),
        ("t.csv", "text\nx\n".encode("utf-16-le"), 1),
        ("t.tsv", b'text\n"say ""so"""\n', 2),  # quotes are literal, or enclose: two readings
        ("t.tsv", b'id\ttext\n1\t5" wide\n', 2),
        ("t.csv", b'id,text\n1,5" wide\n', 2),
        ("t.csv", b"id,text\r1,a\r2,b\r", 1),
        ("t.csv", b"sep=;\nid;text\n1;a\n", None),
        ("t.csv", b"id, text\n1, a\n", None),
        ("t.txt", b"a\rb\r", 1),
        ("t.txt", b"\xe4\n", None),
        ("t.txt", b"a\n\0\n", 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', 2),
        ("t.jsonl", b'{"text": "a"}\n["text"]\n', 2),
        ("t.jsonl", b'{"text": "a"}\n{"text": 1}\n', 2),
        ("t.jsonl", b'{"text": "a", "text": "b"}\n', 1),
        ("t.parquet", b"PAR1 and no more", None),
        ("t.xyz", b"text\nx\n", None),
        ("t.csv.gz", b"text\nx\n", None),
    ],
)
def test_an_ambiguous_or_damaged_file_is_rejected_with_its_line(tmp_path, name, content, line):
    (tmp_path / name).write_bytes(content)
    for call in (read, lambda file: read_sentences(file, column="text")):
        with pytest.raises(ValueError, match=re.escape(name)) as caught:
            call(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert line is None or f"line {line}" in str(caught.value)


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_a_cut_compressed_file_is_rejected_by_name(tmp_path, compression):
    file = tmp_path / f"t.txt.{compression}"
    file.write_bytes(packed(os.urandom(3000).hex().encode(), compression)[:-9])
    with pytest.raises(ValueError, match=re.escape(file.name)):
        read(file)


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("t.csv", "text\nNA\nNone\nnull\nnan\nn/a\n", ["NA", "None", "null", "nan", "n/a"]),
        ("t.csv", "text\nfirst\n\nthird\n", ["first", None, "third"]),
        ("t.csv", "id,text\r\n1,a\r\n2,b\r\n", ["a", "b"]),
        ("t.csv", 'id,text\r\n1,"a\r\nb"\r\n2,"c\nd"\r\n', ["a\r\nb", "c\nd"]),
        ("t.csv", 'id,text\n1,"a\n2\nb"\n', ["a\n2\nb"]),
        ("t.csv", "id\ttext\n1\ta, b\n", ["a, b"]),
        ("t.csv", "id;text\n1;a, b\n", ["a, b"]),
        ("t.csv", "\ufeffid,text\n1,a\n", ["a"]),
        ("T.CSV", 'id,text\n1,"5"" wide"\n', ['5" wide']),
        ("t.tsv", "id\ttext\n1\ta, b\n", ["a, b"]),
        ("a::b[1] 50%25 *.csv", "text\na\nb\n", ["a", "b"]),
    ],
)
def test_a_file_is_read_as_it_is_written(tmp_path, monkeypatch, name, content, texts):
    (tmp_path / name).write_bytes(content.encode())
    assert read(tmp_path / name)[2] == texts
    assert read_sentences(tmp_path / name, column="text").texts == [t for t in texts if t]
    monkeypatch.chdir(tmp_path)
    assert read(name)[2] == texts


def test_parquet_columns_without_text_or_of_one_name_are_rejected(tmp_path):
    twice = pa.table([["a"], ["b"]], names=["text", "text"])
    tables = [twice, pa.table({"text": [["a"], ["b"]]}), pa.table({"text": [1, 2]})]
    for table, message in zip(tables, ["two columns", *["must hold text"] * 2], strict=True):
        pa.parquet.write_table(table, tmp_path / "t.parquet")
        with pytest.raises(ValueError, match=message):
            open_source(tmp_path / "t.parquet")


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_columns_in_the_names_of_folders_are_kept(tmp_path, form):
    table = pa.table({"text": ["a", "b", "c"], "lang": ["de", "en", "de"]})
    pa.dataset.write_dataset(
        table, tmp_path, format=form, partitioning=["lang"], partitioning_flavor="hive"
    )
    for place in (tmp_path, tmp_path / "lang=*" / "*"):
        found = read(place)[1].select(["text", "lang"]).to_pydict()
        assert found == {"text": ["a", "c", "b"], "lang": ["de", "de", "en"]}


def packed(content, compression):
    if compression == "zst":
        return pa.compress(content, "zstd", asbytes=True)
    packers = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    return packers.get(compression, bytes)(content)


def written(texts, form, sep, quoting, columns):
    """Write a table of texts; return its bytes."""
    table = {"text": texts} | ({"id": [f"n{n}" for n in range(len(texts))]} if columns > 1 else {})
    stream, frame = io.BytesIO(), pd.DataFrame(table, dtype=object)
    match form:
        case "pandas":
            frame.to_csv(stream, index=False, sep=sep, quoting=quoting)
        case "pyarrow":
            pa.csv.write_csv(pa.table(table), stream, pa.csv.WriteOptions(delimiter=sep))
        case "parquet":
            frame.to_parquet(stream)
        case "jsonl":
            frame.to_json(stream, orient="records", lines=True)
        case "txt":
            stream.write("\n".join(texts).encode())
    return stream.getvalue()


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
    form=st.sampled_from(["pandas", "pyarrow", "parquet", "jsonl", "txt"]),
    sep=st.sampled_from([",", "\t", ";"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    columns=st.sampled_from([1, 2]),
    compression=st.sampled_from(["", "gz", "bz2", "xz", "zst"]),
)
def test_any_texts_come_back_or_the_file_is_rejected(
    tmp_path_factory, texts, form, sep, quoting, columns, compression
):
    if form == "txt":  # it cannot hold line ends, or begin with a mark
        texts = [text for text in texts if text and not set(text) & set("\r\n\ufeff")] or ["x"]
    suffix = form if form in ("parquet", "jsonl", "txt") else "tsv" if sep == "\t" else "csv"
    content = written(texts, form, sep, quoting, columns)
    name = f"t.{suffix}"
    if compression and form != "parquet":
        content, name = packed(content, compression), f"{name}.{compression}"
    file = tmp_path_factory.mktemp("any") / name
    file.write_bytes(content)
    quoted = suffix == "tsv" and b'"' in written(texts, form, sep, quoting, columns)
    plain = not quoted and all(re.fullmatch(r"\w[\w ,;]*", text) for text in texts)
    try:
        found = read(file)[2]
    except ValueError:
        assert not plain  # a table without traps is always read
        with pytest.raises(ValueError):
            read_sentences(file, column="text")
        return
    assert [text or "" for text in found] == texts
    sentences = [text.strip() for text in texts if text.strip()]
    if sentences:
        assert read_sentences(file, column="text").texts == sentences


def test_places_without_a_table_are_rejected(tmp_path):
    for place in (tmp_path, tmp_path / "none.csv", tmp_path / "*.csv"):
        with pytest.raises(FileNotFoundError):
            open_source(str(place))
    (tmp_path / "a.csv").write_text("text\nx\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="one kind"):
        open_source(str(tmp_path))


def test_parquet_files_of_different_types_are_rejected_by_name(tmp_path):
    pd.DataFrame({"text": ["a"], "n": [1]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"text": ["b"], "n": ["1"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: column 'n' holds .*string.*int64"):
        open_source(str(tmp_path))
