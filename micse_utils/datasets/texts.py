"""Load sentences to search in and to train on, and labelled tweets."""

import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.checks import shown, whole
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import file_at, folder_at
from micse_utils.sources import hub
from micse_utils.sources.choose import choose
from micse_utils.sources.packaged import fetch, package_provenance

SENTENCES = "princeton-nlp/datasets-for-simcse"
SENTENCES_FILE = "wiki1m_for_simcse.txt"
SPLITS = "sap-ai-research/datasets-for-micse"
SEEDS = (48, 49, 50, 51, 52)  # in the names of the files of these splits
MILLION = 1_000_000  # sentences that the splits of the paper are shares of
TWEETS = "cardiffnlp/tweet_eval"
SENTIMENTS = ("negative", "neutral", "positive")
NEUTRAL_BAND = 0.5  # mean ratings within this distance of 0, from -4 to 4, count as neutral


@dataclass(frozen=True)
class Corpus:
    """Texts, their labels if they have any, and their provenance."""

    texts: list[str]
    provenance: Provenance
    labels: np.ndarray | None = None  # int64, [n], indices into `label_names`
    label_names: tuple[str, ...] = ()  # of each class

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def sample(self, limit: int | None, *, seed: int = 0) -> "Corpus":
        """Draw `limit` texts without replacement, in corpus order; all if it is None or larger."""
        if limit is None or whole("limit", limit, 1) >= len(self):
            return self
        rows = drawn_rows(len(self), limit, seed)
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, texts=[self.texts[row] for row in rows], labels=labels)


def drawn_rows(total: int, limit: int, seed: int) -> np.ndarray:
    """Draw `limit` of `total` rows without replacement, in their order."""
    random = np.random.default_rng(whole("seed", seed))
    return np.sort(random.choice(total, limit, replace=False))


def load_sentences(
    source: str | Path = "auto",
    *,
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Corpus:
    """Load sentences of English Wikipedia.

    Args:
        source: `auto`, `hub` (the million sentences that SimCSE and miCSE train on), `package`
            (the sentences of 106 articles), or a folder with one sentence a line in
            `sentences.txt` or `wiki1m_for_simcse.txt`.
        limit, seed: draw so many of them, by this seed.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: an unknown source, an invalid limit or seed, or a damaged file.
        FileNotFoundError, HubError, FetchError: the source does not have them.
    """
    corpus = choose(
        "sentences", source, folder=_sentences_from_folder,
        hub=lambda: _sentences_from_hub(revision), package=_sentences_from_package,
    )  # fmt: skip
    return corpus.sample(limit, seed=seed)


def load_low_shot(
    sizes: Sequence[int],
    *,
    seeds: Sequence[int] = (48,),
    source: str | Path = "auto",
    revision: str | None = None,
) -> dict[tuple[int, int], Corpus]:
    """Load small sets of Wikipedia sentences to train on, one for each size and seed.

    From the hub they are the paper's own splits (64 to 100,000 sentences, seeds 48 to 52); from a
    folder, samples of `load_sentences`, drawn by the seed; from the package likewise, but only
    from the two thirds of its articles that give no section triplets (`load_triplets`).

    `source` and `revision` are as for `load_sentences`, as is what is refused; ValueError also if
    there are no sizes or seeds, or no split of that size or seed.
    """
    subsets = {}
    if not (wanted := list(itertools.product(sizes, seeds))):
        raise ValueError("sizes and seeds must not be empty")

    def draw(corpus: Corpus) -> Corpus:
        for size, seed in wanted:
            subset = corpus.sample(whole("size", size, 1), seed=seed)
            if len(subset) != size:
                raise ValueError(f"size is {size} but {corpus.provenance} has {len(corpus)}")
            subsets[size, whole("seed", seed)] = subset
        return corpus

    def official() -> Corpus:
        for size, seed in wanted:
            subsets[size, seed] = _split_from_hub(size, seed, revision)
        return subsets[wanted[-1]]

    choose(
        "sentences", source, folder=lambda path: draw(_sentences_from_folder(path)), hub=official,
        package=lambda: draw(_sentences_from_package("training")),
    )  # fmt: skip
    return subsets


def read_sentences(file: str | Path, *, column: str | None = None) -> Corpus:
    """Load sentences from the user's own file by `open_source`; empty rows are skipped.

    Args:
        file: text with one sentence a line (`.txt`), or a table (CSV, TSV, Parquet, JSON lines);
            all but Parquet may be compressed.
        column: the one with the sentences; may be left out if there is just one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read exactly, has no such column, or no sentence in it.
    """
    name, file = file, file_at(file)
    if file is None:
        what = "is a folder; name a file in it" if folder_at(name) else "does not exist"
        raise FileNotFoundError(f"{shown(str(name))} {what}")
    lines = [text for text in open_source(file, column).texts() if text is not None]
    return _sentences(lines, Provenance(file.stem, "folder", file.name, sha256=sha256_of([file])))


def _sentences_from_folder(path: Path) -> Corpus:
    names = ("sentences.txt", SENTENCES_FILE)
    file = next((path / name for name in names if (path / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"neither {names[0]} nor {names[1]} in {path}")
    return _sentences_in(file, file.stem, "folder", path.resolve().name)


def _sentences_from_hub(revision: str | None) -> Corpus:
    [file], commit = _from_hub(SENTENCES, SENTENCES_FILE, revision)
    return _sentences_in(file, "Wikipedia, SimCSE's million sentences", "hub", SENTENCES, commit)


def _split_from_hub(size: int, seed: int, revision: str | None) -> Corpus:
    if seed not in SEEDS:
        raise ValueError(f"seed must be one of {SEEDS}, those of the splits, got {shown(seed)}")
    files, commit = _from_hub(SPLITS, f"*percent_seed{seed}.txt", revision)
    sizes = {}
    for file in files:  # wiki_subset_1M_001.00percent_seed48.txt
        percent = float(re.search(r"([\d.]+)percent", file.name)[1])
        sizes[round(MILLION * percent / 100)] = file
    if size not in sizes:
        known = ", ".join(map(str, sorted(sizes)))
        raise ValueError(f"size must be that of a split ({known}), got {shown(size)}")
    return _sentences_in(sizes[size], sizes[size].stem, "hub", SPLITS, commit)


def _sentences_in(file: Path, *origin: str) -> Corpus:
    return _sentences(read_lines(file), Provenance(*origin, sha256=sha256_of([file])))


def _sentences_from_package(part: str = "all") -> Corpus:
    provenance = package_provenance("wikipedia")
    if part != "all":
        provenance = replace(provenance, name=f"{provenance.name}, {part} articles")
    return Corpus(distinct_sentences(packaged_articles(part)), provenance)


def _sentences(lines: Sequence[str], provenance: Provenance) -> Corpus:
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{provenance.origin} holds no sentences")
    return Corpus(texts, provenance)


def load_tweets(
    source: str | Path = "auto",
    *,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Corpus:
    """Load tweets with their sentiment: negative, neutral or positive.

    Args:
        source: `auto`, `hub` (TweetEval, Barbieri et al. 2020), `package` (Hutto & Gilbert 2014,
            without splits: `split` is ignored), or a folder with TweetEval's own files,
            `train_text.txt` and `train_labels.txt`, itself or in `tweet_eval/sentiment/`.
        split: `train`, `validation` (in TweetEval's files `val`) or `test`.
        limit, seed, revision: as for `load_sentences`; the same values are refused.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be train, validation or test, got {shown(split)}")
    corpus = choose(
        "tweets", source, folder=lambda path: _tweets_from_folder(path, split),
        hub=lambda: _tweets_from_hub(split, revision),
        package=lambda: load_rated("tweets_GroundTruth.txt", "tweets"),
    )  # fmt: skip
    return corpus.sample(limit, seed=seed)


def _tweets_from_folder(path: Path, split: str) -> Corpus:
    stem = "val" if split == "validation" else split
    places = [path, path / "sentiment", path / "tweet_eval" / "sentiment"]
    folder = next((p for p in places if any(p.glob("*_text.txt"))), None)
    if folder is None:
        raise FileNotFoundError(f"no TweetEval files (train_text.txt, train_labels.txt) in {path}")
    files = text_file, label_file = folder / f"{stem}_text.txt", folder / f"{stem}_labels.txt"
    if missing := [file.name for file in files if not file.is_file()]:
        found = ", ".join(sorted(file.name for file in folder.glob("*.txt")))
        raise FileNotFoundError(f"{folder} has no {missing[0]}, only {found}")
    texts, labels = parallel_lines(text_file, label_file)
    for number, label in enumerate(labels, start=1):
        if label.strip() not in ("0", "1", "2"):
            raise ValueError(f"{label_file}, line {number}: label must be 0, 1 or 2, got '{label}'")
    name, origin = f"TweetEval sentiment, {split}", folder.resolve().name
    provenance = Provenance(name, "folder", origin, sha256=sha256_of(files))
    return Corpus(texts, provenance, np.array([int(label) for label in labels]), SENTIMENTS)


def _tweets_from_hub(split: str, revision: str | None) -> Corpus:
    files, commit = _from_hub(TWEETS, f"sentiment/{split}-*.parquet", revision)
    table = pd.concat(pd.read_parquet(file) for file in files)
    name, sha256 = f"TweetEval sentiment, {split}", sha256_of(files)
    provenance = Provenance(name, "hub", TWEETS, revision=commit, sha256=sha256)
    return Corpus(table["text"].tolist(), provenance, table["label"].to_numpy("int64"), SENTIMENTS)


def _from_hub(repository: str, pattern: str, revision: str | None) -> tuple[list[Path], str]:
    """Return the files of a data set on the hub that match a pattern, and its commit."""
    folder, commit = hub.snapshot(repository, [pattern], repo_type="dataset", revision=revision)
    if not (files := sorted(folder.glob(pattern))):
        raise hub.HubError(repository, f"its cached copy has no {pattern}")
    return files, commit


def load_rated(file: str, artifact: str) -> Corpus:
    """Load packaged texts with their mean rated sentiment (Hutto & Gilbert 2014), in three classes.

    HTML entities are undone.
    """
    rows = [line.split("\t") for line in read_lines(fetch(artifact) / file)]
    ratings = np.array([float(rating) for _, rating, _ in rows])
    labels = np.digitize(ratings, [-NEUTRAL_BAND, NEUTRAL_BAND])
    texts = [html.unescape(text) for _, _, text in rows]
    return Corpus(texts, package_provenance(artifact, file), labels, SENTIMENTS)


def read_lines(file: Path) -> list[str]:
    """Read the lines of a UTF-8 file. Only line feeds end them: tweets hold other separators."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def parallel_lines(first: Path, second: Path) -> tuple[list[str], list[str]]:
    """Read two files whose lines correspond."""
    one, other = read_lines(first), read_lines(second)
    if len(one) != len(other):
        raise ValueError(
            f"{first} has {len(one)} lines but {second.name} has {len(other)}; one is cut short"
        )
    return one, other
