"""A data set's name becomes texts and labels, and we know where they came from."""

import functools
import html
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from micse_utils import hub
from micse_utils.packaged import MANIFEST, fetch
from micse_utils.results import Provenance, sha256_of
from micse_utils.sources import choose
from micse_utils.wikitext import wikipedia_sentences

TWEETS = "cardiffnlp/tweet_eval"
SENTENCES = "princeton-nlp/datasets-for-simcse"
SENTENCES_FILE = "wiki1m_for_simcse.txt"
SPLITS = "sap-ai-research/datasets-for-micse"
MILLION = 1_000_000
"""Sentences that the splits of the paper are shares of."""
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
            ValueError: `limit` is not a positive whole number.
        """
        if limit is None:
            return self
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise ValueError(f"limit={limit!r} is not a positive whole number (None takes all)")
        if limit >= len(self):
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False))
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, texts=[self.texts[row] for row in rows], labels=labels)


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
        raise ValueError(f'split="{split}" is none of train, validation, test')
    corpus = choose(
        "tweets",
        source,
        folder=lambda path: _tweets_from_folder(path, split),
        hub=lambda: _tweets_from_hub(split, revision),
        package=_tweets_from_package,
    )
    return corpus.sample(limit, seed=seed)


def load_sentences(
    source: str | Path = "auto",
    *,
    limit: int | None = None,
    seed: int = 0,
    revision: str | None = None,
) -> Corpus:
    """Sentences of English Wikipedia.

    Args:
        source: `auto`, `hub` (the million sentences that SimCSE and miCSE train on), `package`
            (the sentences of 106 articles), or a folder with one sentence a line in
            `sentences.txt` or `wiki1m_for_simcse.txt`.
        limit: take a sample of this many.
        seed: of that sample.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: an unknown source or limit, or a file that is not UTF-8.
        FileNotFoundError, HubError, FetchError: the source asked for does not have them.
    """
    corpus = choose(
        "sentences",
        source,
        folder=_sentences_from_folder,
        hub=lambda: _sentences_from_hub(revision),
        package=_sentences_from_package,
    )
    return corpus.sample(limit, seed=seed)


def load_low_shot(
    sizes: Sequence[int],
    *,
    seeds: Sequence[int] = (48,),
    source: str | Path = "auto",
    revision: str | None = None,
) -> dict[tuple[int, int], Corpus]:
    """Handfuls of Wikipedia sentences to train on.

    From the hub they are the paper's own splits (64 to 100 000 sentences, seeds 48 to 52); from
    elsewhere, samples of `load_sentences`, drawn with the seed.

    Args:
        sizes: numbers of sentences.
        seeds: of the splits or samples.
        source: as for `load_sentences`.
        revision: commit, tag or branch of the hub repository.

    Returns:
        One corpus for each size and seed.

    Raises:
        ValueError: an unknown source, a size that is no positive whole number, that the paper has
            no split of, or that is more than there is.
        FileNotFoundError, HubError, FetchError: the source asked for does not have them.
    """
    handfuls = {}

    def split(corpus: Corpus) -> Corpus:
        for size, seed in itertools.product(sizes, seeds):
            handfuls[size, seed] = corpus.sample(size, seed=seed)
            if len(handfuls[size, seed]) != size:
                raise ValueError(
                    f"{corpus.provenance} has only {len(corpus)} sentences, not {size}"
                )
        return corpus

    def official() -> Corpus:
        for size, seed in itertools.product(sizes, seeds):
            handfuls[size, seed] = _split_from_hub(size, seed, revision)
        return handfuls[size, seed]

    choose(
        "sentences",
        source,
        folder=lambda path: split(_sentences_from_folder(path)),
        hub=official,
        package=lambda: split(_sentences_from_package()),
    )
    return handfuls


def read_sentences(file: str | Path, *, column: str | None = None) -> Corpus:
    """Sentences of the user's own file.

    Args:
        file: text with one sentence a line (`.txt`), or a table (`.csv`, `.tsv`, `.parquet`).
        column: of a table, the one with the sentences; may be left out where there is just one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, not UTF-8, no such column, or no sentence in it.
    """
    file = Path(file).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    if file.suffix == ".txt":
        lines = read_lines(file)
    else:
        lines = read_table(file, column).dropna().astype(str).tolist()
    return _sentences(lines, Provenance(file.stem, "folder", file.name, sha256=sha256_of([file])))


def read_table(file: Path, column: str | None = None) -> pd.Series:
    """One column of a table in a file.

    Raises:
        ValueError: a kind of file the kit does not read, not UTF-8, or no such column.
    """
    readers = {
        ".csv": pd.read_csv,
        ".tsv": functools.partial(pd.read_csv, sep="\t"),
        ".parquet": pd.read_parquet,
    }
    if file.suffix not in readers:
        raise ValueError(f"{file} is none of .txt, {', '.join(readers)}")
    try:
        table = readers[file.suffix](file)
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8; convert it first") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pa.ArrowInvalid) as error:
        raise ValueError(f"{file} cannot be read as a table: {error}") from error
    if column is None and len(table.columns) == 1:
        return table.iloc[:, 0]
    if column not in table.columns:
        there = ", ".join(map(str, table.columns))
        raise ValueError(f"{file} has no column '{column}'; it has {there}")
    return table[column]


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


def _tweets_from_package() -> Corpus:
    file = fetch("tweets") / "tweets_GroundTruth.txt"
    rows = [line.split("\t") for line in read_lines(file)]
    ratings = np.array([float(rating) for _, rating, _ in rows])
    labels = np.digitize(ratings, [-NEUTRAL_BAND, NEUTRAL_BAND])
    texts = [html.unescape(text) for _, _, text in rows]
    return Corpus(texts, package_provenance("tweets"), labels, SENTIMENTS)


def _sentences_from_folder(path: Path) -> Corpus:
    names = ("sentences.txt", SENTENCES_FILE)
    file = next((path / name for name in names if (path / name).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"neither {names[0]} nor {names[1]} in {path}")
    provenance = Provenance(file.stem, "folder", path.resolve().name, sha256=sha256_of([file]))
    return _sentences(read_lines(file), provenance)


def _sentences_from_hub(revision: str | None) -> Corpus:
    folder, commit = hub.snapshot(
        SENTENCES, [SENTENCES_FILE], repo_type="dataset", revision=revision
    )
    file = folder / SENTENCES_FILE
    if not file.is_file():
        raise hub.HubError(SENTENCES, f"its cached copy has no {SENTENCES_FILE}")
    provenance = Provenance(
        "Wikipedia, SimCSE's million sentences",
        "hub",
        SENTENCES,
        revision=commit,
        sha256=sha256_of([file]),
    )
    return _sentences(read_lines(file), provenance)


def _split_from_hub(size: int, seed: int, revision: str | None) -> Corpus:
    folder, commit = hub.snapshot(
        SPLITS, [f"*percent_seed{seed}.txt"], repo_type="dataset", revision=revision
    )
    sizes = {}
    for file in folder.rglob(f"*percent_seed{seed}.txt"):  # wiki_subset_1M_001.00percent_seed48
        percent = float(re.search(r"([\d.]+)percent", file.name)[1])
        sizes[round(MILLION * percent / 100)] = file
    if size not in sizes:
        raise ValueError(
            f"the paper has no split of {size} sentences with seed {seed}; its sizes are "
            f"{', '.join(map(str, sorted(sizes))) or 'not there'} and its seeds 48 to 52"
        )
    file = sizes[size]
    provenance = Provenance(file.stem, "hub", SPLITS, revision=commit, sha256=sha256_of([file]))
    return _sentences(read_lines(file), provenance)


def _sentences_from_package() -> Corpus:
    folder = fetch("wikipedia")
    dump = folder / next(iter(MANIFEST["wikipedia"]["files"]))
    return Corpus(wikipedia_sentences(dump), package_provenance("wikipedia"))


def _sentences(lines: Sequence[str], provenance: Provenance) -> Corpus:
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{provenance.origin}: {provenance.name} holds no sentences")
    return Corpus(texts, provenance)


def package_provenance(artifact: str) -> Provenance:
    """Provenance of one artifact of the manifest."""
    entry = MANIFEST[artifact]
    carrier = entry["carriers"][0]["requirement"]
    return Provenance(entry["name"], "package", carrier, sha256=next(iter(entry["files"].values())))


def read_lines(file: Path) -> list[str]:
    """Lines of a UTF-8 file, ended by line feeds only: tweets hold other line separators."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it first") from error
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
