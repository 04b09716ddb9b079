"""Load sentence pairs with a gold similarity (STS)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from micse_utils.datasets.formats import parallel_rows, read_rows
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
PAIR = r"(?P<first>[^\t]*)\t(?P<second>[^\t]*)"
GOLD = r"(?P<gold>[0-4](\.\d*)?|5(\.0*)?)"
STSB_LINE = rf"([^\t]*\t){{4}}{GOLD}\t{PAIR}(\t.*)?"  # after genre, file, year and number
SICK_LINE = rf"pair_ID\t.*|[^\t]*\t{PAIR}\t{GOLD}(\t.*)?"
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
        if n == 0 or lengths != [n] * 3 or not all(0 <= score < np.inf for score in self.gold):
            what = f"{n} gold scores for {lengths} sentences and subsets"
            raise ValueError(f"{name}: each pair must have a gold score from 0, got {what}")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.gold)


def load_sts(task: str, *, source: str | Path = "auto") -> Pairs:
    """Load the test pairs of one STS task, all subsets pooled.

    Args:
        task: one of `STS_TASKS`, `PACKAGED_STS`, which have only one source, or `SICK trial`.
        source: `auto` (folder MICSE_SENTEVAL, then hub), `hub` (SentEval's folder as SimCSE
            published it), or SentEval's folder.

    Raises:
        ValueError: an unknown task or source, or a damaged file.
        FileNotFoundError, HubError, FetchError: the source does not have it.
    """
    if task in PACKAGED_STS:
        return load_lee() if task == "Lee" else load_sample()
    if task == "STSBenchmark":
        return _load(_stsb("test"), source, STSB_LINE)
    if task in SICK:
        return _load(senteval_need(KIND, task, f"SICK/SICK_{SICK[task]}.txt"), source, SICK_LINE)
    if task not in YEARS:
        known = ", ".join((*STS_TASKS, *PACKAGED_STS))
        raise ValueError(f"task must be one of {known}, got {shown(task)}")
    parts = itertools.product(YEARS[task], ("input", "gs"))
    files = [f"STS/{task}-en-test/STS.{kind}.{subset}.txt" for subset, kind in parts]
    return _load(senteval_need(KIND, task, *files), source)


def load_sts_tasks(
    tasks: Sequence[str] | None = None, source: str | Path = "auto"
) -> dict[str, Pairs]:
    """Load the pairs of several STS tasks.

    Args:
        tasks: names from `STS_TASKS` and `PACKAGED_STS`; by default all that the source has.
            Missing ones are printed.
        source: as for `load_sts`, as is what is refused; `package`, and `auto` if there is nothing
            else, take `PACKAGED_STS`.
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


def load_stsb(split: str = "dev", *, source: str | Path = "auto") -> Pairs:
    """Load STSBenchmark (Cer et al. 2017) or, if it is unavailable, the kit's own plain pairs.

    Args:
        split: `train`, `dev` or `test`.
        source: as for `load_sts`, as is what is refused; `package` is the kit's sample, which has
            no splits and is not a benchmark.
    """
    if split not in ("train", "dev", "test"):
        raise ValueError(f"split must be train, dev or test, got {shown(split)}")
    return _load(replace(_stsb(split), stand_in="sts_sample.csv"), source, STSB_LINE)


def _stsb(split: str) -> Need:
    return senteval_need(KIND, f"STSBenchmark, {split}", f"STS/STSBenchmark/sts-{split}.csv")


def load_sample(kind: str = "plain") -> Pairs:
    """Load the kit's own STS-style pairs, written and scored by one person; not a benchmark.

    Args:
        kind: `plain`; `same words`, which share most words and differ in meaning; or `other words`,
            which share few and mean the same. The last two are written to mislead, so a
            correlation over all three would mostly reflect how many of them there are.
    """
    file = KIT_DATA / "sts_sample.csv"
    table = pd.read_csv(file)
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


def _load(need: Need, source: str | Path, pattern: str | None = None) -> Pairs:
    """Load the pairs from one file of lines with this pattern, or from the files of a year."""
    files, provenance, reason = locate(need, source)
    if provenance.source == "kit":
        pairs = load_sample()
    else:
        rows = read_rows(files[0], pattern) if pattern else _year_rows(files)
        rows = [row for row in rows if row["gold"]]  # the others were not rated, or are a header
        first, second = ([row[side] for row in rows] for side in ("first", "second"))
        gold = np.array([float(row["gold"]) for row in rows])
        subsets = () if pattern else tuple(row["subset"] for row in rows)
        pairs = Pairs(first, second, gold, provenance, subsets)
    print(f"{KIND}: {pairs.provenance}{reason}")
    return pairs


def _year_rows(files: list[Path]) -> Iterator[dict[str, str]]:
    for pairs, scores in zip(files[::2], files[1::2], strict=True):
        subset = pairs.name.removeprefix("STS.input.").removesuffix(".txt")
        for row in parallel_rows(pairs, scores, rf"{PAIR}(\t.*)?", rf" *({GOLD} *)?"):
            yield row | {"subset": subset}
