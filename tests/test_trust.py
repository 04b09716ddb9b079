"""Whatever it is given, a public function does its job or says in a sentence what was wrong.

Hypothesis makes the inputs: bytes that are no text, odd numbers, wrong types, huge values.
"""

import contextlib
import io
import json
import math
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from micse_utils.datasets.sts import Pairs, load_sample, load_sts, load_sts_tasks, load_stsb
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.texts import load_low_shot, load_sentences, load_tweets, read_sentences
from micse_utils.datasets.transfer import Classification, load_transfer, load_transfer_tasks
from micse_utils.encoding import encode
from micse_utils.evaluation.metrics import interval, resampled_spearman, unit
from micse_utils.evaluation.published import markdown, score_row
from micse_utils.evaluation.senteval import evaluate_sts, evaluate_transfer
from micse_utils.models import keep_first_layers, load_model
from micse_utils.plotting.search import search_scores
from micse_utils.plotting.similarity import similarity_heatmap
from micse_utils.provenance import Provenance
from micse_utils.results import json_or_none, write_metrics
from micse_utils.sources.choose import is_source
from micse_utils.training.ami import attention_mutual_information
from micse_utils.training.config import LowShotConfig, configure
from micse_utils.training.losses import info_nce
from micse_utils.training.monitor import DevelopmentEvaluator
from micse_utils.training.trainer import train_low_shot
from tools import bundle
from tools.pages import formula
from tools.run_notebooks import PARAMETERS, read_parameter

tried = settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)
values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text("aé0/.~\n\x00", max_size=5),
    st.binary(max_size=3), st.lists(st.integers(), max_size=2), st.builds(object),
    st.dictionaries(st.integers(), st.none(), max_size=1), st.just("x" * 5000), st.just(10**30),
)  # fmt: skip
texts = st.text(st.characters(codec=None), max_size=40)
junk = st.one_of(texts.map(lambda t: t.encode("utf-8", "surrogatepass")), st.binary(max_size=30))
numbers = st.one_of(st.floats(-1, 1), st.floats(), st.integers(-3, 3))
matrices = arrays.arrays(
    st.sampled_from([np.float32, np.float64]),
    arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4),
    elements=st.one_of(st.floats(-1, 1, width=32), st.sampled_from([np.nan, np.inf, 2.0**60])),
)
"""Arrays of all shapes, some of them with NaN and infinity."""
SOURCE = Provenance("made here", "kit", "test_trust")
RATED = b"main-captions\tMSRvid\t2012test\t0001\t%s\tA cat sat.\tThe cat ran."


def damaged(*good, junk=junk):
    """A file of good lines with, perhaps, some others among them."""
    return st.lists(st.one_of(st.sampled_from(good), junk), max_size=8).map(b"\n".join)


# How Python, NumPy and PyTorch complain of what they were never meant to get.
OBSCURE = r"not supported between|has no attribute|not iterable|no len\(\)|ufunc|axis|broadcast"
OBSCURE += r"|interpreted as an integer|unhashable|SeedSequence|unsupported operand|subscriptable"


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
            assert not re.search(OBSCURE, message), message
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
@given(st.one_of(values, st.lists(values, max_size=3)), values)
def test_encode_rejects_what_is_not_text_in_a_sentence(tiny, given, max_length):
    is_text = isinstance(given, list) and given and all(isinstance(t, str) for t in given)
    if one_sentence(lambda: encode(tiny, given, max_length=max_length)) is not None:
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
    found = one_sentence(
        lambda: interval(resampled_spearman(cosines[None], gold, seed=seed)[0, 1:])
    )
    low, high = (end / 100 for end in found)
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
    assert markdown(rows).count("\n") == len(rows) + 2


@tried
@given(values, values, values)
def test_encode_refuses_a_wrong_model_format_or_array(tiny, model, dtype, out):
    good = {"model": tiny, "texts": ["a cat"], "max_length": 16}
    assert one_sentence(lambda: encode(**good | {"model": model})) is None
    if dtype is not None:
        assert one_sentence(lambda: encode(**good, dtype=dtype)) is None
    if out is not None:
        assert one_sentence(lambda: encode(**good, out=out)) is None


@tried
@given(values.filter(lambda value: not is_source(value)), values)
def test_a_model_of_no_name_is_refused(tiny_bert, name, pooling):
    if not isinstance(name, str):
        assert one_sentence(lambda: load_model(name, source="package")) is None
    if pooling is not None:
        assert one_sentence(lambda: load_model(tiny_bert, pooling=pooling, device="cpu")) is None


@tried
@given(values)
def test_layers_that_a_model_does_not_have_are_refused(tiny, count):
    if type(count) is not int or count not in (1, 2):
        assert one_sentence(lambda: keep_first_layers(tiny, count)) is None


scores = arrays.arrays(
    np.float64, st.integers(0, 5), elements=st.one_of(st.floats(0, 5), st.floats(), st.just(1.0))
)
sides = st.lists(st.sampled_from(["a cat", "the dog ran", "red", ""]), max_size=5)


@tried
@given(sides, sides, scores, st.lists(st.just("part"), max_size=2))
def test_rated_pairs_fit_each_other_and_are_scored_or_refused(tiny, first, second, gold, parts):
    pairs = one_sentence(lambda: Pairs(first, second, gold, SOURCE, tuple(parts)))
    if pairs is None:
        return
    assert len(pairs.first) == len(pairs.second) == len(pairs) > 0
    assert ((pairs.gold >= 0) & np.isfinite(pairs.gold)).all()
    figures = one_sentence(lambda: DevelopmentEvaluator(pairs)(tiny))
    table = one_sentence(lambda: evaluate_sts(tiny, {"mine": pairs}, progress=False))
    if np.ptp(gold) == 0:
        assert figures is None and table is None


@tried
@given(sides, sides, arrays.arrays(np.int64, st.integers(0, 5), elements=st.integers(0, 1)))
def test_classes_fit_their_sentences_or_are_refused(tiny, first, second, labels):
    data = one_sentence(lambda: Classification(first, second, labels, labels > 5, SOURCE))
    if data is not None:
        assert len(data.first) == len(data.labels) == len(data.test)
        if len(set(labels)) < 2:
            call = lambda: evaluate_transfer(tiny, {"mine": data}, progress=False)  # noqa: E731
            assert one_sentence(call) is None


@tried
@given(values, values, values)
def test_tasks_that_are_none_are_refused(tasks, limit, seed):
    if tasks:
        assert one_sentence(lambda: load_sts_tasks(tasks, "package")) is None
        assert one_sentence(lambda: load_transfer_tasks(tasks, "package")) is None
    for number in (limit, seed):
        assert one_sentence(lambda kind=number: load_sample(kind)) is None
        assert one_sentence(lambda split=number: load_stsb(split, source="package")) is None
        assert one_sentence(lambda split=number: load_tweets("package", split=split)) is None


@tried
@given(values, values)
def test_a_sample_of_a_transfer_task_is_drawn_or_refused(tweets, limit, seed):
    sample = one_sentence(lambda: tweets.sample(limit, seed))
    assert sample is None or limit is None or len(sample.first) == min(limit, len(tweets.first))


@pytest.fixture(scope="module")
def tweets():
    return one_sentence(lambda: load_transfer("tweets", source="package"))


@tried
@given(
    damaged(b"text,n", b"a cat,1", b"the dog,2", b'{"text": "red", "n": 1}', b'{"n": [1]}'),
    st.sampled_from(["csv", "tsv", "jsonl", "txt", "parquet", "csv.gz"]),
    st.one_of(st.just("text"), values),
    st.one_of(st.integers(1, 9), values),
)
def test_a_table_of_any_bytes_is_cut_into_blocks_or_refused(
    tmp_path, content, suffix, column, size
):
    file = tmp_path / f"table.{suffix}"
    file.write_bytes(content)
    source = one_sentence(lambda: open_source(file, column))
    if source is not None:
        blocks = one_sentence(lambda: list(source.blocks(0, size)))
        if blocks is not None:
            assert sum(len(block.table) for block in blocks) == source.rows > 0
        assert one_sentence(lambda: list(source.blocks(0, 3))) is not None


@tried
@given(values)
def test_a_place_without_a_table_is_refused(place):
    assert is_source(place) or one_sentence(lambda: open_source(place)) is None


@tried
@given(st.recursive(st.one_of(values, numbers), lambda v: st.lists(v) | st.dictionaries(texts, v)))
def test_figures_are_written_as_json_or_refused_and_nothing_is_left_half(tmp_path, figures):
    call = {"headline": "h", "model": SOURCE, "data": SOURCE, "seed": 0}
    file = tmp_path / "metrics.json"
    file.write_text('{"good": 1}', encoding="utf-8")
    if one_sentence(lambda: write_metrics(tmp_path, figures, **call)) is None:
        assert json_or_none(file) == {"good": 1}
    else:
        assert json_or_none(file)["headline"] == "h"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@tried
@given(st.binary(max_size=20))
def test_a_file_that_is_no_json_counts_as_none(tmp_path, content):
    (tmp_path / "run.json").write_bytes(content)
    json_or_none(tmp_path / "run.json")
    assert json_or_none(tmp_path / "none.json") is None


@tried
@given(
    st.sampled_from([*PARAMETERS, "results"]),
    st.one_of(texts, st.text("~/.\\-([{1e,'\"", max_size=9), values.map(repr)),
)
def test_a_parameter_of_the_command_line_is_a_value_or_refused_in_words(name, text):
    cell = {"default": '"auto"', "help": "or None"}
    for written in (text, text * 2000):
        one_sentence(lambda w=written: read_parameter(name, w, cell))


@tried
@given(texts)
def test_a_formula_is_converted_or_refused(tex):
    drawn = one_sentence(lambda: formula(tex))
    assert drawn is None or drawn.startswith("<math")


@settings(tried, max_examples=15)
@given(st.one_of(texts, st.text("$\\frac{}_^\x00", max_size=9)))
def test_a_readers_text_stands_in_a_figure_as_it_is(text):
    hits = pd.DataFrame({"query": [text], "rank": [1], "cosine": [0.5]})
    with warnings.catch_warnings(action="ignore"):  # letters that the font does not have
        heatmap = similarity_heatmap(np.eye(2), [text, "b"], ["a", "b"], title="t")
        for figure in (heatmap, search_scores(hits, title="t")):
            figure.canvas.draw()
            plt.close(figure)


@tried
@given(st.dictionaries(texts, st.one_of(numbers, values), max_size=8))
def test_scores_become_a_row_or_are_refused(scores):
    row = one_sentence(lambda: score_row(scores))
    assert row is None or row.keys() - {"Avg."} == set(scores)


@tried
@given(st.recursive(st.one_of(values, texts), lambda v: st.lists(v) | st.dictionaries(texts, v)))
def test_a_bundles_list_of_any_shape_is_refused(tmp_path, record):
    for content in (record, {"files": record, "installed": record, "system": 1, "python": 2}):
        text = json.dumps(content, default=str)
        (tmp_path / "bundle").mkdir(exist_ok=True)
        (tmp_path / bundle.LIST).write_text(text, encoding="utf-8", errors="replace")
        with pytest.raises(bundle.BundleError, match=r"^[^\n]+$"):
            bundle.check(tmp_path)


@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_an_undamaged_file_is_not_refused(tmp_path, suffix):
    """So that the tests above cannot pass by refusing everything."""
    (tmp_path / f"s{suffix}").write_bytes(b"text\nA cat sat.\nThe dog ran.")
    assert len(read_sentences(tmp_path / f"s{suffix}").texts) in (2, 3)
    (tmp_path / "STS" / "STSBenchmark").mkdir(parents=True)
    (tmp_path / "STS" / "STSBenchmark" / "sts-dev.csv").write_bytes(RATED % b"2.5")
    assert len(load_stsb("dev", source=tmp_path)) == 1
