import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from micse_utils.datasets.sentences import load_sentences
from micse_utils.datasets.texts import load_tweets
from micse_utils.sources.packaged import fetch

SHARED = Path(__file__).parents[3] / "shared" / "tweet_eval"


@pytest.fixture
def tweet_eval(tmp_path):
    """A folder in TweetEval's layout: three training tweets, one with a line separator inside."""
    folder = tmp_path / "tweet_eval" / "sentiment"
    folder.mkdir(parents=True)
    (folder / "train_text.txt").write_bytes("good\u2028day\nbad\r\nso so\n".encode())
    (folder / "train_labels.txt").write_text("2\n0\n1\n", encoding="utf-8")
    return tmp_path


def test_packaged_tweets_are_labelled_by_their_mean_rating():
    """Counted anew from the file: positive from 0.5 up, negative below -0.5."""
    tweets = load_tweets("package")
    raw = (fetch("tweets") / "tweets_GroundTruth.txt").read_text(encoding="utf-8").splitlines()
    ratings = [float(line.split("\t")[1]) for line in raw]
    expected = Counter(
        "positive" if rating >= 0.5 else "negative" if rating < -0.5 else "neutral"
        for rating in ratings
    )
    assert len(tweets) == len(tweets.labels) == 4200
    assert Counter(tweets.label_names[label] for label in tweets.labels) == expected
    assert not [text for text in tweets.texts if "&amp;" in text]
    assert tweets.provenance.source == "package"


def test_a_folder_in_tweet_evals_layout_is_read_line_by_line(tweet_eval):
    for place in (tweet_eval, tweet_eval / "tweet_eval" / "sentiment"):
        tweets = load_tweets(place)
        assert tweets.texts == ["good\u2028day", "bad", "so so"]
        assert tweets.labels.tolist() == [2, 0, 1]
        assert tweets.label_names == ("negative", "neutral", "positive")


def test_the_users_own_folder_comes_before_hub_and_package(tweet_eval, monkeypatch, capsys):
    monkeypatch.setenv("MICSE_DATA", str(tweet_eval))
    assert len(load_tweets()) == 3
    assert "tweets: TweetEval sentiment, train (folder: sentiment" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train_labels.txt", b"2\n0\n", "3 lines but train_labels.txt has 2; one of them is cut"),
        ("train_labels.txt", b"2\nfive\n1\n", "train_labels.txt, line 2: label 'five' is not 0, 1"),
        ("train_text.txt", b"good\n\xff\xfe\n", r"train_text.txt is not UTF-8 \(byte 5\)"),
    ],
)
def test_files_that_do_not_fit_are_refused_with_file_and_line(tweet_eval, file, content, message):
    (tweet_eval / "tweet_eval" / "sentiment" / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tweets(tweet_eval)


def test_a_split_that_is_not_there_is_refused_with_what_is(tweet_eval):
    with pytest.raises(FileNotFoundError, match=r"no val_text.txt.*only train_labels.txt"):
        load_tweets(tweet_eval, split="validation")
    with pytest.raises(ValueError, match='split="dev" is none of train, validation, test'):
        load_tweets(tweet_eval, split="dev")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs TweetEval's files in ../shared/tweet_eval")
def test_the_official_validation_split_is_read():
    tweets = load_tweets(SHARED, split="validation")
    assert np.bincount(tweets.labels).tolist() == [312, 869, 819]  # as published on the hub


def test_a_sample_is_seeded_and_keeps_text_and_label_together():
    tweets = load_tweets("package")
    label_of = dict(zip(tweets.texts, tweets.labels, strict=True))
    one, again, other = (tweets.sample(100, seed=seed) for seed in (1, 1, 2))
    assert one.texts == again.texts != other.texts
    assert len(set(one.texts)) == 100
    assert all(label_of[text] == label for text, label in zip(one.texts, one.labels, strict=True))
    positions = [tweets.texts.index(text) for text in one.texts]
    assert positions == sorted(positions)


def test_a_sample_larger_than_the_corpus_is_the_corpus():
    tweets = load_tweets("package", limit=1_000_000)
    assert len(tweets) == 4200
    assert len(tweets.sample(None)) == 4200


@pytest.mark.parametrize("limit", [0, -1, 2.5, "auto", True])
def test_a_limit_that_is_no_count_is_refused(limit):
    with pytest.raises(ValueError, match="is not a positive whole number"):
        load_tweets("package", limit=limit)


def test_a_folder_that_has_only_some_of_the_data_says_so(tweet_eval, monkeypatch, capsys):
    monkeypatch.setenv("MICSE_DATA", str(tweet_eval))
    monkeypatch.setattr("micse_utils.sources.hub.hub_problem", lambda: "switched off for this test")
    assert load_sentences(limit=10).provenance.source == "package"
    line = capsys.readouterr().out
    assert "not in MICSE_DATA" in line
    assert "not from the hub: switched off for this test" in line


def test_asking_for_the_hub_never_falls_back(monkeypatch, tmp_path):
    monkeypatch.setenv("MICSE_DATA", str(tmp_path))
    monkeypatch.setattr("micse_utils.sources.hub.hub_problem", lambda: "switched off for this test")
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    with pytest.raises(ConnectionError, match=r"cardiffnlp/tweet_eval .*switched off.*Ways out"):
        load_tweets("hub", revision="0" * 40)
