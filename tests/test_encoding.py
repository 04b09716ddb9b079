import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils.prune import random_unstructured
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from micse_utils import encoding
from micse_utils.encoding import TOKEN_BUDGET, encode, token_limit
from micse_utils.models import load_model

TEXTS = [
    "A short one.",
    "A man is playing a guitar on a stage in front of a large crowd of people.",
    "Two dogs run.",
    "The weather was so bad that the match had to be called off at the last minute, they said.",
    "مرحبا بالعالم، هذا نص من اليمين إلى اليسار",
    "Emoji 😀👩‍👩‍👧‍👦 and flags 🇫🇷 count, too.",
]


@pytest.fixture(scope="module")
def tiny(tiny_bert):
    return load_model(tiny_bert, device="cpu")


def alone(model, text, max_length=128):
    """Embedding of one text by transformers and a mean over its tokens, scaled to length one."""
    tokens = model.tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        hidden = model.transformers_model(**tokens).last_hidden_state[0]
    return torch.nn.functional.normalize(hidden.mean(dim=0), dim=0).numpy()


def test_neither_batches_nor_windows_change_a_vector(encoder, monkeypatch):
    expected = np.stack([alone(encoder, text) for text in TEXTS])
    for window, budget in ((4096, 1), (4096, 100_000), (4, 40)):
        monkeypatch.setattr(encoding, "WINDOW", window)
        monkeypatch.setitem(TOKEN_BUDGET, encoder.device.type, budget)
        found = encode(encoder, iter(TEXTS), dtype=torch.float32)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bfloat16_stays_close_to_float32(encoder):
    exact = encode(encoder, TEXTS, dtype=torch.float32)
    rough = encode(encoder, TEXTS, dtype=torch.bfloat16)
    assert rough.dtype == np.float32
    assert not np.array_equal(exact, rough)  # it did run in the other format
    assert (exact * rough).sum(axis=1).min() > 0.99


def test_the_model_is_not_changed(tiny):
    tiny.train()
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    first = encode(tiny, ["the cat"] * 2, max_length=16, dtype=torch.bfloat16)
    assert tiny.training
    assert np.array_equal(first[0], first[1])  # no dropout, although the model is in training
    for name, tensor in tiny.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])
    tiny.eval()


def test_texts_may_come_from_any_iterable(tiny):
    texts = ["the cat", "a dog"]
    expected = encode(tiny, texts, max_length=16)
    assert np.array_equal(encode(tiny, (t for t in texts), max_length=16), expected)
    for kind in (np.array(texts), pd.Series(texts, index=[7, 3])):
        assert np.array_equal(encode(tiny, kind, max_length=16), expected)


@pytest.fixture
def small_windows(monkeypatch):
    """Three texts a window, so that a handful makes several."""
    monkeypatch.setattr(encoding, "WINDOW", 3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_embeddings_may_be_written_to_a_file(tiny, small_windows, tmp_path, dtype):
    texts = ["the cat", "a dog", "a big red dog", "the mat", "the park"]
    shape = (5, 32)
    file = np.memmap(tmp_path / "embeddings", dtype=dtype, mode="w+", shape=shape)
    assert encode(tiny, iter(texts), max_length=16, out=file) is file
    file.flush()
    again = np.memmap(tmp_path / "embeddings", dtype=dtype, mode="r", shape=shape)
    assert np.array_equal(again, encode(tiny, texts, max_length=16).astype(dtype))


def test_a_wrong_text_is_rejected_with_its_position_before_encoding(tiny, small_windows):
    out = np.zeros((8, 32))
    with pytest.raises(TypeError, match=r"texts\[7\]"):
        encode(tiny, ["the cat"] * 7 + [None], out=out, max_length=16)
    assert not out.any()


def test_counts_of_warnings_run_over_all_windows(tiny, small_windows):
    texts = ["", "the cat", "the cat", "", "the cat " * 30, "a dog", ""]
    with pytest.warns(UserWarning) as caught:
        encode(tiny, texts, max_length=16)
    assert {str(warning.message)[:12] for warning in caught} == {"3 of 7 texts", "1 of 7 texts"}


@pytest.mark.parametrize(
    ("texts", "settings", "error", "message"),
    [
        ("the cat", {}, TypeError, "of strings, got"),
        ({"a", "b"}, {}, TypeError, "of strings, got"),
        (["the cat", b"bytes"], {}, TypeError, r"texts\[1\]"),
        ([], {}, ValueError, "no texts to encode"),
        (["the cat"], {"max_length": 65}, ValueError, "from 3 to 64 for this model"),
        (["the cat"] * 5, {"out": np.zeros((4, 32))}, ValueError, r"out must be floats, \(5, 32\)"),
        (["the cat"] * 5, {"out": np.zeros((5, 5, 32))}, ValueError, r"\(5, 32\), got"),
        (["the cat"] * 5, {"out": np.zeros((5, 32), int)}, ValueError, "out must be floats"),
        (["the cat"] * 5, {"out": np.zeros((5, 31))}, ValueError, r"\(5, 32\), got"),
    ],
)
def test_what_cannot_be_encoded_is_refused(tiny, texts, settings, error, message):
    with pytest.raises(error, match=message):
        encode(tiny, texts, **settings)


def test_cut_texts_are_counted_and_cut_like_the_tokenizer_does(encoder):
    long = "word " * 300
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than max_length=32 tokens"):
        found = encode(encoder, [long, "short", long], max_length=32, dtype=torch.float32)
    np.testing.assert_allclose(found[0], alone(encoder, long, max_length=32), atol=1e-5)


@pytest.mark.filterwarnings("ignore:.* texts ")
@pytest.mark.parametrize(
    "text",
    ["half an emoji \ud83d", "\udc00", "\x00\x01 control", "a" * 100_000, "\u202e reversed", "️"],
)
def test_odd_texts_do_not_crash(encoder, text):
    assert np.isfinite(encode(encoder, [text, "an even one"])).all()


def test_texts_that_differ_after_a_nul_are_different_texts(encoder):
    texts = ["a\0b", "a\0c", "a"]
    expected = np.concatenate([encoder.encode([text]) for text in texts])
    np.testing.assert_allclose(encode(encoder, texts, dtype=torch.float32), expected, atol=1e-5)


def test_a_split_surrogate_pair_is_joined(encoder):
    whole, split = encode(encoder, ["so 😀", "so \ud83d\ude00"], dtype=torch.float32)
    assert np.array_equal(whole, split)


@pytest.mark.filterwarnings("ignore:.*texts are")
def test_the_default_length_is_the_models_limit_up_to_128(tiny):
    long = "the cat " * 100
    assert np.array_equal(encode(tiny, [long]), encode(tiny, [long], max_length=64))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["", " ", "\u200b", "the cat"], "3 of 4 texts are empty"),
        (["😀", "日本", "the cat 😀"], "2 of 3 texts are mostly"),
    ],
)
def test_texts_that_are_not_encoded_as_written_are_counted(tiny, texts, said):
    with pytest.warns(UserWarning, match=said) as caught:
        encode(tiny, texts)
    assert len(caught) == 1


def test_a_model_with_a_default_prompt_is_refused(tiny_bert):
    model = load_model(tiny_bert, device="cpu")
    model.prompts = {"query": "the "}
    model.default_prompt_name = "query"
    with pytest.raises(ValueError, match="adds no prompt: put this model's into the texts"):
        encode(model, ["cat", "dog"])


def test_vectors_have_the_models_truncated_dimension(tiny_bert):
    model = load_model(tiny_bert, device="cpu")
    whole = encode(model, ["the cat"])
    model.truncate_dim = 8
    assert np.array_equal(encode(model, ["the cat"]), whole[:, :8])
    model.truncate_dim = 1
    with pytest.raises(ValueError, match=r"\(1, 1\), got float64, \(1, 4\)"):
        encode(model, ["the cat"], out=np.zeros((1, 4)))


def test_roberta_counts_its_positions_from_the_padding(tiny_bert, tmp_path):
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path)
    sizes = {"vocab_size": 120, "hidden_size": 32, "num_attention_heads": 4, "pad_token_id": 1}
    config = RobertaConfig(num_hidden_layers=1, max_position_embeddings=64, **sizes)
    RobertaModel(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    assert token_limit(model) == 62
    with pytest.warns(UserWarning, match="were cut"):
        assert np.isfinite(encode(model, ["the cat " * 100])).all()


def test_damaged_weights_are_reported(tiny_bert):
    model = load_model(tiny_bert, device="cpu")
    dog = model.tokenizer.convert_tokens_to_ids("dog")
    with torch.no_grad():
        model.transformers_model.embeddings.word_embeddings.weight[dog] = torch.nan
    assert np.isfinite(encode(model, ["the cat", "the mat"])).all()
    with pytest.raises(ValueError, match="NaN or infinity"):
        encode(model, ["the cat", "the mat", "the dog"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_can_encode_with_one_model_at_once(tiny_bert, dtype):
    model = load_model(tiny_bert, device="cpu").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    texts = [["the cat", "a dog", "the big red dog"] * n for n in (1, 5, 40, 90)]
    expected = [encode(model, some, dtype=dtype) for some in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = pool.map(lambda some: encode(model, some, dtype=dtype), texts)
            for one, other in zip(found, expected, strict=True):
                assert np.array_equal(one, other)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def add_to_bias(norm):
    norm.bias.data[0] += 1


def flip_by_hook(norm):
    norm.register_forward_hook(lambda module, given, out: out.flip(-1))


@pytest.mark.parametrize("change", [add_to_bias, flip_by_hook])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_changed_in_place_is_encoded_as_it_is(tiny_bert, change, dtype):
    model = load_model(tiny_bert, device="cpu")
    texts = ["the cat sat", "a big red dog"]
    before = encode(model, texts, dtype=dtype)
    change(model.transformers_model.encoder.layer[-1].output.LayerNorm)
    after = encode(model, texts, dtype=dtype)
    right = model.encode(texts)  # the library's own, in float32
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(after, right, atol=1e-5 if dtype == torch.float32 else 0.1)


def test_padding_on_the_left_changes_no_vector_of_a_causal_model(tiny_bert, tmp_path):
    tokenizer = load_model(tiny_bert, device="cpu").tokenizer
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    GPT2Model(config).save_pretrained(tmp_path)
    model = load_model(tmp_path, pooling="lasttoken", device="cpu")
    texts = ["the cat sat on the mat", "a dog", "red"]
    alone = np.concatenate([model.encode([text]) for text in texts])
    np.testing.assert_allclose(encode(model, texts, dtype=torch.float32), alone, atol=1e-5)


def test_a_text_without_a_token_is_rejected(tmp_path):
    words = models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="[UNK]")
    tokenizer.save_pretrained(tmp_path)
    config = GPT2Config(vocab_size=2, n_embd=32, n_layer=1, n_head=4)
    GPT2Model(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a text is empty to this model"):
        encode(load_model(tmp_path, device="cpu"), ["a", "a", "", "a"])


def test_pruned_and_quantised_models_are_encoded_as_they_are(tiny_bert):
    texts = ["the cat sat", "a big red dog"]
    pruned, quantised = (load_model(tiny_bert, device="cpu") for _ in range(2))
    random_unstructured(pruned.transformers_model.encoder.layer[0].output.dense, "weight", 0.5)
    with warnings.catch_warnings(action="ignore"):
        quantised[0].model = quantize_dynamic(quantised[0].model, {torch.nn.Linear})
    for model in (pruned, quantised):
        found = encode(model, texts, dtype=torch.float32)
        np.testing.assert_allclose(found, model.encode(texts), atol=1e-5)
    with pytest.raises(RuntimeError):  # and not something else in silence
        encode(quantised, texts, dtype=torch.bfloat16)
