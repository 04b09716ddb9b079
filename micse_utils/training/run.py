"""One training run and its folder: settings, checkpoints, resuming, the saved encoder."""

import contextlib
import dataclasses
import hashlib
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import is_zipfile

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
from micse_utils.models import PACKAGED, quiet
from micse_utils.provenance import Provenance, sha256_of, versions
from micse_utils.results import (
    claimed,
    json_or_none,
    note_written,
    records,
    write_atomically,
    write_json,
)
from micse_utils.settings import process
from micse_utils.training.batches import Batches
from micse_utils.training.config import LowShotConfig
from micse_utils.training.losses import MiCSELoss
from micse_utils.training.monitor import (
    HEAD,
    DevelopmentEvaluator,
    Monitor,
    Selection,
    TrainingDivergedError,
    history_of,
)

SETTINGS, RECORD = "run.json", "training.json"
"""Files of a run: what it is to do, and how it went."""
WRITES = (SETTINGS, RECORD, "model", "last", ".model", "checkpoints")
"""What a run writes into its folder."""
START = "start.safetensors"
"""Weights before training, beside the checkpoints."""
OWN = r"\.model/.+|checkpoints/(checkpoint-\d+/.+|start\.json|\.?start[^/]*\.safetensors)"
"""Files of a run whose names are not known before: of checkpoints, and of a half-saved model."""


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
class Run:
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
        self.provenance = {
            "config": dataclasses.asdict(self.config),
            "base_model": str(self.start),
            "sentences": len(self.sentences),
            "sentences_sha256": hashlib.sha256("\n".join(self.sentences).encode()).hexdigest(),
            "dev": str(self.dev.provenance),
        }

    @contextlib.contextmanager
    def claim(self, overwrite: bool) -> Iterator[None]:
        """Lock the folder for this run; refuse or overwrite the files of a different run."""
        if process()[0] > 0:  # the first process does it for all
            yield
            return
        with claimed(self.folder, WRITES, OWN):
            file = self.folder / SETTINGS
            if file.exists() and (differing := self._differing(json_or_none(file))):
                if not overwrite:
                    raise ValueError(
                        f"{self.folder} holds another run, with other {differing}: name another "
                        "output folder, or overwrite it (--overwrite)"
                    )
                (self.folder / RECORD).unlink(missing_ok=True)
                for name in ("model", "last", "checkpoints"):
                    shutil.rmtree(self.folder / name, ignore_errors=True)
            write_json(file, self.provenance)
            yield

    def _differing(self, earlier: object) -> str:
        """Name what differs between the settings on file and those of this run."""
        if not isinstance(earlier, dict) or not isinstance(earlier.get("config"), dict):
            return f"settings ({SETTINGS} is damaged)"
        before, now = (each["config"] | each for each in (earlier, self.provenance))
        return ", ".join(k for k, v in now.items() if k != "config" and before.get(k) != v)

    def finished(self) -> Trained | None:
        """Return the result of the finished run, or None."""
        record = json_or_none(self.folder / RECORD)
        if record is None or any(record.get(k) != v for k, v in self.provenance.items()):
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
        """Train to the end, from the last complete checkpoint if one exists."""
        config, model = self.config, self.model
        # Before the head is made, whose first weights the seed decides, too.
        transformers.set_seed(config.seed)
        loss = MiCSELoss(
            model,
            config.ami_weight if config.method == "micse" else 0,
            min_layer=config.min_layer,
            max_layer=config.max_layer,
            temperature=config.temperature,
        )
        steps = self._steps()
        evaluator = DevelopmentEvaluator(self.dev)
        monitor = Monitor(loss, self.sentences, config.max_length, steps, progress)
        # The trainer reads the length from the model; afterwards it reads as much as before.
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
            if last is not None:  # the trainer itself resumes the encoder, optimiser and order
                loss.head.load_state_dict(safetensors.torch.load_file(last / HEAD))
            start = self._start_of_run(lambda: evaluator(model) | {"dev_ami": monitor.ami()})
            selection = Selection(config.select_from, start[evaluator.primary_metric])
            trainer.add_callback(selection)
            try:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
            except TrainingDivergedError as error:
                model.max_seq_length = max_seq_length
                raise TrainingDivergedError(f"{error}; {self._rescue(trainer)}") from None
            except RuntimeError as error:
                # All that PyTorch says if it cannot write the optimiser's state.
                if "inline_container" not in str(error):
                    raise
                raise OSError(
                    f"no checkpoint could be written to {self.checkpoints}; is the disk full? Make "
                    "room and run the same command again"
                ) from error
            finally:
                monitor.bar.close()
                model.max_seq_length = max_seq_length
        history = history_of(start, trainer.state.log_history)
        best_step = trainer.state.best_global_step or 0
        # The trainer has loaded the best checkpoint, unless that is the start: it never saved that.
        if best_step == 0:
            model.load_state_dict(safetensors.torch.load_file(self.checkpoints / START))
        trainer.accelerator.wait_for_everyone()  # all have loaded the best checkpoint
        if trainer.is_world_process_zero():
            self._keep(history, best_step, evaluator)
        trainer.accelerator.wait_for_everyone()  # it stands in the folder
        return self._trained(history, best_step)

    def _describe(self) -> None:
        """Fill in what the library's model card cannot know."""
        card = self.model.model_card_data
        card.local_files_only = True  # or it asks the hub about the base model
        # The library would draw and encode examples, with a bar of their own.
        card.generate_widget_examples = False
        card.widget = [{"text": self.sentences[0]}]
        card.model_name = f"{self.config.method} training of {self.start.name}"
        card.language = ["en"]
        card.add_tags(["micse", "low-shot", self.config.method])
        if self.start.source == "hub":
            card.base_model, card.base_model_revision = self.start.origin, self.start.revision
        elif self.start.source == "package":
            card.base_model = PACKAGED

    def _steps(self) -> int:
        """Return the number of steps; report sentences that an epoch leaves out."""
        config, sentences, (rank, processes) = self.config, len(self.sentences), process()
        left_out = sentences % (config.batch_size // processes) == 1
        if rank == 0 and sentences < config.batch_size:
            print(
                f"batch_size is {config.batch_size} but only {sentences} sentences were given: "
                "each step uses all of them"
            )
        elif rank == 0 and left_out:
            print(
                f"left out of each epoch, because too few for a batch: 1 of the {sentences} "
                "sentences, a different one each time"
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
            batch_sampler=Batches,
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
        """Return the scores of the start, and keep its weights: it may be the best checkpoint."""
        # A run that resumes reads both; the model it was given may have been trained since.
        note, kept = self.checkpoints / "start.json", self.checkpoints / START
        if (figures := json_or_none(note)) is not None and kept.is_file():
            return figures
        weights = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}
        figures = measure()
        if process()[0] == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, lambda path: safetensors.torch.save_file(weights, path))
            write_json(note, figures)
        return figures

    def _last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint; delete unfinished ones."""
        found = sorted(
            self.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])
        )
        whole = [folder for folder in found if _is_whole(folder)]
        for folder in set(found) - set(whole):
            shutil.rmtree(folder, ignore_errors=True)
        return whole[-1] if whole else None

    def _rescue(self, trainer: SentenceTransformerTrainer) -> str:
        """Keep the best checkpoint of a run that diverged; return a sentence about it."""
        if not trainer.state.best_model_checkpoint:
            return "no checkpoint was better than the start"
        self._load(Path(trainer.state.best_model_checkpoint))
        if trainer.is_world_process_zero():
            self._save_model()
        return (
            f"{self.folder / 'model'} holds the best checkpoint before, of step "
            f"{trainer.state.best_global_step}"
        )

    def _keep(self, history: pd.DataFrame, best_step: int, evaluator: DevelopmentEvaluator) -> None:
        """Save model and record, then delete the checkpoints."""
        figures = history.set_index("step").loc[best_step, ["spearman", "alignment", "uniformity"]]
        figures = {f"dev_{name}": float(value) for name, value in figures.items()}
        self.model.model_card_data.set_evaluation_metrics(evaluator, figures, step=best_step)
        self._save_model()
        if self.keep_last:
            self._save_model("last", self._last_checkpoint())
        record = {
            "best_step": best_step,
            "history": records(history),
            **self.provenance,
            "versions": versions(),
        }
        write_json(self.folder / RECORD, record)
        shutil.rmtree(self.checkpoints)

    def _save_model(self, name: str = "model", checkpoint: Path | None = None) -> None:
        """Write a folder with the encoder, or with one of its checkpoints."""
        place, scratch = self.folder / name, self.folder / ".model"
        shutil.rmtree(scratch, ignore_errors=True)
        if checkpoint is None:
            with _quiet():
                self.model.save_pretrained(str(scratch))
        else:
            of_training = shutil.ignore_patterns("*.pt", "*.pth", "*.bin", "trainer_state.json")
            shutil.copytree(checkpoint, scratch, ignore=of_training)
        # Listed before they are in place, so that a kill leaves no doubt whose they are.
        files = [file.relative_to(scratch).as_posix() for file in scratch.rglob("*")]
        note_written(self.folder, [f"{name}/{file}" for file in files])
        shutil.rmtree(place, ignore_errors=True)
        scratch.rename(place)


def _is_whole(checkpoint: Path) -> bool:
    """Tell whether a checkpoint is finished; a power cut may also leave files without their end."""
    try:
        for file in checkpoint.glob("*.safetensors"):
            safetensors.safe_open(file, "pt")
    except safetensors.SafetensorError:
        return False
    # The head is written last.
    return (checkpoint / HEAD).is_file() and all(map(is_zipfile, checkpoint.glob("*.pt*")))


def total_steps(sentences: int, config: LowShotConfig) -> int:
    """Return the number of optimiser steps for a number of sentences."""
    processes = process()[1]
    batches = len(Batches(range(sentences), config.batch_size // processes))
    return config.steps or config.epochs * -(-batches // processes)


def _of_weights(model: SentenceTransformer) -> Provenance:
    """Return a provenance from the weights, for a model that `load_model` did not load."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().float().numpy().tobytes())
    return Provenance("a model", "memory", "given by the caller", sha256=digest.hexdigest())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and notes of the libraries."""
    disable_progress_bars()
    try:
        with quiet(), warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module="sentence_transformers"
            )
            yield
    finally:
        enable_progress_bars()
