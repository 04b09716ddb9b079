import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Pooling,
    StaticEmbedding,
    Transformer,
)
from transformers import AutoModel, AutoTokenizer, T5Config, T5EncoderModel

from micse_utils.encoding import encode
from micse_utils.models import keep_first_layers, load_model
from micse_utils.sources.locate import model_folder

TEXTS = ["the cat sat on the mat", "a big red dog ran", "park"]


def bare_outputs(folder, texts):
    """Last hidden state and mask of each text alone, by transformers itself."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.inference_mode():
        return [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0] for t in texts]


@pytest.fixture
def named(tiny_bert, tmp_path):
    """Copy the tiny BERT under another name."""

    def copy(name):
        return shutil.copytree(tiny_bert, tmp_path / name)

    return copy


@pytest.mark.parametrize(
    ("name", "pooling"), [("miCSE", "cls"), ("my-simcse-v2", "cls"), ("all-MiniLM-L6-v2", "mean")]
)
def test_a_known_model_takes_the_pooling_of_its_training(named, name, pooling):
    folder = named(name)
    outputs = bare_outputs(folder, TEXTS)
    expected = torch.stack([h[0] if pooling == "cls" else h.mean(dim=0) for h in outputs])
    model = load_model(folder)
    assert model.provenance.pooling == pooling
    np.testing.assert_allclose(encode(model, TEXTS, dtype=torch.float32), expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["mean", "max"])
def test_a_sentence_transformers_folder_says_its_pooling_itself(tiny_bert, tmp_path, mode):
    transformer = Transformer(str(tiny_bert))
    pooling = Pooling(transformer.get_embedding_dimension(), mode)
    folder = tmp_path / "my-simcse"  # the folder's own word counts more than its name
    SentenceTransformer(modules=[transformer, pooling]).save_pretrained(str(folder))
    assert load_model(folder).provenance.pooling == mode


def test_pooling_can_be_overridden(encoder):
    model = load_model(source="package", pooling="cls", device="cpu")
    assert (encoder.provenance.pooling, model.provenance.pooling) == ("mean", "cls")
    assert (encoder.provenance.name, encoder.provenance.source) == ("all-MiniLM-L6-v2", "package")
    # As published with sentence-transformers/all-MiniLM-L6-v2 on the hub.
    published = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert encoder.provenance.sha256 == published
    folder = encoder.transformers_model.name_or_path
    cls = torch.stack([hidden[0] for hidden in bare_outputs(folder, TEXTS)])
    expected = torch.nn.functional.normalize(cls)  # this encoder ends in a Normalize module
    np.testing.assert_allclose(encode(model, TEXTS, dtype=torch.float32), expected, atol=1e-5)


def test_a_model_requested_by_name_is_not_whatever_the_folder_holds(
    tiny_bert, tmp_path, monkeypatch
):
    shutil.copytree(tiny_bert, tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"no miCSE/config.json in"):
        load_model("miCSE", source=tmp_path)
    monkeypatch.setenv("MICSE_DATA", str(tmp_path))
    monkeypatch.setattr("micse_utils.sources.hub.hub_problem", lambda: "switched off for this test")
    assert load_model("all-MiniLM-L6-v2").provenance.source == "package"
    shutil.copytree(tiny_bert, tmp_path / "miCSE")
    made = load_model("sap-ai-research/miCSE").provenance
    assert (made.name, made.source) == ("miCSE", "folder")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "./nowhere"}, "there is no model folder ./nowhere"),
        ({"name": "micsee"}, "no model is called micsee; did you mean miCSE, or a repository"),
        ({"pooling": "avg"}, 'pooling must be one of cls, .* got "avg"'),
        ({"source": "cloud"}, 'a folder that exists, got "cloud"'),
        ({"name": "bert-base-cased", "source": "package"}, "no package carries bert-base-cased"),
    ],
)
def test_unknown_models_and_sources_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_model(**arguments)


def test_names_that_may_exist_are_not_taken_for_misspelt_ones(tmp_path, monkeypatch):
    for name in ("miCSE", "bert-base-cased", "SAP/miCSE", "paraphrase-MiniLM-L6-v2"):
        assert model_folder(name) is None
    assert model_folder("all-MiniLM-L12-v2", tmp_path) is None  # may hold a model of any name
    monkeypatch.setenv("MICSE_DATA", str(tmp_path))
    assert model_folder("all-MiniLM-L12-v2") is None


def test_a_folder_without_a_model_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config.json in"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config.json in"):
        load_model(source=tmp_path)


@pytest.mark.parametrize(
    ("file", "entry", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "code.Model"}}, "config.json asks for code"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["code.Words"] * 2}}, "for code"),
        ("config.json", {"quantization_config": {"load_in_8bit": True}}, "for quantised weights"),
    ],
)
def test_code_of_a_folder_and_quantised_weights_are_refused(named, tmp_path, file, entry, message):
    folder = named("custom")
    marker = tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    config = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(config | entry), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_model(folder)
    assert not marker.exists()


def test_a_model_loaded_in_inference_mode_can_be_trained(tiny_bert):
    with torch.inference_mode():
        model = load_model(tiny_bert, device="cpu")
    assert not any(p.is_inference() for p in model.parameters())


def test_an_encoder_of_t5_needs_no_decoder(tiny_bert, tmp_path):
    config = T5Config(vocab_size=120, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    T5EncoderModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    module = load_model(tmp_path, pooling="mean", device="cpu").transformers_model
    assert isinstance(module, T5EncoderModel)


def test_only_the_first_layers_are_kept(tiny_bert):
    model = keep_first_layers(load_model(tiny_bert, device="cpu"), 1)
    ids = model.tokenizer(["the cat"], return_tensors="pt")
    hidden = AutoModel.from_pretrained(tiny_bert).eval()(**ids, output_hidden_states=True)
    np.testing.assert_allclose(
        model.encode("the cat"), hidden.hidden_states[1][0, 0].detach().numpy(), atol=1e-5
    )
    assert model.provenance.name == "tiny-bert, first 1 of 2 layers"
    for count in (0, 3):
        with pytest.raises(ValueError, match="cannot cut a "):
            keep_first_layers(load_model(tiny_bert, device="cpu"), count)


@pytest.fixture
def built(tiny_bert, tmp_path):
    """A folder as sentence-transformers saves it, with a Dense module."""
    transformer = Transformer(str(tiny_bert))
    modules = [transformer, Pooling(32, "mean"), Dense(32, 8)]
    SentenceTransformer(modules=modules).save_pretrained(str(tmp_path / "built"))
    return tmp_path / "built"


def edit(file, change):
    weights = change(load_file(file))
    save_file(weights, file, {"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {k: v for k, v in w.items() if "layer.1." not in k}, "lack 16 of the model"),
        (lambda w: {f"other.{k}": v for k, v in w.items()}, "lack .* of the model"),
    ],
)
def test_weights_that_leave_layers_random_are_rejected(named, built, change, message):
    for folder in (named("miCSE"), built):
        edit(folder / "model.safetensors", change)
        with pytest.raises(ValueError, match=f"its weights {message}"):
            load_model(folder)


def test_weights_of_all_modules_count_in_the_provenance(built):
    before = load_model(built).provenance
    edit(built / "2_Dense" / "model.safetensors", lambda w: {k: 2 * v for k, v in w.items()})
    assert load_model(built).provenance.sha256 != before.sha256


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_folder_in_half_precision_is_loaded_in_float32(built, named, dtype):
    for folder in (built, named("miCSE")):
        half = load_model(folder).to(dtype)
        half.save_pretrained(str(folder.parent / "half"))
        model = load_model(folder.parent / "half")
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_model_without_its_tokenizer_or_with_a_different_one_is_rejected(named, encoder):
    folder = named("miCSE")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match="tokenizer"):
        load_model(folder)
    encoder.tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="its tokenizer is missing or of a different model"):
        load_model(folder)


def test_a_model_that_begins_with_no_transformer_is_refused(tiny_bert, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert).backend_tokenizer
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    model = SentenceTransformer(modules=[static], device="cpu")
    with pytest.raises(TypeError, match="must begin with a transformer, got StaticEmbedding"):
        encode(model, TEXTS)
    model.save_pretrained(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no config.json in"):
        load_model(tmp_path)
