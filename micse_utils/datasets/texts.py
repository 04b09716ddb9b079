"""A data set's name becomes texts and labels, and we know where they came from."""

import html
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.checks import shown, whole
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.sources import hub
from micse_utils.sources.choose import choose
from micse_utils.sources.packaged import MANIFEST, fetch

TWEETS = "cardiffnlp/tweet_eval"
SENTIMENTS = ("negative", "neutral", "positive")
NEUTRAL_BAND = 0.5
"""Mean ratings within this distance of 0 (on a scale from -4 to 4) count as neutral."""


@dataclass(frozen=True)
class Corpus:
    """Texts, their labels where they have any, and where they came from.

    Attributes:
        texts: n strings.
        labels: int64, [n], indices into `label_names`; None for texts without labels.
        label_names: one name a class.
    """

    texts: list[str]
    provenance: Provenance
    labels: np.ndarray | None = None
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.texts)

    def sample(self, limit: int | None, *, seed: int = 0) -> "Corpus":
        """`limit` of the texts, drawn without replacement, in corpus order; None or more: all.

        Raises:
            ValueError: `limit` is not a positive whole number, or `seed` not one from 0.
        """
        if limit is None:
            return self
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(
                f"limit={shown(limit)} is not a positive whole number (None takes all)"
            )
        if limit >= len(self):
            return self
        rows = drawn_rows(len(self), limit, seed)
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, texts=[self.texts[row] for row in rows], labels=labels)


def drawn_rows(total: int, limit: int, seed: int) -> np.ndarray:
    """`limit` of `total` rows, drawn without replacement, in their order.

    Raises:
        ValueError: `seed` is not a whole number from 0.
    """
    random = np.random.default_rng(whole("seed", seed))
    return np.sort(random.choice(total, limit, replace=False))


def load_tweets(
    source: str | Path = "auto",
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Corpus:
    """Tweets with their sentiment: negative, neutral or positive.

    Args:
        source: `auto`, `hub` (TweetEval, Barbieri et al. 2020), `package` (Hutto & Gilbert 2014,
            which has no splits: `split` is not used), or a folder with TweetEval's own files,
            `train_text.txt` and `train_labels.txt`, itself or in `tweet_eval/sentiment/`.
        split: `train`, `validation` (in TweetEval's files `val`) or `test`.
        limit: take a sample of this many.
        seed: of that sample.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: an unknown split, source or limit, or files that do not fit each other.
        FileNotFoundError, HubError, FetchError: the source asked for does not have them.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split={shown(split)} is none of train, validation, test")
    corpus = choose(
        "tweets",
        source,
        folder=lambda path: _tweets_from_folder(path, split),
        hub=lambda: _tweets_from_hub(split, revision),
        package=lambda: load_rated("tweets_GroundTruth.txt", "tweets"),
    )
    return corpus.sample(limit, seed=seed)


def _tweets_from_folder(path: Path, split: str) -> Corpus:
    stem = "val" if split == "validation" else split
    places = [path, path / "sentiment", path / "tweet_eval" / "sentiment"]
    folder = next((p for p in places if any(p.glob("*_text.txt"))), None)
    if folder is None:
        raise FileNotFoundError(f"no TweetEval files (train_text.txt, train_labels.txt) in {path}")
    text_file, label_file = folder / f"{stem}_text.txt", folder / f"{stem}_labels.txt"
    for file in (text_file, label_file):
        if not file.is_file():
            there = ", ".join(sorted(p.name for p in folder.glob("*.txt")))
            raise FileNotFoundError(
                f"{folder} has no {file.name} for the {split} split, only {there}"
            )
    texts = read_lines(text_file)
    labels = [_label(line, label_file, n) for n, line in enumerate(read_lines(label_file), start=1)]
    if len(texts) != len(labels):
        raise ValueError(
            f"{text_file} has {len(texts)} lines but {label_file.name} has {len(labels)}; "
            "one of them is cut short"
        )
    provenance = Provenance(
        f"TweetEval sentiment, {split}",
        "folder",
        folder.resolve().name,
        sha256=sha256_of([text_file, label_file]),
    )
    return Corpus(texts, provenance, np.array(labels), SENTIMENTS)


def _label(line: str, file: Path, number: int) -> int:
    if line.strip() not in ("0", "1", "2"):
        raise ValueError(f"{file}, line {number}: label '{line}' is not 0, 1 or 2")
    return int(line)


def _tweets_from_hub(split: str, revision: str | None) -> Corpus:
    pattern = f"sentiment/{split}-*.parquet"
    folder, commit = hub.snapshot(TWEETS, [pattern], repo_type="dataset", revision=revision)
    files = sorted(folder.glob(pattern))
    if not files:
        raise hub.HubError(TWEETS, f"its cached copy has no {pattern}")
    table = pd.concat(pd.read_parquet(file) for file in files)
    provenance = Provenance(
        f"TweetEval sentiment, {split}", "hub", TWEETS, revision=commit, sha256=sha256_of(files)
    )
    return Corpus(table["text"].tolist(), provenance, table["label"].to_numpy("int64"), SENTIMENTS)


def load_rated(file: str, artifact: str) -> Corpus:
    """Texts of a packaged file that people rated for sentiment (Hutto & Gilbert 2014).

    They become three classes by their mean rating, from -4 to 4. HTML entities are undone.

    Raises:
        FetchError: the package that carries them could not be had.
    """
    rows = [line.split("\t") for line in read_lines(fetch(artifact) / file)]
    ratings = np.array([float(rating) for _, rating, _ in rows])
    labels = np.digitize(ratings, [-NEUTRAL_BAND, NEUTRAL_BAND])
    texts = [html.unescape(text) for _, _, text in rows]
    return Corpus(texts, package_provenance(artifact, file), labels, SENTIMENTS)


def package_provenance(artifact: str, file: str | None = None) -> Provenance:
    """Provenance of one artifact of the manifest, with the SHA-256 of one file; else the first."""
    entry = MANIFEST[artifact]
    carrier = entry["carriers"][0]["requirement"]
    sha256 = entry["files"][file or next(iter(entry["files"]))]
    return Provenance(entry["name"], "package", carrier, sha256=sha256)


def read_lines(file: Path) -> list[str]:
    """Lines of a UTF-8 file, ended by line feeds only: tweets hold other line separators."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
