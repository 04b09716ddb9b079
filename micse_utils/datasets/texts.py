"""Load sentences to search in and to train on, and labelled tweets."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.datasets.formats import TEXT
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import file_at, folder_at, shown, whole
from micse_utils.sources.locate import Found, Need, locate
from micse_utils.sources.packaged import fetch, package_provenance

SENTENCES = "princeton-nlp/datasets-for-simcse"
SENTENCES_FILE = "wiki1m_for_simcse.txt"
SPLITS = "sap-ai-research/datasets-for-micse"
SEEDS = (48, 49, 50, 51, 52)  # in the names of the files of these splits
IN_FOLDER = [["sentences.txt"], [SENTENCES_FILE]]
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
    need = Need(
        "sentences", "Wikipedia, SimCSE's million sentences", IN_FOLDER, repository=SENTENCES,
        hub_files=[[SENTENCES_FILE]], stand_in="wikipedia",
    )  # fmt: skip
    found = locate(need, source, revision)
    corpus = _sentences_of(found)
    print(f"sentences: {corpus.provenance}{found.reason}")
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
    wanted = [(whole("size", size, 1), whole("seed", seed)) for size in sizes for seed in seeds]
    if not wanted:
        raise ValueError("sizes and seeds must not be empty")
    fetched = {*SEEDS} & {*seeds} or SEEDS[:1]
    need = Need(
        "sentences", "miCSE's splits", IN_FOLDER, repository=SPLITS,
        hub_files=[[f"*percent_seed{seed}.txt" for seed in sorted(fetched)]], stand_in="wikipedia",
    )  # fmt: skip
    found = locate(need, source, revision)
    if found.provenance.source == "hub":
        subsets = {place: _official_split(found, *place) for place in wanted}
    else:
        corpus = _sentences_of(found, "training")
        for size, _ in wanted:
            if size > len(corpus):
                raise ValueError(f"size is {size} but {corpus.provenance} has {len(corpus)}")
        subsets = {place: corpus.sample(place[0], seed=place[1]) for place in wanted}
    last = subsets[wanted[-1]]
    print(f"sentences: {last.provenance}{found.reason}")
    return subsets


def read_sentences(file: str | Path, *, column: str | None = None) -> Corpus:
    """Load sentences from the user's own file by `open_source`; empty rows are skipped.

    Args:
        file: text with one sentence a line (`.txt`), or a table (CSV, TSV, Parquet, JSON lines);
            all but Parquet may be compressed.
        column: the one with the sentences (default: `text`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read exactly, has no such column, or no sentence in it.
    """
    name, file = file, file_at(file)
    if file is None:
        what = "is a folder; name a file in it" if folder_at(name) else "does not exist"
        raise FileNotFoundError(f"{shown(str(name))} {what}")
    lines = [text for text in open_source(file, column or TEXT).texts() if text is not None]
    return _sentences(lines, Provenance(file.stem, "folder", file.name, sha256=sha256_of([file])))


def _sentences_of(found: Found, part: str = "all") -> Corpus:
    """Read the sentences that were found, of the package only those of some articles."""
    provenance = found.provenance
    if provenance.source == "folder":
        provenance = replace(provenance, name=found.files[0].stem)
    if provenance.source != "package":
        return _sentences(read_lines(found.files[0]), provenance)
    if part != "all":
        provenance = replace(provenance, name=f"{provenance.name}, {part} articles")
    return Corpus(distinct_sentences(packaged_articles(part)), provenance)


def _official_split(found: Found, size: int, seed: int) -> Corpus:
    if seed not in SEEDS:
        raise ValueError(f"seed must be one of {SEEDS}, those of the splits, got {seed}")
    sizes = {}
    for file in found.files:  # wiki_subset_1M_001.00percent_seed48.txt
        if file.stem.endswith(f"_seed{seed}"):
            percent = float(re.search(r"([\d.]+)percent", file.name)[1])
            sizes[round(MILLION * percent / 100)] = file
    if size not in sizes:
        known = ", ".join(map(str, sorted(sizes)))
        raise ValueError(f"size must be that of a split ({known}), got {size}")
    file = sizes[size]
    provenance = replace(found.provenance, name=file.stem, sha256=sha256_of([file]))
    return _sentences(read_lines(file), provenance)


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
    stem = "val" if split == "validation" else split
    need = Need(
        "tweets", f"TweetEval sentiment, {split}", [[f"{stem}_text.txt", f"{stem}_labels.txt"]],
        places=("", "sentiment", "tweet_eval/sentiment"), repository=TWEETS,
        hub_files=[[f"sentiment/{split}-*.parquet"]], stand_in="tweets",
    )  # fmt: skip
    found = locate(need, source, revision)
    if found.provenance.source == "package":
        corpus = load_rated(found.files[0].name, "tweets")
    elif found.provenance.source == "hub":
        table = pd.concat(pd.read_parquet(file) for file in found.files)
        labels = table["label"].to_numpy("int64")
        corpus = Corpus(table["text"].tolist(), found.provenance, labels, SENTIMENTS)
    else:
        texts, labels = parallel_lines(*found.files)
        for line, label in enumerate(labels, start=1):
            if label.strip() not in ("0", "1", "2"):
                place = f"{found.files[1]}, line {line}"
                raise ValueError(f"{place}: label must be 0, 1 or 2, got {shown(label)}")
        corpus = Corpus(texts, found.provenance, np.array([*map(int, labels)]), SENTIMENTS)
    print(f"tweets: {corpus.provenance}{found.reason}")
    return corpus.sample(limit, seed=seed)


def load_rated(file: str, artifact: str) -> Corpus:
    """Load packaged texts with their mean rated sentiment (Hutto & Gilbert 2014), in three classes.

    HTML entities are undone.
    """
    rows = [line.split("\t") for line in read_lines(fetch(artifact) / file)]
    ratings = np.array([float(rating) for _, rating, _ in rows])
    labels = np.digitize(ratings, [-NEUTRAL_BAND, NEUTRAL_BAND])
    texts = [html.unescape(text) for _, _, text in rows]
    return Corpus(texts, package_provenance(artifact, file), labels, SENTIMENTS)


def read_lines(file: Path, *, latin_1: bool = False) -> list[str]:
    """Read the lines of a UTF-8 file. Only line feeds end them: tweets hold other separators.

    With `latin_1`, a file that is not UTF-8 is read as Latin-1.
    """
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if not latin_1:
            raise ValueError(f"{file} is not UTF-8 (byte {error.start}); convert it") from error
        text = content.decode("latin-1")
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    for number, line in enumerate(lines, start=1):
        if "\r" in line:
            raise ValueError(f"{file}, line {number}: end lines with a line feed, not with \\r")
    return lines


def parallel_lines(first: Path, second: Path) -> tuple[list[str], list[str]]:
    """Read two files whose lines correspond."""
    one, other = read_lines(first), read_lines(second)
    if len(one) != len(other):
        raise ValueError(
            f"{first} has {len(one)} lines but {second.name} has {len(other)}; one is cut short"
        )
    return one, other
