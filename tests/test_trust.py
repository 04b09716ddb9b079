"""Whatever it is given, a public function does its job or says in a sentence what was wrong.

Hypothesis makes the inputs: bytes that are no text, odd numbers, wrong types, huge values.
"""

import contextlib
import io
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from micse_utils.corpora import load_tweets
from micse_utils.encoding import encode
from micse_utils.models import load_model
from micse_utils.objective import attention_mutual_information, info_nce
from micse_utils.published import markdown
from micse_utils.recipes import LowShotConfig, configure
from micse_utils.scores import spearman_interval, unit
from micse_utils.sentences import load_low_shot, load_sentences, read_sentences
from micse_utils.sts import load_sts, load_stsb
from micse_utils.training import train_low_shot
from micse_utils.transfer import load_transfer

tried = settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text("aé0/.", max_size=5),
    st.binary(max_size=3), st.lists(st.integers(), max_size=2), st.builds(object),
)  # fmt: skip
texts = st.text(st.characters(codec=None), max_size=40)
junk = st.one_of(texts.map(lambda t: t.encode("utf-8", "surrogatepass")), st.binary(max_size=30))
RATED = b"main-captions\tMSRvid\t2012test\t0001\t%s\tA cat sat.\tThe cat ran."


def damaged(*good, junk=junk):
    """A file of good lines with, perhaps, some others among them."""
    return st.lists(st.one_of(st.sampled_from(good), junk), max_size=8).map(b"\n".join)


def one_sentence(call):
    """The call's result; or None if it refused, in one line and with an error meant for people."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return call()
        except (ValueError, TypeError, FileNotFoundError) as error:
            message = str(error)
            assert message
            assert "\n" not in message
            return None


@pytest.fixture(scope="module")
def tiny(tiny_bert):
    with contextlib.redirect_stdout(io.StringIO()):
        return load_model(tiny_bert, device="cpu")


@tried
@given(st.lists(texts, min_size=1, max_size=6))
def test_any_text_has_a_finite_vector_of_its_own(tiny, given):
    found = one_sentence(lambda: encode(tiny, given, max_length=16, dtype=torch.float32))
    assert found.shape == (len(given), 32)
    assert np.isfinite(found).all()
    for text, vector in zip(given, found, strict=True):
        alone = one_sentence(lambda t=text: encode(tiny, [t], max_length=16, dtype=torch.float32))
        np.testing.assert_allclose(vector, alone[0], atol=1e-5)


@tried
@given(st.one_of(values, st.lists(values, max_size=3)), values, values)
def test_encode_refuses_what_is_no_text_in_a_sentence(tiny, given, max_length, token_budget):
    is_text = isinstance(given, list) and given and all(isinstance(t, str) for t in given)
    call = {"max_length": max_length, "token_budget": token_budget}
    if one_sentence(lambda: encode(tiny, given, **call)) is not None:
        assert is_text
    if not is_text:
        assert one_sentence(lambda: encode(tiny, given, max_length=16)) is None


@tried
@given(
    damaged(b"text,other", b'"A cat, sat",1', b"The dog ran.,2"),
    st.sampled_from([".txt", ".csv", ".tsv", ".parquet", ".xyz"]),
)
def test_a_file_of_sentences_is_read_or_refused(tmp_path, content, suffix):
    file = tmp_path / f"sentences{suffix}"
    file.write_bytes(content)
    corpus = one_sentence(lambda: read_sentences(file))
    if corpus is not None:
        assert corpus.texts
        assert all(text.strip() for text in corpus.texts)


@tried
@given(damaged(b"good day", b"bad"), damaged(b"0", b"1", b"2", junk=st.just(b"five")))
def test_tweets_of_a_folder_are_read_or_refused(tmp_path, content, labels):
    folder = tmp_path / "tweet_eval" / "sentiment"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train_text.txt").write_bytes(content)
    (folder / "train_labels.txt").write_bytes(labels)
    corpus = one_sentence(lambda: load_tweets(source=tmp_path))
    if corpus is not None:
        assert len(corpus.texts) == len(corpus.labels) > 0
        assert set(corpus.labels) <= {0, 1, 2}


@tried
@given(damaged(RATED % b"2.5", RATED % b"5", RATED % b"", RATED % b"nan", RATED % b"9"))
def test_a_damaged_file_of_rated_pairs_is_read_or_refused(tmp_path, content):
    file = tmp_path / "STS" / "STSBenchmark" / "sts-dev.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    pairs = one_sentence(lambda: load_stsb("dev", source=tmp_path))
    if pairs is not None:
        assert len(pairs.first) == len(pairs.second) == len(pairs.gold) > 0
        assert all(0 <= gold <= 5 for gold in pairs.gold)


@tried
@given(damaged(b"dull film", b"no"), damaged(b"a fine film", b"yes"))
def test_a_damaged_transfer_file_is_read_or_refused(tmp_path, negative, positive):
    (tmp_path / "MR").mkdir(exist_ok=True)
    (tmp_path / "MR" / "rt-polarity.neg").write_bytes(negative)
    (tmp_path / "MR" / "rt-polarity.pos").write_bytes(positive)
    task = one_sentence(lambda: load_transfer("MR", source=tmp_path))
    if task is not None:
        assert len(task.first) == len(task.labels)


@tried
@given(values)
def test_names_and_sources_that_are_none_are_refused(name):
    for call in (
        lambda: load_sts(name, source="package"),
        lambda: load_transfer(name, source="package"),
        lambda: load_sentences(source=name if isinstance(name, str) else "nowhere"),
        lambda: read_sentences("nowhere.txt" if not isinstance(name, str) else f"nowhere{name}"),
    ):
        assert one_sentence(call) is None


@tried
@given(st.sampled_from(list(LowShotConfig.__dataclass_fields__)), values)
def test_a_setting_of_training_is_taken_or_refused(field, value):
    config = one_sentence(lambda: configure("packaged", **{field: value}))
    if config is not None:
        assert getattr(config, field) == value


@tried
@given(st.one_of(values, st.lists(values, max_size=3)))
def test_training_refuses_what_are_no_sentences(tmp_path, given):
    call = lambda: train_low_shot(given, output=tmp_path / "run", preset="packaged")  # noqa: E731
    assert one_sentence(call) is None
    assert not (tmp_path / "run").exists()


@tried
@given(values, values)
def test_handfuls_of_impossible_sizes_are_refused(tmp_path, size, seed):
    (tmp_path / "sentences.txt").write_text(
        "\n".join(f"sentence {n}" for n in range(30)), encoding="utf-8"
    )
    found = one_sentence(lambda: load_low_shot([size], seeds=[seed], source=tmp_path))
    if found is not None:
        assert len(found[size, seed].texts) == size <= 30


@tried
@given(
    arrays.arrays(np.float64, st.integers(2, 12), elements=st.floats(-1e3, 1e3)),
    st.integers(0, 2**32 - 1),
)
def test_an_interval_of_spearman_lies_between_its_bounds(gold, seed):
    cosines = np.random.default_rng(seed).standard_normal(len(gold))
    found = one_sentence(lambda: spearman_interval(cosines, gold))
    low, high = found
    assert math.isnan(low) or -1 - 1e-9 <= low <= high <= 1 + 1e-9


@tried
@given(arrays.arrays(np.float32, (4, 3), elements=st.floats(-(2.0**60), 2.0**60, width=32)))
def test_unit_vectors_have_length_one_or_stay_zero(vectors):
    lengths = np.linalg.norm(unit(vectors).astype(np.float64), axis=1)
    assert np.isfinite(lengths).all()
    np.testing.assert_allclose(lengths[np.abs(vectors).max(axis=1) > 1e-18], 1, atol=1e-5)


@tried
@given(
    arrays.arrays(np.float32, (2, 5, 4), elements=st.floats(-1e6, 1e6, width=32)),
    st.floats(0.01, 10),
)
def test_info_nce_and_its_gradient_are_finite(views, temperature):
    first, second = torch.tensor(views, requires_grad=True)
    both = torch.stack([first, second]).detach().requires_grad_()
    loss = info_nce(both[0], both[1], temperature=temperature)
    loss.backward()
    assert loss.item() >= -1e-6
    assert both.grad.isfinite().all()


@tried
@given(
    arrays.arrays(
        np.float32, (2, 3, 20), elements=st.one_of(st.floats(-100, 0, width=32), st.just(-np.inf))
    ),
    st.integers(2, 30),
)
def test_attention_mutual_information_and_its_gradient_are_finite(rows, samples):
    both = torch.tensor(rows, requires_grad=True)
    value = attention_mutual_information(both[0], both[1], samples=samples)
    value.backward()
    assert 0 <= value.item() < 7
    assert both.grad.isfinite().all()


@tried
@given(st.dictionaries(texts, st.dictionaries(st.sampled_from("ab"), texts), max_size=3))
def test_a_table_for_readers_always_has_its_rows(rows):
    assert markdown(rows).count("\n") >= len(rows)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_an_undamaged_file_is_not_refused(tmp_path, suffix):
    """So that the tests above cannot pass by refusing everything."""
    (tmp_path / f"s{suffix}").write_bytes(b"text\nA cat sat.\nThe dog ran.")
    assert len(read_sentences(tmp_path / f"s{suffix}").texts) in (2, 3)
    (tmp_path / "STS" / "STSBenchmark").mkdir(parents=True)
    (tmp_path / "STS" / "STSBenchmark" / "sts-dev.csv").write_bytes(RATED % b"2.5")
    assert len(load_stsb("dev", source=tmp_path)) == 1
