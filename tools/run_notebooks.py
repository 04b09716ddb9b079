"""Run the notebooks headless: `python -m tools.run_notebooks --help`.

Papermill executes each notebook in the environment of this very Python, whatever kernels are
installed elsewhere. One whose last run finished with the same cells, parameters and kit is skipped.
"""

import argparse
import ast
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import nbformat
import papermill
from jupyter_client.kernelspec import NoSuchKernel
from papermill.exceptions import PapermillExecutionError

from micse_utils.job import job
from micse_utils.provenance import sha256_of
from micse_utils.results import json_or_none, output_folder, write_atomically
from micse_utils.settings import expanded, shown
from micse_utils.sources.locate import absolute, check_source
from tools.clean_notebooks import clean, plain_widgets

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
QUICK = {"limit": 500, "triplet_count": 100, "held_out": 50, "same_from": 0.7, "quick": True}
QUICK |= {"tasks": ["kit sample"], "train_sentences": 64, "transfer_limit": 400}
PAPERMILL = {"kernel_name": "python3", "start_timeout": 180}  # seconds, for a busy machine
PAPERMILL |= {"extra_arguments": ["--log-level=CRITICAL"]}  # kernels' chatter; errors still raise

say = partial(print, flush=True)
read = partial(nbformat.read, as_version=4)


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
    parser.add_argument("--force", action="store_true", help="also what is up to date or edited")
    parser.add_argument("--in-place", action="store_true", help="also write into notebooks/")
    options = parser.parse_args(arguments)
    chosen = [Path(name).name.removesuffix(".ipynb") for name in options.notebooks] or there
    if unknown := [name for name in chosen if name not in there]:
        parser.error(f"no notebook {unknown[0]}; there are {', '.join(there)}")
    place = options.results or ROOT / "results" / ("quick" if options.quick else "")
    try:
        values = read_parameters(chosen, options.parameters, QUICK if options.quick else {})
        results = output_folder(place).resolve()
    except (OSError, ValueError) as error:
        parser.error(str(error))

    _use_own_kernel()
    done = []
    for name in chosen:
        folder = results / name
        try:
            say(run(name, folder, values[name], force=options.force, in_place=options.in_place))
            done.append(name)
            continue
        except KeyboardInterrupt:
            say("Interrupted. Run the same command again to resume.")
            return 130
        except PapermillExecutionError as error:
            # Users of make know the setting of a notebook by its variable.
            reason = f"{error.ename}: {error.evalue}".split("\n")[0].replace("source=", "SOURCE=")
            reason += f"\n  in cell {error.exec_count} of {folder / name}.unfinished.ipynb"
        except (NoSuchKernel, RuntimeError) as error:
            reason = f"{error}; was there enough memory? make doctor looks for other reasons"
        except (OSError, ValueError) as error:
            reason = str(error)
        say(f"{name}: FAILED, {reason}")
    metrics = [json_or_none(results / name / "metrics.json") for name in done]
    models = {made["provenance"]["model"]["name"] for made in metrics if made}
    if done:
        say(f"The numbers above come from {', '.join(sorted(models)) or 'no model'}.")
        say(f"Next: look at {place}/*/*.png; make lab to work on, make html to read")
    return 0 if done == chosen else 1


def read_parameters(
    notebooks: list[str], given: list[tuple[str, str]], defaults: dict | None = None
) -> dict[str, dict]:
    """Return for each notebook the parameters that it has: of `defaults`, and the given ones.

    Raises:
        ValueError: a value has the wrong type, or no notebook has the parameter.
    """
    values, known = {}, set()
    for name in notebooks:
        cells = read(NOTEBOOKS / f"{name}.ipynb").cells
        source = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
        lines = [line for line in ast.parse(source).body if isinstance(line, ast.Assign)]
        own = {line.targets[0].id: ast.literal_eval(line.value) for line in lines}
        own.pop("results", None)  # --results sets it
        values[name] = {k: v for k, v in (defaults or {}).items() if k in own}
        values[name] |= {k: read_parameter(k, text, own[k]) for k, text in given if k in own}
        known |= own.keys()
    if unknown := [key for key, _ in given if key not in known]:
        raise ValueError(f"no parameter {unknown[0]}; there are {', '.join(sorted(known))}")
    return values


def read_parameter(name: str, text: str, default: object) -> object:
    """Parse a parameter; raise ValueError for a negative number, or if only the default is one.

    A folder that exists is resolved here, because notebooks run in a different one.
    """
    if name == "source":
        check_source(text)
    if name in ("source", "model_name", "trained_in"):
        return absolute(text)
    value = text
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        value = ast.literal_eval(text)
    kind = type(default)
    if kind in (bool, int, float) and type(value) not in (kind, int, type(None)):
        raise ValueError(f"{name} must be {kind.__name__}, got {shown(value)}")
    if type(value) in (int, float) and value < 0:
        raise ValueError(f"{name} must not be negative, got {shown(value)}")
    return value


def run(name: str, folder: Path, parameters: dict, *, force: bool, in_place: bool) -> str:
    """Execute one notebook, if it is not up to date; return a line with its headline figure.

    Args:
        name: the notebook's file name without suffix.
        folder: gets the executed notebook beside what its cells write.
        force: also if it is up to date, or if the executed page was edited.
        in_place: in any case, and write outputs and figures into `notebooks/`, too.

    Raises:
        PapermillExecutionError: a cell failed; the notebook as far as it ran is kept.
        RuntimeError, NoSuchKernel: its kernel died, or did not start.
        FileExistsError: the folder is not the kit's, or the executed page was edited.
    """
    path, page = NOTEBOOKS / f"{name}.ipynb", folder / f"{name}.ipynb"
    unfinished = page.with_suffix(".unfinished.ipynb")
    inputs = _inputs(read(path), parameters)
    with job(folder, {"notebook": name}, record="run.json", wait=True) as work:
        last = work.record["inputs"] if work.record and page.exists() else {}
        changed = [key for key, value in inputs.items() if last.get(key) != value]
        if not (changed or force or in_place):
            return f"{name}: up to date: {work.record['headline']}"
        old = read(page) if page.exists() and not force else None
        if old and old.metadata.get("micse", {}).get("sources") != _sources(old):
            raise FileExistsError(f"{page} was edited: rename it to keep it, or use --force")
        reason = f"changed: {', '.join(changed)}" if last else "not run before"
        say(f"{name}: running ({reason if changed else 'forced'}), {expected_time(read(path))}")
        work.file.unlink(missing_ok=True)  # from here on the results are of different runs
        start = time.perf_counter()
        # Else papermill replaces {name} in a path by that parameter.
        files = (str(place).replace("{", "{{").replace("}", "}}") for place in (path, unfinished))
        given = {**parameters, "results": str(folder)}
        papermill.execute_notebook(*files, given, cwd=NOTEBOOKS, **PAPERMILL)
        seconds = time.perf_counter() - start
        notebook = read(unfinished)
        plain_widgets(notebook)
        notebook.metadata["micse"] = {"sources": _sources(notebook)}
        write_atomically(page, lambda place: nbformat.write(notebook, place))
        unfinished.unlink()
        if in_place:
            clean(notebook)
            write_atomically(path, lambda place: nbformat.write(notebook, place))
            for figure in folder.glob("*.png"):
                shutil.copy(figure, NOTEBOOKS / "figures" / f"{name[:2]}_{figure.name}")
        headline = (json_or_none(folder / "metrics.json") or {}).get("headline", "no metrics.json")
        work.finish({"inputs": inputs, "headline": headline})
    return f"{name}: {seconds:.0f} s: {headline}"


def expected_time(notebook: nbformat.NotebookNode) -> str:
    """Return how long a notebook takes, from its first cell: such as "3 to 9 minutes on …"."""
    return re.search(r"\*\*Time\*\* ([^,;(\n]*)", notebook.cells[0].source)[1].strip()


def _inputs(notebook: nbformat.NotebookNode, parameters: dict) -> dict[str, object]:
    """Return what decides a notebook's results."""
    kit = [*ROOT.glob("micse_utils/**/*.py"), *ROOT.glob("data/**/*.*"), ROOT / "requirements.lock"]
    return {
        "its cells": _sources(notebook),
        "parameters": parameters,
        "MICSE_ variables": {k: v for k, v in os.environ.items() if k.startswith("MICSE_") and v},
        "the package or its data": sha256_of(sorted(kit)),
    }


def _sources(notebook: nbformat.NotebookNode) -> str:
    """Hash the cells of a notebook without their outputs."""
    cells = json.dumps([[cell.cell_type, cell.source] for cell in notebook.cells])
    return hashlib.sha256(cells.encode()).hexdigest()


def _use_own_kernel() -> None:
    """Make `python3` this environment's kernel, even if the user has one of that name.

    The user's start-up files may import what is not installed here. Several kernels on the same
    cores slow each other down many times if their threads spin while they wait.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # complains of kernels that Ctrl-C ends
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["IPYTHONDIR"] = str(Path(sys.prefix, "etc", "ipython"))
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["MICSE_STATIC"] = "1"  # a slider on a page that is only read would be dead


if __name__ == "__main__":
    sys.exit(main())
