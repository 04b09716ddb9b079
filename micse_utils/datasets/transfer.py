"""Labelled sentences of the transfer tasks, and where they came from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from micse_utils.checks import whole
from micse_utils.datasets.tasks import load_task, load_tasks, senteval_path
from micse_utils.datasets.texts import drawn_rows, load_rated
from micse_utils.provenance import Provenance, sha256_of


@dataclass(frozen=True)
class Classification:
    """A transfer task: sentences, or sentence pairs, with their classes.

    Attributes:
        first: n sentences.
        second: the n sentences that belong to them in a task on pairs; else empty.
        labels: int64, [n].
        test: bool, [n], True for SentEval's test set; all False if it has none, which means
            ten-fold cross-validation.
        dev: bool, [n], True for SentEval's development set; None if it has none.
    """

    first: list[str]
    second: list[str]
    labels: np.ndarray
    test: np.ndarray
    provenance: Provenance
    dev: np.ndarray | None = None

    @property
    def train(self) -> np.ndarray:
        """Sentences that are in neither set, bool, [n]."""
        return ~self.test if self.dev is None else ~self.test & ~self.dev

    def __post_init__(self) -> None:
        """Validate the parts."""
        n, name = len(self.first), self.provenance.name
        parts = (self.second or self.first, self.labels, self.test)
        parts += () if self.dev is None else (self.dev,)
        if any(len(part) != n for part in parts):
            raise ValueError(f"{name}: {n} sentences do not fit {[len(part) for part in parts]}")
        if self.dev is not None and not self.test.any():
            raise ValueError(f"{name}: a development set must have a test set beside it")

    def sample(self, limit: int | None, seed: int) -> "Classification":
        """Draw `limit` of the sentences; None, more, or a task with a test set: all."""
        if limit is None or self.test.any() or whole("limit", limit, 1) >= len(self.labels):
            return self
        rows = drawn_rows(len(self.labels), limit, seed)
        first = [self.first[row] for row in rows]
        second = [self.second[row] for row in rows] if self.second else []
        return replace(
            self, first=first, second=second, labels=self.labels[rows], test=self.test[rows]
        )


# One file a class, one sentence a line.
TWO_FILES = {
    "MR": ("MR/rt-polarity.neg", "MR/rt-polarity.pos"),
    "CR": ("CR/custrev.neg", "CR/custrev.pos"),
    "SUBJ": ("SUBJ/subj.subjective", "SUBJ/subj.objective"),
    "MPQA": ("MPQA/mpqa.neg", "MPQA/mpqa.pos"),
}
# A file to train on, for SST2 one to choose by, and one to test on; one sentence a line.
TRAIN_TEST = {
    "SST2": ("SST/binary/sentiment-train", "SST/binary/sentiment-dev", "SST/binary/sentiment-test"),
    "TREC": ("TREC/train_5500.label", "TREC/TREC_10.label"),
    "MRPC": ("MRPC/msr_paraphrase_train.txt", "MRPC/msr_paraphrase_test.txt"),
}
TRANSFER_TASKS = (*TWO_FILES, *TRAIN_TEST)
PACKAGED_TRANSFER = {
    "tweets": ("tweets", "tweets_GroundTruth.txt"),
    "movie snippets": ("snippets", "movieReviewSnippets_GroundTruth.txt"),
    "product snippets": ("snippets", "amazonReviewSnippets_GroundTruth.txt"),
    "editorial snippets": ("snippets", "nytEditorialSnippets_GroundTruth.txt"),
}
"""Packaged stand-ins under their own names: texts that people rated for sentiment, in three
classes (Hutto & Gilbert 2014)."""


def load_transfer(
    task: str, *, source: str | Path = "auto", revision: str | None = None
) -> Classification:
    """Load the sentences and classes of one transfer task.

    Args:
        task: one of `TRANSFER_TASKS` or, from the package, of `PACKAGED_TRANSFER`.
        source: of the former, `auto` (folder MICSE_SENTEVAL, then hub), `hub` (SentEval's folder
            as SimCSE published it), or SentEval's folder.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: an unknown task or source, or a file that is not as it should be.
        FileNotFoundError, HubError, FetchError: the source asked for does not have it.
    """
    official = {name: partial(_task_from_folder, task=name) for name in TRANSFER_TASKS}
    packaged = {name: partial(_rated, *place) for name, place in PACKAGED_TRANSFER.items()}
    return load_task(
        "labelled sentences", task, source, revision, official=official, packaged=packaged
    )


def load_transfer_tasks(
    tasks: Sequence[str] | None = None,
    source: str | Path = "auto",
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Classification]:
    """Load the sentences of several transfer tasks.

    Args:
        tasks, source: as for `load_sts_tasks`, with `TRANSFER_TASKS` and `PACKAGED_TRANSFER`.
        limit, seed: of the sentences of tasks without a test set, draw so many.

    Raises:
        ValueError: an unknown task, or a damaged file.
        FileNotFoundError, HubError, FetchError: a task asked for by name is missing.
    """

    def load(task: str) -> Classification:
        return load_transfer(task, source=source).sample(limit, seed)

    return load_tasks(tasks, source, load, official=TRANSFER_TASKS, packaged=PACKAGED_TRANSFER)


def _rated(artifact: str, file: str) -> Classification:
    corpus = load_rated(file, artifact)
    test = np.zeros(len(corpus), dtype=bool)
    return Classification(corpus.texts, [], corpus.labels, test, corpus.provenance)


def _task_from_folder(folder: Path, task: str) -> Classification:
    relative = TWO_FILES[task] if task in TWO_FILES else TRAIN_TEST[task]
    files = [senteval_path(folder, name) for name in relative]
    provenance = Provenance(task, "folder", files[0].parent.name, sha256=sha256_of(files))
    if task in TWO_FILES:
        rows = [(line, "", label) for label, file in enumerate(files) for line in _lines(file)]
        test, dev = np.zeros(len(rows), dtype=bool), None
    else:
        read = {"SST2": _sst2, "TREC": _trec, "MRPC": _mrpc}[task]
        parts = [read(file) for file in files]
        rows = [row for part in parts for row in part]
        part = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        test, dev = part == len(parts) - 1, part == 1 if task == "SST2" else None
    if not rows:
        raise ValueError(f"{files[0]} and {files[1].name} hold no sentences")
    first, second, classes = zip(*rows, strict=True)
    _, labels = np.unique(classes, return_inverse=True)
    return Classification(
        list(first), list(second) if task == "MRPC" else [], labels, test, provenance, dev
    )


def _lines(file: Path) -> list[str]:
    """Lines that are not empty; SentEval's older sets are in Latin-1."""
    content = file.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = [line.strip() for line in text.split("\n")]
    return [line for line in lines if line]


def _sst2(file: Path) -> list[tuple[str, str, str]]:
    """Rows "sentence, tab, 0 or 1"."""
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        sentence, tab, label = line.rpartition("\t")
        if not tab or label not in ("0", "1"):
            raise ValueError(f"{file}, line {number}: no tab with 0 or 1 at the end: '{line}'")
        rows.append((sentence, "", label))
    return rows


def _trec(file: Path) -> list[tuple[str, str, str]]:
    """Rows "CLASS:subclass question"; the six classes count."""
    rows = []
    for number, line in enumerate(_lines(file), start=1):
        label, _, question = line.partition(" ")
        if ":" not in label or not question:
            raise ValueError(f"{file}, line {number}: no CLASS:subclass and question: '{line}'")
        rows.append((question, "", label.partition(":")[0]))
    return rows


def _mrpc(file: Path) -> list[tuple[str, str, str]]:
    """A heading, then rows "0 or 1, two numbers, two sentences" between tabs."""
    rows = []
    for number, line in enumerate(_lines(file)[1:], start=2):
        columns = line.split("\t")
        if len(columns) != 5 or columns[0] not in ("0", "1"):
            raise ValueError(f"{file}, line {number}: not 0 or 1 and four more columns: '{line}'")
        rows.append((columns[3], columns[4], columns[0]))
    return rows
