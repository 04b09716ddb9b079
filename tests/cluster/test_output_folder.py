"""The folder of bulk encoding: the user's files stay, and one run at a time writes into it."""

import contextlib
import json

import fsspec
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from micse_utils.cluster.output import LOCK, RECORD, Output

DISK = fsspec.filesystem("file")
BLOCKS = ["00000-0000000", "00000-0000001", "00001-0000000"]
WORK = {"model": "m", "block_rows": 3}
LEFT = [f".{BLOCKS[0]}-try-{'0' * 32}", f".{BLOCKS[1]}.parquet-{'a' * 32}"]
"""What a worker that died leaves."""
NAMES = st.sampled_from(
    [
        ".env", ".ipynb_checkpoints/a.parquet", "mine.parquet", "thesis.txt",
        "00009-0000000.parquet",
        f".{BLOCKS[0]}.parquet", f".{BLOCKS[0]}-try-notes", f"{BLOCKS[1]}.parquet/part-0",
        f"sub/{BLOCKS[0]}.parquet", RECORD, f".{RECORD}", *(f"{name}.parquet" for name in BLOCKS),
    ]
)  # fmt: skip
CONTENTS = st.sampled_from(
    [b"", b"mine", b"[]", b"{}", b"PAR1 cut", pd.DataFrame({"a": [1]}).to_parquet()]
)
FILES = st.dictionaries(NAMES, CONTENTS, max_size=5)


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def put(folder, files):
    """Write what is not there yet."""
    for name, content in files.items():
        with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("xb") as stream:
                stream.write(content)


def claim(folder):
    """Whether the folder was taken; and it may be refused, but not fail otherwise."""
    try:
        with Output(DISK, str(folder)).claimed(BLOCKS, WORK):
            return True
    except ValueError:
        return False


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(before=FILES, later=FILES, left=st.lists(st.sampled_from(LEFT), unique=True))
def test_any_files_of_the_user_stay_byte_for_byte(tmp_path_factory, before, later, left):
    folder = tmp_path_factory.mktemp("out")
    put(folder, before)
    there = contents(folder)
    taken = claim(folder)
    assert contents(folder).items() >= there.items()
    assert taken or contents(folder) == there  # a refused folder gets nothing new
    assert taken == all(name.startswith(".") for name in there)

    put(folder, later | dict.fromkeys(left, b"the kit's"))
    there = contents(folder)
    taken_again = claim(folder)
    gone = there.keys() - contents(folder).keys()
    assert gone == (set(left) if taken_again else set())
    assert contents(folder).items() >= {n: there[n] for n in there.keys() - gone}.items()
    needed = {f"{name}.parquet" for name in BLOCKS}
    occupied = {name.split("/")[0] for name in there} & needed
    assert not (taken_again and occupied)
    assert taken_again or occupied or not taken


@pytest.mark.parametrize("name", LEFT)
def test_a_file_under_a_name_for_writing_is_the_users_if_the_kit_never_wrote_here(tmp_path, name):
    put(tmp_path, {name: b"mine"})
    assert not claim(tmp_path)
    assert contents(tmp_path) == {name: b"mine"}


def test_a_second_run_is_refused_and_leaves_the_first_ones_files(tmp_path):
    with Output(DISK, str(tmp_path)).claimed(BLOCKS, WORK) as done:
        assert not done
        (tmp_path / LEFT[0]).write_bytes(b"being written")
        there = contents(tmp_path)
        with pytest.raises(ValueError, match="different run"):
            Output(DISK, str(tmp_path)).claimed(BLOCKS, WORK).__enter__()
        assert contents(tmp_path) == there
    assert claim(tmp_path)
    assert contents(tmp_path).keys() == {RECORD, LOCK}
    assert json.loads((tmp_path / RECORD).read_text(encoding="utf-8")) == WORK
