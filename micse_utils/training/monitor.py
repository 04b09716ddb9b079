"""Watch a training: development pairs, AMI, a bar; stop it if the loss becomes NaN."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from accelerate import PartialState
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from tqdm.auto import tqdm
from transformers import TrainerCallback

from micse_utils.datasets.sts import Pairs
from micse_utils.encoding import encode, token_limit
from micse_utils.evaluation.metrics import alignment, uniformity, unit
from micse_utils.results import write_json
from micse_utils.settings import process
from micse_utils.training.losses import MiCSELoss

HEAD, COMPLETE = "head.safetensors", "complete.json"
"""In a checkpoint: weights of the training-only head, and the mark that all files are written."""
FIGURES = ("spearman", "alignment", "uniformity", "ami")
"""What is measured at every evaluation."""
LARGEST_NORM = 1.0
"""Of all gradients together, the head's included, as the authors clip them."""
WATCHED = 64
"""Training sentences whose AMI is measured then."""
LONGEST = 256
"""Tokens kept of each development sentence, however short the model reads while it trains."""
POSITIVE = 0.8
"""Share of the highest score from which a pair counts as positive: 4 of 5, as in SimCSE."""


class TrainingDivergedError(FloatingPointError):
    """The loss became NaN or infinite; the message says at which step."""


class DevelopmentEvaluator(BaseEvaluator):
    """Score rated pairs while `SentenceTransformerTrainer` trains.

    Returns `dev_spearman` (x 100, of cosine against gold), `dev_alignment` and `dev_uniformity`.
    Every distinct sentence is encoded once, in float32, and compared in float64: the vectors of a
    raw start lie so close together that rounding alone can move the Spearman by points.
    """

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        if np.ptp(pairs.gold) == 0:
            raise ValueError(f"{pairs.provenance.name}: all gold scores are the same")
        self.primary_metric = "dev_spearman"
        self.pairs = pairs
        self.sentences = sorted({*pairs.first, *pairs.second})
        row = {sentence: index for index, sentence in enumerate(self.sentences)}
        self.first, self.second = (
            np.array([row[sentence] for sentence in side]) for side in (pairs.first, pairs.second)
        )

    def __call__(self, model: SentenceTransformer, *_: object, **__: object) -> dict[str, float]:
        """Encode and score; what else the trainer passes is not used."""
        # The same modules in a frame of their own: the trainer makes that of `model` bfloat16.
        plain = SentenceTransformer(modules=list(model), device=str(model.device))
        with reading(plain, None):
            vectors = encode(
                plain, self.sentences, max_length=min(LONGEST, token_limit(plain)),
                dtype=torch.float32, progress=False,
            )  # fmt: skip
        # Cosines of raw vectors, as the tasks are scored: without the head, without a regressor.
        vectors, gold = unit(vectors), self.pairs.gold
        first, second = vectors[self.first], vectors[self.second]
        positive = gold >= POSITIVE * gold.max()
        return {
            "dev_spearman": 100 * float(spearmanr((first * second).sum(axis=1), gold)[0]),
            "dev_alignment": alignment(first[positive], second[positive]),
            "dev_uniformity": uniformity(vectors),
        }


@contextlib.contextmanager
def reading(model: SentenceTransformer, tokens: int | None) -> Iterator[None]:
    """Let a model read so many tokens of a sentence; afterwards as many as before."""
    usual, model.max_seq_length = model.max_seq_length, tokens
    try:
        yield
    finally:
        model.max_seq_length = usual


def flush(folder: Path) -> None:
    """Wait until the files below a folder are on the disk: a power cut cannot empty them then."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


class Monitor(TrainerCallback):
    """Clip the gradients, stop at NaN, show a bar, keep the head beside each checkpoint.

    `to_beat` is the score of the start.
    """

    to_beat: float

    def __init__(
        self, loss: MiCSELoss, sentences: list[str], max_length: int, steps: int, progress: bool
    ) -> None:
        self.loss, self.sentences, self.max_length = loss, sentences[:WATCHED], max_length
        hidden = process()[0] > 0 or not progress
        self.bar = tqdm(total=steps, desc="train", unit="step", disable=hidden)

    def ami(self) -> float:
        """Return the AMI of the watched sentences."""
        return self.loss.measure_ami(self.sentences, max_length=self.max_length)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start the bar at the current step; make the start the score to beat."""
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step == 0:
            state.best_metric = self.to_beat  # a run that resumes knows its best already

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """Clip the gradients, or stop before a NaN reaches the weights."""
        # Here and not by the trainer, which would leave the gradients of the head out of the norm.
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters(), LARGEST_NORM)
        if not norm.isfinite():
            raise TrainingDivergedError(
                f"the gradients are {norm.item()} at step {state.global_step + 1}: lower "
                "learning_rate or ami_weight"
            )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Move the bar; log the last step, which the trainer also evaluates."""
        self.bar.update()
        # The recipe's last evaluation may lie before the last step: 12 steps, one every 5.
        control.should_log |= state.global_step == state.max_steps

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Note the AMI and show the development figures."""
        # Of the same sentences, dropout and positions each time, and for SimCSE too: only the
        # encoder changes.
        state.log_history[-1]["eval_dev_ami"] = self.ami()
        shown = {name: state.log_history[-1].get(f"eval_dev_{name}") for name in FIGURES}
        self.bar.set_postfix({n: f"{v:.2f}" for n, v in shown.items() if v is not None})

    def on_save(self, args, state, control, **kwargs) -> None:
        """Add the head to a checkpoint, then mark it as complete."""
        PartialState().wait_for_everyone()  # each process writes its own random state
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            safetensors.torch.save_file(self.loss.head.state_dict(), folder / HEAD)
            flush(folder)
            files = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
            write_json(folder / COMPLETE, {"files": files})


def history_of(start: dict[str, float], log: list[dict]) -> pd.DataFrame:
    """Turn the trainer's log into one row per evaluation; the first row is the start."""
    rows: dict[int, dict] = {0: {"step": 0} | {k.removeprefix("dev_"): v for k, v in start.items()}}
    for entry in log:
        named = {name.removeprefix("eval_dev_"): value for name, value in entry.items()}
        rows.setdefault(entry["step"], {}).update(named)
    history = pd.DataFrame([row for row in rows.values() if "spearman" in row])
    return history.reindex(columns=["step", *FIGURES, "loss", "info_nce"])
