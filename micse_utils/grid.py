"""The low-shot experiment: sizes x methods x seeds, each run kept, none done twice."""

import copy
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from sentence_transformers import SentenceTransformer
from tqdm.auto import tqdm

from micse_utils.corpora import Corpus
from micse_utils.development import DevelopmentEvaluator
from micse_utils.monitor import TrainingDivergedError
from micse_utils.recipes import LowShotConfig, configure, default_preset
from micse_utils.results import records, write_json
from micse_utils.sts import Pairs
from micse_utils.training import train_low_shot

FIGURES = ["before", "best", "last", "independent_before", "independent"]


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
    progress: bool = True,
    **settings: object,
) -> pd.DataFrame:
    """Train every combination of size, method and seed from the same start.

    Each run is written to `folder` when it ends, one file a run. Called again, after a kill too,
    this does only what is missing; a run with other settings than those on file is done anew.

    Args:
        base_model: the start; it is not changed.
        sentences: the training sentences of each size and seed.
        folder: of the runs.
        sizes: numbers of sentences.
        methods: of `micse` and `simcse`.
        seeds: of sentences, dropout and order.
        dev: pairs that choose the checkpoint.
        independent: further pairs, which choose nothing, scored before and after.
        preset, settings: of all runs, as for `train_low_shot`.
        progress: show a bar of the runs.

    Returns:
        One row a run: `size`, `method`, `seed`; Spearman x 100 on the development pairs `before`
        training, of the `best` checkpoint and at the `last` one; on the independent pairs,
        `independent_before` and `independent`; `history`, a list of dictionaries; `error` where
        the run failed.
    """
    folder = Path(folder)
    independent = independent and DevelopmentEvaluator(independent)
    combinations = [(n, m, s) for n in sizes for s in seeds for m in methods]
    rows, reference = [], None
    for size, method, seed in tqdm(combinations, desc="runs", unit="run", disable=not progress):
        corpus = sentences[size, seed]
        recipe = preset or default_preset(base_model, size)
        config = configure(recipe, **settings, method=method, seed=seed)
        shared = {
            "config": dataclasses.asdict(config),
            "base_model": str(base_model.provenance),
            "data": str(corpus.provenance),
            "dev": str(dev.provenance),
            "independent": str(independent and independent.pairs.provenance),
        }
        file = folder / f"{size}-{method}-{seed}.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if record.get("settings") != shared:
            # Checkpoints of a run with other settings are none of this one's.
            digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
            work = folder / f".{file.stem}-{digest[:8]}"
            model = copy.deepcopy(base_model)
            if independent and reference is None:  # the same for every run
                reference = independent(model)["dev_spearman"]
            run = _train_one(model, corpus.texts, work, config, dev, independent)
            run |= {"size": size, "method": method, "seed": seed, "independent_before": reference}
            record = {**run, "settings": shared}
            write_json(file, record)
            shutil.rmtree(work, ignore_errors=True)
        rows.append({name: value for name, value in record.items() if name != "settings"})
    return pd.DataFrame(rows, columns=["size", "method", "seed", *FIGURES, "history", "error"])


def _train_one(
    model: SentenceTransformer,
    sentences: list[str],
    work: Path,
    config: LowShotConfig,
    dev: Pairs,
    independent: DevelopmentEvaluator | None,
) -> dict[str, object]:
    """Figures of one run; its checkpoints stand in `work`."""
    try:
        trained = train_low_shot(
            sentences, model, config.method, output=work, preset=config, dev=dev, progress=False
        )
    except TrainingDivergedError as error:
        return {"error": str(error)}
    return {
        "before": trained.before,
        "best": trained.best,
        "last": float(trained.history["spearman"].iloc[-1]),
        "independent": independent and independent(trained.model)["dev_spearman"],
        "history": records(trained.history),
    }
