"""Load sentence pairs with a gold similarity (STS)."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils.datasets.tables import parallel_rows, read_rows
from micse_utils.provenance import Provenance
from micse_utils.settings import KIT_DATA, check_choice
from micse_utils.sources.hub import HubError
from micse_utils.sources.locate import Need, locate, senteval_need
from micse_utils.sources.packaged import fetch, package_provenance

Names = Sequence[str]  # of tasks
YEARS = {  # subsets of each year's task, as SentEval names their files
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),  # the fourth, SMT, is not free; nobody scores it
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
STS_TASKS = (*YEARS, "STSBenchmark", "SICKRelatedness")
SICK = {"SICKRelatedness": "SICK_test_annotated.txt", "SICK trial": "SICK_trial.txt"}
PAIR = r"(?P<first>[^\t]*)\t(?P<second>[^\t]*)"
GOLD = r"(?P<gold>[0-4](\.\d*)?|5(\.0*)?)"
STSB_LINE = rf"([^\t]*\t){{4}}{GOLD}\t{PAIR}(\t.*)?"  # after genre, file, year and number
SICK_LINE = rf"pair_ID\t.*|[^\t]*\t{PAIR}\t{GOLD}(\t.*)?"
PACKAGED_STS = ("Lee", "kit sample")  # stand-ins under their own names


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
        sides = self.first, self.second, self.gold, self.subsets or self.gold
        lengths = {len(side) for side in sides}
        if len(lengths) > 1 or 0 in lengths or not all(0 <= score < np.inf for score in self.gold):
            what = "must have pairs, each of two sentences with a gold score from 0"
            raise ValueError(f"{self.provenance.name} {what}")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.gold)


def load_sts(task: str, *, source: str | Path = "auto") -> Pairs:
    """Load the test pairs of `STS_TASKS`, `SICK trial` or `PACKAGED_STS`, all subsets pooled.

    The source is `auto` (folder MICSE_SENTEVAL, then hub), `hub`, or SentEval's folder. Raises
    FileNotFoundError, HubError or FetchError if it does not have the task, and ValueError for a
    damaged file or a wrong argument.
    """
    check_choice("task", task, (*STS_TASKS, "SICK trial", *PACKAGED_STS))
    if task in PACKAGED_STS:
        return load_lee() if task == "Lee" else load_sample()
    if task == "STSBenchmark":
        return load_stsb("test", source=source)
    if task in SICK:
        return _load(senteval_need(task, f"SICK/{SICK[task]}"), source, SICK_LINE)
    parts = itertools.product(YEARS[task], ("input", "gs"))
    files = [f"STS/{task}-en-test/STS.{kind}.{subset}.txt" for subset, kind in parts]
    return _load(senteval_need(task, *files), source)


def load_stsb(split: str = "dev", *, source: str | Path = "auto") -> Pairs:
    """Load a split of STSBenchmark as `load_sts`: `train`, `test` or, with a stand-in, `dev`."""
    check_choice("split", split, ("train", "dev", "test"))
    name, file = f"STSBenchmark, {split}", f"STS/STSBenchmark/sts-{split}.csv"
    need = senteval_need(name, file, stand_in="sts_sample.csv" if split == "dev" else None)
    return _load(need, source, STSB_LINE)


def load_sts_tasks(tasks: Names | None = None, source: str | Path = "auto") -> dict[str, Pairs]:
    """Load the pairs of tasks by their names, as `load_sts`; by default of all in the source.

    The source `package`, and `auto` if there is nothing else, has `PACKAGED_STS`.
    """
    return load_tasks(tasks, source, partial(load_sts, source=source), STS_TASKS, PACKAGED_STS)


def load_tasks(
    tasks: Names | None, source: str | Path, load: Callable, official: Names, packaged: Names
) -> dict:
    """Load tasks, by default all official ones that the source has, and print the missing ones."""
    if tasks is not None:
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


def load_sample(kind: str = "plain") -> Pairs:
    """Load the kit's own STS-style pairs, written and scored by one person; not a benchmark.

    Of the `plain` pairs, or of two kinds that are written to mislead: `same words`, which share
    most words and differ in meaning, and `other words`, which share few and mean the same.
    """
    file = KIT_DATA / "sts_sample.csv"
    table = pd.read_csv(file).query("kind == @kind")
    provenance = replace(Provenance.of_kit_file(file), name=f"sts_sample, {kind} pairs")
    first, second = (table[name].tolist() for name in ("sentence1", "sentence2"))
    return Pairs(first, second, table["score"].to_numpy(float), provenance, tuple(table["genre"]))


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
    print(f"rated pairs: {pairs.provenance}{reason}")
    return pairs


def _year_rows(files: list[Path]) -> Iterator[dict[str, str]]:
    for pairs, scores in zip(files[::2], files[1::2], strict=True):
        subset = pairs.name.removeprefix("STS.input.").removesuffix(".txt")
        for row in parallel_rows(pairs, scores, rf"{PAIR}(\t.*)?", rf" *({GOLD} *)?"):
            yield row | {"subset": subset}
