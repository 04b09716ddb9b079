"""Bulk encoding, in the process and on a real Ray of this machine: each row exactly once."""

import contextlib
import dataclasses
import os
import secrets
import subprocess
import sys
import time
import warnings

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from micse_utils.cli import main
from micse_utils.cluster import (
    RECORD,
    BlockEncoder,
    Recipe,
    connected,
    encode_files,
    on_ray,
    shares,
)
from micse_utils.datasets.tables import open_source
from micse_utils.encoding import encode
from micse_utils.models import load_model

TEXTS = ["the cat sat on the mat", "a big red dog ran", "the small blue cat", "dogs and cats"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Seventy rows in two files, every seventh without a text; and as one table."""
    folder = tmp_path_factory.mktemp("input")
    texts = [None if n % 7 == 3 else f"{TEXTS[n % len(TEXTS)]} {n}" for n in range(70)]
    frame = pd.DataFrame({"text": texts, "id": range(70), "more": [[n] for n in range(70)]})
    frame[:45].to_parquet(folder / "a.parquet", index=False)
    frame[45:].to_parquet(folder / "b.parquet", index=False)
    return folder, frame


def recipe_of(tiny_bert, **settings):
    provenance = load_model(tiny_bert).provenance
    return Recipe(
        str(tiny_bert), "auto", provenance, **{"max_length": 32, "block_rows": 10} | settings
    )


def encode_all(tiny_bert, folder, output, **settings):
    source, recipe = open_source(folder, "text"), recipe_of(tiny_bert, **settings)
    return encode_files(source, output, recipe, load_model(tiny_bert))


def read(output):
    return pa.dataset.dataset(sorted(map(str, output.glob("[!.]*.parquet")))).to_table()


def check_rows(output, frame, tiny_bert):
    written = read(output)
    assert written.drop_columns("embedding").to_pydict() == frame.to_dict("list")
    expected = encode(load_model(tiny_bert), frame["text"].dropna().tolist(), max_length=32)
    assert written.schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
    assert written["embedding"].is_valid().to_pylist() == frame["text"].notna().tolist()
    vectors = np.array(written["embedding"].drop_null().to_pylist())
    np.testing.assert_allclose(vectors, expected, rtol=2e-2, atol=5e-3)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_row_gets_the_vector_that_encode_gives(table, tiny_bert, tmp_path):
    folder, frame = table
    output = tmp_path / "out"
    assert encode_all(tiny_bert, folder, output) == 70
    assert len(list(output.glob("[!.]*.parquet"))) == 8  # 45 and 25 rows, ten or fewer each
    check_rows(output, frame, tiny_bert)
    assert not encode_all(tiny_bert, folder, output)
    with pytest.raises(ValueError, match="differing in max_length"):
        encode_all(tiny_bert, folder, output, max_length=16)
    with pytest.raises(ValueError, match="has a column 'id' already"):
        encode_all(tiny_bert, folder, tmp_path / "new", into="id")
    assert not (tmp_path / "new").exists()


def test_files_of_the_user_stay_as_they_are(table, tiny_bert, tmp_path):
    folder, _ = table
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(FileExistsError, match=r"thesis\.txt"):
        encode_all(tiny_bert, folder, tmp_path / "mine")
    assert [path.name for path in contents(tmp_path / "mine")] == ["thesis.txt"]

    output = tmp_path / "out [1] a::b"
    encode_all(tiny_bert, folder, output)
    (output / "notes.txt").write_text("mine", encoding="utf-8")
    first, second, *_ = sorted(output.glob("[!.]*.parquet"))
    for path in (output / "mine.parquet", output / "0000009.parquet"):
        path.write_bytes(b"mine")
    before = contents(output)
    assert encode_all(tiny_bert, folder, output) == 0
    assert contents(output) == before
    first.unlink()
    second.unlink()
    assert encode_all(tiny_bert, folder, output) == 20
    after = contents(output)
    assert after.keys() == before.keys()
    assert {p.name for p in after if after[p] != before[p]} <= {first.name, second.name, RECORD}


def test_an_input_that_changes_while_it_is_read_is_refused(tiny_bert, tmp_path, monkeypatch):
    file = tmp_path / "in.csv"
    file.write_text("text\n" + "a cat\n" * 30, encoding="utf-8")
    source = open_source(file, "text")
    for rows in (45, 25):
        file.write_text("text\n" + "a cat\n" * rows, encoding="utf-8")
        with pytest.raises(ValueError, match="changed"):
            encode_files(source, tmp_path / f"{rows}", recipe_of(tiny_bert), load_model(tiny_bert))
        assert not (tmp_path / f"{rows}" / RECORD).exists()


def encoder_of(recipe, folder):
    return BlockEncoder(recipe, "text", folder)


def block(texts, name="0000000"):
    return name, pa.table({"text": pa.array(texts, pa.string())})


def test_a_block_without_texts_has_no_embeddings_and_a_warning_is_returned(tiny_bert, tmp_path):
    texts = ["the cat", None, "", "the dog ran " * 20]
    encoder = encoder_of(recipe_of(tiny_bert), tmp_path)
    rows, warning = encoder.encode(block(texts))
    assert rows == 4 and "1 of 3 texts are empty" in warning
    written = read(tmp_path)
    with warnings.catch_warnings(action="ignore"):
        expected = encode(load_model(tiny_bert), ["the cat", "", texts[3]], max_length=32)
    vectors = np.array(written["embedding"].drop_null().to_pylist())
    np.testing.assert_allclose(vectors, expected, rtol=2e-2, atol=5e-3)
    assert encoder.encode(block([None, None], "0000001")) == (2, None)
    assert len(read(tmp_path)) == 6 and read(tmp_path)["embedding"].null_count == 3


def test_a_worker_with_a_different_model_refuses(tiny_bert, tmp_path):
    recipe = recipe_of(tiny_bert)
    other = dataclasses.replace(recipe.provenance, sha256="0" * 64)
    encoder = encoder_of(dataclasses.replace(recipe, provenance=other), tmp_path)
    with pytest.raises(ValueError, match="this machine has"):
        encoder.encode(block(["cat"]))


def test_the_first_warning_is_printed(tiny_bert, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("text\na cat\n" + f"{'dog ' * 40}\n" * 2, encoding="utf-8")
    assert encode_all(tiny_bert, tmp_path / "in.csv", tmp_path / "out", block_rows=1) == 3
    assert capsys.readouterr().out.count("1 of 1 texts are longer than max_length=32") == 1


def test_a_kill_costs_a_block_and_no_row(tiny_bert, tmp_path, processes, monkeypatch):
    rows = 1200
    lines = [f"{n},{TEXTS[n % 4]} {n}" for n in range(rows)]
    (tmp_path / "in.csv").write_text("\n".join(["id,words", *lines]), encoding="utf-8")
    command = ["encode", tmp_path / "in.csv", tmp_path / "out", "--column", "words"]
    command = [*map(str, command), "--model", str(tiny_bert), "--block-rows", "20"]
    running = processes.Process(target=main, args=(command,))
    running.start()

    def parts():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/[0-9]*.parquet")}

    while len(parts()) < 5 and running.is_alive():
        time.sleep(0.01)
    running.kill()
    running.join()
    there = parts()
    assert 5 <= len(there) < rows // 20
    monkeypatch.setitem(sys.modules, "ray", None)  # a small table does not need it
    assert main(command) == 0
    written = read(tmp_path / "out")
    assert written["id"].to_pylist() == [str(n) for n in range(rows)]
    assert written["embedding"].null_count == 0
    assert there.items() <= parts().items()


START = """
import ray, sys
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cluster(monkeypatch):
    """Address of a Ray that a process of its own starts here."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")  # nobody else connects to it
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    call = [sys.executable, "-c", START]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    patient = {**os.environ, "RAY_raylet_start_wait_time_s": "120"}  # on a busy machine
    with subprocess.Popen(call, text=True, env=patient, **pipes) as running:
        yield next(line for line in running.stdout if ":" in line).strip()
        running.stdin.close()


def failing(number):
    if number == 2:
        raise ValueError("two is wrong")
    return number, os.getpid(), os.environ["MICSE_DATA"]


@pytest.mark.slow
def test_on_ray(table, tiny_bert, tmp_path, monkeypatch, cluster):
    """One start of Ray for all: rows, a killed worker, functions."""
    folder, frame = table
    monkeypatch.delenv("MICSE_DATA", raising=False)
    with connected(cluster):
        workers, cpus, _ = shares()
        assert (workers, cpus) == (1, 2) or torch.cuda.is_available()
        with monkeypatch.context() as later:  # than the start of Ray
            later.setenv("MICSE_DATA", str(tmp_path))
            found = dict(on_ray(failing, [1, 2, 3]))
        assert found[1][0] == 1 and found[3][0] == 3 and found[1][1] != os.getpid()
        assert found[1][2] == str(tmp_path.resolve())
        assert "two is wrong" in str(found[2])
        source = open_source(folder, "text")
        assert encode_files(source, tmp_path / "out", recipe_of(tiny_bert)) == 70
        check_rows(tmp_path / "out", frame, tiny_bert)
        recipe = recipe_of(tiny_bert, block_rows=1)
        kill = iter([False] * 5 + [True])

        class Killing(type(source)):
            def blocks(self, *arguments):
                for part in super().blocks(*arguments):
                    yield part
                    if next(kill, False):
                        for process in psutil.Process().children(recursive=True):
                            with contextlib.suppress(psutil.NoSuchProcess):
                                if "Worker" in process.name():
                                    process.kill()

        source = Killing(**vars(source))
        assert encode_files(source, tmp_path / "killed", recipe) == 70
        assert next(kill, None) is None
        check_rows(tmp_path / "killed", frame, tiny_bert)


def test_the_command_line_says_what_is_wrong_in_a_sentence(tiny_bert, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("a\n1\n", encoding="utf-8")
    (tmp_path / "in.txt").write_text("a cat\n", encoding="utf-8")
    table, lines, out, model = tmp_path / "in.csv", tmp_path / "in.txt", tmp_path / "out", tiny_bert
    for arguments, reason in [
        (["encode", tmp_path / "no.csv", out], "does not exist"),
        (["encode", table, out], 'have the column "text" (--column), and each name once, got "a"'),
        (["encode", lines, "s3://bucket/out"], "must be a folder on a disk"),
        (["encode", lines, out, "--model", model, "--address", "127.0.0.1:1"], "no Ray cluster at"),
    ]:
        assert main(list(map(str, arguments))) == 1
        said = capsys.readouterr().err
        assert reason in said.splitlines()[-1] and "Traceback" not in said
    assert not out.exists()
