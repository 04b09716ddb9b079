"""Low-shot training: `train_low_shot`, or from a shell `python -m micse_utils.training --help`.

Runs unchanged under `torchrun` and `accelerate launch`: the batch is that of all processes
together, and so are loss and gradients.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
import transformers
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from tqdm.auto import tqdm
from transformers import PrinterCallback, TrainerCallback

from micse_utils.corpora import read_sentences
from micse_utils.development import DevelopmentEvaluator
from micse_utils.device import pick_dtype
from micse_utils.models import keep_first_layers, load_model
from micse_utils.objective import MiCSELoss
from micse_utils.results import versions, write_atomically
from micse_utils.settings import process
from micse_utils.sts import Pairs, load_stsb

METHODS = ("micse", "simcse")
HEAD = "head.safetensors"
"""Weights of the training-only head in a checkpoint; written last, so it marks a whole one."""
RECORD = "training.json"
FIGURES = ("spearman", "alignment", "uniformity", "ami")
"""What is measured at every evaluation."""
WATCHED = 64
"""Training sentences whose AMI is measured then."""


@dataclasses.dataclass(frozen=True)
class LowShotConfig:
    """Settings of one training run.

    Attributes:
        method: `micse`, or `simcse`, which is the same without attention mutual information.
        ami_weight: lambda of the paper; not used by SimCSE.
        min_layer, max_layer: layers whose attention is compared, the last not included; None:
            those of the paper in proportion.
        temperature: of InfoNCE.
        batch_size: sentences of one step, over all processes together.
        max_length: tokens kept of each sentence.
        learning_rate: at the first step; it falls linearly to 0.
        epochs: passes over the sentences; a last batch that is not full is left out.
        steps: number of steps, in place of `epochs`.
        evaluations: how often in all the development pairs are scored and a checkpoint is kept.
        seed: of everything random.
        bf16: train in bfloat16 (autocast); None: where the device has units for it.
    """

    method: str = "micse"
    ami_weight: float = 1e-3
    min_layer: int | None = None
    max_layer: int | None = None
    temperature: float = 0.05
    batch_size: int = 64
    max_length: int = 32
    learning_rate: float = 1e-5
    epochs: int = 1
    steps: int | None = None
    evaluations: int = 10
    seed: int = 48
    bf16: bool | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.method not in METHODS:
            raise ValueError(f'method="{self.method}" is none of {", ".join(METHODS)}')
        for name in ("batch_size", "max_length", "epochs", "evaluations", "steps"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name}={value!r} is not a positive whole number")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate={self.learning_rate} is not between 0 and 1")
        if self.batch_size < 2:
            raise ValueError("batch_size=1 leaves InfoNCE nothing to tell a sentence from")


PAPER = LowShotConfig(min_layer=7, max_layer=11, learning_rate=1e-5)
PRESETS = {
    # The paper's recipes for BERT-base, by share of the million sentences.
    "10%": dataclasses.replace(PAPER, epochs=10, ami_weight=5e-4),
    "1%": dataclasses.replace(PAPER, epochs=50, ami_weight=1e-4),
    "0.1%": dataclasses.replace(PAPER, epochs=500, ami_weight=1e-3),
    "0.01%": dataclasses.replace(PAPER, epochs=2500, ami_weight=1e-3),
    # The kit's own for the packaged six-layer encoder: [CLS] of the whole, and of the first four.
    "packaged": LowShotConfig(
        ami_weight=1e-2, min_layer=2, max_layer=6, learning_rate=1e-4, steps=20, evaluations=4
    ),
    "packaged-raw": LowShotConfig(
        ami_weight=1.0, min_layer=1, max_layer=3, learning_rate=3e-5, steps=30, evaluations=3
    ),
}


class TrainingDivergedError(FloatingPointError):
    """The loss is no number any more; the message says at which step and what is left."""


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training run leaves.

    Attributes:
        model: the encoder of the best checkpoint, the very object that was given; None for a
            run that had ended before and kept no model.
        history: one row an evaluation: `step` (0 is before training), `spearman` of the
            development pairs (x 100), `alignment`, `uniformity`; `ami` of 64 of the training
            sentences, measured alike for both methods; and the means of `loss` and `info_nce`
            since the row before.
        best_step: of the checkpoint that was kept.
        config: the settings.
        sentences: number trained on, without duplicates.
    """

    model: SentenceTransformer | None
    history: pd.DataFrame
    best_step: int
    config: LowShotConfig
    sentences: int

    @property
    def before(self) -> float:
        """Spearman x 100 of the development pairs before training."""
        return float(self.history["spearman"].iloc[0])

    @property
    def best(self) -> float:
        """Spearman x 100 of the development pairs at the best checkpoint."""
        return float(self.history.set_index("step")["spearman"][self.best_step])


def train_low_shot(
    sentences: Sequence[str],
    base_model: SentenceTransformer | str | Path = "auto",
    method: str = "micse",
    *,
    output: str | Path,
    preset: str | LowShotConfig = "0.1%",
    dev: Pairs | None = None,
    keep_model: bool = True,
    progress: bool = True,
    **settings: object,
) -> Trained:
    """Train an encoder without labels on a handful of sentences, and keep the best checkpoint.

    A run that was stopped, however, goes on from its last whole checkpoint when it is called again
    with the same arguments, and ends with the very same weights; a finished one is only loaded.

    Args:
        sentences: n sentences. Blank ones and duplicates (false negatives) are dropped, and said.
        base_model: what to start from: a model, which is changed in place, or a name or folder
            for `load_model`, read with [CLS] pooling.
        method: `micse` or `simcse`.
        output: folder of the run: checkpoints while it goes, `model/` and `training.json` after.
        preset: one of `PRESETS`, or a configuration.
        dev: pairs that choose the checkpoint; by default `load_stsb("dev")`.
        keep_model: write `model/`; without it, a finished run gives its history only.
        progress: show a bar with loss, AMI and development figures.
        settings: fields of `LowShotConfig` to override those of the preset.

    Returns:
        The trained model and how it went.

    Raises:
        ValueError: no sentences or fewer than one batch, an unknown preset or setting, or an
            `output` that holds another run.
        TypeError: a sentence that is not a string, or an unknown setting.
        TrainingDivergedError: the loss became NaN or infinite; `model/` holds the best
            checkpoint before, if there was one.
    """
    config = _configure(preset, method, settings)
    sentences = _distinct(sentences)
    _, processes = process()
    if len(sentences) < config.batch_size:
        raise ValueError(
            f"{len(sentences)} sentences make no batch of {config.batch_size}; give more, or say "
            "a smaller batch_size"
        )
    if config.batch_size % processes:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared by {processes} processes"
        )
    if not isinstance(base_model, SentenceTransformer):
        base_model = load_model(base_model, pooling="cls")
    dev = dev or load_stsb("dev")

    run = _Run(Path(output).expanduser(), base_model, sentences, config, dev, keep_model)
    return run.finished() or run.train(processes, progress)


def _configure(preset: str | LowShotConfig, method: str, settings: dict) -> LowShotConfig:
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f'preset="{preset}" is none of {", ".join(PRESETS)}')
        preset = PRESETS[preset]
    fields = [field.name for field in dataclasses.fields(LowShotConfig)]
    if unknown := settings.keys() - set(fields):
        raise TypeError(f"{min(unknown)} is no setting; there are {', '.join(fields)}")
    if "epochs" in settings and "steps" not in settings:
        settings = {**settings, "steps": None}
    return dataclasses.replace(preset, method=method, **settings)


def _distinct(sentences: Sequence[str]) -> list[str]:
    """The sentences that are neither blank nor there before."""
    if isinstance(sentences, str):
        raise TypeError("sentences is one string; give a list of strings")
    sentences = list(sentences)
    for position, sentence in enumerate(sentences):
        if not isinstance(sentence, str):
            raise TypeError(f"sentences[{position}] is {sentence!r}, not a string")
    there = [sentence.strip() for sentence in sentences if sentence.strip()]
    distinct = list(dict.fromkeys(there))
    if not distinct:
        raise ValueError("there are no sentences to train on")
    if blank := len(sentences) - len(there):
        print(f"{blank} blank sentences were dropped")
    if duplicates := len(there) - len(distinct):
        print(f"{duplicates} duplicates were dropped: in one batch they are false negatives")
    return distinct


class _Run:
    """One training run and its folder."""

    def __init__(
        self,
        folder: Path,
        model: SentenceTransformer,
        sentences: list[str],
        config: LowShotConfig,
        dev: Pairs,
        keep_model: bool,
    ) -> None:
        self.folder = folder
        self.keep_model = keep_model
        self.model = model
        self.sentences = sentences
        self.config = config
        self.dev = dev
        self.checkpoints = folder / "checkpoints"
        self.bf16 = config.bf16
        if self.bf16 is None:
            self.bf16 = pick_dtype(model.device) == torch.bfloat16
        self.provenance = {
            "config": dataclasses.asdict(config),
            "bf16": self.bf16,
            "base_model": str(getattr(model, "provenance", model)),
            "sentences": len(sentences),
            "sentences_sha256": hashlib.sha256("\n".join(sentences).encode()).hexdigest(),
            "dev": str(dev.provenance),
        }
        self._claim()

    def _claim(self) -> None:
        """Take the folder for this run, or refuse one that holds another."""
        file = self.folder / "run.json"
        if file.is_file():
            there = json.loads(file.read_text(encoding="utf-8"))
            if differing := [k for k, v in self.provenance.items() if there.get(k) != v]:
                raise ValueError(
                    f"{self.folder} holds another run (its {', '.join(differing)} differ); name "
                    "another output folder, or delete it"
                )
        text = json.dumps(self.provenance, indent=2)
        write_atomically(file, lambda path: path.write_text(text, encoding="utf-8"))

    def finished(self) -> Trained | None:
        """What this run left when it ended earlier, or None."""
        file = self.folder / RECORD
        if not file.is_file():
            return None
        record = json.loads(file.read_text(encoding="utf-8"))
        if (self.folder / "model").is_dir():
            self._load(self.folder / "model")
        else:
            self.model = None
        history = pd.DataFrame(record["history"]).astype({"loss": float, "info_nce": float})
        return self._trained(history, record["best_step"])

    def _load(self, folder: Path) -> None:
        with _quiet():
            weights = SentenceTransformer(str(folder), device="cpu").state_dict()
        self.model.load_state_dict(weights)

    def _trained(self, history: pd.DataFrame, best_step: int) -> Trained:
        model = self.model and self.model.eval()
        return Trained(model, history, best_step, self.config, len(self.sentences))

    def train(self, processes: int, progress: bool) -> Trained:
        """Train to the end, from the last whole checkpoint if there is one."""
        config, device = self.config, self.model.device
        transformers.set_seed(config.seed)
        loss = MiCSELoss(
            self.model,
            config.ami_weight if config.method == "micse" else 0,
            min_layer=config.min_layer,
            max_layer=config.max_layer,
            temperature=config.temperature,
        )
        total = config.steps or config.epochs * (len(self.sentences) // config.batch_size)
        every = math.ceil(total / min(config.evaluations, total))
        evaluator = DevelopmentEvaluator(self.dev)
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.checkpoints),
            max_steps=total,
            per_device_train_batch_size=config.batch_size // processes,
            dataloader_drop_last=True,
            dataloader_pin_memory=device.type == "cuda",
            learning_rate=config.learning_rate,
            bf16=self.bf16,
            seed=config.seed,
            use_cpu=device.type == "cpu",
            eval_strategy="steps",
            eval_steps=every,
            save_strategy="steps",
            save_steps=every,
            save_total_limit=1,  # beside the best one
            load_best_model_at_end=True,
            metric_for_best_model=evaluator.primary_metric,
            logging_steps=every,
            disable_tqdm=True,
            report_to="none",
        )
        follow = _Follow(loss, self.sentences, config.max_length, total, progress)
        max_seq_length = self.model.max_seq_length
        self.model.max_seq_length = config.max_length
        # The library would draw and encode examples for a model card, with a bar of their own.
        self.model.model_card_data.generate_widget_examples = False
        self.model.model_card_data.widget = [{"text": self.sentences[0]}]
        with _quiet():
            trainer = SentenceTransformerTrainer(
                self.model,
                arguments,
                train_dataset=Dataset.from_dict({"sentence": self.sentences}),
                loss=loss,
                evaluator=evaluator,
                callbacks=[follow],
            )
            trainer.remove_callback(PrinterCallback)
            last = self._last_checkpoint()
            if last is None:
                start = evaluator(self.model) | {"dev_ami": follow.ami()}
            else:
                loss.head.load_state_dict(safetensors.torch.load_file(last / HEAD))
                start = json.loads((self.checkpoints / "start.json").read_text())
            text = json.dumps(start)
            write_atomically(self.checkpoints / "start.json", lambda path: path.write_text(text))
            try:
                trainer.train(resume_from_checkpoint=str(last) if last else None)
            except TrainingDivergedError as error:
                raise TrainingDivergedError(f"{error}; {self._rescue(trainer)}") from None
            finally:
                follow.close()
                self.model.max_seq_length = max_seq_length
        history = _history(start, trainer.state.log_history)
        best_step = trainer.state.best_global_step
        trainer.accelerator.wait_for_everyone()  # all have loaded the best checkpoint
        if trainer.is_world_process_zero():
            self._keep(history, best_step)
        return self._trained(history, best_step)

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
            return "no checkpoint had been made yet"
        self._load(Path(trainer.state.best_model_checkpoint))
        self.model.save_pretrained(str(self.folder / "model"), create_model_card=False)
        return (
            f"{self.folder / 'model'} holds the best checkpoint before, of step "
            f"{trainer.state.best_global_step}"
        )

    def _keep(self, history: pd.DataFrame, best_step: int) -> None:
        """Save model and record, then let go of the checkpoints."""
        if self.keep_model:
            with _quiet():
                self.model.save_pretrained(str(self.folder / "model"), create_model_card=False)
        record = {
            "best_step": best_step,
            "history": json.loads(history.to_json(orient="records", double_precision=15)),
            **self.provenance,
            "versions": versions(),
        }
        text = json.dumps(record, indent=2)
        write_atomically(self.folder / RECORD, lambda path: path.write_text(text, encoding="utf-8"))
        shutil.rmtree(self.checkpoints)


class _Follow(TrainerCallback):
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
        """Stop before a loss that is no number reaches the weights."""
        parts = {name: value.item() for name, value in self.loss.components.items()}
        if not math.isfinite(parts["loss"]):
            raise TrainingDivergedError(
                f"the loss is {parts['loss']} at step {state.global_step + 1}: lower learning_rate "
                "or ami_weight"
            )
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.since += 1
        self.figures |= {name: f"{value:.2f}" for name, value in parts.items()}

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Move the bar."""
        self.bar.set_postfix(self.figures, refresh=False)
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

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


def _history(start: dict[str, float], log: list[dict]) -> pd.DataFrame:
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' own bars and notes off the page."""
    disable_progress_bars()
    level = transformers.logging.get_verbosity()
    bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", category=FutureWarning, module="sentence_transformers"
            )
            yield
    finally:
        enable_progress_bars()
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def main(arguments: list[str] | None = None) -> int:
    """Train on a file, as the command line says; 0 if it ran to its end."""
    parser = argparse.ArgumentParser(prog="python -m micse_utils.training", description=__doc__)
    parser.add_argument(
        "file", type=Path, help="sentences: .txt (one a line), .csv, .tsv, .parquet"
    )
    parser.add_argument("--column", help="of a table, the column with the sentences")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", default="auto", help="what to start from (default: auto)")
    parser.add_argument("--source", default="auto", help="auto, hub, package or a folder")
    parser.add_argument("--layers", type=int, help="keep only this many of the first layers")
    parser.add_argument("--preset", default="0.1%", choices=PRESETS, help="recipe to start from")
    for field in dataclasses.fields(LowShotConfig):
        kind = {"method": str, "bf16": lambda text: text.lower() in ("1", "true", "yes")}
        floats = ("ami_weight", "temperature", "learning_rate")
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=kind.get(field.name, float if field.name in floats else int),
            default=argparse.SUPPRESS,
            help=f"in place of the preset's {field.name}",
        )
    options = vars(parser.parse_args(arguments))
    file, column, output = (options.pop(name) for name in ("file", "column", "output"))
    name, source, layers = (options.pop(name) for name in ("model", "source", "layers"))
    try:
        sentences = read_sentences(file, column=column).texts
        model = load_model(name, source=source, pooling="cls")
        if layers is not None:
            keep_first_layers(model, layers)
        trained = train_low_shot(
            sentences, model, options.pop("method", "micse"), output=output, **options
        )
    except (ValueError, TypeError, OSError, RuntimeError, ArithmeticError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    if process()[0] == 0:
        print(
            f"Spearman x 100 of the development pairs: {trained.before:.2f} before, "
            f"{trained.best:.2f} at step {trained.best_step}, which is kept in {output / 'model'}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
