"""Beyond one process: bulk encoding and the low-shot grid on Ray, on a laptop or a cluster.

    python -m micse_utils.cluster.connect encode tweets.csv embeddings/ --column text
    python -m micse_utils.cluster.connect grid results/grid --sizes 64 1000 --seeds 48 49 50

Needs the extra: pip install -e '.[cluster]'. Without --address Ray starts here and ends with the
work; with it, the kit is to be installed on the cluster's machines, too.
"""

import argparse
import contextlib
import copy
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

try:
    import ray
except ModuleNotFoundError:
    if __name__ != "__main__":
        raise
    sys.exit("Ray is not installed here; install the extra: pip install -e '.[cluster]'")

from micse_utils.cluster.encode import encode_files
from micse_utils.cluster.worker import Recipe
from micse_utils.datasets.sentences import load_low_shot
from micse_utils.datasets.sts import load_lee, load_stsb
from micse_utils.datasets.tables import TEXT, open_source
from micse_utils.device import pick_device
from micse_utils.encoding import WINDOW, encode
from micse_utils.models import keep_first_layers, load_model
from micse_utils.plotting.training import learning_curves
from micse_utils.results import output_folder, records, save_figure, save_table, write_metrics
from micse_utils.sources.choose import absolute
from micse_utils.training.config import METHODS, PRESETS, LowShotConfig, default_preset
from micse_utils.training.grid import GridRun, Trainer, train_grid

CPUS = 8
"""CPU cores of a worker, where a machine has them: batches are too small to keep more busy."""


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Within, Ray runs: a running cluster, or where none is named, one of this machine's own.

    Raises:
        ConnectionError: there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes are no user's business
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # GPUs stay as they are
    options = {} if address else {"include_dashboard": False, "num_cpus": os.cpu_count()}
    if address not in (None, "auto"):
        _knock(address)
    try:
        with _muted():
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **options)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}; if it asks for a token, set RAY_AUTH_MODE=token (`ray get-auth-token`)"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Refuse an address where nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"there is no Ray cluster at {address} ({error}); say the address that `ray start` "
            "printed on its head, such as 10.0.0.1:6379"
        ) from None


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Keep what other than Python's code writes off the console; errors are raised all the same."""
    console = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(console, 2)
        os.close(console)


def shares(workers: int | None = None) -> tuple[int, float, float]:
    """Number of workers, and the CPUs and GPUs of each, for the cluster that is connected.

    By default a worker for each GPU; without any, one for every `CPUS` cores of a machine.
    """
    cpus = [int(c) for c, _ in _machines()]
    gpus = int(sum(g for _, g in _machines()))
    count = workers or gpus or sum(max(1, n // CPUS) for n in cpus if n)
    return count, max(1, min(sum(cpus) // count, max(cpus))), 1 if gpus >= count else 0


def _check_room(cpus: float, gpus: float) -> None:
    """Refuse what no machine of the cluster has: Ray would wait for one that has."""
    if not any(cpus <= c and gpus <= g for c, g in _machines()):
        there = ", ".join(f"{c:g} and {g:g}" for c, g in _machines())
        raise ValueError(
            f"a run of {cpus:g} CPU cores and {gpus:g} GPUs fits no machine; there are {there}"
        )


def _machines() -> list[tuple[float, float]]:
    """CPU cores and GPUs of each machine of the cluster that is connected."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive]


def on_ray(cpus: float, gpus: float = 0) -> Callable[..., Iterator[tuple[GridRun, dict]]]:
    """How `train_grid` makes its runs: as tasks of Ray, as many at a time as there is room for.

    A run that fails, by whatever accident, is kept with its error and made again next time; the
    others go on. Their folder is to be on a disk that all machines see, or else a run that is cut
    off begins anew.

    Args:
        cpus, gpus: that each run needs.
    """

    def train_here(train: Trainer, run: GridRun, model: object, *shared: object) -> dict:
        return train(run, copy.deepcopy(model).to(pick_device()), *shared)

    def each(
        train: Trainer, runs: list[GridRun], *shared: object
    ) -> Iterator[tuple[GridRun, dict[str, object]]]:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(train_here)
        there = [ray.put(item) for item in shared]
        pending = {task.remote(train, run, *there): run for run in runs}
        while pending:
            (ready,), _ = ray.wait(list(pending))
            run = pending.pop(ready)
            try:
                yield run, ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                reason = str(cause).strip().splitlines()[0]
                yield run, {"error": f"{type(cause).__name__}: {reason}", "settings": None}

    return each


def encode_command(options: argparse.Namespace) -> None:
    """`encode`: a table of any size, and beside it its embeddings."""
    source = open_source(options.input, options.column)
    model = load_model(options.model, source=options.source)
    max_length = options.max_length or min(128, model.get_max_seq_length() or 128)
    encode(model, ["refuse a wrong length before any worker starts"], max_length=max_length)
    recipe = Recipe(
        options.model,
        options.source,
        model.provenance,
        into=options.into,
        half=options.half,
        max_length=max_length,
        block_rows=options.block_rows,
    )
    del model  # the workers have their own
    with connected(options.address):
        workers, cpus, gpus = shares(options.workers)
        print(f"workers: {workers}, each with {cpus} CPU cores and {gpus} GPUs")
        done = encode_files(source, options.output, recipe, workers=workers, cpus=cpus, gpus=gpus)
    memory = ", ".join(f"{most:,}" for most in done["worker MiB"]) or "none"
    print(
        f"{done['rows']:,} rows stand in {options.output}, {done['encoded']:,} of them encoded now"
    )
    print(f"without a text, and so without an embedding: {done['without text']:,}")
    if done["blocks with warnings"]:
        print(f"{done['blocks with warnings']:,} of {done['blocks']:,} blocks had warnings, "
              f"the first: {done['first warning']}")  # fmt: skip
    print(f"largest memory of each worker, MiB: {memory}")


def grid_command(options: argparse.Namespace) -> None:
    """`grid`: sizes x seeds x methods from each start, then their table and figure."""
    output_folder(options.results)
    model = load_model(options.model, source=options.source, pooling="cls")
    starts = {"whole encoder": model}
    if model.transformers_model.config.num_hidden_layers == 6:  # the packaged one: a raw start, too
        starts["first four layers"] = keep_first_layers(copy.deepcopy(model), 4)
    corpora = load_low_shot(options.sizes, seeds=options.seeds, source=options.source)
    dev, lee = load_stsb("dev", source=options.source), load_lee()
    steps = {} if options.steps is None else {"steps": options.steps}
    with connected(options.address):
        _check_room(options.cpus, options.gpus)
        tables = [
            train_grid(
                start, corpora, options.results / "runs" / name, sizes=options.sizes,
                methods=options.methods, seeds=options.seeds, dev=dev, independent=lee,
                each=on_ray(options.cpus, options.gpus), **steps,
            ).assign(start=name)
            for name, start in starts.items()
        ]  # fmt: skip
    runs = pd.concat(tables, ignore_index=True)
    table = runs.drop(columns="history")
    failed = table[table["error"].notna()]
    save_table(options.results, "runs", table)
    if len(failed) < len(runs):
        figure = learning_curves(
            runs[runs["error"].isna()], title="What a handful of sentences teaches [CLS]"
        )
        save_figure(options.results, "learning_curves", figure)
    headline = f"{len(runs) - len(failed)} runs, {len(failed)} failed"
    write_metrics(
        options.results, {"runs": records(table)}, headline=headline, model=model.provenance,
        data=corpora[options.sizes[0], options.seeds[0]].provenance, seed=options.seeds[0],
        seeds=options.seeds, dev=str(dev.provenance), independent=str(lee.provenance),
        recipes={
            name: vars(PRESETS[default_preset(start, max(options.sizes))])
            for name, start in starts.items()
        },
    )  # fmt: skip
    figures = ["before", "best", "last"]
    print(runs.groupby(["start", "size", "method"], sort=False)[figures].mean().round(2))
    for run in failed.to_dict("records"):
        print(
            f"FAILED: {run['start']}, {run['size']}, {run['method']}, {run['seed']}: {run['error']}"
        )
    print(f"{headline}; results: {options.results}")


def _whole(least: int) -> Callable[[str], int]:
    """A kind of argument: a whole number from `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least}")
        return int(text)

    return read


_count, _size, _seed = _whole(1), _whole(LowShotConfig.batch_size), _whole(0)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; 0 if it was done."""
    parser = argparse.ArgumentParser(
        prog="python -m micse_utils.cluster.connect", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True)
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument(
        "--address",
        help="of a running Ray cluster, such as 10.0.0.1:6379; auto: that of this machine",
    )
    both.add_argument("--source", default="auto", help="auto, hub, package or a folder")
    bulk = commands.add_parser("encode", parents=[both], help=encode_command.__doc__)
    bulk.set_defaults(command=encode_command)
    bulk.add_argument("input", help="file, folder, pattern or URL: Parquet, CSV, JSON lines, text")
    bulk.add_argument("output", help="folder or URL for the Parquet files")
    bulk.add_argument("--column", default=TEXT, help="the one with the texts (default: text)")
    bulk.add_argument("--into", default="embedding", help="name of the new column")
    bulk.add_argument("--model", default="auto", help="a name or folder, as for load_model")
    bulk.add_argument("--half", action="store_true", help="float16 instead of float32")
    bulk.add_argument("--max-length", type=_count, help="tokens kept of a text (default: 128)")
    bulk.add_argument("--block-rows", type=_count, default=WINDOW, help="what a crash costs")
    bulk.add_argument("--workers", type=_count, help="default: one a GPU, or one for 8 CPU cores")
    grid = commands.add_parser("grid", parents=[both], help=grid_command.__doc__)
    grid.set_defaults(command=grid_command)
    grid.add_argument("results", type=Path, help="folder of the runs, the table and the figure")
    grid.add_argument("--model", default="start", help="what to start from")
    grid.add_argument("--sizes", type=_size, nargs="+", default=[64, 100, 500, 1000])
    grid.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    grid.add_argument("--seeds", type=_seed, nargs="+", default=[48, 49, 50, 51, 52])
    grid.add_argument("--steps", type=_count, help="default: those of the recipe")
    grid.add_argument("--cpus", type=float, default=2, help="CPU cores of a run")
    grid.add_argument("--gpus", type=float, default=0, help="GPUs of a run")
    options = parser.parse_args(arguments)
    options.source, options.model = absolute(options.source), absolute(options.model)
    try:
        options.command(options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        parser.exit(1, f"{error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "stopped; what is finished stands, the same command goes on from here\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
