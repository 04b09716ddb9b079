"""Load the labelled sentences of the transfer tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from micse_utils.datasets.sts import load_tasks
from micse_utils.datasets.tables import read_rows
from micse_utils.datasets.texts import drawn_rows, load_rated
from micse_utils.provenance import Provenance
from micse_utils.settings import check_choice
from micse_utils.sources.locate import locate, senteval_need


@dataclass(frozen=True)
class Classification:
    """A transfer task: sentences, or sentence pairs, with their classes."""

    first: list[str]  # n sentences
    second: list[str]  # in a task on pairs the n sentences beside them, else empty
    labels: np.ndarray  # [n]: any values; kept as int64, numbered from 0 in sorted order
    test: np.ndarray  # bool, [n]: SentEval's test set; all False for ten-fold cross-validation
    provenance: Provenance
    dev: np.ndarray | None = None  # bool, [n]: SentEval's development set, beside a test set

    def __post_init__(self) -> None:
        """Validate the columns, and number the classes, whatever they are called."""
        dev = self.test if self.dev is None else self.dev
        columns = self.first, self.second or self.first, self.labels, self.test, dev
        if len({*map(len, columns)}) > 1 or (dev.any() and not self.test.any()):
            raise ValueError(f"{self.provenance.name}: unequal lengths, or dev without a test set")
        numbers = np.unique(self.labels, return_inverse=True)[1]
        object.__setattr__(self, "labels", numbers)  # the class is frozen

    @property
    def train(self) -> np.ndarray:
        """Return which sentences are in neither set, bool, [n]."""
        return ~self.test if self.dev is None else ~self.test & ~self.dev

    def sample(self, limit: int | None, seed: int) -> "Classification":
        """Draw `limit` sentences; take all if it is None or larger, or if there is a test set."""
        rows = drawn_rows(len(self.labels), None if self.test.any() else limit, seed)
        first, second = ([side[row] for row in rows if side] for side in (self.first, self.second))
        dev = None if self.dev is None else self.dev[rows]
        kept = {"labels": self.labels[rows], "test": self.test[rows], "dev": dev}
        return replace(self, first=first, second=second, **kept)


TWO_FILES = {  # one file a class, one sentence a line
    "MR": ("MR/rt-polarity.neg", "MR/rt-polarity.pos"),
    "CR": ("CR/custrev.neg", "CR/custrev.pos"),
    "SUBJ": ("SUBJ/subj.subjective", "SUBJ/subj.objective"),
    "MPQA": ("MPQA/mpqa.neg", "MPQA/mpqa.pos"),
}
TRAIN_TEST = {  # a file to train on, for SST2 one to choose by, and one to test on
    "SST2": ("SST/binary/sentiment-train", "SST/binary/sentiment-dev", "SST/binary/sentiment-test"),
    "TREC": ("TREC/train_5500.label", "TREC/TREC_10.label"),
    "MRPC": ("MRPC/msr_paraphrase_train.txt", "MRPC/msr_paraphrase_test.txt"),
}
PAIR = r"(?P<first>[^\t]+)\t(?P<second>[^\t]*\S)"
LINES = {  # pattern of a line in these files; MRPC's may have a header
    **dict.fromkeys(TWO_FILES, r"(?P<first>.*?)"),
    "SST2": r"(?P<first>\S.*)\t(?P<label>[01])",
    "TREC": r"(?P<label>[^ :]*):[^ ]* (?P<first>.+?)",
    "MRPC": rf"(?P<label>[01])\t[^\t]*\t[^\t]*\t{PAIR}|Quality\t.*",
}
TRANSFER_TASKS = (*TWO_FILES, *TRAIN_TEST)
PACKAGED_TRANSFER = {  # stand-ins under their own names: texts that people rated for sentiment
    "tweets": ("tweets", "tweets_GroundTruth.txt"),
    "movie snippets": ("snippets", "movieReviewSnippets_GroundTruth.txt"),
    "product snippets": ("snippets", "amazonReviewSnippets_GroundTruth.txt"),
    "editorial snippets": ("snippets", "nytEditorialSnippets_GroundTruth.txt"),
}


def load_transfer(task: str, *, source: str | Path = "auto") -> Classification:
    """Load one of `TRANSFER_TASKS`, as `load_sts` does, or of `PACKAGED_TRANSFER`."""
    check_choice("task", task, (*TRANSFER_TASKS, *PACKAGED_TRANSFER))
    if task in PACKAGED_TRANSFER:
        corpus = load_rated(*PACKAGED_TRANSFER[task])
        test = np.zeros(len(corpus), dtype=bool)
        return Classification(corpus.texts, [], corpus.labels, test, corpus.provenance)
    need = senteval_need(task, *(TWO_FILES | TRAIN_TEST)[task])
    files, provenance, reason = locate(need, source)
    parts = [_rows(file, rf"\s*({LINES[task]})?\s*") for file in files]
    rows = [row for part in parts for row in part]
    part = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    labels = part if task in TWO_FILES else [row["label"] for row in rows]
    test = (part == len(parts) - 1) & (task in TRAIN_TEST)
    first = [row["first"] for row in rows]
    second = [row["second"] for row in rows if task == "MRPC"]
    dev = part == 1 if task == "SST2" else None
    print(f"labelled sentences: {provenance}{reason}")
    return Classification(first, second, labels, test, provenance, dev)


def load_transfer_tasks(
    tasks: Sequence[str] | None = None,
    source: str | Path = "auto",
    *,
    limit: int | None = None,
    seed: int = 0,
) -> dict[str, Classification]:
    """Load transfer tasks, as `load_sts_tasks` does STS, each cut to a `Classification.sample`."""
    load = partial(load_transfer, source=source)
    loaded = load_tasks(tasks, source, load, TRANSFER_TASKS, PACKAGED_TRANSFER)
    return {task: data.sample(limit, seed) for task, data in loaded.items()}


def _rows(file: Path, pattern: str) -> list[dict[str, str]]:
    """Return the lines with a sentence: the others are empty, or a header."""
    try:
        file.read_text(encoding="utf-8")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:  # SentEval's older sets are Latin-1
        encoding = "latin-1"
    return [row for row in read_rows(file, pattern, encoding) if row["first"]]
