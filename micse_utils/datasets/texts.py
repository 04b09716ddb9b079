"""Load sentences to search in and to train on, and labelled tweets."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.datasets.tables import open_source, parallel_rows, read_lines
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import check_choice, whole
from micse_utils.sources.locate import Found, Need, locate
from micse_utils.sources.packaged import fetch, package_provenance

SENTENCES = "princeton-nlp/datasets-for-simcse"
SPLITS = "sap-ai-research/datasets-for-micse"
TWEETS = "cardiffnlp/tweet_eval"
SENTIMENTS = ("negative", "neutral", "positive")


@dataclass(frozen=True)
class Corpus:
    """Texts, their labels if they have any, and their provenance."""

    texts: list[str]
    provenance: Provenance
    labels: np.ndarray | None = None  # int64, [n], indices into `label_names`
    label_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.texts)

    def sample(self, limit: int | None, *, seed: int = 0) -> "Corpus":
        """Draw `limit` texts without replacement, in corpus order; all if it is None or larger."""
        rows = drawn_rows(len(self), limit, seed)
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, texts=[self.texts[row] for row in rows], labels=labels)


def drawn_rows(total: int, limit: int | None, seed: int) -> np.ndarray:
    """Draw `limit` of `total` rows without replacement, in their order; all if it is larger."""
    if limit is None or whole("limit", limit, 1) >= total:
        return np.arange(total)
    random = np.random.default_rng(whole("seed", seed))
    return np.sort(random.choice(total, limit, replace=False))


def load_sentences(
    source: str | Path = "auto", *, limit: int | None = None, seed: int = 0
) -> Corpus:
    """Load sentences of English Wikipedia; draw `limit` of them, by the seed.

    The source is `auto`, `hub` (SimCSE's million sentences), `package` (106 articles), or a folder
    with one sentence a line in `sentences.txt`. Raises FileNotFoundError, HubError or FetchError if
    it does not have them, and ValueError for a damaged file or a wrong argument.
    """
    need = Need(
        "Wikipedia, SimCSE's million sentences", ["sentences.txt"],
        repository=SENTENCES, hub_files=["wiki1m_for_simcse.txt"], stand_in="wikipedia",
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
    samples of `load_sentences`, drawn by the seed; of the package without the third of its articles
    that give section triplets. Raises as `load_sentences`.
    """
    if not (wanted := list(product(sizes, seeds))):
        raise ValueError("sizes and seeds must not be empty")
    fetched = sorted({*range(48, 53)}.intersection(seeds)) or [48]  # others are refused below
    need = Need(
        "miCSE's splits", ["sentences.txt"], repository=SPLITS,
        hub_files=[f"*percent_seed{seed}.txt" for seed in fetched], stand_in="wikipedia",
    )  # fmt: skip
    found = locate(need, source)
    if found.provenance.source == "hub":
        splits, subsets = {}, {}
        for file in found.files:  # wiki_subset_1M_001.00percent_seed48.txt, of a million sentences
            percent, seed = re.search(r"([\d.]+)percent_seed(\d+)", file.name).groups()
            splits[round(10_000 * float(percent)), int(seed)] = file
        for place in wanted:
            check_choice("size and seed of a split", place, sorted(splits))
            file = splits[place]
            provenance = replace(found.provenance, name=file.stem, sha256=sha256_of([file]))
            subsets[place] = _sentences(read_lines(file), provenance)
    else:
        corpus = _sentences_of(found, "training")
        if max(sizes) > len(corpus):
            raise ValueError(f"size is {max(sizes)} but {corpus.provenance} has only {len(corpus)}")
        subsets = {(size, seed): corpus.sample(size, seed=seed) for size, seed in wanted}
    print(f"sentences: {subsets[wanted[-1]].provenance}{found.reason}")
    return subsets


def read_sentences(file: str | Path, *, column: str | None = None) -> Corpus:
    """Load sentences from a column (default: `text`) of the user's own files, by `open_source`."""
    source, file = open_source(file, column or "text"), Path(file)
    columns = (table[source.column].to_pylist() for _, table in source.blocks(source.rows))
    lines = [line for lines in columns for line in lines if line]
    return _sentences(lines, Provenance(file.stem, "folder", file.name, sha256=source.sha256))


def _sentences_of(found: Found, part: str = "all") -> Corpus:
    """Read the sentences that were found, of the package only those of some articles."""
    provenance = found.provenance
    if provenance.source == "package":
        if part != "all":
            provenance = replace(provenance, name=f"{provenance.name}, {part} articles")
        return Corpus(distinct_sentences(packaged_articles(part)), provenance)
    if provenance.source == "folder":
        provenance = replace(provenance, name=found.files[0].stem)
    return _sentences(read_lines(found.files[0]), provenance)


def _sentences(lines: Sequence[str], provenance: Provenance) -> Corpus:
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"{provenance.origin} holds no sentences")
    return Corpus(texts, provenance)


def load_tweets(source: str | Path = "auto") -> Corpus:
    """Load tweets with their sentiment: negative, neutral or positive. Raises as `load_sentences`.

    From `hub` (TweetEval's training split, Barbieri et al. 2020), `package` (Hutto & Gilbert 2014),
    `auto`, or a folder with TweetEval's `train_text.txt` and `train_labels.txt`.
    """
    need = Need(
        "TweetEval sentiment, train", ["train_text.txt", "train_labels.txt"],
        places=("", "sentiment", "tweet_eval/sentiment"), repository=TWEETS,
        hub_files=["sentiment/train-*.parquet"], stand_in="tweets",
    )  # fmt: skip
    found = locate(need, source)
    if found.provenance.source == "package":
        corpus = load_rated("tweets", found.files[0].name)
    else:
        if found.provenance.source == "hub":
            table = pd.concat(map(pd.read_parquet, found.files))
        else:
            rows = parallel_rows(*found.files, "(?P<text>.*)", "(?P<label>[012]) *")
            table = pd.DataFrame(rows, columns=["text", "label"])
        labels = table["label"].astype("int64").to_numpy()
        corpus = Corpus(table["text"].tolist(), found.provenance, labels, SENTIMENTS)
    print(f"tweets: {corpus.provenance}{found.reason}")
    return corpus


def load_rated(artifact: str, file: str) -> Corpus:
    """Load packaged texts by their mean rating (Hutto & Gilbert 2014), in three classes."""
    rows = [line.split("\t") for line in read_lines(fetch(artifact) / file)]
    # From -4 to 4; those within half a point of 0 are neutral.
    labels = np.digitize([float(rating) for _, rating, _ in rows], [-0.5, 0.5])
    texts = [html.unescape(text) for _, _, text in rows]
    return Corpus(texts, package_provenance(artifact, file), labels, SENTIMENTS)
