"""Run the low-shot experiment: sizes x methods x seeds. Finished runs are kept."""

import copy
import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.checks import shown
from micse_utils.datasets.sts import Pairs
from micse_utils.datasets.texts import Corpus
from micse_utils.results import claimed, json_or_none, records, write_json
from micse_utils.training.config import LowShotConfig, configure, default_preset
from micse_utils.training.monitor import DevelopmentEvaluator, TrainingDivergedError
from micse_utils.training.trainer import train_low_shot

FIGURES = ["before", "best", "last", "independent_before", "independent"]


@dataclasses.dataclass(frozen=True)
class GridRun:
    """One run of the grid: its sentences, its settings and the file of its figures.

    Attributes:
        size, method, seed: they identify the run.
        sentences: to train on.
        config: all settings.
        file: holds its figures.
        settings: what decides the figures; a file with different settings is not this run's.
    """

    size: int
    method: str
    seed: int
    sentences: list[str]
    config: LowShotConfig
    file: Path
    settings: dict[str, object]

    def kept(self) -> dict[str, object] | None:
        """Return the figures on file, or None if the run is missing."""
        record = json_or_none(self.file) or {}
        return record if record.get("settings") == self.settings else None

    def keep(self, figures: dict[str, object]) -> None:
        """Write the figures; a run that failed by accident is repeated next time."""
        which = {"size": self.size, "method": self.method, "seed": self.seed}
        write_json(self.file, {"settings": self.settings} | which | figures)


Trainer = Callable[[GridRun, SentenceTransformer, Pairs, Pairs | None], dict[str, object]]


def in_turn(
    train: Trainer, runs: list[GridRun], *shared: object
) -> Iterator[tuple[GridRun, dict[str, object]]]:
    """Train one run after the other in this process; yield each with its figures."""
    for run in runs:
        yield run, train(run, *shared)


def train_grid(
    base_model: SentenceTransformer,
    sentences: Mapping[tuple[int, int], Corpus],
    folder: str | Path,
    *,
    sizes: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    dev: Pairs,
    independent: Pairs | None = None,
    preset: str | LowShotConfig | None = None,
    each: Callable[..., Iterator[tuple[GridRun, dict[str, object]]]] = in_turn,
    progress: bool = True,
    **settings: object,
) -> pd.DataFrame:
    """Train every combination of size, method and seed from the same start.

    Each run is written to `folder` when it ends, one file a run. Called again, after a kill too,
    this trains only what is missing; a run whose settings differ from those on file is repeated.

    Args:
        base_model: the start; it is not changed.
        sentences: the training sentences of each size and seed.
        folder: holds a file for each run.
        sizes: numbers of sentences.
        methods: `micse`, `simcse` or both.
        seeds: seeds of the sentences. The training seed is a setting, the same for all runs.
        dev: pairs that choose the checkpoint.
        independent: further pairs, which choose nothing, scored before and after.
        preset, settings: as for `train_low_shot`, the same for all runs.
        each: how the runs are made: `in_turn`, or `cluster.on_ray(…)`, several at a time.
        progress: show a bar of the runs.

    Returns:
        One row a run: `size`, `method`, `seed`; Spearman x 100 on the development pairs `before`
        training, of the `best` checkpoint and at the `last` one; on the independent pairs,
        `independent_before` and `independent`; `history`, a list of dictionaries; `error` where
        the run failed.

    Raises:
        ValueError: a size and seed without sentences.
        FileExistsError: a file in `folder` is in the way, or another grid runs there.
    """
    if not isinstance(sentences, Mapping):
        raise TypeError(f"sentences must be what load_low_shot gives, got {shown(sentences)}")
    # A size or seed given twice is one, and counts once in a mean.
    sizes, methods, seeds = (list(dict.fromkeys(given)) for given in (sizes, methods, seeds))
    wanted = list(itertools.product(sizes, seeds))
    if lacking := [each for each in wanted if each not in sentences]:
        raise ValueError(f"there are no sentences for size and seed {lacking[0]}")
    runs = []
    for (size, seed), method in itertools.product(wanted, methods):
        corpus = sentences[size, seed]
        recipe = preset or default_preset(base_model, size)
        config = configure(recipe, **settings, method=method)
        decisive = {
            "config": dataclasses.asdict(config),
            "base_model": str(base_model.provenance),
            "data": str(corpus.provenance),
            "dev": str(dev.provenance),
            "independent": str(independent and independent.provenance),
        }
        file = Path(folder).resolve() / f"{size}-{method}-{seed}.json"
        runs.append(GridRun(size, method, seed, corpus.texts, config, file, decisive))
    with claimed(Path(folder).resolve(), [run.file.name for run in runs]):
        missing = [run for run in runs if run.kept() is None]
        with tqdm(total=len(runs), desc="runs", unit="run", disable=not progress) as bar:
            bar.update(len(runs) - len(missing))
            for run, figures in each(train_run, missing, base_model, dev, independent):
                run.keep(figures)
                bar.update()
    rows = [json.loads(run.file.read_text(encoding="utf-8")) for run in runs]
    return pd.DataFrame(rows, columns=["size", "method", "seed", *FIGURES, "history", "error"])


def train_run(
    run: GridRun, base_model: SentenceTransformer, dev: Pairs, independent: Pairs | None
) -> dict[str, object]:
    """Train one run from a copy of the start; return its figures, also if it diverges.

    Meanwhile its checkpoints lie beside its file, in a folder named after its settings, so that
    a run with different settings never resumes from them.
    """
    digest = hashlib.sha256(json.dumps(run.settings, sort_keys=True).encode()).hexdigest()
    work = run.file.parent / f".{run.file.stem}-{digest[:8]}"
    model = copy.deepcopy(base_model)
    evaluate = independent and DevelopmentEvaluator(independent)
    figures = {"independent_before": evaluate and evaluate(model)["dev_spearman"]}
    try:
        trained = train_low_shot(
            run.sentences, model, run.method, output=work, preset=run.config, dev=dev,
            progress=False,
        )  # fmt: skip
    except TrainingDivergedError as error:
        figures["error"] = str(error)
    else:
        figures |= {
            "before": trained.before,
            "best": trained.best,
            "last": float(trained.history["spearman"].iloc[-1]),
            "independent": evaluate and evaluate(trained.model)["dev_spearman"],
            "history": records(trained.history),
        }
    shutil.rmtree(work, ignore_errors=True)
    return figures
