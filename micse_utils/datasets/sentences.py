"""Sentences to search in and to train on: Wikipedia's, the paper's splits, the user's own."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from micse_utils.checks import listed, shown, whole
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.texts import Corpus, package_provenance, read_lines
from micse_utils.datasets.wikitext import distinct_sentences, packaged_articles
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import file_at, folder_at
from micse_utils.sources import hub
from micse_utils.sources.choose import choose

SENTENCES = "princeton-nlp/datasets-for-simcse"
SENTENCES_FILE = "wiki1m_for_simcse.txt"
SPLITS = "sap-ai-research/datasets-for-micse"
MILLION = 1_000_000
"""Sentences that the splits of the paper are shares of."""


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

    From the hub they are the paper's own splits (64 to 100 000 sentences, seeds 48 to 52); from a
    folder, samples of `load_sentences`, drawn with the seed; from the package likewise, but only
    from the two thirds of its articles that give no section triplets (`load_triplets`).

    Args:
        sizes: numbers of sentences.
        seeds: of the splits or samples.
        source: as for `load_sentences`.
        revision: commit, tag or branch of the hub repository.

    Returns:
        One corpus for each size and seed.

    Raises:
        ValueError: an unknown source, no sizes or seeds, a size that is no positive whole number,
            that the paper has no split of, or that is more than there is.
        FileNotFoundError, HubError, FetchError: the source asked for does not have them.
    """
    for name, given, least in (("sizes", sizes, 1), ("seeds", seeds, 0)):
        for position, number in enumerate(listed(name, given)):
            whole(f"{name}[{position}]", number, least)
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
        package=lambda: split(_sentences_from_package("training")),
    )
    return handfuls


def read_sentences(file: str | Path, *, column: str | None = None) -> Corpus:
    """Load sentences from the user's own file, read by `open_source`; rows without one are skipped.

    Args:
        file: text with one sentence a line (`.txt`), or a table (CSV, TSV, Parquet, JSON lines);
            all but Parquet may be compressed.
        column: of a table, the one with the sentences; may be left out if there is just one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read exactly, has no such column, or no sentence in it.
    """
    name, file = file, file_at(file)
    if file is None:
        what = "is a folder; name a file in it" if folder_at(name) else "is not there"
        raise FileNotFoundError(f"{shown(str(name))} {what}")
    source = open_source(file, column)
    lines = [text for text in source.texts() if text is not None]
    return _sentences(lines, Provenance(file.stem, "folder", file.name, sha256=sha256_of([file])))


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


def _sentences_from_package(part: str = "all") -> Corpus:
    provenance = package_provenance("wikipedia")
    if part != "all":
        provenance = replace(provenance, name=f"{provenance.name}, {part} articles")
    return Corpus(distinct_sentences(packaged_articles(part)), provenance)


def _sentences(lines: Sequence[str], provenance: Provenance) -> Corpus:
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ValueError(f"there are no sentences in {provenance.origin}")
    return Corpus(texts, provenance)
