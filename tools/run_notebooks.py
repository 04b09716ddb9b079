"""Run the notebooks headless: `python -m tools.run_notebooks --help`.

Papermill executes each notebook in the environment of this very Python, whatever kernels are
installed elsewhere. With two cores and 7 GB of memory, training and scoring run beside the others;
what measures speed runs last, alone.
"""

import argparse
import ast
import hashlib
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
from threading import Event, Thread
from typing import Annotated, Literal

import joblib
import nbformat
import papermill
import psutil
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from micse_utils.checks import shown
from micse_utils.datasets.sts import PACKAGED_STS, STS_TASKS
from micse_utils.job import job
from micse_utils.results import json_or_none, output_folder, write_atomically
from micse_utils.settings import expanded, limit, setting
from micse_utils.sources.locate import absolute, is_source
from tools.clean_notebooks import clean, plain_widgets

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = NOTEBOOKS / "figures"
TRAINING = ("04_low_shot_training", "05_senteval")  # half of the work; 5 scores what 4 trained
TIMED = ("06_semantic_search",)  # measures speed, so nothing runs beside it
MEMORY_OF_TWO = 7e9  # bytes; the kernels of notebooks 4 and 2 take 5
RECORD = "run.json"
REPORT_SECONDS = 60
QUICK = {"limit": 500, "triplet_count": 100, "held_out": 50, "same_from": 0.7, "quick": True}
QUICK |= {"tasks": ["kit sample"], "train_sentences": 64, "transfer_limit": 400}


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
COUNT, PAIR, BATCH = (Annotated[int, Field(ge=least)] for least in (1, 2, 64))
SEVERAL = (Field(min_length=1), AfterValidator(_distinct))
PARAMETERS = {
    "source": Annotated[str, AfterValidator(_existing)],
    **dict.fromkeys(("model_name", "sentence", "trained_in"), NAME),
    **dict.fromkeys(("limit", "triplet_count"), TEXTS),
    **dict.fromkeys(("held_out", "steps", "whole_steps"), COUNT),
    **dict.fromkeys(("n_neighbors", "min_cluster_size"), PAIR),
    **dict.fromkeys(("size", "train_sentences"), BATCH),
    "transfer_limit": Annotated[int, Field(ge=400)],  # enough for SentEval's folds within folds
    "max_length": Annotated[int, Field(ge=3, le=512)],
    "same_from": Annotated[float, Field(ge=0, le=1)],
    "seed": SEED,
    "quick": bool,
    "tasks": Annotated[list[Literal[*STS_TASKS, *PACKAGED_STS]], *SEVERAL],
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
    parser.add_argument("--results", type=expanded, help="results folder; default: results/")
    parser.add_argument("--quick", action="store_true", help="few texts, into results/quick/")
    parser.add_argument(
        "--force", action="store_true", help="run also what is up to date or was edited"
    )
    parser.add_argument(
        "--in-place", action="store_true", help="write outputs and figures into notebooks/, too"
    )
    options = parser.parse_args(arguments)
    if not there:
        parser.error(f"no notebooks in {NOTEBOOKS}; run this in a checkout of the kit")
    chosen = [Path(name).name.removesuffix(".ipynb") for name in options.notebooks] or there
    if unknown := [name for name in chosen if name not in there]:
        parser.error(f"no notebook {unknown[0]}; there are {', '.join(there)}")
    place = options.results or ROOT / "results" / ("quick" if options.quick else "")
    try:
        values = read_parameters(chosen, options.parameters, QUICK if options.quick else {})
        results = output_folder(place).resolve()
        "".join([str(results), *dict(options.parameters).values()]).encode()
    except UnicodeEncodeError:
        parser.error("names of folders must be UTF-8: a notebook cannot hold others")
    except (OSError, ValueError) as error:
        parser.error(str(error))

    _use_own_kernel()
    # Else it reports kernels that Ctrl-C ended, with a traceback.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    again = options.force or options.in_place
    run_each = partial(_run_each, results, values, options.force, options.in_place)
    due = [n for n in chosen if again or _reason(results / n, _inputs(n, values[n]))]
    try:
        done = run_each([name for name in chosen if name not in due])
        done = (run_each(due) if options.in_place else _run_two_at_a_time(run_each, due)) and done
    except KeyboardInterrupt:
        _say("Interrupted. Run the same command again to resume.")
        return 130
    if stand_in := _stand_in(results, chosen, values):
        _say(stand_in)
    _say(f"Next: look at {place}/*/*.png; make lab to work on, make html to read")
    return 0 if done else 1


def _run_each(results: Path, values: dict, force: bool, in_place: bool, names: list[str]) -> bool:
    """Run notebooks one after the other and print a line on each; return whether all succeeded."""
    done = True
    for name in names:
        folder = results / name
        try:
            _say(run(name, folder, values[name], force=force, in_place=in_place))
            continue
        except PapermillExecutionError as error:
            # Users of make know the setting of a notebook by its variable.
            reason = f"{error.ename}: {error.evalue}".splitlines()[0]
            reason = reason.replace('source="', 'SOURCE="')
            reason = f"in cell {error.exec_count}: {reason}\n  as far as it ran: "
            reason += str(_unfinished(folder))
        except DeadKernelError:
            reason = "its kernel died; was there enough memory?"
        except (NoSuchKernel, RuntimeError) as error:  # no kernel came up; none would for the next
            _say(f"{name}: FAILED, {error}; make doctor looks for the reason")
            return False
        except (OSError, ValueError) as error:
            reason = str(error)
        _say(f"{name}: FAILED{' ' if reason.startswith('in cell') else ', '}{reason}")
        done = False
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


def read_parameters(
    notebooks: list[str], given: list[tuple[str, str]], defaults: dict | None = None
) -> dict[str, dict]:
    """Return for each notebook the parameters that it has: of `defaults`, and the given ones.

    Raises:
        ValueError: a value is not what `PARAMETERS` says, or no notebook has the parameter.
    """
    lines = {name: _parameter_lines(name) for name in notebooks}
    names = {key for line in lines.values() for key in line} - {"results"}
    if "results" in dict(given):
        raise ValueError("-p results: the folder is set by --results, for all notebooks")
    if unknown := [key for key, _ in given if key not in names]:
        raise ValueError(f"no parameter {unknown[0]}; there are {', '.join(sorted(names))}")
    values = {}
    for name, line in lines.items():
        values[name] = {k: v for k, v in (defaults or {}).items() if k in line}
        try:
            values[name] |= {k: read_parameter(k, t, line[k]) for k, t in given if k in line}
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return values


def _parameter_lines(name: str) -> dict[str, str]:
    """Return the lines of a notebook's cell tagged `parameters`, by the names they assign."""
    cells = nbformat.read(_path(name), as_version=4).cells
    source = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    found = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {node.targets[0].id: source.splitlines()[node.lineno - 1] for node in found}


def read_parameter(name: str, text: str, line: str) -> object:
    """Parse a parameter from the command line: a number, a list, or the text itself.

    A folder that exists is resolved here, because notebooks run in a different one.

    Args:
        name: one that is not in `PARAMETERS` may be anything.
        text: as it was written.
        line: of the notebook, with default and comment. If the default is "auto", or the line
            speaks of None, these are accepted, too.

    Raises:
        ValueError: it must be something else.
    """
    value = _literal(text)
    if name in ("source", "model_name", "trained_in") and absolute(text) != text:
        value = absolute(text)
    if name not in PARAMETERS:
        return value
    kind = PARAMETERS[name]
    if '= "auto"' in line:
        kind |= Literal["auto"]
    if may_be_none := "None" in line:
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
    """Execute one notebook, if it is not up to date; return a line with its headline figure.

    Args:
        name: the notebook's file name without suffix.
        folder: results folder, which gets the executed notebook beside what its cells write.
        parameters: values for its cell tagged `parameters`.
        force: execute it also if it is up to date, or if the executed page was edited.
        in_place: write the outputs into the notebook itself and its figures beside it, too.

    Raises:
        PapermillExecutionError: a cell failed; the notebook as far as it ran is kept.
        FileExistsError: the folder is not the kit's, or a person edited the executed page.
    """
    inputs, page = _inputs(name, parameters), folder / f"{name}.ipynb"
    with job(folder, {"notebook": name}, record=RECORD, wait=True) as work:
        # Another process may have run it meanwhile.
        reason = "--force" if force else "--in-place" if in_place else _reason(folder, inputs)
        if not reason:
            return f"{name}: up to date ({work.record['seconds']:.0f} s): {_headline(folder)}"
        if not force and _is_edited(page):
            raise FileExistsError(f"{page} was edited: rename it to keep it, or use --force")
        opening = nbformat.read(_path(name), as_version=4).cells[0].source
        _say(f"{name}: running ({reason}), {expected_time(opening)}")
        work.file.unlink(missing_ok=True)  # from here on the results are of different runs
        start, began = time.perf_counter(), time.time()
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
        notebook.metadata["micse"] = {"sources": _sources(notebook)}
        write_atomically(page, lambda path: nbformat.write(notebook, path))
        _unfinished(folder).unlink()
        made = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_mtime >= began - 1]
        files = sorted(p.relative_to(folder).as_posix() for p in made if p.name[0] != ".")
        if in_place:
            clean(notebook)
            write_atomically(_path(name), lambda path: nbformat.write(notebook, path))
            for figure in (n for n in files if n.endswith(".png") and "/" not in n):
                shutil.copy(folder / figure, FIGURES / f"{name[:2]}_{figure}")
        work.finish({"inputs": inputs, "seconds": seconds, "files": files})
    return f"{name}: {seconds:.0f} s: {_headline(folder)}"


def _execute(name: str, folder: Path, parameters: dict) -> None:
    """Let papermill execute a notebook; a line a minute says where it is.

    Raises:
        PapermillExecutionError: a cell failed.
        DeadKernelError: the kernel died in a cell.
        RuntimeError, NoSuchKernel: no kernel came up.
    """
    ended = Event()
    Thread(target=_report, args=(name, _unfinished(folder), ended), daemon=True).start()
    try:
        papermill.execute_notebook(
            _verbatim(_path(name)),
            _verbatim(_unfinished(folder)),
            {**parameters, "results": str(folder)},
            kernel_name="python3",
            extra_arguments=["--log-level=CRITICAL"],  # its own chatter; errors still raise
            cwd=NOTEBOOKS,
            progress_bar=False,
            log_output=False,
        )
    finally:
        ended.set()


def _report(name: str, page: Path, ended: Event) -> None:
    """Print minutes and section of a running notebook until it ends."""
    start = time.monotonic()
    while not ended.wait(REPORT_SECONDS):
        heading = ""
        for cell in (json_or_none(page) or {}).get("cells", []):
            if cell["cell_type"] == "markdown":
                heading = (re.findall(r"(?m)^#+ (.*)", "".join(cell["source"])) or [heading])[-1]
            if cell["metadata"].get("papermill", {}).get("status") == "running":
                break
        _say(f"{name}: {(time.monotonic() - start) / 60:.0f} min, in {heading!r}")


def expected_time(opening: str) -> str:
    """Return how long a notebook takes, from its first cell: such as "about 2 minutes on …"."""
    return re.search(r"\*\*Time\*\* ([^,;(\n]*)", opening)[1].strip()


def _reason(folder: Path, inputs: dict[str, object]) -> str | None:
    """Return why a notebook has to be run; None if its last run finished with these inputs."""
    record = json_or_none(folder / RECORD)
    if not isinstance(record, dict) or "inputs" not in record:
        return "no finished run yet"
    changed = [key for key, value in inputs.items() if record["inputs"].get(key) != value]
    missing = [name for name in record["files"] if not (folder / name).is_file()]
    if changed:
        return f"changed: {', '.join(changed)}"
    return f"{missing[0]} is missing" if missing else None


def _inputs(name: str, parameters: dict) -> dict[str, object]:
    """Return what decides a notebook's results: cells, parameters, settings, package and data."""
    settings = {k: v for k, v in os.environ.items() if k.startswith("MICSE_") and v}
    settings.pop("MICSE_STATIC", None)  # always set here
    digest = hashlib.sha256()
    places = [*ROOT.glob("micse_utils/**/*.py"), *ROOT.glob("data/**/*")]
    for file in sorted([*(p for p in places if p.is_file()), ROOT / "requirements.lock"]):
        digest.update(file.read_bytes())
    return {
        "its cells": _sources(nbformat.read(_path(name), as_version=4)),
        "parameters": parameters,
        "MICSE_ variables": settings,
        "the package or its data": digest.hexdigest(),
    }


def _sources(notebook: nbformat.NotebookNode) -> str:
    """Hash the cells of a notebook without their outputs."""
    cells = json.dumps([[cell.cell_type, cell.source] for cell in notebook.cells])
    return hashlib.sha256(cells.encode()).hexdigest()


def _is_edited(page: Path) -> bool:
    """Return whether an executed page has cells that its run did not write."""
    try:
        notebook = nbformat.read(page, as_version=4)
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return notebook.metadata.get("micse", {}).get("sources") != _sources(notebook)


def _stand_in(results: Path, names: list[str], values: dict[str, dict]) -> str | None:
    """Return a line if figures are of a stand-in for miCSE."""
    metrics = {name: json_or_none(results / name / "metrics.json") for name in names}
    models = {n: m["provenance"]["model"] for n, m in metrics.items() if m}
    of = [n for n, model in models.items() if model["source"] == "package"]
    if not of:
        return None
    which = "every number above" if len(of) == len(names) else f"every number of {', '.join(of)}"
    asked = all(values[name].get("source") == "package" for name in of)
    reason = "as source=package asks for" if asked else "the hub was unreachable"
    return f"Note: {which} is of {models[of[0]]['name']}, not miCSE ({reason})."


def _path(name: str) -> Path:
    return NOTEBOOKS / f"{name}.ipynb"


def _verbatim(path: Path) -> str:
    """Return a path in which papermill does not replace {name} by a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _unfinished(folder: Path) -> Path:
    return folder / f"{folder.name}.unfinished.ipynb"


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
