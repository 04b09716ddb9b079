"""What is watched while an encoder trains: a bar, the parts of the loss, AMI; a NaN stops it."""

import math
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from micse_utils.results import write_atomically
from micse_utils.settings import process
from micse_utils.training.losses import MiCSELoss

HEAD = "head.safetensors"
"""Weights of the training-only head in a checkpoint; written last, so it marks a whole one."""
FIGURES = ("spearman", "alignment", "uniformity", "ami")
"""What is measured at every evaluation."""
SHOWN = ("loss", "spearman", "ami")
"""What stands beside the bar; more would leave the bar no room on a page."""
LARGEST_NORM = 1.0
"""Of all gradients together, the head's included, as the authors clip them."""
WATCHED = 64
"""Training sentences whose AMI is measured then."""


class TrainingDivergedError(FloatingPointError):
    """The loss is no number any more; the message says at which step and what is left."""


class Monitor(TrainerCallback):
    """Progress bar, a stop at NaN, and the head's weights beside each checkpoint."""

    def __init__(
        self, loss: MiCSELoss, sentences: list[str], max_length: int, steps: int, progress: bool
    ) -> None:
        self.loss = loss
        self.sentences = sentences[:WATCHED]
        self.max_length = max_length
        self.sums: dict[str, float] = {}
        self.since = 0
        rank, _ = process()
        self.bar = tqdm(total=steps, desc="train", unit="step", disable=rank > 0 or not progress)
        self.figures: dict[str, str] = {}

    def ami(self) -> float:
        """AMI of the sentences that are watched."""
        return self.loss.measure_ami(self.sentences, max_length=self.max_length)

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Start where the run starts, which is not 0 for one that goes on."""
        self.bar.update(state.global_step - self.bar.n)

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        """Stop before a NaN or infinite loss reaches the weights; clip the gradients."""
        parts = {name: value.item() for name, value in self.loss.components.items()}
        if not math.isfinite(parts["loss"]):
            raise TrainingDivergedError(
                f"the loss is {parts['loss']} at step {state.global_step + 1}: lower learning_rate "
                "or ami_weight"
            )
        # Here and not by the trainer, which would leave the gradients of the head out of the norm.
        torch.nn.utils.clip_grad_norm_(self.loss.parameters(), LARGEST_NORM)
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.since += 1
        self.figures |= {name: f"{value:.2f}" for name, value in parts.items()}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Move the bar."""
        shown = {name: self.figures[name] for name in SHOWN if name in self.figures}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Note the parts of the loss, averaged since the last time."""
        if self.since and "loss" in (logs or {}):
            state.log_history[-1] |= {name: s / self.since for name, s in self.sums.items()}
            self.sums, self.since = {}, 0

    def on_evaluate(self, args, state, control, metrics=None, **kwargs) -> None:
        """Note the AMI and show the development figures."""
        metrics = {**(metrics or {}), "eval_dev_ami": self.ami()}
        state.log_history[-1]["eval_dev_ami"] = metrics["eval_dev_ami"]
        for name in FIGURES:
            if f"eval_dev_{name}" in metrics:
                self.figures[name] = f"{metrics[f'eval_dev_{name}']:.2f}"

    def on_save(self, args, state, control, **kwargs) -> None:
        """Complete the checkpoint, which holds only what the model is made of."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_atomically(
                folder / HEAD,
                lambda path: safetensors.torch.save_file(self.loss.head.state_dict(), path),
            )


class Selection(TrainerCallback):
    """Decide which checkpoints compete to be the best: `select_from` of the settings.

    Args:
        select_from: `all` or `authors`.
        start: score of the start.
    """

    def __init__(self, select_from: str, start: float) -> None:
        self.select_from = select_from
        self.start = start

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Make the start the one to beat; a run that resumes knows its best already."""
        if self.select_from == "all" and state.global_step == 0:
            state.best_metric = self.start

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Log the last step; the trainer also evaluates it, which the authors do not."""
        control.should_log |= state.global_step == state.max_steps
        if self.select_from == "authors" and state.global_step % state.eval_steps:
            control.should_evaluate = False


def history_of(start: dict[str, float], log: list[dict]) -> pd.DataFrame:
    """The trainer's log as one row an evaluation; the first one is of the start."""
    rows: dict[int, dict] = {0: {"step": 0} | {k.removeprefix("dev_"): v for k, v in start.items()}}
    for entry in log:
        row = rows.setdefault(entry["step"], {"step": entry["step"]})
        for name in ("loss", "info_nce"):
            if name in entry:
                row[name] = entry[name]
        for name in FIGURES:
            if f"eval_dev_{name}" in entry:
                row[name] = entry[f"eval_dev_{name}"]
    history = pd.DataFrame([row for row in rows.values() if "spearman" in row])
    return history.reindex(columns=["step", *FIGURES, "loss", "info_nce"])
