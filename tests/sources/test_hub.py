"""The hub path, for real: a loopback server that speaks the hub's routes, and the hub's cache."""

import fnmatch
import hashlib
import io
import json
import re
import shutil
import tarfile
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from hub_server import member, tar
from huggingface_hub import constants
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

from micse_utils.datasets.sts import STS_TASKS, YEARS, load_sts, load_stsb
from micse_utils.datasets.texts import load_low_shot, load_sentences, load_tweets
from micse_utils.datasets.transfer import TRAIN_TEST, TRANSFER_TASKS, TWO_FILES, load_transfer
from micse_utils.encoding import encode
from micse_utils.models import CONFIGURATION, load_model
from micse_utils.sources import hub
from micse_utils.sources.hub import ARCHIVE, SENTEVAL, HubError, hub_problem

FIRST, SECOND = "1" * 40, "2" * 40
TEXTS = ["the cat sat on the mat", "a big red dog ran"]
ROWS = {"SST2": "a cat\t1\n", "TREC": "HUM:x who\n", "MRPC": "1\t1\t2\ta cat\ta dog\n" * 2}


@pytest.fixture(scope="module")
def tiny_files(tiny_bert):
    return {path.name: path.read_bytes() for path in tiny_bert.iterdir()}


def saved(modules, folder):
    """Files of a sentence encoder, as sentence-transformers saves it."""
    SentenceTransformer(modules=modules).save_pretrained(str(folder))
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def vectors(model):
    return encode(model, TEXTS, max_length=16, dtype=torch.float32)


def test_a_model_from_the_hub_has_the_served_weights(server, tiny_files, tiny_bert):
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files}
    model = load_model("me/tiny-micse", source="hub", device="cpu")
    made = model.provenance
    assert (made.name, made.source, made.origin) == ("tiny-micse", "hub", "me/tiny-micse")
    assert (made.revision, made.pooling) == (FIRST, "cls")
    assert made.sha256 == sha256(tiny_files["model.safetensors"])
    expected = vectors(load_model(tiny_bert, pooling="cls", device="cpu"))
    assert np.array_equal(vectors(model), expected)


@pytest.mark.parametrize("place", ["pytorch_model.bin", "2_Dense/pytorch_model.bin"])
def test_a_pickle_from_the_hub_never_executes_code(server, tiny_bert, tmp_path, place):
    marker = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return (marker.touch, ())

    pickled = io.BytesIO()
    torch.save({"attack": Attack()}, pickled)
    torch.load(io.BytesIO(pickled.getvalue()), weights_only=False)
    assert marker.exists()  # it would work
    marker.unlink()

    transformer = Transformer(str(tiny_bert))
    modules = [transformer, Pooling(32, "mean"), Dense(32, 8)]
    files = saved(modules, tmp_path / "model")
    if "/" not in place:
        del files["modules.json"]
    del files[place.replace("pytorch_model.bin", "model.safetensors")]
    server.repositories["models/me/bad"] = {FIRST: {**files, place: pickled.getvalue()}}
    with pytest.raises(ValueError, match=r"cannot be loaded .*Weights only load failed"):
        load_model("me/bad", source="hub", device="cpu")
    assert f"GET me/bad/resolve/{FIRST}/{place}" in server.requests
    assert not marker.exists()


def test_code_of_a_repository_is_neither_fetched_nor_run(server, tiny_bert, tmp_path):
    marker = tmp_path / "executed"
    files = saved([Transformer(str(tiny_bert)), Pooling(32, "mean")], tmp_path / "model")
    modules = json.loads(files["modules.json"])
    modules[1]["type"] = "own.Pooling"
    files["modules.json"] = json.dumps(modules).encode()
    files["own.py"] = files["1_Pooling/own.py"] = f"open({str(marker)!r}, 'w')\n".encode()
    server.repositories["models/me/own-code"] = {FIRST: files}
    with pytest.raises(ValueError, match=r"cannot be loaded .*executes third-party code"):
        load_model("me/own-code", source="hub", device="cpu")
    assert f"GET me/own-code/resolve/{FIRST}/own.py" not in server.requests
    assert not marker.exists()


def test_auto_takes_micse_if_the_hub_has_it(server, tiny_files, capsys):
    server.repositories["models/sap-ai-research/miCSE"] = {FIRST: tiny_files}
    made = load_model(device="cpu").provenance
    assert (made.name, made.source, made.pooling) == ("miCSE", "hub", "cls")
    assert "model: miCSE, cls pooling (hub: sap-ai-research/miCSE" in capsys.readouterr().out


def test_the_cache_is_used_when_the_hub_is_unreachable(server, tiny_files):
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files}
    expected = vectors(load_model("me/tiny-micse", source="hub", device="cpu"))
    server.mood = "busy"
    hub_problem.cache_clear()
    again = load_model("me/tiny-micse", source="hub", device="cpu")
    assert again.provenance.revision == FIRST
    assert np.array_equal(vectors(again), expected)


def test_all_that_tokenizers_read_is_fetched():
    """Whatever a tokenizer of transformers calls its files, such as PhoBERT's bpe.codes."""
    folder = Path(transformers.__file__).parent / "models"
    names = {"vocab.txt"}
    for file in folder.glob("*/tokenization_*.py"):
        names.update(re.findall(r'_file": "([^"]+)"', file.read_text(encoding="utf-8")))
    assert {"bpe.codes", "merges.txt", "sentencepiece.bpe.model"} <= names
    assert not [n for n in names if not any(fnmatch.fnmatch(n, p) for p in CONFIGURATION)]


def test_truncated_weights_in_the_cache_are_rejected(server, tiny_files):
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files}
    load_model("me/tiny-micse", source="hub", device="cpu")
    [weights] = Path(constants.HF_HUB_CACHE).rglob("model.safetensors")
    weights.resolve().write_bytes(weights.read_bytes()[:9_000])
    with pytest.raises(ValueError, match=r"tiny-micse.* cannot be loaded") as no:
        load_model("me/tiny-micse", source="hub", device="cpu")
    assert "\n" not in str(no.value)


def test_data_sets_carry_their_commit(server):
    table = pd.DataFrame({"text": ["good", "bad\u2028day"], "label": [2, 0]})
    parquet = {"sentiment/train-00000-of-00001.parquet": table.to_parquet()}
    server.repositories["datasets/cardiffnlp/tweet_eval"] = {FIRST: parquet}
    lines = b"One sentence.\n\nAnother one.\n"
    server.repositories["datasets/princeton-nlp/datasets-for-simcse"] = {
        SECOND: {"wiki1m_for_simcse.txt": lines, "nli_for_simcse.csv": b"not wanted"}
    }
    tweets, sentences = load_tweets("hub"), load_sentences("hub")
    assert tweets.texts == table["text"].tolist()
    assert tweets.labels.tolist() == [2, 0]
    assert sentences.texts == ["One sentence.", "Another one."]
    assert (tweets.provenance.revision, sentences.provenance.revision) == (FIRST, SECOND)
    assert sentences.provenance.sha256 == sha256(lines)
    assert "nli_for_simcse.csv" not in " ".join(server.requests)
    assert server.requests.count("GET api/models/sap-ai-research/miCSE") == 1  # one probe for all


def test_the_papers_splits_are_found_by_size_and_seed(server):
    """Named by their share of a million, as in the official repository."""
    files = {
        f"wiki_subset_1M_{share}percent_seed{seed}.txt": f"{share} {seed}.\nAnother one.\n".encode()
        for share in ("0.0064", "000.01", "001.00", "010.00")
        for seed in (48, 49)
    }
    server.repositories["datasets/sap-ai-research/datasets-for-micse"] = {FIRST: files}
    handfuls = load_low_shot([64, 100_000], seeds=[48, 49], source="hub")
    assert handfuls[64, 49].texts == ["0.0064 49.", "Another one."]
    assert handfuls[100_000, 48].texts == ["010.00 48.", "Another one."]
    assert handfuls[64, 48].provenance.revision == FIRST
    with pytest.raises(ValueError, match=r"\(64, 48\), \(100, 48\), .* got \(65, 48\)"):
        load_low_shot([65], source="hub")
    for source in ("hub", "auto"):  # and no stand-in under other seeds
        for seeds in ([7], [48, 7]):
            with pytest.raises(ValueError, match=r"\(64, 48\), .* got \(64, 7\)"):
                load_low_shot([64], seeds=seeds, source=source)


@pytest.mark.parametrize(
    ("mood", "reason"), [("busy", "503 Service Unavailable"), ("login", "JSONDecodeError")]
)
def test_auto_falls_back_if_the_hub_is_unreachable(server, mood, reason, capsys):
    server.mood = mood
    with pytest.raises(HubError, match=f"^me/tiny-micse is neither .*{reason}.*Ways out") as no:
        load_model("me/tiny-micse", source="hub")
    assert "\n" not in str(no.value)
    assert load_model(device="cpu").provenance.name == "all-MiniLM-L6-v2"
    assert load_tweets().provenance.source == "package"
    model, tweets = capsys.readouterr().out.splitlines()
    assert model.startswith("model: all-MiniLM-L6-v2, mean pooling (package")
    assert tweets.startswith("tweets: ")
    for line in (model, tweets):
        assert "; not from the hub: http://127.0.0.1" in line
        assert reason in line


def test_an_endless_answer_delays_neither_the_call_nor_the_exit(server, monkeypatch):
    monkeypatch.setattr(hub, "WAIT", 0.2)
    server.mood, before = "drip", {*threading.enumerate()}
    assert hub_problem() == f"no answer from {server.url} within 0.2 s"
    asking = {*threading.enumerate()} - before
    assert asking and all(thread.daemon for thread in asking)


def test_missing_and_gated_repositories_are_reported_as_such(server, tiny_files):
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files}
    server.repositories["models/me/gated"] = {FIRST: tiny_files}
    server.gated.add("models/me/gated")
    for name, revision, reason in (
        ("me/unheard-of", None, "RepositoryNotFoundError"),
        ("me/tiny-micse", "v9", "RevisionNotFoundError"),
        ("me/tiny-micse", SECOND, "RevisionNotFoundError"),
        ("me/gated", None, "GatedRepoError"),
    ):
        for source in ("hub", "auto"):  # a model asked for by name has no stand-in
            with pytest.raises(HubError, match=f"^{name} is neither .*{reason}") as no:
                load_model(name, source=source, revision=revision)
            assert "\n" not in str(no.value)


def test_the_next_call_completes_an_interrupted_transfer(server, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's retries
    content = bytes(range(256)) * 100
    server.repositories["datasets/me/data"] = {FIRST: {"a.txt": b"a", "large.txt": content}}
    server.mood = "cut"
    with pytest.raises(HubError, match=r"me/data is neither .*peer closed connection"):
        hub.snapshot("me/data", ["*.txt"], "dataset")
    server.mood = "well"
    server.requests.clear()
    folder, _ = hub.snapshot("me/data", ["*.txt"], "dataset")
    assert (folder / "large.txt").read_bytes() == content
    asked = [path for path in server.requests if path.startswith("GET") and "/resolve/" in path]
    assert len(asked) == 1 and asked[0].endswith("large.txt")


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
    monkeypatch.delenv("MICSE_SENTEVAL", raising=False)
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "kit"))
    return tmp_path / "kit" / "senteval"


@pytest.fixture
def serve(server, cache):
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
    serve(tar(files=senteval_files()))
    expected = load_sts("STS12", source="hub").first
    shutil.rmtree(cache)
    [blob] = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
    blob.write_bytes(blob.read_bytes().replace(b"cat", b"bat", 1))  # tar itself cannot notice
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
