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
from micse_utils.results import write_atomically
from micse_utils.sts import Pairs
from micse_utils.training import LowShotConfig, TrainingDivergedError, train_low_shot


def train_grid(
    base_model: SentenceTransformer,
    sentences: Mapping[tuple[int, int], Corpus],
    folder: str | Path,
    *,
    sizes: Sequence[int],
    methods: Sequence[str],
    seeds: Sequence[int],
    config: LowShotConfig,
    dev: Pairs,
    independent: Pairs | None = None,
    progress: bool = True,
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
        config: the settings that all runs share.
        dev: pairs that choose the checkpoint.
        independent: further pairs, which choose nothing, scored before and after.
        progress: show a bar of the runs.

    Returns:
        One row a run: `size`, `method`, `seed`; Spearman x 100 on the development pairs `before`
        training, of the `best` checkpoint and at the `last` one; on the independent pairs,
        `independent_before` and `independent`; `history`, a list of dictionaries; `error` where
        the run failed.
    """
    folder = Path(folder)
    combinations = [(n, m, s) for n in sizes for s in seeds for m in methods]
    rows = []
    for size, method, seed in tqdm(combinations, desc="runs", unit="run", disable=not progress):
        shared = {
            "config": dataclasses.asdict(dataclasses.replace(config, method=method, seed=seed)),
            "base_model": str(base_model.provenance),
            "data": str(sentences[size, seed].provenance),
            "dev": str(dev.provenance),
            "independent": str(independent and independent.provenance),
        }
        file = folder / f"{size}-{method}-{seed}.json"
        record = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        if record.get("settings") != shared:
            # Checkpoints of a run with other settings are none of this one's.
            digest = hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()
            work = folder / f".{file.stem}-{digest[:8]}"
            run = _train_one(
                base_model, sentences[size, seed], work, method, seed, config, dev, independent
            )
            record = {"size": size, "method": method, "seed": seed, **run, "settings": shared}
            text = json.dumps(record, indent=2, allow_nan=False)
            write_atomically(file, lambda path, text=text: path.write_text(text, encoding="utf-8"))
        rows.append({name: value for name, value in record.items() if name != "settings"})
    return pd.DataFrame(rows)


def _train_one(
    base_model: SentenceTransformer,
    corpus: Corpus,
    work: Path,
    method: str,
    seed: int,
    config: LowShotConfig,
    dev: Pairs,
    independent: Pairs | None,
) -> dict[str, object]:
    """Figures of one run; its checkpoints stand in `work` until it has ended."""
    model = copy.deepcopy(base_model)
    score = DevelopmentEvaluator(independent) if independent else None
    try:
        before = score(model)["dev_spearman"] if score else None
        trained = train_low_shot(
            corpus.texts, model, method,
            output=work, preset=config, dev=dev, keep_model=False, progress=False, seed=seed,
        )  # fmt: skip
    except TrainingDivergedError as error:
        return {"error": str(error)}
    after = score(model)["dev_spearman"] if score else None
    shutil.rmtree(work)
    history = json.loads(trained.history.to_json(orient="records"))
    return {
        "before": trained.before,
        "best": trained.best,
        "last": history[-1]["spearman"],
        "best_step": trained.best_step,
        "independent_before": before,
        "independent": after,
        "history": history,
    }
