"""The command `micse`: train, score, encode, and reproduce the low-shot experiment.

Exit status: 0; 1 for an error, reported in a sentence on stderr; 2 for wrong usage; 130 for Ctrl-C.
Libraries are imported by the command that needs them, so that `--help` answers at once.
"""

import argparse
import contextlib
import os
import re
import shlex
import sys
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path

from safetensors import SafetensorError

from micse_utils import __version__
from micse_utils.settings import process, setting, settle_console
from micse_utils.training import run_table
from micse_utils.training.config import METHODS, PRESETS, LowShotConfig

REFUSALS = (OSError, ValueError, TypeError, RuntimeError, ArithmeticError, SafetensorError)
"""Errors whose message is for users; all others are bugs, with a traceback."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    settle_console()
    # Before any import of PyTorch: spinning threads make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    options.typed = shlex.join(["micse", *arguments])
    if sys.stderr.isatty():
        print("loading PyTorch …", file=sys.stderr)  # on a busy machine, a minute of silence
    try:
        with contextlib.redirect_stdout(sys.stderr):  # only the result goes to stdout
            result = options.run(options)
        if result:
            print(result)
        return 0
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        message = "Ray is not installed here; install the extra: pip install -e '.[cluster]'"
    except REFUSALS as error:
        message = f"micse {options.command}: {error}"
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to resume.", file=sys.stderr)
        return 130
    print(message, file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="micse", description="miCSE sentence embeddings.")
    parser.add_argument("--version", action="version", version=f"micse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, add_arguments, example) in COMMANDS.items():
        epilog = f"Example: micse {name} {example}"
        command = commands.add_parser(
            name, help=run.__doc__, description=run.__doc__, epilog=epilog
        )
        command.set_defaults(run=run)
        add_arguments(command)
    return parser


def _count(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return int(text)


# --- train


def train(options: argparse.Namespace) -> str | None:
    """Train an encoder on a file of unlabelled sentences."""
    import copy

    from micse_utils.datasets.sts import load_stsb
    from micse_utils.datasets.texts import read_sentences
    from micse_utils.results import output_folder
    from micse_utils.sources.locate import absolute

    sentences = read_sentences(options.file, column=options.column).texts
    output_folder(options.output)
    # Only now, as PyTorch takes long to load: what is wrong with a file is said at once.
    from micse_utils.evaluation.gain import report_training
    from micse_utils.models import keep_first_layers, load_model
    from micse_utils.training.trainer import train_low_shot

    names = {field.name for field in fields(LowShotConfig)} - {"method"}
    settings = {name: value for name, value in vars(options).items() if name in names}
    found = {"source": options.source, "engine": "torch"}
    start = untouched = load_model(options.model, **found)
    if options.pooling not in (None, untouched.provenance.pooling):
        start = load_model(options.model, **found, pooling=options.pooling)
    if options.layers is not None:
        start = keep_first_layers(copy.deepcopy(start), options.layers)
    dev = load_stsb("dev")
    trained = train_low_shot(
        sentences, copy.deepcopy(start), options.method, output=options.output, dev=dev,
        preset=options.preset, overwrite=options.overwrite, **settings,
    )  # fmt: skip
    if process()[0] > 0:
        return None
    origin = untouched.provenance
    source = absolute(options.source) if origin.source == "folder" else origin.source
    return report_training(
        options.output, untouched, start, trained.model, best_step=trained.best_step, dev=dev,
        name=absolute(options.model), source=source, revision=origin.revision, sha256=origin.sha256,
    )  # fmt: skip


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="sentences: text, CSV, JSON lines, Parquet")
    parser.add_argument("--column", help="of a table, the column with the sentences")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", default="start", help="what to start from: a name or folder")
    parser.add_argument("--source", default="auto", help="auto, hub, package or a folder")
    parser.add_argument("--pooling", help="cls or mean (default: the model's own)")
    parser.add_argument("--layers", type=_count, help="keep only so many of the first layers")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    parser.add_argument("--preset", choices=PRESETS, help="recipe (default: by model and size)")
    parser.add_argument("--method", choices=METHODS, default="micse", help="(default: micse)")
    recipe = parser.add_argument_group("overrides of the recipe's settings")
    kinds = {
        "bf16": {"action": argparse.BooleanOptionalAction},
        **{name: {"type": float} for name in ("ami_weight", "temperature", "learning_rate")},
    }
    for field in fields(LowShotConfig):
        if field.name != "method":
            kind = kinds.get(field.name, {"type": int, "metavar": "N"})
            option = f"--{field.name.replace('_', '-')}"
            recipe.add_argument(option, default=argparse.SUPPRESS, **kind)


# --- score


def score(options: argparse.Namespace) -> str | None:
    """Score an encoder on the STS or the transfer tasks, or on section triplets."""
    import torch

    from micse_utils.evaluation.gain import load_untouched
    from micse_utils.evaluation.published import report_scores
    from micse_utils.evaluation.reported import evaluate_triplets
    from micse_utils.evaluation.senteval import evaluate_sts, evaluate_transfer
    from micse_utils.job import job
    from micse_utils.models import load_model

    name = re.sub(r"[^\w.-]+", "-", options.model).strip("-.")
    name += f"-{options.pooling}" if options.pooling else ""
    settings = {"dtype": None if options.fast else torch.float32, "seed": options.seed}
    evaluate = {"sts": evaluate_sts, "transfer": evaluate_transfer, "triplets": evaluate_triplets}
    if options.tasks != "triplets":
        settings["source"] = options.source
    if options.tasks == "transfer":
        settings |= {"classifier": options.classifier, "limit": options.limit}
    # A folder with the tasks need not hold the model.
    place = options.source if options.source in ("hub", "package") else "auto"
    folder = options.output or Path("results/senteval", name)
    with job(folder, {"scores of": options.model, "pooling": options.pooling}) as work:
        models = [load_model(options.model, source=place, pooling=options.pooling)]
        models += load_untouched(options.model)
        scored = [(model, evaluate[options.tasks](model, **settings)) for model in models]
        return report_scores(scored, work.folder, options.tasks, settings)


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="auto, miCSE, a hub repository or a folder")
    tasks = ["sts", "transfer", "triplets"]
    parser.add_argument("--tasks", default="sts", choices=tasks, help="default: sts")
    parser.add_argument("--source", default="auto", help="auto, hub, package or SentEval's folder")
    parser.add_argument("--pooling", help="cls or mean (default: the model's own)")
    parser.add_argument("--output", type=Path, help="folder (default: in results/senteval)")
    which = "of transfer tasks: senteval (default, as published) or logistic"
    parser.add_argument("--classifier", default="senteval", help=which)
    parser.add_argument("--limit", type=_count, help="sentences of each transfer task")
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and samples")
    parser.add_argument("--fast", action="store_true", help="bfloat16, if the hardware has units")


# --- encode


SMALL = 20_000  # rows up to which starting Ray takes longer than it saves


def encode(options: argparse.Namespace) -> str | None:
    """Write a table of any size with its embeddings beside it, a large one on Ray."""
    from micse_utils.datasets.tables import open_source
    from micse_utils.sources.locate import absolute

    if "://" in options.output:
        raise ValueError(f"the output must be a folder on a disk, got {options.output}")
    options.source, options.model = absolute(options.source), absolute(options.model)
    source = open_source(options.input, options.column)
    from micse_utils.cluster import Recipe, connected, encode_files  # after the refusals, as above
    from micse_utils.encoding import WINDOW, pick_length
    from micse_utils.models import load_model

    model = load_model(options.model, source=options.source, engine=options.engine)
    recipe = Recipe(
        options.model, options.source, model.provenance, into=options.into, half=options.half,
        max_length=pick_length(model, options.max_length), block_rows=options.block_rows or WINDOW,
    )  # fmt: skip
    if options.workers or options.address or source.rows > SMALL:
        del model  # the workers have their own
        with connected(options.address):
            done = encode_files(source, options.output, recipe, workers=options.workers)
    else:
        done = encode_files(source, options.output, recipe, model)
    lines = [
        f"model: {recipe.provenance}",
        f"{source.rows:,} rows are in {options.output}, {done['encoded']:,} of them encoded now",
        f"without a text, and so without an embedding: {done['without text']:,} of those",
    ]
    if warned := done["blocks with warnings"]:
        lines.append(f"{warned:,} blocks of {recipe.block_rows:,} rows had warnings, see above")
    return "\n".join(lines)


def _encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="file or folder of Parquet, CSV, JSON lines or text")
    parser.add_argument("output", help="folder for the Parquet files")
    parser.add_argument("--column", default="text", help="the one with the texts (default: text)")
    parser.add_argument("--into", default="embedding", help="name of the new column")
    parser.add_argument("--model", default="auto", help="a name or folder, as for load_model")
    usual, which = setting("MICSE_ENGINE") or "auto", "torch, openvino, or auto: openvino on a CPU"
    parser.add_argument("--engine", default=usual, help=f"{which} (default: {usual})")
    parser.add_argument("--half", action="store_true", help="float16 instead of float32")
    parser.add_argument("--max-length", type=_count, help="tokens kept of a text (default: 128)")
    parser.add_argument("--block-rows", type=_count, help="rows a crash costs (default: 4096)")
    parser.add_argument("--workers", type=_count, help="default: one a GPU, or one for 8 CPU cores")
    parser.add_argument("--address", help="of a Ray cluster, such as 10.0.0.1:6379, or auto")
    parser.add_argument("--source", default="auto", help="auto, hub, package or a folder")


# --- reproduce


def reproduce(options: argparse.Namespace) -> str | None:
    """Train and score miCSE and SimCSE with few sentences: the paper's experiment, or the kit's."""
    from micse_utils.evaluation.reported import REPORTED
    from micse_utils.job import job
    from micse_utils.results import output_folder, save_table
    from micse_utils.training.experiment import Experiment, in_processes, shared_settings
    from micse_utils.training.report import search_table, write_report

    quick, seeds = options.quick, options.seeds
    starts = options.starts or ["shipped" if quick else "bert"]
    sizes = options.sizes or (run_table.PAPERS_SIZES if "bert" in starts and not quick else [64])
    seeds = sorted({*chain(*seeds)} if seeds else range(48, 50 if quick else 53))
    objectives = options.objectives or [*run_table.OBJECTIVES][: 2 if quick else None]
    if options.search:
        runs, tasks = run_table.search_runs(starts, objectives), ()
    else:
        steps, tasks = (run_table.QUICK_STEPS, run_table.QUICK_TASKS) if quick else (None, REPORTED)
        table = {"steps": steps, "chosen": options.settings}
        runs = run_table.chosen_runs(starts, objectives, sizes, seeds, **table)
    folder = output_folder(options.folder).resolve()
    settings = shared_settings(runs, options.source, tasks)
    experiment = Experiment(folder / "runs", tuple(settings["tasks"]), options.source)
    several, connection = {}, contextlib.nullcontext()  # one run after the other
    if options.address:
        from micse_utils.cluster import connected, on_ray

        each = partial(on_ray, cpus=options.cpus, gpus=options.gpus)
        several = {"each": each, "at_a_time": None}
        connection = connected(options.address)
    elif options.workers > 1:
        each = partial(in_processes, workers=options.workers)
        several = {"each": each, "at_a_time": options.workers}
    with job(folder, settings) as work, connection:
        done = experiment.run_all(runs, **several)
        if options.search:
            table = search_table(done)
            save_table(folder, "search", table)
            text = table[table["chosen"]].to_string(index=False)
        else:
            text = write_report(experiment, done, command=options.typed)
        work.finish({"runs": [run.name for run in runs]})
    failed = sum("diverged" in record for record in done)
    return f"{text}\n{len(done)} runs, {failed} diverged; results: {folder}"


def _seeds(text: str) -> range:
    """Read a seed, or a range of them such as 48-52."""
    first, _, last = text.partition("-")
    with contextlib.suppress(ValueError):
        if seeds := range(int(first), int(last or first) + 1):
            return seeds
    raise argparse.ArgumentTypeError(f"must be a seed or a range such as 48-52, got {text}")


def _hub_or_folder(text: str) -> str:
    if text != "hub" and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"must be hub or a folder that exists, got {text}")
    return text if text == "hub" else str(Path(text).resolve())


def _reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="folder of the runs, tables and report")
    starts = "bert: the paper's (default); the others are made from the packaged encoder"
    parser.add_argument("--starts", nargs="+", choices=run_table.STARTS, help=starts)
    parser.add_argument("--sizes", type=_count, nargs="+", help="default: the paper's seven, or 64")
    parser.add_argument("--seeds", type=_seeds, nargs="+", help="default: 48-52")
    parser.add_argument(
        "--objectives", nargs="+", choices=run_table.OBJECTIVES, help="default: all"
    )
    parser.add_argument("--quick", action="store_true", help="a few short runs: does it work here?")
    parser.add_argument("--search", action="store_true", help="try all settings of the starts")
    chosen = "search.csv that chose (default: recorded)"
    parser.add_argument("--settings", type=Path, default=run_table.CHOSEN, help=chosen)
    of_bert = {"default": "hub", "help": "of bert: hub or a folder"}
    parser.add_argument("--source", type=_hub_or_folder, **of_bert)
    parser.add_argument("--workers", type=_count, default=1, help="runs at a time, on this machine")
    parser.add_argument("--address", help="of a Ray cluster, such as 10.0.0.1:6379, or auto")
    parser.add_argument("--cpus", type=float, default=2, help="on Ray, CPU cores of a run")
    parser.add_argument("--gpus", type=float, default=0, help="on Ray, GPUs of a run")


COMMANDS = {
    "train": (train, _train_arguments, "my-sentences.txt --output my-encoder --steps 100"),
    "score": (score, _score_arguments, "all-MiniLM-L6-v2 --tasks sts"),
    "encode": (encode, _encode_arguments, "tweets.csv embeddings/ --column text"),
    "reproduce": (reproduce, _reproduce_arguments, "results/kit --starts whole --seeds 48-52"),
}
