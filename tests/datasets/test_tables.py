"""Tables in files: every row once, in order, as it stands, whatever the format and the disk."""

import gzip
import json

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from micse_utils.datasets.tables import open_source

TEXTS = [
    "one",
    "two, with a comma",
    'three "quoted"',
    "four\nin two lines",
    "fünf 🙂",
    "six",
    "seven",
]
TABLE = pd.DataFrame(
    {"id": range(7), "text": TEXTS, "code": ["007", "08", "", "x", "1e5", "-", "9"]}
)


def read(place, column="text", rows=3):
    """All blocks of a place: names, one table, texts."""
    source = open_source(str(place), column)
    blocks = [b for n in range(len(source.files)) for b in source.blocks(n, rows)]
    table = pa.concat_tables([block.table for block in blocks])
    return [b.name for b in blocks], table, [text for b in blocks for text in b.texts]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv", "tsv"])
def test_rows_come_in_order_and_as_they_stand(tmp_path, suffix):
    file = tmp_path / f"table.{suffix}"
    match suffix:
        case "parquet":
            TABLE.to_parquet(file, index=False, row_group_size=2)
        case "jsonl":
            TABLE.to_json(file, orient="records", lines=True)
        case "csv" | "tsv":
            TABLE.to_csv(file, index=False, sep="," if suffix == "csv" else "\t")
    assert open_source(str(file)).rows == 7
    names, table, texts = read(file)
    assert names == ["00000-0000000", "00000-0000001", "00000-0000002"]
    assert texts == TEXTS
    expected = TABLE.to_dict("list")
    if suffix in ("csv", "tsv"):  # which has no types; and an empty cell is none
        expected["id"] = [str(number) for number in expected["id"]]
        expected["code"][2] = None
    assert table.to_pydict() == expected


def test_a_text_file_is_a_row_a_line(tmp_path):
    file = tmp_path / "lines.txt"
    file.write_bytes("\ufefffirst\r\n\r\n  third \nfünf, last".encode())
    _, table, texts = read(file)
    assert texts == table["text"].to_pylist() == ["first", "", "  third ", "fünf, last"]


def test_blocks_have_the_size_asked_for_however_the_file_is_cut(tmp_path):
    pq = tmp_path / "a.parquet"
    frame = pd.DataFrame({"text": [str(n) for n in range(23)]})
    for group in (1, 7, 100):
        frame.to_parquet(pq, row_group_size=group)
        source = open_source(str(pq))
        blocks = list(source.blocks(0, 10))
        assert [len(block.table) for block in blocks] == [10, 10, 3]
        assert [text for block in blocks for text in block.texts] == frame["text"].tolist()
    left = list(source.blocks(0, 10, frozenset({blocks[0].name, blocks[2].name})))
    assert [block.name for block in left] == [blocks[1].name]


def test_files_of_a_folder_follow_each_other_and_hidden_ones_are_left_out(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name}1\n{name}2\n", encoding="utf-8")
    (tmp_path / "_notes.txt").write_text("no\n", encoding="utf-8")
    (tmp_path / ".a.txt").write_text("no\n", encoding="utf-8")
    (tmp_path / "README.md").write_text("no\n", encoding="utf-8")
    for place in (tmp_path, tmp_path / "*.txt"):
        names, _, texts = read(place)
        assert names == ["00000-0000000", "00001-0000000"]
        assert texts == ["a1", "a2", "b1", "b2"]


def test_compressed_files_and_urls_are_read(tmp_path):
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b'{"text": "packed"}\n'))
    assert read(tmp_path / "t.jsonl.gz")[2] == ["packed"]
    with fsspec.open("memory://folder/t.csv", "w") as stream:
        stream.write("text,n\nfar away,1\n")
    for place in ("memory://folder/t.csv", "memory://folder"):
        _, table, texts = read(place)
        assert texts == ["far away"] and table["n"].to_pylist() == ["1"]


def test_what_is_no_text_is_carried_and_has_none(tmp_path):
    lines = [{"text": "good", "n": 1}, {"text": None}, {"text": 5, "n": "two"}, {"n": [1, 2]}]
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    _, table, texts = read(file, rows=2)
    assert texts == ["good", None, None, None]
    assert table["text"].to_pylist() == ["good", None, "5", None]
    assert table["n"].to_pylist() == ["1", None, "two", "[1, 2]"]  # no common type: as text

    file.write_text(r'{"text": "cut \ud83d"}' + "\n" + r'{"text": "whole \ud83d\ude42"}')
    assert read(file)[2] == ["cut \ufffd", "whole 🙂"]

    csv = tmp_path / "t.csv"
    csv.write_text('text,n\n,1\n"",2\nx,\n', encoding="utf-8")
    _, table, texts = read(csv)
    assert texts == [None, "", "x"] and table["n"].to_pylist() == ["1", "2", None]


def test_all_files_have_the_columns_of_each(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x", "n": 1, "only": null}\n', encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "y", "n": 0.5, "new": true}\n', encoding="utf-8")
    _, table, _ = read(tmp_path)
    assert table.to_pydict() == {
        "text": ["x", "y"], "n": [1.0, 0.5], "only": [None, None], "new": [None, True],
    }  # fmt: skip


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"])), st.lists(st.integers(-9, 9), max_size=2),
)  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries({"text": VALUES}, optional={"a": VALUES, "b": VALUES}), min_size=1
)


@given(rows=ROWS, size=st.integers(1, 7))
def test_no_json_loses_or_doubles_a_row(rows, size, tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "t.jsonl"
    lines = [json.dumps({"text": "text"}), *map(json.dumps, rows)]
    file.write_text("\n".join(lines), encoding="utf-8")
    _, table, texts = read(file, rows=size)
    assert texts == ["text"] + [r["text"] if isinstance(r["text"], str) else None for r in rows]
    assert len(table) == len(texts)
    for name in set(table.column_names) - {"text"}:
        missing = [row.get(name) is None for row in [{}, *rows]]
        assert table[name].is_null().to_pylist() == missing


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", b"a,b\n1,2\n", "no column 'text'; it has a, b"),
        ("t.csv", b"", "cannot be read: .*mpty"),
        ("t.csv", b"text,text\na,b\n", "two columns of one name"),
        ("t.csv", b"text,n\n", "has no rows"),
        ("t.csv", b"text,n\n" + b"a,1\n" * 500_000 + b"a\n", "cannot be read: .*got 1"),
        ("t.csv", b"text\n\xe4\n", "is not UTF-8"),
        ("t.csv", b"text,n\na\n", "cannot be read: .*Expected 2 columns"),
        ("t.txt", b"\xe4\n", "is not UTF-8"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("t.jsonl", b'["text"]\n', "line 1 is not an object"),
        ("t.jsonl", b'{"text": 1}\n', "column 'text' of .* holds int64, no text"),
        ("t.parquet", b"PAR1 and no more", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_name(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_places_without_a_table_are_refused(tmp_path):
    for place in (tmp_path, tmp_path / "none.csv", tmp_path / "*.csv"):
        with pytest.raises(
            FileNotFoundError, match=r"is not there, or holds nothing|is or holds no .*csv"
        ):
            open_source(str(place))
    (tmp_path / "a.csv").write_text("text\nx\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="several kinds"):
        open_source(str(tmp_path))


def test_parquet_files_with_other_types_are_refused_by_name(tmp_path):
    pd.DataFrame({"text": ["a"], "n": [1]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame({"text": ["b"], "n": ["1"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet: column 'n' holds .*string.*int64"):
        open_source(str(tmp_path))
