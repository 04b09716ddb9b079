"""One training run and its folder: settings, checkpoints, resuming, the saved encoder."""

import contextlib
import dataclasses
import hashlib
import shutil
from pathlib import Path

import pandas as pd
import safetensors.torch
import transformers
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import PrinterCallback, TrainerState

from micse_utils.datasets.sts import Pairs
from micse_utils.job import Job, job
from micse_utils.models import quiet
from micse_utils.provenance import Provenance, sha256_of, versions
from micse_utils.results import json_or_none, records, write_json
from micse_utils.settings import process
from micse_utils.training.config import LowShotConfig
from micse_utils.training.losses import MiCSELoss
from micse_utils.training.monitor import (
    COMPLETE,
    HEAD,
    DevelopmentEvaluator,
    Monitor,
    flush,
    history_of,
    reading,
)

RECORD = "training.json"
"""How a finished run went, and the SHA-256 of its weights."""
START = "start"
"""The encoder before training, beside the checkpoints."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a training run.

    Attributes:
        model: the encoder of the best checkpoint, in the model object that was given.
        history: one row per evaluation: `step` (0 is before training), `spearman` of the
            development pairs (x 100), `alignment`, `uniformity`; `ami` of 64 training sentences,
            for both methods; and the means of `loss` and `info_nce` since the row before.
        best_step: step of the selected checkpoint; 0 if none was better than the start.
        config: the settings.
        sentences: number trained on, without duplicates.
    """

    model: SentenceTransformer
    history: pd.DataFrame
    best_step: int
    config: LowShotConfig
    sentences: int

    def __str__(self) -> str:
        """Return one line with the development scores before and after."""
        found = f"Spearman x 100 of the development pairs: {self.before:.2f} before training"
        if self.best_step == 0:
            return f"{found}, and no checkpoint was better: the start is kept"
        return f"{found}, {self.best:.2f} after step {self.best_step}"

    @property
    def before(self) -> float:
        """Return Spearman x 100 of the development pairs before training."""
        return float(self.history["spearman"].iloc[0])

    @property
    def best(self) -> float:
        """Return Spearman x 100 of the development pairs at the best checkpoint."""
        return float(self.history.set_index("step")["spearman"][self.best_step])


@dataclasses.dataclass
class Training:
    """A resumable training run and its output folder."""

    folder: Path
    model: SentenceTransformer
    sentences: list[str]
    config: LowShotConfig
    dev: Pairs
    keep_last: bool

    def __post_init__(self) -> None:
        """Describe the run, to compare it with the one that the folder holds."""
        self.checkpoints = self.folder / "checkpoints"
        self.start = getattr(self.model, "provenance", None) or _of_weights(self.model)
        self.settings = {
            **dataclasses.asdict(self.config),
            "base_model": str(self.start),
            "sentences": len(self.sentences),
            "sentences_sha256": hashlib.sha256("\n".join(self.sentences).encode()).hexdigest(),
            "dev": str(self.dev.provenance),
            "keep_last": self.keep_last,
        }

    def carry_out(self, overwrite: bool, progress: bool) -> Trained:
        """Train, resume, or load what is finished, alone in the folder."""
        replaces = ("model", "trained", "last", "checkpoints") if overwrite else None
        work = contextlib.nullcontext(Job(self.folder, self.folder / RECORD))
        if process()[0] == 0:  # the first process does it for all
            work = job(self.folder, self.settings, record=RECORD, replaces=replaces)
        with work as state:
            record = state.record or {}
            if any(record.get(name) != value for name, value in self.settings.items()):
                # The trainer reads the length from the model.
                with reading(self.model, self.config.max_length), quiet():
                    trainer, history = self._train(progress)
                return self._finish(state, trainer, history)
            kept = self.folder / record.get("encoder", "model")
            if record["weights"] != _weights(kept):
                raise ValueError(
                    f"{kept} is damaged, or was changed after training: train in a new folder"
                )
            self._load(kept)
            history = pd.DataFrame(record["history"]).astype({"loss": float, "info_nce": float})
            return self._trained(history, record["best_step"], kept)

    def _train(self, progress: bool) -> tuple[SentenceTransformerTrainer, pd.DataFrame]:
        """Train to the last step, from the last complete checkpoint if one exists."""
        trainer, monitor = self._build(progress)
        note, last = self.checkpoints / "start.json", None
        if start := json_or_none(note):
            if last := self._last_checkpoint():  # the trainer loads all but the head
                monitor.loss.head.load_state_dict(safetensors.torch.load_file(last / HEAD))
            else:
                self._load(self.checkpoints / START)  # the model may have been trained since
        else:
            start = trainer.evaluator(self.model) | {"dev_ami": monitor.ami()}
            if process()[0] == 0:
                self._save(self.checkpoints / START)  # it may be the best checkpoint
                write_json(note, start)
        monitor.to_beat = start[trainer.evaluator.primary_metric]
        with contextlib.closing(monitor.bar):
            if last and int(last.name.split("-")[1]) == trainer.args.max_steps:  # only to finish
                trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
            else:
                self._to_the_end(trainer, last)
        return trainer, history_of(start, trainer.state.log_history)

    def _to_the_end(self, trainer: SentenceTransformerTrainer, last: Path | None) -> None:
        """Train; if that breaks off, put back the start, which the provenance still names."""
        try:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
        except BaseException:
            self._load(self.checkpoints / START)
            raise

    def _build(self, progress: bool) -> tuple[SentenceTransformerTrainer, Monitor]:
        config, steps = self.config, self.config.total_steps(len(self.sentences))
        # Before the head is made, whose first weights the seed decides, too.
        transformers.set_seed(config.seed)
        loss = MiCSELoss(
            self.model, config.ami_weight if config.method == "micse" else 0,
            min_layer=config.min_layer, max_layer=config.max_layer, temperature=config.temperature,
        )  # fmt: skip
        evaluator = DevelopmentEvaluator(self.dev)
        monitor = Monitor(loss, self.sentences, config.max_length, steps, progress)
        card = self.model.model_card_data
        card.local_files_only = True  # or it asks the hub about the base model
        card.generate_widget_examples = False  # which draws and encodes, with a bar
        card.widget = [{"text": "A man plays a guitar."}]  # the sentences may be private
        card.model_name = f"{config.method} training of {self.start.name}"
        trainer = SentenceTransformerTrainer(
            self.model, self._arguments(steps, evaluator.primary_metric), loss=loss,
            train_dataset=Dataset.from_dict({"sentence": self.sentences}), evaluator=evaluator,
            callbacks=[monitor],
        )  # fmt: skip
        card.train_datasets = []  # the trainer has put some of the sentences there
        trainer.remove_callback(PrinterCallback)
        return trainer, monitor

    def _arguments(self, steps: int, metric: str) -> SentenceTransformerTrainingArguments:
        config, device = self.config, self.model.device
        every = min(config.eval_steps, steps)
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.checkpoints), seed=config.seed, bf16=config.bf16,
            use_cpu=device.type == "cpu", dataloader_pin_memory=device.type == "cuda",
            max_steps=steps, per_device_train_batch_size=config.batch_size // process()[1],
            dataloader_drop_last=False,
            # The authors' optimiser, spelled out so that no new default of the library changes it.
            optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
            weight_decay=0.0, learning_rate=config.learning_rate, lr_scheduler_type="linear",
            warmup_steps=0, max_grad_norm=0.0,  # `Monitor` clips, the head's gradients included
            eval_strategy="steps", eval_steps=every, save_strategy="steps", save_steps=every,
            save_total_limit=2, load_best_model_at_end=True, metric_for_best_model=metric,
            logging_steps=every, disable_tqdm=True, report_to="none",
        )  # fmt: skip
        # Of several GPUs one: the trainer would multiply the batch by their number.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        return arguments

    def _last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint whose best one is complete, too."""
        complete = {
            int(mark.parent.name.split("-")[1]): mark.parent
            for mark in self.checkpoints.glob(f"checkpoint-*/{COMPLETE}")
            # A kill may have come while its files were deleted.
            if all((mark.parent / file).is_file() for file in json_or_none(mark)["files"])
        }
        for _, folder in sorted(complete.items(), reverse=True):
            best = json_or_none(folder / "trainer_state.json")["best_global_step"]
            if not best or best in complete:
                return folder
        return None

    def _finish(
        self, state: Job, trainer: SentenceTransformerTrainer, history: pd.DataFrame
    ) -> Trained:
        """Save the best encoder and the record, then delete the checkpoints."""
        best_step = trainer.state.best_global_step or 0
        if self.keep_last and trainer.is_world_process_zero():
            self._load(self.checkpoints / f"checkpoint-{trainer.state.global_step}")
            self._save(self.folder / "last")
        # The trainer has tried to, too, but only logs what goes wrong, and never saved the start.
        self._load(self.checkpoints / (f"checkpoint-{best_step}" if best_step else START))
        trainer.accelerator.wait_for_everyone()  # all have loaded the best checkpoint
        if trainer.is_world_process_zero():
            self._save(self.folder / "model")
            state.finish({
                **self.settings, "best_step": best_step, "history": records(history),
                "weights": _weights(self.folder / "model"), "versions": versions(),
            })  # fmt: skip
            shutil.rmtree(self.checkpoints)
        trainer.accelerator.wait_for_everyone()  # it is in the folder
        return self._trained(history, best_step, self.folder / "model")

    def _load(self, folder: Path) -> None:
        with quiet():
            weights = SentenceTransformer(str(folder), device="cpu").state_dict()
        self.model.load_state_dict(weights)

    def _save(self, folder: Path) -> None:
        with quiet():
            self.model.save_pretrained(str(folder))
        flush(folder)

    def _trained(self, history: pd.DataFrame, best_step: int, kept: Path) -> Trained:
        self.model.provenance = Provenance(
            f"{self.config.method} training of {self.start.name}", "folder", self.folder.name,
            sha256=sha256_of([kept / "model.safetensors"]), pooling=self.start.pooling,
        )  # fmt: skip
        return Trained(self.model.eval(), history, best_step, self.config, len(self.sentences))


def _weights(model: Path) -> dict[str, str]:
    """Return the SHA-256 of the files with the weights of a saved model."""
    files = sorted(model.rglob("*.safetensors"))
    return {file.relative_to(model).as_posix(): sha256_of([file]) for file in files}


def _of_weights(model: SentenceTransformer) -> Provenance:
    """Return a provenance from the weights, for a model that `load_model` did not load."""
    tensors = (tensor.cpu().float().numpy().tobytes() for tensor in model.state_dict().values())
    digest = hashlib.sha256(b"".join(tensors)).hexdigest()
    return Provenance("a model", "memory", "given by the caller", sha256=digest)
