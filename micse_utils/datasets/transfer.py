"""Load the labelled sentences of the transfer tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from micse_utils.datasets.formats import read_rows
from micse_utils.datasets.sts import load_tasks
from micse_utils.datasets.texts import drawn_rows, load_rated
from micse_utils.provenance import Provenance
from micse_utils.settings import shown, whole
from micse_utils.sources.locate import locate
from micse_utils.sources.senteval_archive import senteval_need


@dataclass(frozen=True)
class Classification:
    """A transfer task: sentences, or sentence pairs, with their classes."""

    first: list[str]  # n sentences
    second: list[str]  # in a task on pairs the n sentences beside them, else empty
    labels: np.ndarray  # [n]: any values; kept as int64, numbered from 0 in sorted order
    test: np.ndarray  # bool, [n]: SentEval's test set; all False for ten-fold cross-validation
    provenance: Provenance
    dev: np.ndarray | None = None  # bool, [n]: SentEval's development set, if it has one

    @property
    def train(self) -> np.ndarray:
        """Return which sentences are in neither set, bool, [n]."""
        return ~self.test if self.dev is None else ~self.test & ~self.dev

    def __post_init__(self) -> None:
        """Validate the columns."""
        dev = self.test if self.dev is None else self.dev
        parts = self.first, self.second or self.first, self.labels, self.test, dev
        lengths = [len(part) for part in parts]
        if len({*lengths}) > 1 or (dev.any() and not self.test.any()):
            what = "sentences, labels and sets must have one length, and dev a test set beside it"
            raise ValueError(f"{self.provenance.name}: {what}, got {lengths}")
        # Frozen: the classifiers want numbers from 0, whatever the classes are called.
        object.__setattr__(self, "labels", np.unique(self.labels, return_inverse=True)[1])

    def sample(self, limit: int | None, seed: int) -> "Classification":
        """Draw `limit` sentences; take all if it is None or larger, or if there is a test set."""
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
LINES = {
    **dict.fromkeys(TWO_FILES, r"(?P<first>.*?)"),
    "SST2": r"(?P<first>\S.*)\t(?P<label>[01])",
    "TREC": r"(?P<label>[^ :]*):[^ ]* (?P<first>.+?)",
    "MRPC": (
        r"(?P<label>[01])\t[^\t]*\t[^\t]*\t(?P<first>[^\t]+)\t(?P<second>[^\t]*\S)|Quality\t.*"
    ),
}
"""Pattern of a line in these files; MRPC's may have a header."""
TRANSFER_TASKS = (*TWO_FILES, *TRAIN_TEST)
PACKAGED_TRANSFER = {
    "tweets": ("tweets", "tweets_GroundTruth.txt"),
    "movie snippets": ("snippets", "movieReviewSnippets_GroundTruth.txt"),
    "product snippets": ("snippets", "amazonReviewSnippets_GroundTruth.txt"),
    "editorial snippets": ("snippets", "nytEditorialSnippets_GroundTruth.txt"),
}
"""Packaged stand-ins under their own names: texts that people rated for sentiment, in three
classes (Hutto & Gilbert 2014)."""


def load_transfer(task: str, *, source: str | Path = "auto") -> Classification:
    """Load the sentences and classes of one transfer task.

    Args:
        task: one of `TRANSFER_TASKS` or, from the package, of `PACKAGED_TRANSFER`.
        source: as for `load_sts`; the same values are refused.
    """
    if task in PACKAGED_TRANSFER:
        artifact, file = PACKAGED_TRANSFER[task]
        corpus = load_rated(file, artifact)
        test = np.zeros(len(corpus), dtype=bool)
        return Classification(corpus.texts, [], corpus.labels, test, corpus.provenance)
    if task not in TRANSFER_TASKS:
        known = ", ".join((*TRANSFER_TASKS, *PACKAGED_TRANSFER))
        raise ValueError(f"task must be one of {known}, got {shown(task)}")
    need = senteval_need("labelled sentences", task, *(TWO_FILES | TRAIN_TEST)[task])
    files, provenance, reason = locate(need, source)
    loaded = _read_task(task, files, provenance)
    print(f"{need.kind}: {provenance}{reason}")
    return loaded


def load_transfer_tasks(
    tasks: Sequence[str] | None = None,
    source: str | Path = "auto",
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Classification]:
    """Load the sentences of several transfer tasks.

    Args:
        tasks, source: as for `load_sts_tasks`; the same values are refused.
        limit, seed: how many sentences of a task without a test set to draw, and by which seed.
    """

    def load(task: str) -> Classification:
        return load_transfer(task, source=source).sample(limit, seed)

    return load_tasks(tasks, source, load, official=TRANSFER_TASKS, packaged=PACKAGED_TRANSFER)


def _read_task(task: str, files: list[Path], provenance: Provenance) -> Classification:
    parts = [_rows(file, rf"\s*({LINES[task]})?\s*") for file in files]
    rows = [row for part in parts for row in part]
    part = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    if task in TWO_FILES:
        labels, test, dev = part, np.zeros(len(part), dtype=bool), None
    else:
        labels, test = [row["label"] for row in rows], part == len(parts) - 1
        dev = part == 1 if task == "SST2" else None
    first = [row["first"] for row in rows]
    second = [row["second"] for row in rows] if task == "MRPC" else []
    return Classification(first, second, labels, test, provenance, dev)


def _rows(file: Path, pattern: str) -> list[dict[str, str]]:
    """Return the lines with a sentence: the others are empty, or a header."""
    try:
        rows = read_rows(file, pattern)
    except ValueError as error:  # SentEval's older sets are Latin-1
        if not isinstance(error.__cause__, UnicodeDecodeError):
            raise
        rows = read_rows(file, pattern, "latin-1")
    return [row for row in rows if row["first"]]
