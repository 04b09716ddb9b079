from collections import Counter

import numpy as np
import pytest

from micse_utils.datasets.texts import load_low_shot, load_sentences, load_tweets
from micse_utils.sources.packaged import fetch


@pytest.fixture
def tweet_eval(tmp_path):
    """Write three training tweets in TweetEval's layout, one with a line separator inside."""
    folder = tmp_path / "tweet_eval" / "sentiment"
    folder.mkdir(parents=True)
    (folder / "train_text.txt").write_bytes("good\u2028day\nbad\r\nso so\n".encode())
    (folder / "train_labels.txt").write_text("2\n0\n1\n", encoding="utf-8")
    return tmp_path


def test_packaged_tweets_are_labelled_by_their_mean_rating():
    """Positive from 0.5 up, negative below -0.5."""
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
        ("train_labels.txt", b"2\n0\n", "3 lines but train_labels.txt has 2"),
        (
            "train_labels.txt",
            b"2\nfive\n1\n",
            "train_labels.txt, line 2 is not in the official format",
        ),
        ("train_text.txt", b"good\n\xff\xfe\n", "train_text.txt: .*byte 0xff in position 5"),
    ],
)
def test_inconsistent_files_are_rejected_with_file_and_line(tweet_eval, file, content, message):
    (tweet_eval / "tweet_eval" / "sentiment" / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_tweets(tweet_eval)


def test_a_sample_is_seeded_and_keeps_text_and_label_together():
    tweets = load_tweets("package")
    label_of = dict(zip(tweets.texts, tweets.labels, strict=True))
    one, again, other = (tweets.sample(100, seed=seed) for seed in (1, 1, 2))
    assert one.texts == again.texts != other.texts
    assert len(set(one.texts)) == 100
    assert all(label_of[text] == label for text, label in zip(one.texts, one.labels, strict=True))
    positions = [tweets.texts.index(text) for text in one.texts]
    assert positions == sorted(positions)


def test_sentences_come_from_the_users_file_without_blank_lines(tmp_path):
    (tmp_path / "sentences.txt").write_bytes("\ufeffOne.\r\n\r\n  Two.  \nThree.".encode())
    assert load_sentences(tmp_path).texts == ["One.", "Two.", "Three."]


def test_low_shot_sets_are_seeded_samples_of_the_users_sentences(tmp_path, capsys):
    texts = [f"Sentence number {n}." for n in range(50)]
    (tmp_path / "sentences.txt").write_text("\n".join(texts), encoding="utf-8")
    subsets = load_low_shot([5, 20], seeds=[48, 49], source=tmp_path)
    assert set(subsets) == {(5, 48), (5, 49), (20, 48), (20, 49)}
    for (size, seed), corpus in subsets.items():
        rows = np.sort(np.random.default_rng(seed).choice(50, size, replace=False))
        assert corpus.texts == [texts[row] for row in rows]
    assert capsys.readouterr().out.count("sentences: ") == 1  # printed once for all
    with pytest.raises(ValueError, match="sizes and seeds must not be empty"):
        load_low_shot([5], seeds=[], source=tmp_path)
