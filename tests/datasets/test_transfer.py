import numpy as np
import pandas as pd
import pytest
from huggingface_hub import constants

from micse_utils.datasets.transfer import (
    PACKAGED_TRANSFER,
    TRANSFER_TASKS,
    Classification,
    load_transfer,
)
from micse_utils.evaluation.senteval import evaluate_transfer
from micse_utils.provenance import Provenance
from micse_utils.sources.packaged import fetch

SOURCE = Provenance("mine", "folder", "mine")


def write(folder, files):
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def test_a_task_of_two_files_is_read_in_latin_1_and_cross_validated(tmp_path, monkeypatch):
    files = {"CR/custrev.neg": b"bad caf\xe9\r\n\r\nworse\n", "CR/custrev.pos": b"good\n"}
    write(tmp_path / "data" / "downstream", files)
    for source in (tmp_path, "auto"):
        task = load_transfer("CR", source=source)
        assert task.first == ["bad café", "worse", "good"]
        assert task.labels.tolist() == [0, 0, 1]
        assert not task.second and not task.test.any()
        monkeypatch.setenv("MICSE_SENTEVAL", str(tmp_path))


def test_tasks_with_a_test_set_keep_it_apart(tmp_path):
    write(tmp_path, {
        "SST/binary/sentiment-train": b"a fine film\t1\na dull one\t0\n",
        "SST/binary/sentiment-dev": b"so so\t0\n",
        "SST/binary/sentiment-test": b"fine\t1\n",
        "TREC/train_5500.label": b"NUM:date When was it ?\nHUM:ind Who is \xe9 ?\n",
        "TREC/TREC_10.label": b"NUM:dist How far is it ?\n",
        "MRPC/msr_paraphrase_train.txt": b"\xef\xbb\xbfQuality\ta\tb\tc\r\n1\t2\t3\tone\tuno\r\n",
        "MRPC/msr_paraphrase_test.txt": b"0\t2\t3\ttwo\ttres\r\n",  # no header
    })  # fmt: skip
    sst, trec, mrpc = (load_transfer(name, source=tmp_path) for name in ("SST2", "TREC", "MRPC"))
    assert sst.first == ["a fine film", "a dull one", "so so", "fine"]
    assert sst.labels.tolist() == [1, 0, 0, 1]
    assert sst.dev.tolist() == [False, False, True, False]
    assert sst.test.tolist() == [False, False, False, True]
    assert sst.train.tolist() == [True, True, False, False]
    assert trec.dev is None and trec.train.tolist() == [True, True, False]
    assert trec.first[1] == "Who is é ?" and trec.labels.tolist() == [1, 0, 1]
    assert (mrpc.first, mrpc.second) == (["one", "two"], ["uno", "tres"])
    assert mrpc.labels.tolist() == [1, 0] and mrpc.test.tolist() == [False, True]


@pytest.mark.parametrize(
    ("task", "files", "message"),
    [
        (
            "SST2",
            {
                "SST/binary/sentiment-train": b"a\t1\n",
                "SST/binary/sentiment-dev": b"a\t1\nb 0\n",
                "SST/binary/sentiment-test": b"a\t1\n",
            },
            r"sentiment-dev, line 2 is not in the official format: .b 0.",
        ),
        (
            "TREC",
            {"TREC/train_5500.label": b"\n\nNUM When ?\n", "TREC/TREC_10.label": b"NUM:x When ?\n"},
            r"train_5500.label, line 3 is not in the official format",
        ),
        (
            "MRPC",
            {
                "MRPC/msr_paraphrase_train.txt": b"Quality\tx\n1\t2\tone\n",
                "MRPC/msr_paraphrase_test.txt": b"1\t2\t3\ta\tb\n",
            },
            r"msr_paraphrase_train.txt, line 2 is not in the official format",
        ),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, task, files, message):
    with pytest.raises(ValueError, match=message):
        load_transfer(task, source=write(tmp_path, files))


def test_a_missing_task_is_reported(tmp_path, monkeypatch):
    monkeypatch.delenv("MICSE_SENTEVAL", raising=False)
    for task in TRANSFER_TASKS:
        with pytest.raises(FileNotFoundError, match=r"no \w+/.* in"):
            load_transfer(task, source=tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("micse_utils.sources.hub.hub_problem", lambda: "switched off for this test")
    for source in ("auto", "hub"):
        with pytest.raises(ConnectionError, match=r"datasets-for-simcse .*switched off"):
            load_transfer("MR", source=source)
    with pytest.raises(ValueError, match="no package carries MR"):
        load_transfer("MR", source="package")
    with pytest.raises(ValueError, match='a folder that exists, got "nowhere"'):
        load_transfer("MR", source="nowhere")
    with pytest.raises(ValueError, match=r'one of MR, CR, .* tweets.* got "SST5"'):
        load_transfer("SST5")


@pytest.mark.parametrize("classes", [[0, 2], [-1, 1], ["no", "yes"], ["a", "b", "c"]])
def test_classes_may_have_any_names(classes):
    labels = classes * 100
    data = Classification(labels, labels, labels, np.arange(len(labels)) > 100, SOURCE)
    assert data.labels.tolist() == [*range(len(classes))] * 100
    scores = evaluate_transfer(Letters(), {"mine": data}, classifier="logistic", progress=False)
    assert scores["accuracy"].item() == 100


def test_columns_of_different_lengths_and_dev_without_a_test_set_are_refused():
    none, some = np.zeros(3, bool), np.array([True, False, False])
    for columns in (["abc", [], [0, 1], none, SOURCE], ["abc", [], [0, 1, 0], none, SOURCE, some]):
        with pytest.raises(ValueError, match="mine: unequal lengths, or dev without a test set"):
            Classification(*columns)


class Letters:
    """An encoder that tells texts apart by their first letter."""

    def encode(self, texts):
        return np.eye(256, dtype=np.float32)[[ord(str(text)[0]) for text in texts]]


@pytest.mark.parametrize("task", PACKAGED_TRANSFER)
def test_packaged_texts_have_three_classes_by_their_mean_rating(task):
    loaded = load_transfer(task)
    artifact, file = PACKAGED_TRANSFER[task]
    table = pd.read_csv(fetch(artifact) / file, sep="\t", header=None, quoting=3)
    expected = np.select([table[1] < -0.5, table[1] < 0.5], [0, 1], 2)
    np.testing.assert_array_equal(loaded.labels, expected)
    assert len(loaded.first) == len(table) > 3_000
    assert loaded.provenance.source == "package"


def test_a_bad_line_of_utf_8_is_not_read_as_latin_1(tmp_path):
    for name in ("train", "dev", "test"):
        file = tmp_path / "SST" / "binary" / f"sentiment-{name}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("un café charmant\t1\nno class\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2"):
        load_transfer("SST2", source=tmp_path)
