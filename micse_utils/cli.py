"""The command `micse`.

Exit status: 0; 1 for an error, reported in a sentence on stderr; 2 for wrong usage; 130 for Ctrl-C;
143 for SIGTERM. Commands import libraries late, so that `--help` and refusals come at once.
"""

import argparse
import contextlib
import copy
import os
import re
import shlex
import signal
import sys
from dataclasses import fields
from functools import partial
from itertools import chain
from pathlib import Path
from typing import get_args

from safetensors import SafetensorError

from micse_utils import __version__
from micse_utils.settings import ENGINES, check_choice, process, setting, settle_console
from micse_utils.training import run_table
from micse_utils.training.config import METHODS, PRESETS, LowShotConfig

REFUSALS = (OSError, ValueError, TypeError, RuntimeError, ArithmeticError, SafetensorError)
"""Errors whose message is for users; all others are bugs, with a traceback."""

# As in SentenceTransformers' `Pooling`, which loads PyTorch.
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    settle_console()
    # Before any import of PyTorch: spinning threads make a busy machine ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments is None:  # as a command, not called from Python
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args(arguments)
    options.typed = shlex.join(["micse", *arguments])
    try:
        with contextlib.redirect_stdout(sys.stderr):  # only the result goes to stdout
            result = options.run(options)
        if result:
            print(result)
        return 0
    except REFUSALS as error:
        print(f"micse {options.command}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit) as stop:  # the latter of SIGTERM, also by Ray's handler
        again = "start over" if options.command == "score" else "resume"
        print(f"\nInterrupted. Run the same command again to {again}.", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="micse", description="miCSE sentence embeddings.")
    parser.add_argument("--version", action="version", version=f"micse {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (run, add_arguments, example) in COMMANDS.items():
        about = {"help": run.__doc__, "description": run.__doc__}
        command = commands.add_parser(name, **about, epilog=f"Example: micse {name} {example}")
        command.set_defaults(run=run)
        add_arguments(command)
    return parser


def count(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1, got {text}")
    return int(text)


def _begin(options: argparse.Namespace, output: str | Path) -> Path:
    """Check places that are often misspelt before PyTorch loads; return the folder to write to."""
    from micse_utils.job import own_folder
    from micse_utils.sources.locate import absolute, check_source, model_folder

    check_source(options.source)
    model_folder(options.model, options.source)
    folder = own_folder(output)
    options.model, options.source = absolute(options.model), absolute(options.source)
    print("loading PyTorch …")  # on a busy machine, a minute of silence
    return folder


def train(options: argparse.Namespace) -> str | None:
    """Train an encoder on a file of unlabelled sentences."""
    from micse_utils.datasets.sts import load_stsb
    from micse_utils.datasets.texts import read_sentences

    sentences = read_sentences(options.file, column=options.column).texts
    names = {field.name for field in fields(LowShotConfig)}
    settings = {name: value for name, value in vars(options).items() if name in names}
    LowShotConfig(**settings)  # refuses what is out of range
    options.output = _begin(options, options.output)
    from micse_utils.evaluation.gain import report_training
    from micse_utils.models import load_model
    from micse_utils.training.trainer import train_low_shot

    found = {"source": options.source, "engine": "torch"}
    start = untouched = load_model(options.model, **found)
    if options.pooling not in (None, untouched.provenance.pooling):
        start = load_model(options.model, **found, pooling=options.pooling)
    dev = load_stsb("dev")
    trained = train_low_shot(
        sentences, copy.deepcopy(start), output=options.output, dev=dev, preset=options.preset,
        overwrite=options.overwrite, **settings,
    )  # fmt: skip
    if process()[0] > 0:
        return None
    origin = untouched.provenance
    source = options.source if origin.source == "folder" else origin.source
    return report_training(
        options.output, untouched, start, trained.model, best_step=trained.best_step, dev=dev,
        name=options.model, source=source, revision=origin.revision, sha256=origin.sha256,
    )  # fmt: skip


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="sentences: text, CSV, JSON lines, Parquet")
    parser.add_argument("--column", help="of a table, the column with the sentences")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", default="start", help="what to start from: a name or folder")
    parser.add_argument("--source", default="auto", help="auto, hub, package or a folder")
    parser.add_argument("--pooling", choices=POOLINGS, help="default: the model's own")
    parser.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    parser.add_argument("--preset", choices=PRESETS, help="recipe (default: by model and size)")
    recipe = parser.add_argument_group("in place of the recipe's (no default: the recipe decides)")
    kinds = {"method": {"choices": METHODS}, "bf16": {"action": argparse.BooleanOptionalAction}}
    for field in fields(LowShotConfig):
        type_, about = get_args(field.type)
        kind = kinds.get(field.name, {"type": float if type_ is float else int, "metavar": "N"})
        values = {getattr(preset, field.name) for preset in PRESETS.values()}
        about += f" (default: {field.default})" if len(values) == 1 else ""
        option = f"--{field.name.replace('_', '-')}"
        recipe.add_argument(option, default=argparse.SUPPRESS, help=about, **kind)


def score(options: argparse.Namespace) -> str | None:
    """Score an encoder on the STS or the transfer tasks, or on section triplets."""
    name = re.sub(r"[^\w.-]+", "-", f"{options.model} {options.pooling or ''}").strip("-.")
    folder = options.output or Path("results/senteval", name)
    described = {"scores of": options.model, "pooling": options.pooling}  # as typed
    _begin(options, folder)
    from micse_utils.evaluation.gain import load_untouched
    from micse_utils.evaluation.published import report_scores
    from micse_utils.evaluation.reported import evaluate_triplets
    from micse_utils.evaluation.senteval import evaluate_sts, evaluate_transfer
    from micse_utils.job import job
    from micse_utils.models import load_model

    evaluate = {"sts": evaluate_sts, "transfer": evaluate_transfer, "triplets": evaluate_triplets}
    settings = {} if options.tasks == "triplets" else {"source": options.source}
    if options.tasks == "transfer":
        settings["classifier"] = options.classifier
    # A folder with the tasks need not hold the model.
    place = options.source if options.source in ("hub", "package") else "auto"
    with job(folder, described) as work:
        models = [load_model(options.model, source=place, pooling=options.pooling)]
        models += load_untouched(options.model, models[0].provenance.sha256)
        scored = [(model, evaluate[options.tasks](model, **settings)) for model in models]
        return report_scores(scored, work.folder, options.tasks, settings)


def _score_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="auto, miCSE, a hub repository or a folder")
    parser.add_argument("--tasks", default="sts", choices=("sts", "transfer", "triplets"))
    parser.add_argument("--source", default="auto", help="auto, hub, package or SentEval's folder")
    parser.add_argument("--pooling", choices=POOLINGS, help="default: the model's own")
    parser.add_argument("--output", type=Path, help="folder (default: in results/senteval)")
    parser.add_argument("--classifier", default="senteval", choices=("senteval", "logistic"))


def encode(options: argparse.Namespace) -> str | None:
    """Write a table of any size with its embeddings beside it, here or on a Ray cluster."""
    from micse_utils.datasets.tables import open_source

    if "://" in options.output:  # or it would become a folder here
        raise ValueError(f"the output must be a folder on a disk, got {options.output}")
    check_choice("--engine (or MICSE_ENGINE)", options.engine, ENGINES)
    source = open_source(options.input, options.column)
    _begin(options, options.output)
    from micse_utils.cluster import Recipe, connected, encode_files
    from micse_utils.encoding import WINDOW, pick_length
    from micse_utils.models import load_model

    model = load_model(options.model, source=options.source, engine=options.engine)
    recipe = Recipe(
        options.model, options.source, model.provenance, into=options.into,
        max_length=pick_length(model, options.max_length), block_rows=options.block_rows or WINDOW,
    )  # fmt: skip
    if options.address:
        del model  # the workers have their own
        with connected(options.address):
            encoded = encode_files(source, options.output, recipe)
    else:
        encoded = encode_files(source, options.output, recipe, model)
    done = (
        f"{source.rows:,} rows are in {options.output}, as Parquet, {encoded:,} of them encoded now"
    )
    return f"model: {recipe.provenance}\n{done}"


def _encode_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", help="file, folder or pattern of Parquet, CSV, JSON lines, text")
    parser.add_argument("output", help="folder for the Parquet files")
    parser.add_argument("--column", default="text", help="the one with the texts (default: text)")
    parser.add_argument("--into", default="embedding", help="name of the new column")
    parser.add_argument("--model", default="auto", help="a name or folder, as for load_model")
    usual = setting("MICSE_ENGINE") or "auto"
    parser.add_argument("--engine", default=usual, help=f"{', '.join(ENGINES)} (default: auto)")
    parser.add_argument("--max-length", type=count, help="tokens kept of a text (default: 128)")
    parser.add_argument("--block-rows", type=count, help="rows a crash costs (default: 4096)")
    parser.add_argument("--address", help="of a Ray cluster, such as 10.0.0.1:6379, or auto")
    parser.add_argument("--source", default="auto", help="auto, hub, package or a folder")


def reproduce(options: argparse.Namespace) -> str | None:
    """Train and score miCSE and SimCSE with few sentences: the paper's experiment, or the kit's."""
    quick, search = options.quick, options.search
    starts = options.starts or ["shipped" if quick else "bert"]
    sizes = options.sizes or (run_table.PAPERS_SIZES if "bert" in starts and not quick else [64])
    seeds = sorted({*chain(*options.seeds)}) if options.seeds else range(48, 50 if quick else 53)
    objectives = options.objectives or (["micse", "simcse"] if quick else [*run_table.OBJECTIVES])
    if search:
        runs = run_table.search_runs(starts, objectives)
    else:
        steps, chosen = run_table.QUICK_STEPS if quick else None, options.settings
        runs = run_table.chosen_runs(starts, objectives, sizes, seeds, steps=steps, chosen=chosen)
    if options.source in ("auto", "package"):
        raise ValueError(f"source must be hub or a folder, got {options.source}")
    folder = _begin(options, options.folder).resolve()
    from micse_utils import cluster
    from micse_utils.evaluation.reported import REPORTED
    from micse_utils.job import job
    from micse_utils.results import save_table
    from micse_utils.training import experiment, report

    tasks = () if search else run_table.QUICK_TASKS if quick else REPORTED
    settings = experiment.shared_settings(runs, options.source, tasks)
    kept = experiment.Experiment(folder / "runs", tuple(settings["tasks"]), options.source)
    each, connection = None, contextlib.nullcontext()
    if options.address:
        each, connection = cluster.on_ray, cluster.connected(options.address)
    elif options.workers > 1:
        each = partial(experiment.in_processes, workers=options.workers)
    with job(folder, settings) as work, connection:
        done = kept.run_all(runs, each, at_a_time=None if options.address else options.workers)
        if search:
            table = report.search_table(done)
            save_table(folder, "search", table)
            text = table[table["chosen"]].to_string(index=False)
        else:
            text = report.write_report(kept, done, command=options.typed)
        work.finish({"runs": [run.name for run in runs]})
    failed = sum("diverged" in record for record in done)
    return f"{text}\n{len(done)} runs, {failed} diverged; results: {folder}"


def seed_range(text: str) -> range:
    """Read a seed, or a range of them such as 48-52."""
    first, _, last = text.partition("-")
    with contextlib.suppress(ValueError):
        if seeds := range(int(first), int(last or first) + 1):
            return seeds
    raise argparse.ArgumentTypeError(f"must be a seed or a range such as 48-52, got {text}")


def _reproduce_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(model="auto")
    parser.add_argument("folder", type=Path, help="folder of the runs, tables and report")
    parser.add_argument("--starts", nargs="+", choices=run_table.STARTS, help="default: bert")
    parser.add_argument("--sizes", type=count, nargs="+", help="default: the paper's seven, or 64")
    parser.add_argument("--seeds", type=seed_range, nargs="+", help="default: 48-52")
    parser.add_argument("--objectives", nargs="+", choices=run_table.OBJECTIVES)
    parser.add_argument("--quick", action="store_true", help="a few short runs from shipped")
    parser.add_argument("--search", action="store_true", help="try all settings of the starts")
    parser.add_argument("--settings", type=Path, default=run_table.CHOSEN, help="a search.csv")
    parser.add_argument("--source", default="hub", help="of bert: hub or a folder")
    parser.add_argument("--workers", type=count, default=1, help="runs at a time, on this machine")
    parser.add_argument("--address", help="of a Ray cluster, such as 10.0.0.1:6379, or auto")


COMMANDS = {
    "train": (train, _train_arguments, "my-sentences.txt --output my-encoder --steps 100"),
    "score": (score, _score_arguments, "all-MiniLM-L6-v2 --tasks sts"),
    "encode": (encode, _encode_arguments, "tweets.csv embeddings/ --column text"),
    "reproduce": (reproduce, _reproduce_arguments, "results/kit --starts whole --seeds 48-52"),
}
