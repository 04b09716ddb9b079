"""Run the notebooks headless: `python -m tools.run_notebooks --help`.

Each notebook is executed by papermill in the environment this very Python belongs to, whatever
kernels are installed elsewhere, and leaves its results in a folder of its own.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
from filelock import FileLock, Timeout
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from micse_utils.provenance import sha256_of
from micse_utils.results import kept_json, output_folder, write_atomically, write_json
from tools.clean_notebooks import clean, plain_widgets
from tools.parameters import expected, read_value

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = NOTEBOOKS / "figures"


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
    known = {name: papermill.inspect_notebook(_path(name)) for name in chosen}
    if problem := _problem(options.parameters, known):
        parser.error(problem)
    try:
        output_folder(options.results)
    except OSError as error:
        parser.error(str(error))
    given = {name: read_value(name, text) for name, text in options.parameters}

    _use_own_kernel()
    failures = []
    for name in tqdm(chosen, desc="notebooks", disable=not sys.stderr.isatty()):
        parameters = {key: value for key, value in given.items() if key in known[name]}
        folder = options.results.resolve() / name
        try:
            line = run(name, folder, parameters, force=options.force, in_place=options.in_place)
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


def _problem(parameters: list[tuple[str, str]], known: dict[str, dict]) -> str | None:
    """What is wrong with parameters of the command line, for notebooks with these; None if fine."""
    names = {key for cell in known.values() for key in cell} - {"results"}
    for key, text in parameters:
        if key == "results":
            return "-p results: the folder is set by --results, for all notebooks"
        if key not in names:
            whose = f"{next(iter(known))} has no" if len(known) == 1 else "no notebook has a"
            return f"{whose} parameter {key}; there are {', '.join(sorted(names))}"
        for notebook, cell in known.items():
            value = read_value(key, text)
            if key in cell and (needed := expected(key, value, cell[key])):
                return f"-p {key} {text}: {notebook} expects {needed}"
    return None


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
