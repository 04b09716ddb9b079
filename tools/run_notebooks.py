"""Run the notebooks headless: `python -m tools.run_notebooks --help`.

Each notebook is executed by papermill in the environment this very Python belongs to, whatever
kernels are installed elsewhere, and leaves its results in a folder of its own.
"""

import argparse
import ast
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from tqdm import tqdm

from micse_utils.checks import shown
from micse_utils.datasets.sts import PACKAGED_STS, STS_TASKS
from micse_utils.provenance import sha256_of
from micse_utils.results import kept_json, output_folder, write_atomically, write_json
from micse_utils.sources.choose import absolute, is_source
from micse_utils.training.config import METHODS
from tools.clean_notebooks import clean, plain_widgets

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = NOTEBOOKS / "figures"


def _existing(source: str) -> str:
    if not is_source(source):
        raise ValueError('be "hub", "package" or a folder that exists')
    return source


def _distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError("not name anything twice")
    return values


NAME = Annotated[str, Field(min_length=1)]
SEED = Annotated[int, Field(ge=0, lt=2**32)]  # as scikit-learn takes them
TEXTS = Annotated[int, Field(ge=100)]  # enough for 15 neighbours, and five folds of three classes
BATCH = Annotated[int, Field(ge=64)]
SEVERAL = (Field(min_length=1), AfterValidator(_distinct))
PARAMETERS = {
    "source": Annotated[str, AfterValidator(_existing)],
    "model_name": NAME,
    "max_length": Annotated[int, Field(ge=3, le=512)],
    "limit": TEXTS,
    "held_out": Annotated[int, Field(ge=1)],
    "same_from": Annotated[float, Field(ge=0, le=1)],
    "n_neighbors": Annotated[int, Field(ge=2)],
    "min_cluster_size": Annotated[int, Field(ge=2)],
    "seed": SEED,
    "sizes": Annotated[list[BATCH], *SEVERAL],
    "methods": Annotated[list[Literal[METHODS]], *SEVERAL],
    "seeds": Annotated[list[SEED], *SEVERAL],
    "whole_steps": Annotated[int, Field(ge=1)],
    "raw_steps": Annotated[int, Field(ge=1)],
    "quick": bool,
    "tasks": Annotated[list[Literal[*STS_TASKS, *PACKAGED_STS]], *SEVERAL],
    "trained_in": NAME,
    "train_sentences": BATCH,
    "transfer_limit": TEXTS,
}
"""What a parameter may be, by name: one name means the same in every notebook."""


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; 0 if every notebook ran to its end."""
    there = sorted(path.stem for path in NOTEBOOKS.glob("[0-9]*.ipynb"))
    parser = argparse.ArgumentParser(prog="python -m tools.run_notebooks", description=__doc__)
    parser.add_argument("notebooks", nargs="*", help=f"of {', '.join(there)}; default: all")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="parameters",
        help="set a parameter of the notebooks that have it, such as: -p source hub",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="results folder")
    parser.add_argument("--force", action="store_true", help="run also what already stands")
    parser.add_argument(
        "--in-place", action="store_true", help="write outputs and figures into notebooks/, too"
    )
    options = parser.parse_args(arguments)
    if not there:
        parser.error(f"no notebooks in {NOTEBOOKS}; run this in a checkout of the kit")

    chosen = [Path(name).name.removesuffix(".ipynb") for name in options.notebooks] or there
    if unknown := [name for name in chosen if name not in there]:
        parser.error(f"no notebook {unknown[0]}; there are {', '.join(there)}")
    try:
        values = read_parameters(chosen, options.parameters)
        output_folder(options.results)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    _use_own_kernel()
    failures = []
    for name in tqdm(chosen, desc="notebooks", disable=not sys.stderr.isatty()):
        folder = options.results.resolve() / name
        try:
            line = run(name, folder, values[name], force=options.force, in_place=options.in_place)
        except PapermillExecutionError as error:
            reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}".splitlines()[0]
            failures.append(name)
            line = f"{name}: FAILED in {reason}\n  as far as it ran: {_unfinished(folder)}"
        except OSError as error:
            failures.append(name)
            line = f"{name}: FAILED, {error}"
        except DeadKernelError:
            failures.append(name)
            line = f"{name}: FAILED, its kernel died; was there enough memory?"
        except (NoSuchKernel, RuntimeError) as error:  # no kernel came up; none would for the next
            tqdm.write(f"{name}: FAILED, {error}; make doctor looks for the reason")
            return 1
        except KeyboardInterrupt:
            tqdm.write("stopped; what is finished stands, the same command goes on from here")
            return 130
        tqdm.write(line)
    print(f"results: {options.results}")
    return 1 if failures else 0


def read_parameters(notebooks: list[str], given: list[tuple[str, str]]) -> dict[str, dict]:
    """Return for each notebook those of the given parameters that it has, read and checked.

    Raises:
        ValueError: a value is not what `PARAMETERS` says, or no notebook has the parameter.
    """
    cells = {name: papermill.inspect_notebook(_path(name)) for name in notebooks}
    names = {key for cell in cells.values() for key in cell} - {"results"}
    if "results" in dict(given):
        raise ValueError("-p results: the folder is set by --results, for all notebooks")
    if unknown := [key for key, _ in given if key not in names]:
        raise ValueError(f"no parameter {unknown[0]}; there are {', '.join(sorted(names))}")
    values = {}
    for name, cell in cells.items():
        try:
            values[name] = {k: read_parameter(k, t, cell[k]) for k, t in given if k in cell}
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return values


def read_parameter(name: str, text: str, cell: dict[str, str]) -> object:
    """Return a parameter's value from the command line: a number, a list or the like, or the text.

    A folder that exists is resolved here, because notebooks run in a different one.

    Args:
        name: one that is not in `PARAMETERS` may be anything.
        text: as it was written.
        cell: its `default` and `help` (the comment) as `papermill.inspect_notebook` returns them.
            If they speak of None or "auto", these are accepted, too.

    Raises:
        ValueError: it must be something else.
    """
    value = _literal(text)
    if name in ("source", "model_name", "trained_in") and absolute(text) != text:
        value = absolute(text)
    if name not in PARAMETERS:
        return value
    kind = PARAMETERS[name]
    if cell["default"] == '"auto"':
        kind |= Literal["auto"]
    if may_be_none := "None" in cell["default"] + cell["help"]:
        kind |= None
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        # Such as "Input should be greater than or equal to 64", one for each type it may have.
        reasons = [re.sub(r"^(\w+ should|Value error,) ", "", e["msg"]) for e in error.errors()]
        reasons += ["be None"] if may_be_none else []
        got = shown(error.errors()[0]["input"])
        raise ValueError(f"{name} must {', or '.join(reasons)}; got {got}") from None


def _literal(text: str) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes, as in folders of Windows
            value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
    return list(value) if isinstance(value, tuple) else value  # 48, 49


def run(
    name: str, folder: Path, parameters: dict, *, force: bool = False, in_place: bool = False
) -> str:
    """Execute one notebook; returns a line with its name, seconds and headline figure.

    What already stands, made by the same notebook, package and parameters, is not made again.

    Args:
        name: the notebook's file name without suffix.
        folder: results folder, which gets the executed notebook beside what its cells write.
        parameters: values for its cell tagged `parameters`.
        force: run it also if its results stand.
        in_place: write the outputs into the notebook itself and its figures beside it, too.

    Raises:
        PapermillExecutionError: a cell failed; the notebook as far as it ran is kept, and what an
            earlier run left is not touched by this function.
    """
    record = folder / "run.json"
    fingerprint = _fingerprint(name, parameters)

    def standing() -> str | None:
        earlier = kept_json(record) or {}
        if force or in_place or earlier.get("fingerprint") != fingerprint:
            return None
        if not _unchanged(earlier.get("files"), folder):
            return None  # a call that did not reach its end, or a person, has touched them
        return f"{name}: stands ({earlier['seconds']:.0f} s): {_headline(folder)}"

    if line := standing():
        return line
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        return standing() or _execute(name, folder, parameters, fingerprint, in_place)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Within, no other process runs this notebook: such as one whose `make` alone was killed."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=1)
    except Timeout:
        tqdm.write(f"{folder.name}: another process is running it; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _execute(name: str, folder: Path, parameters: dict, fingerprint: str, in_place: bool) -> str:
    """Execute a notebook, and keep what it leaves; returns the line of `run`."""
    executed, record = folder / f"{name}.ipynb", folder / "run.json"
    unfinished = _unfinished(folder)
    opening = nbformat.read(_path(name), as_version=4).cells[0].source
    tqdm.write(f"{name}: running, {expected_time(opening)}")
    start = time.perf_counter()
    papermill.execute_notebook(
        _path(name),
        unfinished,
        {**parameters, "results": str(folder)},
        kernel_name="python3",
        extra_arguments=["--log-level=CRITICAL"],  # the kernel's own chatter; errors still raise
        cwd=NOTEBOOKS,
        progress_bar=False,
        log_output=False,
    )
    seconds = time.perf_counter() - start
    notebook = nbformat.read(unfinished, as_version=4)
    plain_widgets(notebook)
    write_atomically(executed, lambda path: nbformat.write(notebook, path))
    unfinished.unlink()
    if in_place:
        clean(notebook)
        write_atomically(_path(name), lambda path: nbformat.write(notebook, path))
        for figure in folder.glob("*.png"):
            shutil.copy(figure, FIGURES / f"{name[:2]}_{figure.name}")
    files = _files(folder)
    write_json(record, {"fingerprint": fingerprint, "seconds": seconds, "files": files})
    return f"{name}: {seconds:.0f} s: {_headline(folder)}"


def expected_time(opening: str) -> str:
    """How long a notebook takes, as its first cell says: such as "about 2 minutes on …"."""
    return re.search(r"\*\*Time\*\* ([^,;(\n]*)", opening)[1].strip()


def _files(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a run, by its path in the results folder."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != ".lock"]
    own = [p for p in files if p not in (folder / "run.json", _unfinished(folder))]
    return {p.relative_to(folder).as_posix(): sha256_of([p]) for p in own}


def _unchanged(files: dict[str, str] | None, folder: Path) -> bool:
    """Whether a run's files are all there as it left them; others may stand beside them."""
    places = {folder / name: digest for name, digest in (files or {}).items()}
    return bool(places) and all(
        place.is_file() and sha256_of([place]) == digest for place, digest in places.items()
    )


def _path(name: str) -> Path:
    return NOTEBOOKS / f"{name}.ipynb"


def _unfinished(folder: Path) -> Path:
    return folder / f"{folder.name}.unfinished.ipynb"


def _fingerprint(name: str, parameters: dict) -> str:
    """Hash of what decides a notebook's results: cells, package, parameters, settings."""
    cells = [[c.cell_type, c.source] for c in nbformat.read(_path(name), as_version=4).cells]
    settings = {k: v for k, v in os.environ.items() if k.startswith("MICSE_") and v}
    digest = hashlib.sha256(json.dumps([cells, parameters, settings], sort_keys=True).encode())
    places = [*ROOT.glob("micse_utils/**/*.py"), *ROOT.glob("data/**/*")]
    for file in sorted([*(p for p in places if p.is_file()), ROOT / "requirements.lock"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _headline(folder: Path) -> str:
    metrics = kept_json(folder / "metrics.json")
    return metrics["headline"] if metrics else "(no metrics.json)"


def _use_own_kernel() -> None:
    """Make `python3` the kernel of this environment, before any of the user's called so.

    Jupyter also reads the user's start-up files; they may import what is not installed here.
    """
    own = Path(sys.prefix) / "share" / "jupyter"
    os.environ["JUPYTER_PATH"] = str(own)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["IPYTHONDIR"] = str(Path(sys.prefix) / "etc" / "ipython")


if __name__ == "__main__":
    sys.exit(main())
