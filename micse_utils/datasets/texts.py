"""Load sentences to search in and to train on, and labelled tweets."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.datasets.formats import TEXT, parallel_rows, read_lines
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import shown, whole
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
    source: str | Path = "auto", *, limit: int | None = None, seed: int = 0
) -> Corpus:
    """Load sentences of English Wikipedia.

    Args:
        source: `auto`, `hub` (SimCSE's million sentences), `package` (106 articles), or a folder
            with one sentence a line in `sentences.txt` or `wiki1m_for_simcse.txt`.
        limit, seed: draw so many of them, by this seed.

    Raises:
        ValueError: an unknown source, an invalid limit or seed, or a damaged file.
        FileNotFoundError, HubError, FetchError: the source does not have them.
    """
    need = Need(
        "sentences", "Wikipedia, SimCSE's million sentences", IN_FOLDER, repository=SENTENCES,
        hub_files=[[SENTENCES_FILE]], stand_in="wikipedia",
    )  # fmt: skip
    found = locate(need, source)
    corpus = _sentences_of(found)
    print(f"sentences: {corpus.provenance}{found.reason}")
    return corpus.sample(limit, seed=seed)


def load_low_shot(
    sizes: Sequence[int], *, seeds: Sequence[int] = (48,), source: str | Path = "auto"
) -> dict[tuple[int, int], Corpus]:
    """Load small sets of Wikipedia sentences to train on, one for each size and seed.

    From the hub they are the paper's own splits (64 to 100,000 sentences, seeds 48 to 52), else
    samples of `load_sentences`, drawn by the seed; from the package only from the two thirds of its
    articles that give no section triplets (`load_triplets`).

    Raises:
        ValueError: as for `load_sentences`; also no sizes or seeds, or no such split.
    """
    wanted = [(whole("size", size, 1), whole("seed", seed)) for size in sizes for seed in seeds]
    if not wanted:
        raise ValueError("sizes and seeds must not be empty")
    fetched = {*SEEDS} & {*seeds} or SEEDS[:1]
    need = Need(
        "sentences", "miCSE's splits", IN_FOLDER, repository=SPLITS,
        hub_files=[[f"*percent_seed{seed}.txt" for seed in sorted(fetched)]], stand_in="wikipedia",
    )  # fmt: skip
    found = locate(need, source)
    if found.provenance.source == "hub":
        subsets = {place: _official_split(found, *place) for place in wanted}
    else:
        corpus = _sentences_of(found, "training")
        if max(sizes) > len(corpus):
            raise ValueError(f"size is {max(sizes)} but {corpus.provenance} has {len(corpus)}")
        subsets = {place: corpus.sample(place[0], seed=place[1]) for place in wanted}
    last = subsets[wanted[-1]]
    print(f"sentences: {last.provenance}{found.reason}")
    return subsets


def read_sentences(file: str | Path, *, column: str | None = None) -> Corpus:
    """Load sentences from the user's own files, by `open_source`; empty rows are skipped.

    The sentences of a table are in its `column` (default: `text`).
    """
    source, file = open_source(file, column or TEXT), Path(file)
    tables = [table for _, table in source.blocks(source.rows)]
    lines = [line for table in tables for line in table[source.column].to_pylist() if line]
    return _sentences(lines, Provenance(file.stem, "folder", file.name, sha256=source.sha256))


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
    splits = {}
    for file in found.files:  # wiki_subset_1M_001.00percent_seed48.txt
        percent, own_seed = re.search(r"([\d.]+)percent_seed(\d+)", file.name).groups()
        splits[round(MILLION * float(percent) / 100), int(own_seed)] = file
    if (size, seed) not in splits:
        known = f"{sorted({size for size, _ in splits})} and seeds {SEEDS}"
        raise ValueError(f"the splits have sizes {known}, got size {size} and seed {seed}")
    file = splits[size, seed]
    provenance = replace(found.provenance, name=file.stem, sha256=sha256_of([file]))
    return _sentences(read_lines(file), provenance)


def _sentences(lines: Sequence[str], provenance: Provenance) -> Corpus:
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{provenance.origin} holds no sentences")
    return Corpus(texts, provenance)


def load_tweets(source: str | Path = "auto", *, split: str = "train") -> Corpus:
    """Load tweets with their sentiment: negative, neutral or positive. Raises as `load_sentences`.

    Args:
        source: `auto`, `hub` (TweetEval, Barbieri et al. 2020), `package` (Hutto & Gilbert 2014,
            without splits: `split` is ignored), or a folder with TweetEval's own files,
            `train_text.txt` and `train_labels.txt`, itself or in `tweet_eval/sentiment/`.
        split: `train`, `validation` (in TweetEval's files `val`) or `test`.
    """
    if split not in ("train", "validation", "test"):
        raise ValueError(f"split must be train, validation or test, got {shown(split)}")
    stem = "val" if split == "validation" else split
    need = Need(
        "tweets", f"TweetEval sentiment, {split}", [[f"{stem}_text.txt", f"{stem}_labels.txt"]],
        places=("", "sentiment", "tweet_eval/sentiment"), repository=TWEETS,
        hub_files=[[f"sentiment/{split}-*.parquet"]], stand_in="tweets",
    )  # fmt: skip
    found = locate(need, source)
    if found.provenance.source == "package":
        corpus = load_rated(found.files[0].name, "tweets")
    elif found.provenance.source == "hub":
        table = pd.concat(pd.read_parquet(file) for file in found.files)
        labels = table["label"].to_numpy("int64")
        corpus = Corpus(table["text"].tolist(), found.provenance, labels, SENTIMENTS)
    else:
        rows = parallel_rows(*found.files, "(?P<text>.*)", "(?P<label>[012]) *")
        labels = np.array([int(row["label"]) for row in rows])
        corpus = Corpus([row["text"] for row in rows], found.provenance, labels, SENTIMENTS)
    print(f"tweets: {corpus.provenance}{found.reason}")
    return corpus


def load_rated(file: str, artifact: str) -> Corpus:
    """Load packaged texts by their mean rating (Hutto & Gilbert 2014), in three classes."""
    rows = [line.split("\t") for line in read_lines(fetch(artifact) / file)]
    ratings = np.array([float(rating) for _, rating, _ in rows])
    labels = np.digitize(ratings, [-NEUTRAL_BAND, NEUTRAL_BAND])
    texts = [html.unescape(text) for _, _, text in rows]
    return Corpus(texts, package_provenance(artifact, file), labels, SENTIMENTS)
