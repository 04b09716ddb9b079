"""The hub path, for real: a loopback server that speaks the hub's routes, and the hub's cache."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hub_server import serving
from huggingface_hub import constants
from safetensors.torch import load, save
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from micse_utils import hub
from micse_utils.corpora import load_sentences, load_tweets
from micse_utils.encoding import encode
from micse_utils.hub import HubError, hub_problem
from micse_utils.models import load_model

ROOT = Path(__file__).parents[1]
FIRST, SECOND = "1" * 40, "2" * 40
TEXTS = ["the cat sat on the mat", "a big red dog ran"]


@pytest.fixture(scope="module")
def tiny_files(tiny_bert):
    return {path.name: path.read_bytes() for path in tiny_bert.iterdir()}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A healthy, empty hub, which the hub's client takes for the hub; an empty cache."""
    monkeypatch.delenv("MICSE_DATA", raising=False)
    with serving() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        hub_problem.cache_clear()
        yield running
    hub_problem.cache_clear()


def other_weights(files):
    weights = {name: tensor + 0.01 for name, tensor in load(files["model.safetensors"]).items()}
    return {**files, "model.safetensors": save(weights, {"format": "pt"})}


def vectors(model):
    return encode(model, TEXTS, max_length=16, dtype=torch.float32)


def test_a_model_from_the_hub_is_the_one_that_was_served(server, tiny_files, tiny_bert):
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files}
    model = load_model("me/tiny-micse", source="hub", device="cpu")
    made = model.provenance
    assert (made.name, made.source, made.origin) == ("tiny-micse", "hub", "me/tiny-micse")
    assert (made.revision, made.pooling) == (FIRST, "cls")
    assert made.sha256 == hashlib.sha256(tiny_files["model.safetensors"]).hexdigest()
    expected = vectors(load_model(tiny_bert, pooling="cls", device="cpu"))
    assert np.array_equal(vectors(model), expected)


def test_a_revision_pins_an_older_commit(server, tiny_files):
    commits = {FIRST: tiny_files, SECOND: other_weights(tiny_files)}
    server.repositories["models/me/tiny-micse"] = commits
    newest = load_model("me/tiny-micse", source="hub", device="cpu")
    pinned = load_model("me/tiny-micse", source="hub", revision=FIRST, device="cpu")
    assert (newest.provenance.revision, pinned.provenance.revision) == (SECOND, FIRST)
    assert newest.provenance.sha256 != pinned.provenance.sha256
    assert not np.allclose(vectors(newest), vectors(pinned))


def test_safetensors_are_preferred_and_the_bin_is_not_even_asked_for(server, tiny_files):
    files = {**tiny_files, "pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "README.md": b"x"}
    server.repositories["models/me/tiny-micse"] = {FIRST: files}
    load_model("me/tiny-micse", source="hub", device="cpu")
    asked = " ".join(server.requests)
    assert "model.safetensors" in asked
    assert not [name for name in ("pytorch_model.bin", "onnx", "README") if name in asked]


def test_a_repository_with_only_a_bin_loads_its_weights(server, tiny_files, tmp_path):
    torch.save(load(tiny_files["model.safetensors"]), tmp_path / "weights")
    files = {name: c for name, c in tiny_files.items() if name != "model.safetensors"}
    files["pytorch_model.bin"] = (tmp_path / "weights").read_bytes()
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files, SECOND: files}
    from_bin = load_model("me/tiny-micse", source="hub", device="cpu")
    assert from_bin.provenance.sha256 == hashlib.sha256(files["pytorch_model.bin"]).hexdigest()
    from_safetensors = load_model("me/tiny-micse", source="hub", revision=FIRST, device="cpu")
    assert np.array_equal(vectors(from_bin), vectors(from_safetensors))


def test_pooling_follows_the_repository(server, tiny_bert, tiny_files, tmp_path, capsys):
    transformer = Transformer(str(tiny_bert))
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    SentenceTransformer(modules=[transformer, pooling]).save_pretrained(str(tmp_path / "st"))
    paths = [path for path in (tmp_path / "st").rglob("*") if path.is_file()]
    configured = {str(p.relative_to(tmp_path / "st")): p.read_bytes() for p in paths}
    for name, files in {
        "averaged": configured,
        "unsup-simcse-x": tiny_files,
        "all-MiniLM-x": tiny_files,
        "mystery": tiny_files,
    }.items():
        server.repositories[f"models/me/{name}"] = {FIRST: files}
    found = {
        name: load_model(f"me/{name}", source="hub", device="cpu").provenance.pooling
        for name in ("averaged", "unsup-simcse-x", "all-MiniLM-x", "mystery")
    }
    assert list(found.values()) == ["mean", "cls", "mean", "cls"]
    assert capsys.readouterr().out.count("how mystery pools is not known") == 1


def test_auto_takes_micse_where_the_hub_has_it(server, tiny_files, capsys):
    server.repositories["models/sap-ai-research/miCSE"] = {FIRST: tiny_files}
    made = load_model(device="cpu").provenance
    assert (made.name, made.source, made.pooling) == ("miCSE", "hub", "cls")
    assert "model: miCSE, cls pooling (hub: sap-ai-research/miCSE" in capsys.readouterr().out


def test_what_the_cache_holds_is_used_when_the_hub_has_gone(server, tiny_files):
    server.repositories["models/me/tiny-micse"] = {FIRST: tiny_files}
    expected = vectors(load_model("me/tiny-micse", source="hub", device="cpu"))
    server.mood = "busy"
    hub_problem.cache_clear()
    again = load_model("me/tiny-micse", source="hub", device="cpu")
    assert again.provenance.revision == FIRST
    assert np.array_equal(vectors(again), expected)


def test_an_incomplete_copy_in_the_cache_is_not_taken_for_a_model(server, tiny_files):
    few = {name: content for name, content in tiny_files.items() if name != "model.safetensors"}
    server.repositories["models/me/tiny-micse"] = {FIRST: few}
    with pytest.raises(HubError, match="incomplete, or it holds no PyTorch model"):
        load_model("me/tiny-micse", source="hub", device="cpu")


def test_data_sets_come_with_their_commit(server):
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
    assert sentences.provenance.sha256 == hashlib.sha256(lines).hexdigest()
    assert "nli_for_simcse.csv" not in " ".join(server.requests)


@pytest.mark.parametrize(
    ("mood", "reason"),
    [("busy", "503 Service Unavailable"), ("login", "perhaps a login page")],
)
def test_a_hub_that_cannot_be_used_is_named_and_auto_falls_back(server, mood, reason, capsys):
    server.mood = mood
    with pytest.raises(HubError, match=f"me/tiny-micse is neither .*{reason}.*Ways out") as no:
        load_model("me/tiny-micse", source="hub")
    assert "\n" not in str(no.value)
    assert load_model(device="cpu").provenance.name == "all-MiniLM-L6-v2"
    line = capsys.readouterr().out
    assert "model: all-MiniLM-L6-v2, mean pooling (package" in line
    assert reason in line


def test_a_slow_hub_is_asked_once_and_for_five_seconds_at_most(server):
    server.mood = "slow"
    start = time.monotonic()
    for load_it in (load_tweets, load_model):
        with pytest.raises(HubError, match=r"no answer from .* within 5 s"):
            load_it(source="hub")
    assert time.monotonic() - start < hub.PROBE_SECONDS + 2
    assert len([path for path in server.requests if "models" in path]) == 1


def test_a_refused_connection_is_said_at_once(server, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match=r"http://127.0.0.1:9 could not be reached"):
        load_sentences("hub")


def test_a_transfer_cut_half_way_is_said_and_made_good_by_the_next_call(server, tiny_files, capsys):
    server.repositories["models/sap-ai-research/miCSE"] = {FIRST: tiny_files}
    server.mood = "cut"
    with pytest.raises(HubError, match=r"miCSE is neither .*peer closed connection"):
        load_model("miCSE", source="hub")
    assert load_model(device="cpu").provenance.name == "all-MiniLM-L6-v2"
    assert "peer closed connection" in capsys.readouterr().out
    server.mood = "well"
    made = load_model(device="cpu").provenance
    assert made.sha256 == hashlib.sha256(tiny_files["model.safetensors"]).hexdigest()


def test_a_model_asked_for_by_name_is_never_replaced_by_a_stand_in(server):
    with pytest.raises(HubError, match="me/unheard-of is neither"):
        load_model("me/unheard-of")
    server.mood = "busy"
    hub_problem.cache_clear()
    with pytest.raises(HubError, match=r"sap-ai-research/miCSE is neither .*503"):
        load_model("miCSE")


def test_the_packaged_bytes_stand_in_for_the_same_bytes_on_the_hub(server):
    server.mood = "busy"
    made = load_model("sentence-transformers/all-MiniLM-L6-v2", device="cpu").provenance
    assert (made.name, made.source) == ("all-MiniLM-L6-v2", "package")


def in_a_fresh_process(code, **variables):
    """Run code with the hub's own environment variables, which its client reads at import."""
    environment = {**os.environ, "MICSE_DEVICE": "cpu", **variables}
    environment.pop("MICSE_DATA", None)
    code = "import json, dataclasses\nfrom micse_utils.models import load_model\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SHOW = "print(json.dumps(dataclasses.asdict(load_model({}).provenance)))"


@pytest.mark.slow
def test_the_hubs_own_variables_lead_to_another_endpoint(tiny_files, tmp_path):
    with serving() as running:
        running.repositories["models/sap-ai-research/miCSE"] = {FIRST: tiny_files}
        made = in_a_fresh_process(
            SHOW.format("source='hub'"), HF_ENDPOINT=running.url, HF_HOME=str(tmp_path)
        )
    assert (made["name"], made["revision"]) == ("miCSE", FIRST)


@pytest.mark.slow
def test_a_cache_that_was_copied_works_offline(tiny_bert, tmp_path):
    """The hub's cache by its documented layout: refs, snapshots and nothing else."""
    repository = tmp_path / "hub" / "models--sap-ai-research--miCSE"
    shutil.copytree(tiny_bert, repository / "snapshots" / FIRST)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(FIRST)
    made = in_a_fresh_process(SHOW.format(""), HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path))
    assert (made["name"], made["source"], made["revision"]) == ("miCSE", "hub", FIRST)
