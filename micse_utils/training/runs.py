"""One training run and its folder: claimed, trained, gone on with after a stop, kept."""

import contextlib
import dataclasses
import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import safetensors.torch
import transformers
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import PrinterCallback

from micse_utils.datasets.sts import Pairs
from micse_utils.models import quiet
from micse_utils.provenance import Provenance, sha256_of, versions
from micse_utils.results import kept_json, records, write_atomically, write_json
from micse_utils.settings import process
from micse_utils.training.batches import JointBatches
from micse_utils.training.config import LowShotConfig
from micse_utils.training.development import DevelopmentEvaluator
from micse_utils.training.losses import MiCSELoss
from micse_utils.training.monitor import HEAD, Monitor, Selection, TrainingDivergedError, history_of

RECORD = "training.json"
START = "start.safetensors"
"""Weights before training, beside the checkpoints."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training run leaves.

    Attributes:
        model: the encoder of the best checkpoint, the very object that was given.
        history: one row an evaluation: `step` (0 is before training), `spearman` of the
            development pairs (x 100), `alignment`, `uniformity`; `ami` of 64 of the training
            sentences, measured alike for both methods; and the means of `loss` and `info_nce`
            since the row before.
        best_step: of the checkpoint that was kept; 0 if none was better than the start.
        config: the settings.
        sentences: number trained on, without duplicates.
    """

    model: SentenceTransformer
    history: pd.DataFrame
    best_step: int
    config: LowShotConfig
    sentences: int

    def __str__(self) -> str:
        """Say what the development pairs made of it, in one line."""
        found = f"Spearman x 100 of the development pairs: {self.before:.2f} before training"
        if self.best_step == 0:
            return f"{found}, and no checkpoint was better: the start is kept"
        return f"{found}, {self.best:.2f} after step {self.best_step}"

    @property
    def before(self) -> float:
        """Spearman x 100 of the development pairs before training."""
        return float(self.history["spearman"].iloc[0])

    @property
    def best(self) -> float:
        """Spearman x 100 of the development pairs at the best checkpoint."""
        return float(self.history.set_index("step")["spearman"][self.best_step])


class Run:
    """One training run and its folder."""

    def __init__(
        self,
        folder: Path,
        model: SentenceTransformer,
        sentences: list[str],
        config: LowShotConfig,
        dev: Pairs,
        overwrite: bool,
        keep_last: bool = False,
    ) -> None:
        self.folder = folder
        self.keep_last = keep_last
        self.model = model
        self.sentences = sentences
        self.config = config
        self.dev = dev
        self.checkpoints = folder / "checkpoints"
        self.start = getattr(model, "provenance", None) or _of_weights(model)
        self.provenance = {
            "config": dataclasses.asdict(config),
            "base_model": str(self.start),
            "sentences": len(sentences),
            "sentences_sha256": hashlib.sha256("\n".join(sentences).encode()).hexdigest(),
            "dev": str(dev.provenance),
        }
        self._claim(overwrite)

    def _claim(self, overwrite: bool) -> None:
        """Take the folder for this run, or refuse one that holds another."""
        file = self.folder / "run.json"
        if file.is_file():
            if (there := kept_json(file)) is None and not overwrite:
                raise ValueError(f"{file} is damaged; name another output folder, or say overwrite")
            there = there or {}
            now, then = (p.get("config", {}) | p for p in (self.provenance, there))
            differing = [k for k, v in now.items() if then.get(k) != v and k != "config"]
            if differing and not overwrite:
                raise ValueError(
                    f"{self.folder} holds another run, with other {', '.join(differing)}; name "
                    "another output folder, or say overwrite"
                )
            if differing:
                (self.folder / RECORD).unlink(missing_ok=True)
                for trace in ("model", "last", "checkpoints"):
                    shutil.rmtree(self.folder / trace, ignore_errors=True)
        write_json(file, self.provenance)

    def finished(self) -> Trained | None:
        """What this run left when it ended earlier, or None."""
        file = self.folder / RECORD
        if (record := kept_json(file)) is None:
            return None
        self._load(self.folder / "model")
        history = pd.DataFrame(record["history"]).astype({"loss": float, "info_nce": float})
        return self._trained(history, record["best_step"])

    def _load(self, folder: Path) -> None:
        with _quiet():
            weights = SentenceTransformer(str(folder), device="cpu").state_dict()
        self.model.load_state_dict(weights)

    def _trained(self, history: pd.DataFrame, best_step: int) -> Trained:
        self.model.provenance = Provenance(
            f"{self.config.method} training of {self.start.name}",
            "folder",
            self.folder.name,
            sha256=sha256_of([self.folder / "model" / "model.safetensors"]),
            pooling=self.start.pooling,
        )
        return Trained(self.model.eval(), history, best_step, self.config, len(self.sentences))

    def train(self, progress: bool) -> Trained:
        """Train to the end, from the last whole checkpoint if there is one."""
        config, model = self.config, self.model
        transformers.set_seed(config.seed)
        loss = MiCSELoss(
            model,
            config.ami_weight if config.method == "micse" else 0,
            min_layer=config.min_layer,
            max_layer=config.max_layer,
            temperature=config.temperature,
            padding=config.ami_padding,
        )
        steps = self._steps()
        evaluator = DevelopmentEvaluator(self.dev)
        monitor = Monitor(loss, self.sentences, config.max_length, steps, progress)
        max_seq_length, model.max_seq_length = model.max_seq_length, config.max_length
        self._describe()
        with _quiet():
            trainer = SentenceTransformerTrainer(
                model,
                self._arguments(steps, evaluator.primary_metric),
                train_dataset=Dataset.from_dict({"sentence": self.sentences}),
                loss=loss,
                evaluator=evaluator,
                callbacks=[monitor],
            )
            trainer.remove_callback(PrinterCallback)
            last = self._last_checkpoint()
            if last is not None:
                loss.head.load_state_dict(safetensors.torch.load_file(last / HEAD))
            start = self._start_of_run(lambda: evaluator(model) | {"dev_ami": monitor.ami()})
            selection = Selection(config.select_from, start[evaluator.primary_metric])
            trainer.add_callback(selection)
            try:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"{error}; {self._rescue(trainer)}") from None
            finally:
                monitor.bar.close()
                model.max_seq_length = max_seq_length
        history = history_of(start, trainer.state.log_history)
        best_step = trainer.state.best_global_step or 0
        if best_step == 0:
            model.load_state_dict(safetensors.torch.load_file(self.checkpoints / START))
        trainer.accelerator.wait_for_everyone()  # all have loaded the best checkpoint
        if trainer.is_world_process_zero():
            self._keep(history, best_step)
        trainer.accelerator.wait_for_everyone()  # it stands in the folder
        return self._trained(history, best_step)

    def _describe(self) -> None:
        """Fill in what the library's model card cannot know; it adds the loss and its settings."""
        card = self.model.model_card_data
        card.local_files_only = True
        # The library would draw and encode examples, with a bar of their own.
        card.generate_widget_examples = False
        card.widget = [{"text": self.sentences[0]}]
        card.model_name = f"{self.config.method} training of {self.start.name}"
        card.language = ["en"]
        card.add_tags(["micse", "low-shot", self.config.method])
        if self.start.source == "hub":
            card.base_model, card.base_model_revision = self.start.origin, self.start.revision

    def _steps(self) -> int:
        """Return the number of steps; what an epoch leaves out, or lacks, is reported."""
        config, sentences, (rank, processes) = self.config, len(self.sentences), process()
        batches = JointBatches(self.sentences, config.batch_size // processes)
        if rank == 0 and sentences < config.batch_size:
            print(
                f"batch_size is {config.batch_size} but only {sentences} sentences were given: "
                "each step uses all of them"
            )
        elif rank == 0 and (alone := sentences - sum(map(len, batches))):
            print(
                f"{alone} of the {sentences} sentences {'is' if alone == 1 else 'are'} left out of "
                "each epoch, different ones each time: too few for a batch of their own"
            )
        steps = total_steps(sentences, config)
        if config.select_from == "authors" and config.eval_steps > steps:
            raise ValueError(
                f"eval_steps must be at most {steps}, the number of steps, for "
                f'select_from="authors"; got {config.eval_steps}'
            )
        return steps

    def _arguments(self, steps: int, metric: str) -> SentenceTransformerTrainingArguments:
        config, device = self.config, self.model.device
        every = min(config.eval_steps, steps)
        return SentenceTransformerTrainingArguments(
            output_dir=str(self.checkpoints),
            max_steps=steps,
            per_device_train_batch_size=config.batch_size // process()[1],
            batch_sampler=JointBatches,
            dataloader_pin_memory=device.type == "cuda",
            learning_rate=config.learning_rate,
            # The authors' optimiser, spelled out so that no new default of the library changes it.
            optim="adamw_torch",
            adam_beta1=0.9,
            adam_beta2=0.999,
            adam_epsilon=1e-8,
            weight_decay=0.0,
            max_grad_norm=0.0,  # `Monitor` clips, the head's gradients included
            lr_scheduler_type="linear",
            warmup_steps=0,
            bf16=config.bf16,
            seed=config.seed,
            use_cpu=device.type == "cpu",
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            # Of 1, the trainer itself keeps two until it ends, then only the best.
            save_total_limit=2 if self.keep_last else 1,
            load_best_model_at_end=True,
            metric_for_best_model=metric,
            logging_steps=every,
            disable_tqdm=True,
            report_to="none",
        )

    def _start_of_run(self, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
        """Figures of the start, which is kept beside the checkpoints: it may be the best of them.

        A run that resumes finds both there; the model it was given may have been trained since.
        """
        note, kept = self.checkpoints / "start.json", self.checkpoints / START
        if (figures := kept_json(note)) is not None and kept.is_file():
            return figures
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        figures = measure()
        if process()[0] == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, lambda path: safetensors.torch.save_file(weights, path))
            write_json(note, figures)
        return figures

    def _last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint; those that a kill left unfinished are removed."""
        found = sorted(
            self.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
        )
        whole = [folder for folder in found if (folder / HEAD).is_file()]
        for folder in set(found) - set(whole):
            shutil.rmtree(folder, ignore_errors=True)
        return whole[-1] if whole else None

    def _rescue(self, trainer: SentenceTransformerTrainer) -> str:
        """Keep the best checkpoint of a run that cannot go on; says what is left of it."""
        if not trainer.state.best_model_checkpoint:
            return "no checkpoint was better than the start"
        self._load(Path(trainer.state.best_model_checkpoint))
        if trainer.is_world_process_zero():
            self.model.save_pretrained(str(self.folder / "model"), create_model_card=False)
        return (
            f"{self.folder / 'model'} holds the best checkpoint before, of step "
            f"{trainer.state.best_global_step}"
        )

    def _keep(self, history: pd.DataFrame, best_step: int) -> None:
        """Save model and record, then let go of the checkpoints."""
        with _quiet():
            self.model.save_pretrained(str(self.folder / "model"))
        record = {
            "best_step": best_step,
            "history": records(history),
            **self.provenance,
            "versions": versions(),
        }
        if self.keep_last and (last := self._last_checkpoint()):
            shutil.copytree(last, self.folder / "last", dirs_exist_ok=True)
        write_json(self.folder / RECORD, record)
        shutil.rmtree(self.checkpoints)


def total_steps(sentences: int, config: LowShotConfig) -> int:
    """Return the number of optimiser steps of a run on so many sentences."""
    processes = process()[1]
    parts = len(JointBatches(range(sentences), config.batch_size // processes))
    return config.steps or config.epochs * (parts // processes)


def _of_weights(model: SentenceTransformer) -> Provenance:
    """Provenance of a model that `load_model` did not load: what its weights are."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    return Provenance("a model", "memory", "given by the caller", sha256=digest.hexdigest())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars and notes of all libraries that train off the page."""
    disable_progress_bars()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module="sentence_transformers"
            )
            yield
    finally:
        enable_progress_bars()
