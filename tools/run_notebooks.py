"""Run the notebooks headless: `python -m tools.run_notebooks --help`.

Each notebook is executed by papermill in the environment this very Python belongs to, whatever
kernels are installed elsewhere, and leaves its results in a folder of its own. With two cores and
7 GB of memory, training and scoring run beside the others; what measures speed runs last, alone.
"""

import argparse
import ast
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Annotated, Literal

import joblib
import nbformat
import papermill
import psutil
from filelock import Timeout
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from micse_utils.checks import shown
from micse_utils.datasets.sts import PACKAGED_STS, STS_TASKS
from micse_utils.provenance import sha256_of
from micse_utils.results import LOCK as PAGE_LOCK
from micse_utils.results import (
    WRITTEN,
    json_or_none,
    note_written,
    output_folder,
    write_atomically,
    write_json,
)
from micse_utils.settings import expanded, limit, setting
from micse_utils.sources.locate import absolute, is_source
from micse_utils.system import hold
from tools.clean_notebooks import clean, plain_widgets

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = NOTEBOOKS / "figures"
TRAINING = ("04_low_shot_training", "05_senteval")  # half of the work; 5 scores what 4 trained
TIMED = ("06_semantic_search",)  # measures speed, so nothing runs beside it
MEMORY_OF_TWO = 7e9  # bytes; the kernels of notebooks 4 and 2 take 5
RECORD, LOCK = "run.json", ".lock"
"""In a results folder: the record of its last run, and the lock of a running one."""


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
    "triplet_count": TEXTS,
    "held_out": Annotated[int, Field(ge=1)],
    "same_from": Annotated[float, Field(ge=0, le=1)],
    "n_neighbors": Annotated[int, Field(ge=2)],
    "min_cluster_size": Annotated[int, Field(ge=2)],
    "seed": SEED,
    "size": BATCH,
    "sentence": NAME,
    "steps": Annotated[int, Field(ge=1)],
    "whole_steps": Annotated[int, Field(ge=1)],
    "quick": bool,
    "tasks": Annotated[list[Literal[*STS_TASKS, *PACKAGED_STS]], *SEVERAL],
    "trained_in": NAME,
    "train_sentences": BATCH,
    "transfer_limit": Annotated[int, Field(ge=400)],  # enough for SentEval's folds within folds
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
    parser.add_argument("--results", type=expanded, default=ROOT / "results", help="results folder")
    parser.add_argument("--force", action="store_true", help="run also what is up to date")
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
        places = [str(output_folder(options.results).resolve()), *dict(options.parameters).values()]
        "".join(places).encode()
    except UnicodeEncodeError:
        parser.error("names of folders must be UTF-8: a notebook cannot hold others")
    except (OSError, ValueError) as error:
        parser.error(str(error))

    _use_own_kernel()
    # Else it reports kernels that Ctrl-C ended, with a traceback.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    run_each = partial(
        _run_each, options.results.resolve(), values, options.force, options.in_place
    )

    def is_due(name: str) -> bool:
        if options.force or options.in_place:
            return True
        try:
            folder = options.results.resolve() / name
            line = _up_to_date(name, folder, _fingerprint(name, values[name]))
        except OSError:  # `run` meets it, too, and its line says so
            return True
        if line:
            _say(line)
        return not line

    try:
        due = [name for name in chosen if is_due(name)]
        done = run_each(due) if options.in_place else _run_two_at_a_time(run_each, due)
    except KeyboardInterrupt:
        _say("Interrupted. Run the same command again to resume.")
        return 130
    _say(f"results: {options.results}")
    return 0 if done else 1


def _run_each(results: Path, values: dict, force: bool, in_place: bool, names: list[str]) -> bool:
    """Run notebooks one after the other and print a line on each; return whether all succeeded."""
    done = True
    for name in names:
        folder = results / name
        try:
            line = run(name, folder, values[name], force=force, in_place=in_place)
        except PapermillExecutionError as error:
            reason = f"cell {error.exec_count}: {error.ename}: {error.evalue}".splitlines()[0]
            line = f"{name}: FAILED in {reason}\n  as far as it ran: {_unfinished(folder)}"
            done = False
        except OSError as error:
            line, done = f"{name}: FAILED, {error}", False
        except DeadKernelError:
            line, done = f"{name}: FAILED, its kernel died; was there enough memory?", False
        except (NoSuchKernel, RuntimeError) as error:  # no kernel came up; none would for the next
            _say(f"{name}: FAILED, {error}; make doctor looks for the reason")
            return False
        _say(line)
    return done


def _run_two_at_a_time(run_each: Callable[[list[str]], bool], names: list[str]) -> bool:
    """Run training and scoring beside the others, if there is room; then what measures speed."""
    beside, last = ([n for n in names if n in group] for group in (TRAINING, TIMED))
    first = [name for name in names if name not in (*beside, *last)]
    cores = int(min(joblib.cpu_count(only_physical_cores=True), limit("cpu")))
    chosen = setting("MICSE_THREADS") or os.environ.get("OMP_NUM_THREADS")
    memory = min(psutil.virtual_memory().total, limit("memory"))
    if not (beside and first) or cores < 2 or chosen == "1" or memory < MEMORY_OF_TWO:
        return run_each(names)
    from micse_utils.device import pick_device  # here, because it takes seconds

    if pick_device().type != "cpu":  # two kernels may need more than the memory of one GPU
        return run_each(names)
    other = get_context("spawn").Process(target=_run_beside, args=(run_each, beside), daemon=True)
    other.start()
    if not chosen:  # training keeps all cores busy, maps and figures mostly one
        os.environ["OMP_NUM_THREADS"] = str(cores // 2)
    done = run_each(first)
    if not chosen:
        del os.environ["OMP_NUM_THREADS"]
    other.join()
    return run_each(last) and done and other.exitcode == 0


def _run_beside(run_each: Callable[[list[str]], bool], names: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process to answer
    # However that one ends, this one ends with it.
    Thread(target=lambda: (parent_process().join(), os._exit(1)), daemon=True).start()
    sys.exit(0 if run_each(names) else 1)


def read_parameters(notebooks: list[str], given: list[tuple[str, str]]) -> dict[str, dict]:
    """Return for each notebook the given parameters that it has, parsed and validated.

    Raises:
        ValueError: a value is not what `PARAMETERS` says, or no notebook has the parameter.
    """
    cells = {name: papermill.inspect_notebook(_verbatim(_path(name))) for name in notebooks}
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
    """Parse a parameter from the command line: a number, a list, or the text itself.

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
    """Execute one notebook; return a line with its name, seconds and headline figure.

    It is up to date, and not executed, if `run.json` in the folder has the SHA-256 of the same
    cells, package, data and parameters, and of every file that the run wrote.

    Args:
        name: the notebook's file name without suffix.
        folder: results folder, which gets the executed notebook beside what its cells write.
        parameters: values for its cell tagged `parameters`.
        force: execute it also if it is up to date.
        in_place: write the outputs into the notebook itself and its figures beside it, too.

    Raises:
        PapermillExecutionError: a cell failed; the notebook as far as it ran is kept, and what an
            earlier run left is not touched by this function.
    """
    inputs = _fingerprint(name, parameters)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        alone = hold(folder / LOCK, timeout=1)
    except Timeout:  # such as a call whose `make` alone was killed
        _say(f"{name}: another process is running it; waiting for its end")
        alone = hold(folder / LOCK, timeout=-1)
    with alone:  # that process may have brought it up to date
        line = None if force or in_place else _up_to_date(name, folder, inputs)
        return line or _run(name, folder, parameters, inputs, in_place)


def _up_to_date(name: str, folder: Path, inputs: str) -> str | None:
    """Return the line of a notebook whose last run had these inputs and left its files intact."""
    earlier = _record(folder)
    if earlier["fingerprint"] != inputs or not _intact(earlier, folder):
        return None
    return f"{name}: up to date ({earlier['seconds']:.0f} s): {_headline(folder)}"


def _run(name: str, folder: Path, parameters: dict, inputs: str, in_place: bool) -> str:
    """Execute a notebook and keep its results; return the line of `run`."""
    executed, earlier = folder / f"{name}.ipynb", _record(folder)
    # Not the kit's, unless the run changes them; kept for the next call if this one is killed.
    others = {n: at for n, at in _changes(folder).items() if n not in earlier["files"]}
    others = earlier.get("others", others)
    # The cells refuse to overwrite what the kit did not write.
    if folder.joinpath(RECORD).exists():
        note_written(folder, earlier["files"])
    write_json(folder / RECORD, {**earlier, "others": others})
    opening = nbformat.read(_path(name), as_version=4).cells[0].source
    _say(f"{name}: running, {expected_time(opening)}")
    start = time.perf_counter()
    try:
        _execute(name, folder, parameters)
    except DeadKernelError:
        raise
    except RuntimeError as error:
        _say(f"{name}: {error}; trying once more")
        _execute(name, folder, parameters)
    seconds = time.perf_counter() - start
    notebook = nbformat.read(_unfinished(folder), as_version=4)
    plain_widgets(notebook)
    if executed.is_file() and sha256_of([executed]) != earlier["files"].get(executed.name):
        aside = _put_aside(executed)
        others[aside.name] = aside.stat().st_mtime_ns
        _say(f"{name}: the edited {executed.name} is now {aside.name}")
    write_atomically(executed, lambda path: nbformat.write(notebook, path))
    _unfinished(folder).unlink()

    files = sorted(n for n, at in _changes(folder).items() if others.get(n) != at)
    if in_place:
        clean(notebook)
        write_atomically(_path(name), lambda path: nbformat.write(notebook, path))
        for figure in (n for n in files if n.endswith(".png") and "/" not in n):
            shutil.copy(folder / figure, FIGURES / f"{name[:2]}_{figure}")
    record = {"fingerprint": inputs, "seconds": seconds}
    record["files"] = {file: sha256_of([folder / file]) for file in files}
    write_json(folder / RECORD, record)
    return f"{name}: {seconds:.0f} s: {_headline(folder)}"


def _execute(name: str, folder: Path, parameters: dict) -> None:
    """Let papermill execute a notebook.

    Raises:
        PapermillExecutionError: a cell failed.
        DeadKernelError: the kernel died in a cell.
        RuntimeError, NoSuchKernel: no kernel came up.
    """
    papermill.execute_notebook(
        _verbatim(_path(name)),
        _verbatim(_unfinished(folder)),
        {**parameters, "results": str(folder)},
        kernel_name="python3",
        extra_arguments=["--log-level=CRITICAL"],  # the kernel's own chatter; errors still raise
        cwd=NOTEBOOKS,
        progress_bar=False,
        log_output=False,
    )


def _put_aside(executed: Path) -> Path:
    """Rename an executed notebook that a person has edited; return its new path."""
    names = (f".previous{end}.ipynb" for end in itertools.chain([""], itertools.count(2)))
    places = (executed.with_suffix(name) for name in names)
    return executed.rename(next(place for place in places if not place.exists()))


def expected_time(opening: str) -> str:
    """Return how long a notebook takes, from its first cell: such as "about 2 minutes on …"."""
    return re.search(r"\*\*Time\*\* ([^,;(\n]*)", opening)[1].strip()


def _record(folder: Path) -> dict:
    """Return the record of a folder's last run; an empty one if it is missing or damaged."""
    record, empty = json_or_none(folder / RECORD), {"fingerprint": None, "seconds": 0, "files": {}}
    return record if isinstance(record, dict) and record.keys() >= empty.keys() else empty


def _intact(record: dict, folder: Path) -> bool:
    """Return whether a run's files are unchanged; there may be other files beside them."""
    places = {folder / name: checksum for name, checksum in record["files"].items()}
    return all(place.is_file() and sha256_of([place]) == s for place, s in places.items())


def _changes(folder: Path) -> dict[str, int]:
    """Return when each file of results was changed, by its path in the folder."""
    own = {RECORD, WRITTEN, _unfinished(folder).name}
    own |= {f"{lock}{end}" for lock in (LOCK, PAGE_LOCK) for end in ("", ".marker")}
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in own]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def _path(name: str) -> Path:
    return NOTEBOOKS / f"{name}.ipynb"


def _verbatim(path: Path) -> str:
    """Return a path in which papermill does not replace {name} by a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _unfinished(folder: Path) -> Path:
    return folder / f"{folder.name}.unfinished.ipynb"


def _fingerprint(name: str, parameters: dict) -> str:
    """Hash what decides a notebook's results: cells, package, parameters, settings."""
    cells = [[c.cell_type, c.source] for c in nbformat.read(_path(name), as_version=4).cells]
    settings = {k: v for k, v in os.environ.items() if k.startswith("MICSE_") and v}
    settings.pop("MICSE_STATIC", None)  # always set here
    digest = hashlib.sha256(json.dumps([cells, parameters, settings], sort_keys=True).encode())
    places = [*ROOT.glob("micse_utils/**/*.py"), *ROOT.glob("data/**/*")]
    for file in sorted([*(p for p in places if p.is_file()), ROOT / "requirements.lock"]):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _headline(folder: Path) -> str:
    metrics = json_or_none(folder / "metrics.json")
    return metrics["headline"] if metrics else "(no metrics.json)"


def _say(line: str) -> None:
    print(line, flush=True)


def _use_own_kernel() -> None:
    """Make `python3` this environment's kernel, even if the user has one of that name.

    Jupyter also reads the user's start-up files; they may import what is not installed here. Pages
    need the backend that shows figures in them. Several kernels on the same cores slow each other
    down many times if their threads spin while they wait.
    """
    own = Path(sys.prefix) / "share" / "jupyter"
    os.environ["JUPYTER_PATH"] = str(own)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["IPYTHONDIR"] = str(Path(sys.prefix) / "etc" / "ipython")
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MICSE_STATIC"] = "1"  # a slider on a page that is only read would be dead


if __name__ == "__main__":
    sys.exit(main())
