"""Load the labelled sentences of the transfer tasks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from micse_utils.datasets.sts import load_tasks
from micse_utils.datasets.texts import drawn_rows, load_rated, read_lines
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
        n, name = len(self.first), self.provenance.name
        parts = (self.second or self.first, self.labels, self.test)
        parts += () if self.dev is None else (self.dev,)
        if any(len(part) != n for part in parts):
            raise ValueError(f"{name}: {n} sentences do not fit {[len(part) for part in parts]}")
        # Frozen: the classifiers want numbers from 0, whatever the classes are called.
        object.__setattr__(self, "labels", np.unique(self.labels, return_inverse=True)[1])
        if self.dev is not None and not self.test.any():
            raise ValueError(f"{name}: a development set must have a test set beside it")

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
    "SST2": (r"(?P<first>.*)\t(?P<label>[01])", "a tab and 0 or 1 at its end"),
    "TREC": (r"(?P<label>[^ :]*):[^ ]* (?P<first>.+)", "CLASS:subclass and a question"),
    "MRPC": (
        r"(?P<label>[01])\t[^\t]*\t[^\t]*\t(?P<first>[^\t]*)\t(?P<second>[^\t]*)",
        "0 or 1, two numbers and two sentences between tabs",
    ),
}
"""Pattern of a line in these files, and the same in words."""
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
        source, revision: as for `load_sts`; the same values are refused.
    """
    if task in PACKAGED_TRANSFER:
        artifact, file = PACKAGED_TRANSFER[task]
        corpus = load_rated(file, artifact)
        test = np.zeros(len(corpus), dtype=bool)
        return Classification(corpus.texts, [], corpus.labels, test, corpus.provenance)
    if task not in TRANSFER_TASKS:
        known = ", ".join((*TRANSFER_TASKS, *PACKAGED_TRANSFER))
        raise ValueError(f"task must be one of {known}, got {shown(task)}")
    names = TWO_FILES[task] if task in TWO_FILES else TRAIN_TEST[task]
    need = senteval_need("labelled sentences", task, *names)
    files, provenance, reason = locate(need, source, revision)
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
    if task in TWO_FILES:
        rows = [(line, "", label) for label, file in enumerate(files) for _, line in _lines(file)]
        test, dev = np.zeros(len(rows), dtype=bool), None
    else:
        parts = [_rows(file, task) for file in files]
        rows = [row for part in parts for row in part]
        part = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        test, dev = part == len(parts) - 1, part == 1 if task == "SST2" else None
    if not rows:
        raise ValueError(f"{files[0]} and {files[1].name} hold no sentences")
    first, second, labels = zip(*rows, strict=True)
    return Classification(
        list(first), list(second) if task == "MRPC" else [], np.array(labels), test, provenance, dev
    )


def _lines(file: Path) -> list[tuple[int, str]]:
    """Return number and text of the lines that are not empty; SentEval's older sets are Latin-1."""
    lines = enumerate(read_lines(file, latin_1=True), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def _rows(file: Path, task: str) -> list[tuple[str, str, str]]:
    """Return sentence, second sentence and class of each line."""
    pattern, form = LINES[task]
    rows = []
    for number, line in _lines(file):
        if number == 1 and line.startswith("Quality\t"):  # MRPC's header
            continue
        if not (found := re.fullmatch(pattern, line)):
            raise ValueError(f"{file}, line {number} must have {form}, got {shown(line)}")
        parts = found.groupdict()
        rows.append((parts["first"], parts.get("second", ""), parts["label"]))
    return rows
