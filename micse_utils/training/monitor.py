"""Watch a training: development pairs, AMI, a bar; stop it if it diverges."""

import os
from functools import partial
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from accelerate import PartialState
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import BaseEvaluator
from transformers import TrainerCallback

from micse_utils.datasets.sts import Pairs
from micse_utils.evaluation.metrics import alignment, uniformity, unit
from micse_utils.evaluation.senteval import encode_distinct
from micse_utils.results import write_json
from micse_utils.training.losses import MiCSELoss

HEAD = "head.safetensors"  # in a checkpoint, the weights of the training-only head
COMPLETE = "complete.json"  # the mark that all its files are written
FIGURES = ("spearman", "alignment", "uniformity", "ami")  # measured at every evaluation
WATCHED = 64  # training sentences whose AMI is measured then


class TrainingDivergedError(FloatingPointError):
    """The gradients became NaN or infinite, or the encoder gives all sentences one vector."""


class DevelopmentEvaluator(BaseEvaluator):
    """Score rated pairs: `dev_spearman` (x 100, of cosines), `dev_alignment`, `dev_uniformity`.

    Sentences are encoded in float32 and compared in float64: the vectors of a raw start lie so
    close together that rounding alone can move the Spearman by points.
    """

    def __init__(self, pairs: Pairs) -> None:
        super().__init__()
        if len({*pairs.gold}) == 1:
            raise ValueError(f"{pairs.provenance.name}: all gold scores are the same")
        self.primary_metric, self.pairs = "dev_spearman", pairs

    def __call__(self, model: SentenceTransformer, *_: object, **__: object) -> dict[str, float]:
        """Encode and score; what else the trainer passes is not used."""
        # The same modules in a frame of their own: the trainer makes that of `model` bfloat16.
        plain = SentenceTransformer(modules=list(model), device=str(model.device))
        sides, gold = (self.pairs.first, self.pairs.second), self.pairs.gold
        try:
            vectors, row = encode_distinct(plain, sorted({*sides[0], *sides[1]}), progress=False)
        except ValueError as error:  # NaN, or all vectors are the same
            raise TrainingDivergedError(f"{error}; try a lower learning_rate") from error
        # Cosines of raw vectors, as the tasks are scored: without the head, without a regressor.
        vectors = unit(vectors)
        first, second = (vectors[[row[text] for text in side]] for side in sides)
        positive = gold >= 0.8 * gold.max()  # 4 of 5, as in SimCSE
        return {
            "dev_spearman": 100 * float(spearmanr((first * second).sum(axis=1), gold)[0]),
            "dev_alignment": alignment(first[positive], second[positive]),
            "dev_uniformity": uniformity(vectors),
        }


def flush(folder: Path) -> None:
    """Wait until the files below a folder are on the disk: a power cut cannot empty them then."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb+") as stream:
                os.fsync(stream.fileno())


class Monitor(TrainerCallback):
    """Clip the gradients, stop at NaN, show a bar, keep the head beside each checkpoint."""

    to_beat = bar = None  # the score of the start, and what shows the steps; set before training

    def __init__(self, loss: MiCSELoss, sentences: list[str], max_length: int) -> None:
        self.loss = loss
        self.ami = partial(loss.measure_ami, sentences[:WATCHED], max_length=max_length)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start the bar at the current step; make the start the score to beat."""
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step == 0:
            state.best_metric = self.to_beat  # a run that resumes knows its best already

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """Clip the gradients, those of the head included; stop before a NaN is in the weights."""
        norm = torch.nn.utils.clip_grad_norm_(self.loss.parameters(), 1.0)  # as the authors do
        if not norm.isfinite():
            raise TrainingDivergedError(
                f"the gradients are {norm.item()} at step {state.global_step + 1}: lower "
                "learning_rate or ami_weight"
            )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Move the bar; log the last step, which the trainer evaluates in any case."""
        self.bar.update()
        control.should_log |= state.global_step == state.max_steps

    def on_evaluate(self, args, state, control, **kwargs) -> None:
        """Note the AMI, of the same dropout and positions each time, and show the figures."""
        figures = state.log_history[-1]
        figures["eval_dev_ami"] = self.ami()
        self.bar.set_postfix({name: f"{figures[f'eval_dev_{name}']:.2f}" for name in FIGURES})

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
    first = {"step": 0} | {f"eval_{name}": value for name, value in start.items()}
    table = pd.DataFrame([first, *log]).rename(columns=lambda name: name.removeprefix("eval_dev_"))
    table = table.groupby("step", as_index=False).first()
    # By presence: a score may be NaN.
    evaluated = {0, *(entry["step"] for entry in log if "eval_dev_spearman" in entry)}
    table = table[table["step"].isin(evaluated)]
    return table.reindex(columns=["step", *FIGURES, "loss", "info_nce"])
