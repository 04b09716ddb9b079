"""SentEval's data from the hub: served on loopback, as an archive of a small SentEval folder."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hub_server import member, tar
from huggingface_hub import constants

from micse_utils.datasets.sts import STS_TASKS, YEARS, load_sts, load_stsb
from micse_utils.datasets.transfer import TRAIN_TEST, TRANSFER_TASKS, TWO_FILES, load_transfer
from micse_utils.sources.hub import ARCHIVE, SENTEVAL, HubError, hub_problem

FIRST = "1" * 40
ROWS = {"SST2": "a cat\t1\n", "TREC": "HUM:x who\n", "MRPC": "1\t1\t2\ta cat\ta dog\n" * 2}


def senteval_files(word="cat"):
    """Small files of all STS and transfer tasks, in SentEval's formats: {path: bytes}."""
    files = {}
    for year, subsets in YEARS.items():
        for subset in subsets:
            place = f"STS/{year}-en-test/STS"
            files[f"{place}.input.{subset}.txt"] = f"a {word}\ta dog\na\tb\n"
            files[f"{place}.gs.{subset}.txt"] = "1.5\n4\n"
    for split in ("train", "dev", "test"):
        files[f"STS/STSBenchmark/sts-{split}.csv"] = f"g\tf\ty\t0\t3\ta {word}\t{split}\n"
    files["SICK/SICK_test_annotated.txt"] = f"pair_ID\tA\tB\tscore\n1\ta {word}\ta dog\t3.5\n"
    files |= {name: f"{word} café\n" for names in TWO_FILES.values() for name in names}
    files |= {name: ROWS[task] for task, names in TRAIN_TEST.items() for name in names}
    return {name: text.encode() for name, text in files.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The kit's empty cache; no folder of SentEval is set."""
    monkeypatch.delenv("MICSE_SENTEVAL", raising=False)
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "kit"))
    return tmp_path / "kit" / "senteval"


@pytest.fixture
def serve(server, cache):
    """Put an archive on the hub, at a commit."""

    def put(content):
        server.repositories[f"datasets/{SENTEVAL}"] = {FIRST: {ARCHIVE: content}}
        return server

    return put


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_archive_and_folder_give_the_same_tasks(serve, cache, tmp_path, capsys):
    files, top = senteval_files(), "SentEval/data/downstream/"
    server = serve(tar(member(f"{top}SNLI/labels.train", b"neutral\n"), files=files, top=top))
    folder = write(tmp_path / "mine", files)
    loaders = {**dict.fromkeys(STS_TASKS, load_sts), **dict.fromkeys(TRANSFER_TASKS, load_transfer)}
    for task, load in loaders.items():
        ours, hubs = load(task, source=folder), load(task)
        assert (hubs.first, hubs.second) == (ours.first, ours.second)
        scores = "gold" if task in STS_TASKS else "labels"
        np.testing.assert_array_equal(getattr(hubs, scores), getattr(ours, scores))
        made = hubs.provenance
        assert made.name == ours.provenance.name and made.sha256 == ours.provenance.sha256
        assert (made.source, made.origin, made.revision) == ("hub", SENTEVAL, FIRST)
    assert f"labelled sentences: MR (hub: {SENTEVAL}, commit 11111111)" in capsys.readouterr().out
    assert sum("/resolve/" in path for path in server.requests if path.startswith("GET")) == 1
    assert not (cache / FIRST / "SNLI").exists() and (cache / FIRST / "STS").is_dir()


def test_a_login_page_in_place_of_the_archive_is_rejected(serve, cache, capsys):
    serve(b"<html>Please log in</html>" * 100)
    message = r"^senteval\.tar of .* cannot be used .*not a plain tar file: .* delete .* and"
    with pytest.raises(HubError, match=message) as no:
        load_sts("STS16", source="hub")
    assert "\n" not in str(no.value)
    assert not (cache / FIRST).exists()
    assert load_stsb().provenance.source == "kit"  # as if the hub had nothing
    assert f"; not from the hub: {no.value.reason}" in capsys.readouterr().out


def test_links_and_paths_that_lead_out_are_not_unpacked(serve, cache, tmp_path):
    link = member("STS/link", type=tarfile.SYMTYPE, linkname=str(tmp_path))
    serve(tar(link, member("STS/../../../out", b"x"), member("STS/link/out", b"x")))
    with pytest.raises(HubError, match=r"is incomplete \(no STS/STS16-en-test/"):
        load_sts("STS16", source="hub")
    assert [path.parent.name for path in tmp_path.rglob("out")] == ["link"]
    assert not (cache / FIRST / "STS" / "link").is_symlink()


def test_a_damaged_download_is_refused_until_it_is_deleted(serve, cache):
    """A flipped bit in a text, which tar itself cannot notice."""
    serve(tar(files=senteval_files()))
    expected = load_sts("STS12", source="hub").first
    shutil.rmtree(cache)
    [blob] = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
    blob.write_bytes(blob.read_bytes().replace(b"cat", b"bat", 1))
    with pytest.raises(HubError, match=f"its SHA-256 is not the hub's; delete {blob} and"):
        load_sts("STS12", source="hub")
    blob.unlink()
    assert load_sts("STS12", source="hub").first == expected


def test_the_cache_is_enough_without_the_hub(serve, cache):
    server = serve(tar(files=senteval_files()))
    expected = load_sts("STS12", source="hub")
    server.mood = "busy"
    hub_problem.cache_clear()
    (cache / FIRST / "record.json").unlink()  # as a killed call leaves it
    shutil.rmtree(cache / FIRST / "STS")
    for _ in range(2):  # the second only reads
        found = load_sts("STS12", source="hub")
        assert (found.first, found.provenance) == (expected.first, expected.provenance)
        [blob] = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
        blob.write_bytes(b"")
