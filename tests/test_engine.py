import copy
import pickle
import shutil
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoTokenizer, GPT2Config, GPT2Model

from micse_utils.cli import main
from micse_utils.encoding import encode
from micse_utils.engine import Snapshot
from micse_utils.models import keep_first_layers, load_model

if not find_spec("openvino"):
    pytest.skip("needs the extra fast", allow_module_level=True)

FIRST = ["the cat", "a big red mat", "park", "blue"]
TEXTS = [" ".join([first, *["and a dog"] * n]) for n in range(18) for first in FIRST]


@pytest.fixture(scope="module")
def conversions(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def cached(request, conversions, monkeypatch):
    """One cache for all tests, except for the packaged encoder, which is in the user's."""
    if "encoder" not in request.fixturenames:
        monkeypatch.setenv("MICSE_CACHE", str(conversions))
    monkeypatch.setenv("MICSE_DEVICE", "cpu")


@pytest.fixture
def cache(cached, tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "openvino"


@pytest.fixture
def tiny(tiny_bert):
    return load_model(tiny_bert, engine="openvino")


def test_vectors_are_those_of_pytorch_in_order_alone_and_in_batches(encoder):
    fast = load_model(source="package", engine="openvino", device="cpu")
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS[:40]])
    many, few = (encode(fast, some, dtype=torch.float32)[:40] for some in (TEXTS, TEXTS[:40]))
    for found in (many, few, fast.float().encode(TEXTS[:40], batch_size=7)):
        assert (found * alone).sum(axis=1).min() > 1 - 1e-6
    rough = encode(fast, TEXTS, dtype=torch.bfloat16)[:40]
    assert (rough * alone).sum(axis=1).min() > 0.9995
    assert fast.provenance.engine.startswith("openvino 20")
    assert "mean pooling by openvino 20" in str(fast.provenance)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["bert", "roberta", "xlm-roberta", "distilbert", "mpnet", "electra", "albert", "modernbert",
     "deberta-v2"],
)  # fmt: skip
def test_architectures_give_the_vectors_of_pytorch(tiny_bert, tmp_path, kind):
    sizes = {"vocab_size": 120, "num_attention_heads": 4, "pad_token_id": 0}
    if kind == "distilbert":
        sizes |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "model")
    slow, fast = (
        load_model(tmp_path / "model", pooling="mean", engine=engine)
        for engine in ("torch", "openvino")
    )
    expected = encode(slow, TEXTS, dtype=torch.float32)
    found = encode(fast, TEXTS, dtype=torch.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_causal_model_padded_on_the_left_gives_the_vectors_of_pytorch(tiny_bert, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert, padding_side="left")
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    GPT2Model(config).save_pretrained(tmp_path)
    slow, fast = (
        load_model(tmp_path, pooling="lasttoken", engine=engine) for engine in ("torch", "auto")
    )
    expected = np.concatenate([slow.encode([text]) for text in TEXTS[:5]])
    np.testing.assert_allclose(encode(fast, TEXTS[:5], dtype=torch.float32), expected, atol=1e-5)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.train(),
        lambda model: model.state_dict(),
        lambda model: model.save_pretrained("unwritten"),
        lambda model: model.to("meta"),
        lambda model: model.load_state_dict({}, strict=False),
        lambda model: model.transformers_model.encoder.layer[0],
    ],
)
def test_training_saving_and_moving_are_refused(tiny, use, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RuntimeError, AttributeError), match="this model is a snapshot without"):
        use(tiny)
    with pytest.raises(ValueError, match="cannot cut a Snapshot of 0 known layers"):
        keep_first_layers(tiny, 1)
    assert not list(tiny.parameters())
    assert np.isfinite(encode(tiny, ["the cat"])).all()


def test_pooling_stays_pytorchs_and_a_copy_gives_the_same_vectors(tiny, tiny_bert):
    expected = encode(tiny, TEXTS[:3])
    for other in (copy.deepcopy(tiny), pickle.loads(pickle.dumps(tiny))):
        assert np.array_equal(encode(other, TEXTS[:3]), expected)
    tiny[1].pooling_mode = "mean"
    mean = encode(load_model(tiny_bert, pooling="mean"), TEXTS[:3], dtype=torch.float32)
    np.testing.assert_allclose(encode(tiny, TEXTS[:3], dtype=torch.float32), mean, atol=1e-5)


def test_the_number_of_threads_is_the_kits(tiny_bert, monkeypatch):
    for threads in (1, 2):
        monkeypatch.setenv("MICSE_THREADS", str(threads))
        snapshot = load_model(tiny_bert, engine="openvino").transformers_model
        for streams in (1, threads):
            compiled = snapshot._model(streams)
            assert compiled.get_property("INFERENCE_NUM_THREADS") == threads
            assert compiled.get_property("NUM_STREAMS") == streams


def test_the_conversion_is_cached_and_a_damaged_one_replaced(tiny_bert, cache):
    first, second = (load_model(tiny_bert, engine="openvino") for _ in range(2))
    [file] = cache.glob("*/model.bin")
    expected, damaged = encode(first, TEXTS[:3]), bytes(file.stat().st_size)
    made = file.stat().st_mtime_ns
    assert first.transformers_model.file == second.transformers_model.file
    file.unlink()  # and not changed, because both models read it
    file.write_bytes(damaged)
    assert np.array_equal(encode(load_model(tiny_bert, engine="openvino"), TEXTS[:3]), expected)
    assert file.stat().st_mtime_ns > made


def test_changed_weights_or_settings_get_a_conversion_of_their_own(cache, tiny, tiny_bert):
    folder = shutil.copytree(tiny_bert, cache.parent.parent / "changed")
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"][0] += 1
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    changed = load_model(folder, engine="openvino")
    before, after = encode(tiny, TEXTS[:3]), encode(changed, TEXTS[:3])
    assert np.abs(after[:, 0] - before[:, 0] - 1).max() < 1e-5
    config = (folder / "config.json").read_text(encoding="utf-8").replace('"gelu"', '"relu"')
    (folder / "config.json").write_text(config, encoding="utf-8")
    found, expected = (
        encode(load_model(folder, engine=engine), TEXTS[:3], dtype=torch.float32)
        for engine in ("openvino", "torch")
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - after).max() > 1e-3
    assert len(list(cache.glob("*/model.bin"))) == 3


def test_a_conversion_that_computes_something_else_is_refused(
    tiny_bert, cache, monkeypatch, capsys
):
    monkeypatch.setattr("micse_utils.engine.TOLERANCE", 0)
    with pytest.raises(ValueError, match=r"tiny-bert cannot run with engine='openvino': Open"):
        load_model(tiny_bert, engine="openvino")
    model = load_model(tiny_bert, engine="auto")
    assert not isinstance(model.transformers_model, Snapshot)
    assert model.provenance.engine is None
    assert "note: tiny-bert runs in PyTorch: OpenVINO cannot convert" in capsys.readouterr().out


def test_a_gpu_and_an_unknown_engine_are_refused(tiny_bert):
    with pytest.raises(ValueError, match="OpenVINO runs on a CPU, not on cuda; use engine='torch'"):
        load_model(tiny_bert, engine="openvino", device="cuda")
    with pytest.raises(ValueError, match='one of torch, openvino, auto, got "onnx"'):
        load_model(tiny_bert, engine="onnx")


def test_the_variable_chooses_except_for_what_is_to_be_trained(tiny_bert, monkeypatch, tmp_path):
    shutil.copytree(tiny_bert, tmp_path / "own" / "model")
    monkeypatch.setenv("MICSE_ENGINE", "auto")
    auto, start = (load_model(name, source=tmp_path / "own") for name in ("auto", "start"))
    assert isinstance(auto.transformers_model, Snapshot)
    assert not isinstance(start.transformers_model, Snapshot)


def test_micse_encode_takes_the_engine_and_says_so(tiny_bert, tmp_path, capsys):
    (tmp_path / "texts.csv").write_text("text\nthe cat\na dog\n", encoding="utf-8")
    command = ["encode", str(tmp_path / "texts.csv"), "--model", str(tiny_bert)]
    tables = {}
    for engine, said in (("torch", "cls pooling ("), ("auto", "cls pooling by openvino 20")):
        assert main([*command, str(tmp_path / engine), "--engine", engine]) == 0
        assert said in capsys.readouterr().out
        tables[engine] = np.stack(pd.read_parquet(tmp_path / engine)["embedding"])
    np.testing.assert_allclose(tables["torch"], tables["auto"], atol=1e-2)
    assert main([*command, str(tmp_path / "torch")]) == 1  # the same folder, a different engine
    assert "holds different work (differing in provenance)" in capsys.readouterr().err
