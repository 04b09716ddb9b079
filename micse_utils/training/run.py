"""One training run and its folder: settings, checkpoints, resuming, the saved encoder."""

import contextlib
import dataclasses
import hashlib
import shutil
from pathlib import Path

import pandas as pd
import safetensors.torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerModelCardData,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerState, set_seed

from micse_utils.datasets.sts import Pairs
from micse_utils.job import Job, job
from micse_utils.models import quiet
from micse_utils.provenance import Provenance, sha256_of, versions
from micse_utils.results import json_or_none, records, write_json
from micse_utils.settings import process
from micse_utils.training import monitor
from micse_utils.training.config import LowShotConfig
from micse_utils.training.losses import MiCSELoss

RECORD = "training.json"  # how a finished run went, and the SHA-256 of its weights
START = "start"  # the encoder before training, beside the checkpoints


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a training run."""

    model: SentenceTransformer  # of the best checkpoint, in the model object that was given
    # A row per evaluation: `step` (0 is before training); `spearman` (x 100), `alignment` and
    # `uniformity` of the development pairs; `ami` of 64 training sentences; and the means of `loss`
    # and `info_nce` since the row before.
    history: pd.DataFrame
    before: float  # Spearman x 100 of the development pairs, before training
    best: float  # and at the best checkpoint
    best_step: int  # 0 if no checkpoint was better than the start
    config: LowShotConfig
    sentences: int  # trained on, without duplicates

    def __str__(self) -> str:
        """Return one line with the development scores before and after."""
        better = f"{self.best:.2f} after step {self.best_step}"
        kept = better if self.best_step else "and no checkpoint was better: the start is kept"
        return f"Spearman x 100 of the development pairs: {self.before:.2f} before training, {kept}"


@dataclasses.dataclass
class Training:
    """A resumable training run and its output folder."""

    folder: Path
    model: SentenceTransformer
    sentences: list[str]
    config: LowShotConfig
    dev: Pairs
    keep_last: bool
    progress: bool

    def __post_init__(self) -> None:
        """Describe the run, to compare it with the one that the folder holds."""
        self.checkpoints = self.folder / "checkpoints"
        self.steps = self.config.total_steps(len(self.sentences))
        self.start = getattr(self.model, "provenance", None) or _of_weights(self.model)
        self.name = f"{self.config.method} training of {self.start.name}"
        self.settings = {
            **dataclasses.asdict(self.config),
            "base_model": str(self.start),
            "sentences": len(self.sentences),
            "sentences_sha256": hashlib.sha256("\n".join(self.sentences).encode()).hexdigest(),
            "dev": str(self.dev.provenance),
            "keep_last": self.keep_last,
        }

    def carry_out(self, overwrite: bool) -> Trained:
        """Train or resume unless that is finished, alone in the folder; load what was kept."""
        replaces = ("model", "trained", "last", "checkpoints") if overwrite else None
        work = contextlib.nullcontext(Job(self.folder, self.folder / RECORD))
        if process()[0] == 0:  # the first process does it for all
            work = job(self.folder, self.settings, record=RECORD, replaces=replaces)
        with work as state, quiet():
            record = state.record or {}
            if any(record.get(name) != value for name, value in self.settings.items()):
                self._train(state)
            return self._load_finished(state.record)

    def _load_finished(self, record: dict[str, object]) -> Trained:
        kept = self.folder / record.get("encoder", "model")
        if record["weights"] != _weights(kept):
            raise ValueError(f"{kept} was damaged or changed after training: use a new folder")
        self._load(kept)
        self.model.provenance = Provenance(
            self.name, "folder", self.folder.name, pooling=self.start.pooling,
            sha256=sha256_of([kept / "model.safetensors"]),
        )  # fmt: skip
        history = pd.DataFrame(record["history"]).astype({"loss": float, "info_nce": float})
        step, scores = record["best_step"], history.set_index("step")["spearman"]
        return Trained(
            self.model.eval(), history, before=scores[0], best=scores[step], best_step=step,
            config=self.config, sentences=len(self.sentences),
        )  # fmt: skip

    def _train(self, state: Job) -> None:
        """Train to the last step, from the last complete checkpoint if one exists."""
        (trainer, watch), (rank, _) = self._build(), process()
        note, last = self.checkpoints / "start.json", None
        if start := json_or_none(note):
            if last := self._last_checkpoint():  # the trainer loads all but the head
                watch.loss.head.load_state_dict(safetensors.torch.load_file(last / monitor.HEAD))
            else:
                self._load(self.checkpoints / START)  # the model may have been trained since
                if rank == 0:
                    print("no complete checkpoint was saved: starting again from step 0")
        else:
            start = trainer.evaluator(self.model) | {"dev_ami": watch.ami()}
            if rank == 0:
                self._save(self.checkpoints / START)  # it may be the best checkpoint
                write_json(note, start)
        watch.to_beat = start[trainer.evaluator.primary_metric]
        shown = self.progress and rank == 0
        with tqdm(total=self.steps, desc="train", unit="step", disable=not shown) as watch.bar:
            try:
                if last and int(last.name.split("-")[1]) == self.steps:  # only to finish
                    trainer.state = TrainerState.load_from_json(str(last / "trainer_state.json"))
                else:
                    trainer.train(resume_from_checkpoint=last and str(last))
            except BaseException:  # put back the start, which the provenance still names
                self._load(self.checkpoints / START)
                raise
        trainer.accelerator.wait_for_everyone()  # none reads the checkpoints any more
        if rank == 0:
            self._finish(state, trainer.state, start)
        trainer.accelerator.wait_for_everyone()  # the model is in the folder

    def _build(self) -> tuple[SentenceTransformerTrainer, monitor.Monitor]:
        config = self.config
        set_seed(config.seed)  # before the head is made, whose first weights it decides
        loss = MiCSELoss(
            self.model, config.ami_weight if config.method == "micse" else 0,
            min_layer=config.min_layer, max_layer=config.max_layer, temperature=config.temperature,
        )  # fmt: skip
        evaluator = monitor.DevelopmentEvaluator(self.dev)
        watch = monitor.Monitor(loss, self.sentences, config.max_length)
        every, device = min(config.eval_steps, self.steps), self.model.device.type
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.checkpoints), seed=config.seed, bf16=config.bf16,
            use_cpu=device == "cpu", dataloader_pin_memory=device == "cuda",
            max_steps=self.steps, per_device_train_batch_size=config.batch_size // process()[1],
            # The authors' optimiser, spelled out so that no new default of the library changes it.
            optim="adamw_torch", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
            weight_decay=0.0, learning_rate=config.learning_rate, lr_scheduler_type="linear",
            warmup_steps=0, max_grad_norm=0.0,  # `Monitor` clips, the head's gradients included
            eval_strategy="steps", eval_steps=every, save_strategy="steps", save_steps=every,
            logging_steps=every, save_total_limit=2, load_best_model_at_end=True,
            metric_for_best_model=evaluator.primary_metric, disable_tqdm=True, report_to="none",
        )  # fmt: skip
        # Of several GPUs one: the trainer would multiply the batch by their number.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        card = self._describe(self.name)
        trainer = SentenceTransformerTrainer(
            self.model, arguments, Dataset.from_dict({"sentence": self.sentences}), loss=loss,
            evaluator=evaluator, callbacks=[watch],
        )  # fmt: skip
        trainer.data_collator.max_length = int(config.max_length)
        card.train_datasets = []  # the trainer has put some of the sentences there
        trainer.remove_callback(PrinterCallback)
        return trainer, watch

    def _describe(self, name: str) -> SentenceTransformerModelCardData:
        """Give the model a new card, which the trainer fills in with what it does."""
        card = SentenceTransformerModelCardData(model_name=name, local_files_only=True)
        card.generate_widget_examples = False  # which draws and encodes, with a bar
        card.widget = [{"text": "A man plays a guitar."}]  # the sentences may be private
        card.register_model(self.model)
        self.model.model_card_data = card
        return card

    def _last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint to resume from, whose best one is complete, too."""
        complete = {
            int(mark.parent.name.split("-")[1]): mark.parent
            for mark in self.checkpoints.glob(f"checkpoint-*/{monitor.COMPLETE}")
            # A kill may have come while its files were deleted.
            if all((mark.parent / file).is_file() for file in json_or_none(mark)["files"])
        }
        for _, folder in sorted(complete.items(), reverse=True):
            best = json_or_none(folder / "trainer_state.json")["best_global_step"]
            if not best or best in complete:
                return folder
        return None

    def _finish(self, work: Job, state: TrainerState, start: dict[str, float]) -> None:
        """Save the best encoder and the record, then delete the checkpoints."""
        if self.keep_last:
            self._load(self.checkpoints / f"checkpoint-{state.global_step}")
            self._save(self.folder / "last")
        # The trainer has tried to, too, but only logs what goes wrong, and never saved the start.
        best_step = state.best_global_step or 0
        self._load(self.checkpoints / (f"checkpoint-{best_step}" if best_step else START))
        if not best_step:
            self._describe(self.start.name)  # its card must not speak of training
        self._save(self.folder / "model")
        work.finish({
            **self.settings, "best_step": best_step,
            "history": records(monitor.history_of(start, state.log_history)),
            "weights": _weights(self.folder / "model"), "versions": versions(),
        })  # fmt: skip
        shutil.rmtree(self.checkpoints)

    def _load(self, folder: Path) -> None:
        weights = SentenceTransformer(str(folder), device="cpu").state_dict()
        self.model.load_state_dict(weights)

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(str(folder))
        monitor.flush(folder)


def _weights(model: Path) -> dict[str, str]:
    """Return the SHA-256 of the files with the weights of a saved model."""
    files = sorted(model.rglob("*.safetensors"))
    return {file.relative_to(model).as_posix(): sha256_of([file]) for file in files}


def _of_weights(model: SentenceTransformer) -> Provenance:
    """Return a provenance from the weights, for a model that `load_model` did not load."""
    tensors = (tensor.cpu().float().numpy().tobytes() for tensor in model.state_dict().values())
    digest = hashlib.sha256(b"".join(tensors)).hexdigest()
    return Provenance("a model", "memory", "given by the caller", sha256=digest)
