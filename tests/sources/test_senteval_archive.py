"""SentEval's data from the hub: served on loopback, as an archive of a small SentEval folder."""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hub_server import member, tar
from huggingface_hub import constants

from micse_utils.datasets.sts import STS_TASKS, YEARS, load_sts, load_sts_tasks, load_stsb
from micse_utils.datasets.transfer import TRANSFER_TASKS, load_transfer, load_transfer_tasks
from micse_utils.evaluation.published import OFFICIAL_PAIRS
from micse_utils.evaluation.senteval import evaluate_sts
from micse_utils.sources.hub import HubError, _answer
from micse_utils.sources.senteval_archive import FILE, FOLDERS, REPOSITORY

ROOT = Path(__file__).parents[2]
SENTEVAL = Path(os.environ.get("MICSE_SENTEVAL") or ROOT.parent / "shared" / "senteval")
FIRST, SECOND = "1" * 40, "2" * 40


def senteval_files(seed=0):
    """Small files of all STS and transfer tasks, in SentEval's formats: {path: bytes}."""
    rng = np.random.default_rng(seed)
    words = ["cat", "dog", "sun", "moon", "rain", "tree", "house", "river"]

    def sentence():
        return " ".join(rng.choice(words, 4))

    def rows(count, row):
        return "".join(row(n) + "\n" for n in range(count)).encode()

    files = {}
    for year, subsets in YEARS.items():
        for number, subset in enumerate(subsets):
            place, count = f"STS/{year}-en-test/STS", 8 + 3 * number
            files[f"{place}.input.{subset}.txt"] = rows(
                count, lambda _: f"{sentence()}\t{sentence()}"
            )
            files[f"{place}.gs.{subset}.txt"] = rows(count, lambda n: f"{n % 6}")
    for split in ("train", "dev", "test"):
        files[f"STS/STSBenchmark/sts-{split}.csv"] = rows(
            12, lambda n: f"genre\tfile\tyear\t{n}\t{n % 6}\t{sentence()}\t{sentence()}"
        )
    heading = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    files["SICK/SICK_test_annotated.txt"] = rows(
        15, lambda n: f"{n}\t{sentence()}\t{sentence()}\t{n % 5}.5\tNEUTRAL" if n else heading
    )
    for name in (
        "MR/rt-polarity.neg", "MR/rt-polarity.pos", "CR/custrev.neg", "CR/custrev.pos",
        "SUBJ/subj.subjective", "SUBJ/subj.objective", "MPQA/mpqa.neg", "MPQA/mpqa.pos",
    ):  # fmt: skip
        files[name] = rows(6, lambda _: f"{sentence()} café").decode().encode("latin-1")
    for part in ("train", "dev", "test"):
        files[f"SST/binary/sentiment-{part}"] = rows(6, lambda n: f"{sentence()}\t{n % 2}")
    for name in ("train_5500", "TREC_10"):
        files[f"TREC/{name}.label"] = rows(
            6, lambda n: f"{'HUM' if n % 2 else 'NUM'}:x {sentence()}"
        )
    for part in ("train", "test"):
        files[f"MRPC/msr_paraphrase_{part}.txt"] = rows(
            6, lambda n: f"{n % 2}\t1\t2\t{sentence()}\t{sentence()}"
        )
    return files


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The kit's empty cache; no folder of SentEval is set."""
    monkeypatch.delenv("MICSE_SENTEVAL", raising=False)
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "kit"))
    return tmp_path / "kit" / "senteval"


@pytest.fixture
def serve(server, cache):
    """Put an archive on the hub, at a commit."""

    def put(content, commit=FIRST):
        server.repositories.setdefault(f"datasets/{REPOSITORY}", {})[commit] = {
            FILE: content,
            "wiki1m_for_simcse.txt": b"not wanted",
        }
        return server

    return put


def unpacked(cache):
    """Folders in the kit's cache, whole or half."""
    return sorted(path.name for path in cache.glob("*") if path.is_dir())


def downloads(server):
    return [path for path in server.requests if path.startswith("GET") and "/resolve/" in path]


class Letters:
    def encode(self, sentences):
        letters = "abcdefghijklmnopqrstuvwxyz "
        return np.array([[text.count(letter) for letter in letters] for text in sentences])


def test_archive_and_folder_give_the_same_seven_scores(serve, tmp_path):
    files = senteval_files()
    server = serve(tar(files=files))
    folder = write(tmp_path / "mine", files)
    tables = [evaluate_sts(Letters(), source=s, progress=False) for s in (folder, "hub")]
    pd.testing.assert_frame_equal(*tables)
    pooled = tables[1][tables[1]["subset"] == "all"]
    assert list(pooled["task"]) == list(STS_TASKS)
    subsets = tables[1].groupby("task")["subset"].agg(set)
    assert all(set(YEARS[year]) < subsets[year] for year in YEARS)
    assert downloads(server) == [f"GET datasets/{REPOSITORY}/resolve/{FIRST}/{FILE}"]


def test_every_task_carries_the_hub_as_its_source(serve, tmp_path, capsys):
    files = senteval_files()
    serve(tar(files=files))
    folder = write(tmp_path / "mine", files)
    loaders = {**dict.fromkeys(STS_TASKS, load_sts), **dict.fromkeys(TRANSFER_TASKS, load_transfer)}
    for task, load in loaders.items():
        ours, hubs = load(task, source=folder), load(task)
        assert (hubs.first, hubs.second) == (ours.first, ours.second)
        made = hubs.provenance
        assert made.name == (f"{task}, test" if task == "STSBenchmark" else task)
        assert (made.source, made.origin, made.revision) == ("hub", REPOSITORY, FIRST)
        assert made.sha256 == ours.provenance.sha256
    assert load_sts("SICKRelatedness", source="hub").provenance.sha256 == (
        hashlib.sha256(files["SICK/SICK_test_annotated.txt"]).hexdigest()
    )
    said = capsys.readouterr().out
    assert f"labelled sentences: MR (hub: {REPOSITORY}, commit 11111111)" in said


def test_transfer_tasks_of_archive_and_folder_are_the_same(serve, tmp_path):
    files = senteval_files()
    serve(tar(files=files))
    ours = load_transfer_tasks(source=write(tmp_path / "mine", files))
    hubs = load_transfer_tasks(source="hub")
    assert list(hubs) == list(ours) == list(TRANSFER_TASKS)
    for task, data in hubs.items():
        assert (data.first, data.second) == (ours[task].first, ours[task].second)
        np.testing.assert_array_equal(data.labels, ours[task].labels)
        np.testing.assert_array_equal(data.test, ours[task].test)
    assert hubs["CR"].first[0].endswith("café")


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_each_split_of_stsbenchmark_is_in_the_archive(serve, split):
    files = senteval_files()
    serve(tar(files=files))
    pairs = load_stsb(split)
    rows = [
        line.split("\t")
        for line in files[f"STS/STSBenchmark/sts-{split}.csv"].decode().splitlines()
    ]
    assert pairs.first == [row[5] for row in rows]
    assert pairs.gold.tolist() == [float(row[4]) for row in rows]
    assert pairs.provenance.name == f"STSBenchmark, {split}"


@pytest.mark.parametrize(
    "top",
    [
        "",
        "./",
        "senteval/",
        "SentEval/data/downstream/",
        "data/downstream/",
        "downstream/",
        "a/b/c/d/",
    ],
)
def test_the_archive_is_read_wherever_its_sts_folder_is(serve, cache, top):
    folders = [member(f"{top}STS", type=tarfile.DIRTYPE, mode=0o700)]
    others = [member(f"{top}SNLI/labels.train", b"neutral\n"), member("README", b"read me\n")]
    serve(tar(*folders, *others, files=senteval_files(), top=top))
    assert len(load_sts("STS16", source="hub")) == sum(8 + 3 * n for n in range(5))
    [folder] = unpacked(cache)
    assert {path.name for path in (cache / folder).iterdir()} == set(FOLDERS)


def test_auto_reads_the_users_folder_first_and_the_rest_from_the_hub(serve, tmp_path, monkeypatch):
    serve(tar(files=senteval_files()))
    mine = {n: c for n, c in senteval_files(seed=1).items() if n.startswith(("STS/STS13", "MR/"))}
    monkeypatch.setenv("MICSE_SENTEVAL", str(write(tmp_path / "mine", mine)))
    sources = {task: pairs.provenance.source for task, pairs in load_sts_tasks().items()}
    assert sources == dict.fromkeys(STS_TASKS, "hub") | {"STS13": "folder"}
    sources = {task: data.provenance.source for task, data in load_transfer_tasks().items()}
    assert sources == dict.fromkeys(TRANSFER_TASKS, "hub") | {"MR": "folder"}


def test_a_missing_task_is_named_and_the_others_are_scored(serve, capsys):
    kept = ("STS/STS12", "SICK", "MR/")
    some = {name: text for name, text in senteval_files().items() if name.startswith(kept)}
    serve(tar(files=some))
    assert list(load_sts_tasks(source="hub")) == ["STS12", "SICKRelatedness"]
    said = capsys.readouterr().out
    assert "missing: STS13, STS14, STS15, STS16, STSBenchmark (the first: no STS/STS13-en-" in said
    assert list(load_transfer_tasks(source="hub")) == ["MR"]
    with pytest.raises(
        HubError, match=r"senteval\.tar of .*: no STS/STS13-en-test in .*MICSE_SENT"
    ):
        load_sts("STS13", source="hub")
    assert load_stsb().provenance.source == "kit"
    assert "; not from the hub: no STS/STSBenchmark/sts-dev.csv in" in capsys.readouterr().out


# --- An archive that cannot be used


def damaged_header():
    """Flip bytes in the header of a file in the middle, which tarfile takes for the end."""
    content = bytearray(tar(files=senteval_files()))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        start = archive.getmembers()[20].offset
    content[start : start + 8] = b"\xff" * 8
    return bytes(content)


def cut_between_files():
    content = tar(files=senteval_files())
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return content[: archive.getmembers()[20].offset]


GOOD = member("STS/STSBenchmark/sts-dev.csv", b"a\tb\tc\t1\t2\tx\ty\n")
DAMAGED = r"it is damaged or not a plain tar file; delete .* and try again"
UNUSABLE = {
    "a login page": (b"<html>Please log in</html>" * 100, DAMAGED),
    "cut in a file": (tar(files=senteval_files())[:5_000], DAMAGED),
    "cut in a header": (tar(GOOD, GOOD)[:1_200], DAMAGED),
    "cut between files": (cut_between_files(), DAMAGED),
    "damaged header": (damaged_header(), DAMAGED),
    "compressed": (gzip.compress(tar(GOOD)), DAMAGED),
    "no files": (tar(), "not SentEval's data: it has none of STS, SICK"),
    "other files": (tar(member("notes/STS.txt", b"x")), "not SentEval's data: it has none of STS"),
    "parent folder": (tar(GOOD, member("STS/../../../out", b"x")), DAMAGED),
    "link out": (tar(GOOD, member("STS/out", type=tarfile.SYMTYPE, linkname="/")), DAMAGED),
    "device": (tar(GOOD, member("STS/null", type=tarfile.CHRTYPE)), DAMAGED),
    "file and folder of one name": (
        tar(member("STS", b"x"), member("STS/a", b"x")),
        "the cache .* cannot be used",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_unusable_archive_is_rejected_in_one_sentence_without_a_trace(
    serve, cache, tmp_path, capsys, kind
):
    content, message = UNUSABLE[kind]
    serve(content)
    with pytest.raises(HubError, match=message) as no:
        load_sts("STS16", source="hub")
    sentence = str(no.value)
    assert sentence.startswith("senteval.tar of princeton-nlp/datasets-for-simcse: ")
    assert "\n" not in sentence and sentence.encode()
    assert unpacked(cache) == []
    assert not list(tmp_path.rglob("out")) and not Path("/micse-no").exists()
    assert load_stsb().provenance.source == "kit"  # as if the hub had nothing
    assert f"; not from the hub: {no.value.reason}" in capsys.readouterr().out


def test_a_damaged_cached_archive_is_fetched_again_once_deleted(serve, cache):
    """A flipped bit in a text, which tar itself cannot notice."""
    server = serve(tar(files=senteval_files()))
    serve_first = load_sts("STS12", source="hub")
    shutil.rmtree(cache)
    [blob] = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
    content = bytearray(blob.read_bytes())
    content[content.index(b"cat")] ^= 1
    blob.write_bytes(content)
    with pytest.raises(HubError, match=f"{DAMAGED}") as no:
        load_sts("STS12", source="hub")
    assert f"delete {blob} and" in str(no.value) and unpacked(cache) == []
    blob.unlink()
    assert load_sts("STS12", source="hub").first == serve_first.first
    assert len(downloads(server)) == 2


def test_a_hub_without_the_archive_is_named(server, cache):
    server.repositories[f"datasets/{REPOSITORY}"] = {FIRST: {"wiki1m_for_simcse.txt": b"x"}}
    with pytest.raises(HubError, match=r"simcse/senteval\.tar is neither .*does not have it"):
        load_sts("STS12", source="hub")


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(serve, tmp_path, monkeypatch):
    serve(tar(files=senteval_files()))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "file" / "kit"))
    with pytest.raises(HubError, match=r"cache .*file/kit/senteval cannot be used \(.*MICSE_CACHE"):
        load_sts("STS12", source="hub")


# --- Fetched once, unpacked once


def test_an_unpacked_archive_is_used_without_reading_it_again_or_writing(serve, cache):
    server = serve(tar(files=senteval_files()))
    before = load_sts("STS14", source="hub")
    [blob] = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
    blob.write_bytes(bytes(blob.stat().st_size))
    shutil.rmtree(cache / "lock", ignore_errors=True)
    stamps = {path: path.stat().st_mtime_ns for path in cache.parent.rglob("*")}
    after = load_sts("STS14", source="hub")
    assert (after.first, after.provenance) == (before.first, before.provenance)
    assert {path: path.stat().st_mtime_ns for path in cache.parent.rglob("*")} == stamps
    assert len(downloads(server)) == 1


@pytest.mark.parametrize("is_unpacked", [True, False])
def test_the_cache_is_enough_without_the_hub(serve, cache, is_unpacked):
    server = serve(tar(files=senteval_files()))
    before = load_sts("STS14", source="hub")
    if not is_unpacked:
        shutil.rmtree(cache)
    server.mood = "busy"
    _answer.cache_clear()
    after = load_sts("STS14", source="hub")
    assert (after.first, after.provenance) == (before.first, before.provenance)


def test_a_cache_without_links_works(serve, cache):
    """As in an unpacked bundle, and on Windows."""
    server = serve(tar(files=senteval_files()))
    load_sts("STS14", source="hub")
    [link] = Path(constants.HF_HUB_CACHE).rglob(f"snapshots/*/{FILE}")
    link.resolve().replace(link)
    server.mood = "busy"
    _answer.cache_clear()
    shutil.rmtree(cache)
    first = load_sts("STS14", source="hub")
    link.write_bytes(bytes(link.stat().st_size))
    assert load_sts("STS14", source="hub").first == first.first
    assert len(unpacked(cache)) == 1


def test_a_revision_pins_an_older_archive(serve, cache):
    for commit, seed in ((FIRST, 0), (SECOND, 1)):
        serve(tar(files=senteval_files(seed)), commit)
    newest = load_sts("STS12", source="hub")
    pinned = load_sts("STS12", source="hub", revision=FIRST)
    tweets = load_transfer("MR", source="hub", revision=FIRST)
    assert newest.first != pinned.first
    made = [data.provenance.revision for data in (newest, pinned, tweets)]
    assert made == [SECOND, FIRST, FIRST]
    assert [name[:40] for name in unpacked(cache)] == [FIRST, SECOND]


def test_threads_can_unpack_at_once(serve, cache):
    serve(tar(files=senteval_files()))
    load_sts("STS12", source="hub")
    shutil.rmtree(cache)
    (cache / ".unpack-killed" / "senteval").mkdir(parents=True)
    started = threading.Barrier(5)

    def load():
        started.wait()
        return load_sts("STS12", source="hub").first

    with ThreadPoolExecutor(4) as threads:
        with FileLock(cache / "lock"):
            waiting = [threads.submit(load) for _ in range(4)]
            started.wait()
        found = [thread.result(timeout=60) for thread in waiting]
    assert found == [found[0]] * 4
    assert len(unpacked(cache)) == 1  # and what a killed process left is gone


@pytest.mark.slow
def test_processes_can_unpack_at_once_offline(serve, cache):
    serve(tar(files=senteval_files()))
    expected = load_sts("STS12", source="hub").first
    shutil.rmtree(cache)
    code = "from micse_utils.datasets.sts import load_sts; import json; "
    code += "print(json.dumps(load_sts('STS12', source='hub').first))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": constants.HF_HUB_CACHE}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [json.loads(text.splitlines()[-1]) for text in said] == [expected] * 2
    assert len(unpacked(cache)) == 1


# --- The official files


@pytest.mark.skipif(
    not (SENTEVAL / "STS" / "STS16-en-test").is_dir(),
    reason="needs SentEval's STS12 to STS16; set MICSE_SENTEVAL",
)
def test_the_official_years_are_the_same_from_archive_and_folder(serve):
    files = {
        file.relative_to(SENTEVAL).as_posix(): file.read_bytes()
        for file in (SENTEVAL / "STS").rglob("*")
        if file.is_file()
    }
    serve(tar(files=files))
    for year in YEARS:
        ours, hubs = load_sts(year, source=SENTEVAL), load_sts(year, source="hub")
        assert len(hubs) == OFFICIAL_PAIRS[year]
        assert (hubs.first, hubs.second, hubs.subsets) == (ours.first, ours.second, ours.subsets)
        np.testing.assert_array_equal(hubs.gold, ours.gold)
