"""Bulk encoding and the grid on a real Ray of this machine: each row and each run exactly once."""

import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import time
import warnings

import fsspec
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.dataset
import pytest
from training.test_grid import FAST, PAIRS, SOURCE, TEXTS

from micse_utils.cli import main
from micse_utils.cluster.connect import connected, on_ray, shares
from micse_utils.cluster.encode import TRIES, Recipe, Worker, _read, encode_files
from micse_utils.cluster.output import LOCK, METADATA, RECORD, Output
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.texts import Corpus
from micse_utils.encoding import encode
from micse_utils.models import load_model
from micse_utils.training.grid import train_grid

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    with connected():
        yield


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
    recipe = recipe_of(tiny_bert, **settings)
    source = open_source(str(folder))
    return encode_files(source, str(output), recipe, workers=1, cpus=1, progress=False)


def read(output):
    return pa.dataset.dataset(output, format="parquet").to_table()


def test_each_row_gets_the_vector_that_encode_gives(cluster, table, tiny_bert, tmp_path):
    folder, frame = table
    output = tmp_path / "out"
    record = encode_all(tiny_bert, folder, output)
    assert record["rows"] == record["encoded"] == 70 and record["without text"] == 10
    assert record["blocks"] == 8  # five of the first file, three of the second
    assert len(record["worker MiB"]) == 1 and record["worker MiB"][0] > 100

    written = read(output)
    assert written.drop_columns("embedding").to_pydict() == frame.to_dict("list")
    expected = encode(load_model(tiny_bert), frame["text"].dropna().tolist(), max_length=32)
    assert written.schema.field("embedding").type == pa.list_(pa.float32(), expected.shape[1])
    assert written["embedding"].is_valid().to_pylist() == frame["text"].notna().tolist()
    vectors = np.array(written["embedding"].drop_null().to_pylist())
    np.testing.assert_allclose(vectors, expected, rtol=2e-2, atol=5e-3)

    again = encode_all(tiny_bert, folder, output)  # what stands is not done again
    assert again == record | {"encoded": 0}
    with pytest.raises(ValueError, match="a different half"):
        encode_all(tiny_bert, folder, output, half=True)
    with pytest.raises(ValueError, match="has a column 'id' already"):
        encode_all(tiny_bert, folder, tmp_path / "new", into="id")
    assert not (tmp_path / "new").exists()


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_of_the_user_stay_as_they_are(cluster, table, tiny_bert, tmp_path):
    folder, frame = table
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match=r"thesis\.txt"):
        encode_all(tiny_bert, folder, tmp_path / "mine")
    assert [path.name for path in contents(tmp_path / "mine")] == ["thesis.txt"]

    output = tmp_path / "out [1] a::b"
    (output / ".ipynb_checkpoints").mkdir(parents=True)
    (output / ".ipynb_checkpoints" / "a.parquet").write_bytes(b"mine")
    (output / ".env").write_text("mine", encoding="utf-8")
    (output / ".00000-0000000.parquet").write_text("mine", encoding="utf-8")
    before = contents(output)
    assert encode_all(tiny_bert, folder, output)["encoded"] == 70
    frame.to_parquet(output / "mine.parquet")
    (output / "00009-0000000.parquet").write_bytes(b"mine")
    (output / f".{RECORD}-{'0' * 32}").write_bytes(b"left by the kit")
    parts = sorted(output.glob("00000-*.parquet"))
    before |= contents(output)
    leftover = before.pop(output / f".{RECORD}-{'0' * 32}")
    assert encode_all(tiny_bert, folder, output)["encoded"] == 0
    for content in (b"mine", parts[0].read_bytes()[:-100]):  # not the kit's, or cut in copying
        parts[0].write_bytes(content)
        damaged = contents(output)
        with pytest.raises(ValueError, match=re.escape(parts[0].name)):
            encode_all(tiny_bert, folder, output)
        assert contents(output) == damaged
    for part in parts[:2]:
        part.unlink()
    assert encode_all(tiny_bert, folder, output)["encoded"] == 20
    after = contents(output)
    assert after.keys() == before.keys() and leftover not in after.values()
    changed = {path.name for path in after if after[path] != before[path]}
    assert changed <= {parts[0].name, parts[1].name, RECORD}

    for content in ("", '{"rows": 7', "[]"):
        (output / RECORD).write_text(content, encoding="utf-8")
        before = contents(output)
        with pytest.raises(ValueError, match=RECORD):
            encode_all(tiny_bert, folder, output)
        assert contents(output) == before


def block(texts):
    """Rows as they come to a worker."""
    sink = pa.BufferOutputStream()
    table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def test_a_worker_writes_half_precision_and_what_the_encoder_said(tiny_bert, tmp_path):
    texts = ["the cat", None, "", "the dog ran " * 20]
    worker = worker_of(recipe_of(tiny_bert, half=True), tmp_path)
    assert worker.encode_block("00000-0000000", block(texts)) == 4
    written = read(tmp_path)
    counts = json.loads(written.schema.metadata[METADATA])
    assert (counts["rows"], counts["without text"]) == (4, 1)
    assert "1 of 3 texts are empty" in counts["warning"]
    with warnings.catch_warnings(action="ignore"):
        expected = encode(load_model(tiny_bert), ["the cat", "", texts[3]], max_length=32)
    assert written.schema.field("embedding").type == pa.list_(pa.float16(), expected.shape[1])
    vectors = np.array(written["embedding"].drop_null().to_pylist())
    np.testing.assert_allclose(vectors, expected, rtol=2e-2, atol=5e-3)
    assert worker.encode_block("00000-0000001", block([None, None])) == 2
    assert len(read(tmp_path)) == 6 and read(tmp_path)["embedding"].null_count == 3


def worker_of(recipe, folder):
    return Worker(recipe, "text", Output(fsspec.filesystem("file"), str(folder)))


def called(worker, name="00000-0000000", table=b"", error=""):
    (row,) = worker(pa.table({"name": [name], "table": [table], "error": [error]})).to_pylist()
    return row


def test_a_worker_says_in_a_sentence_why_it_stops(tiny_bert, tmp_path):
    recipe = recipe_of(tiny_bert)
    other = dataclasses.replace(recipe.provenance, sha256="0" * 64)
    worker = worker_of(dataclasses.replace(recipe, provenance=other), tmp_path)
    assert "ValueError: this machine has" in called(worker, table=block(["cat"]))["error"]
    assert called(worker, error="in.csv is not UTF-8")["error"] == "in.csv is not UTF-8"


def test_a_block_that_kills_every_worker_is_given_up(tiny_bert, tmp_path):
    worker = worker_of(recipe_of(tiny_bert), tmp_path)
    for _ in range(TRIES):
        assert "killed" not in called(worker, table=b"no table at all")["error"]
    assert f"killed its worker {TRIES} times" in called(worker, table=block(["cat"]))["error"]


def test_what_became_unreadable_is_said_and_not_left_out(tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("text\n" + "a cat\n" * 30, encoding="utf-8")
    source = open_source(str(file))
    file.write_bytes(b"text\n\xe4\n")
    (part,) = _read({"number": np.array([0])}, source, 10, frozenset())
    assert "in.csv is not UTF-8" in part["error"][0]


def test_the_work_is_shared_by_what_there_is(cluster):
    workers, cpus, gpus = shares()
    there = psutil.cpu_count()
    assert workers * cpus <= there and (workers >= 1 and cpus >= 1)
    assert shares(2) == (2, max(1, there // 2), 0) or gpus


def test_runs_on_ray_are_those_made_in_turn(cluster, tiny_bert, tmp_path):
    model = load_model(tiny_bert, pooling="cls", device="cpu")
    options = {"sizes": [4, 8], "methods": ["simcse", "micse"], "seeds": [1], "dev": PAIRS}
    options |= {"independent": PAIRS, "progress": False, **FAST}
    sentences = {(n, 1): Corpus(TEXTS[:n], SOURCE) for n in options["sizes"]}
    in_turn = train_grid(model, sentences, tmp_path / "a", **options)
    on_cluster = train_grid(model, sentences, tmp_path / "b", each=on_ray(1), **options)
    columns = ["size", "method", "seed", "before", "best", "last", "independent"]
    pd.testing.assert_frame_equal(on_cluster[columns], in_turn[columns])


def test_a_run_that_fails_is_kept_with_its_error_and_made_again(cluster, tiny_bert, tmp_path):
    model = load_model(tiny_bert, pooling="cls", device="cpu")
    options = {"sizes": [4], "methods": ["simcse"], "seeds": [1, 2], "dev": PAIRS}
    options |= {"progress": False, "each": on_ray(1), **FAST}
    sentences = {(4, 1): Corpus(["the same"] * 4, SOURCE), (4, 2): Corpus(TEXTS[:4], SOURCE)}
    table = train_grid(model, sentences, tmp_path, **options)
    assert "ValueError: training needs 2 sentences or more, got 1" in table["error"][0]
    assert np.isnan(table["best"][0]) and table["best"][1] > -101 and table["error"].isna()[1]
    record = json.loads((tmp_path / "4-simcse-1.json").read_text(encoding="utf-8"))
    assert record["error"] == table["error"][0]

    sentences[4, 1] = Corpus(TEXTS[4:8], SOURCE)
    again = train_grid(model, sentences, tmp_path, **options)
    assert again["error"].isna().all() and again["best"][1] == table["best"][1]


def test_a_kill_costs_a_block_and_no_row(cluster, tiny_bert, tmp_path):
    """First a worker is killed, and the work goes on; then all of it, and it goes on when called.

    What stood stays as it is, and in the end each row is there once.
    """
    rows = 2400
    lines = [f"{n},{TEXTS[n % 72]} {n}" for n in range(rows)]
    (tmp_path / "in.csv").write_text("\n".join(["id,words", *lines]), encoding="utf-8")
    command = [sys.executable, "-m", "micse_utils", "encode", tmp_path / "in.csv"]
    command += [tmp_path / "out", "--column", "words", "--model", tiny_bert, "--block-rows", "20"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def parts():
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/*.parquet")}

    def wait_for(count):
        while len(parts()) < count and running.poll() is None:
            time.sleep(0.01)
        assert running.poll() is None, running.communicate()[0]

    wait_for(5)
    started = psutil.Process(running.pid)
    next(p for p in started.children(recursive=True) if "MapWorker" in p.name()).kill()
    after_kill = len(parts()) + 5
    wait_for(after_kill)
    below = started.children(recursive=True)
    for process in (started, *below):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    running.communicate()
    psutil.wait_procs(below)
    stood = parts()
    assert after_kill <= len(stood) < rows // 20

    recipe = recipe_of(tiny_bert, block_rows=20, max_length=64)
    source = open_source(str(tmp_path / "in.csv"), "words")
    done = encode_files(source, str(tmp_path / "out"), recipe, workers=1, cpus=2, progress=False)
    assert done["rows"] == rows and done["encoded"] == rows - 20 * len(stood)
    written = read(tmp_path / "out")
    assert written["id"].to_pylist() == [str(n) for n in range(rows)]
    assert written["embedding"].null_count == 0
    assert stood.items() <= parts().items()
    left = {path.name for path in (tmp_path / "out").iterdir()} - {p.name for p in parts()}
    assert left == {RECORD, LOCK}


def test_the_command_line_says_what_is_wrong_in_a_sentence(tiny_bert, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("a\n1\n", encoding="utf-8")
    (tmp_path / "in.txt").write_text("a cat\n", encoding="utf-8")
    table, lines, out, model = tmp_path / "in.csv", tmp_path / "in.txt", tmp_path / "out", tiny_bert
    for arguments, reason in [
        (["encode", tmp_path / "no.csv", out], "does not exist"),
        (["encode", table, out], 'no column "text"'),
        (["encode", lines, out, "--model", model, "--max-length", 65], "from 3 to 64 tokens"),
        (["encode", lines, out, "--model", model, "--address", "127.0.0.1:1"], "no Ray cluster at"),
        (["encode", lines, out, "--workers", 0], "must be a whole number from 1, got 0"),
        (["grid", out, "--model", "./none"], "there is no model folder ./none"),
    ]:
        try:
            assert main(list(map(str, arguments))) == 1
        except SystemExit as stopped:  # wrong usage, by argparse
            assert stopped.code == 2
        said = capsys.readouterr().err
        assert reason in said.splitlines()[-1] and "Traceback" not in said
    assert not out.exists()
