"""Write figures, tables and `metrics.json` without harm to the user's files."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from uuid import uuid4

import pandas as pd
from filelock import Timeout
from matplotlib.figure import Figure

from micse_utils.checks import shown
from micse_utils.provenance import Provenance, versions
from micse_utils.settings import expanded
from micse_utils.system import hold

WRITTEN, LOCK = ".micse.json", ".micse.lock"
"""In a folder of results: names of the files that the kit wrote there, and the lock of a run."""


@contextlib.contextmanager
def claimed(folder: Path, names: Iterable[str], own: str = "(?!)") -> Iterator[None]:
    """Lock a folder for one run, which writes files of these names into it.

    The kit overwrites and deletes only what it wrote, as listed in the folder's `.micse.json`.

    Args:
        folder: created if missing.
        names: files or folders in it. All files of such a folder must be listed or match `own`.
        own: pattern of paths in listed folders that are the kit's without being listed.

    Raises:
        FileExistsError: a file that the kit did not write is in the way, or another run writes
            to this folder.
    """
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with hold(folder / LOCK, timeout=0):
            listed = _listed(folder)
            for name in names:
                place = folder / name
                files = place.rglob("*") if place.is_dir() else [place] if place.exists() else []
                files = [place] if place.is_symlink() else [f for f in files if not f.is_dir()]
                for file in files:
                    path = file.relative_to(folder).as_posix()
                    ours = path in listed or (name in listed and re.fullmatch(own, path))
                    if file.is_symlink() or not ours:
                        raise FileExistsError(
                            f"{file} was not written by the kit, and would be lost: move it, or "
                            "name a different output folder"
                        )
            note_written(folder, names)
            yield
    except Timeout:
        raise FileExistsError(
            f"another run is writing to {folder}: wait for it, or name a different output folder"
        ) from None
    finally:
        if new and {file.name for file in folder.iterdir()} <= {WRITTEN, LOCK}:
            shutil.rmtree(folder)  # the run wrote nothing


def note_written(folder: Path, paths: Iterable[str]) -> None:
    """List files of a folder as written by the kit."""
    if new := {*paths} - (listed := _listed(folder)):
        write_json(folder / WRITTEN, sorted(listed | new))


def _listed(folder: Path) -> set[str]:
    listed = json_or_none(folder / WRITTEN) or []
    if not isinstance(listed, list):
        raise FileExistsError(f"{folder / WRITTEN} is damaged: delete it with what the kit wrote")
    return set(listed)


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` on a temporary name beside `path`, then rename: readers never see half a file.

    The temporary name keeps the suffix of `path`, by which writers choose a format. `path` may
    also be a URL, as a path object of the same interface.
    """
    path = Path(path) if isinstance(path, str) else path
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")
    try:
        write(temporary)
        if isinstance(path, Path):  # or after a power cut the new name may hold zeros
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def replace(new: Path, old: Path) -> Path:
    """Rename a file to an existing name; wait if, on Windows, a program has it open."""
    for seconds in (0.1, 0.3, 1, 0):
        try:
            return new.replace(old)
        except PermissionError as error:
            if not seconds:
                raise PermissionError(
                    f"{old} cannot be replaced ({error.strerror}); close the file if it is open"
                ) from error
            time.sleep(seconds)


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, UTF-8."""
    return write_atomically(
        path, lambda p: p.write_text(text, encoding="utf-8", errors="backslashreplace")
    )


def output_folder(place: str | Path) -> Path:
    """Return a folder for results after checking that it can be created and written to.

    It is not created here, so that a call which fails leaves nothing.

    Raises:
        OSError: it is a file, or cannot be created or written to.
    """
    folder = expanded(place)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise OSError(f"{place} cannot be a folder for results ({reason})") from error


def write_json(path: Path, record: object) -> Path:
    """Write a JSON file atomically; NumPy's numbers and arrays are accepted, NaN is not."""
    text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=_of_numpy)
    return write_text(path, text + "\n")


def json_or_none(path: Path) -> object | None:
    """Read a JSON file; None if it does not exist, or if a power cut left it damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _of_numpy(value: object) -> object:
    if not hasattr(value, "tolist"):
        raise TypeError(f"JSON cannot hold {shown(value)}")
    return value.tolist()


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of a table for a JSON file; missing values become null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def save_figure(folder: str | Path, name: str, figure: Figure) -> Path:
    """Write a figure as `folder/name.png`, 150 dots per inch."""
    return write_atomically(
        Path(folder) / f"{name}.png", lambda p: figure.savefig(p, dpi=150, bbox_inches="tight")
    )


def save_table(folder: str | Path, name: str, table: pd.DataFrame) -> Path:
    """Write a table as `folder/name.csv`, UTF-8."""
    return write_atomically(
        Path(folder) / f"{name}.csv", lambda p: table.to_csv(p, index=False, encoding="utf-8")
    )


def save_page(folder: str | Path, name: str, html: str) -> Path:
    """Write an HTML page as `folder/name.html`, UTF-8."""
    return write_text(Path(folder) / f"{name}.html", html)


def write_metrics(
    folder: str | Path,
    figures: dict,
    *,
    headline: str,
    model: Provenance,
    data: Provenance,
    seed: int | None,
    **settings: object,
) -> Path:
    """Write `folder/metrics.json`: the results and everything needed to reproduce them.

    Args:
        folder: the notebook's results folder, created if missing.
        figures: numbers by name; lists, dictionaries and NumPy's numbers and arrays are accepted.
        headline: one line for people, such as "paraphrases 0.82, other topics 0.03".
        model, data: where both came from.
        seed: seed of everything random in the notebook; None if nothing is random.
        settings: further settings that influence the results, such as the number format.
    """
    record = {
        "headline": headline,
        "figures": figures,
        "provenance": {
            "model": dataclasses.asdict(model),
            "data": dataclasses.asdict(data),
            "seed": seed,
            "settings": settings,
            "versions": versions(),
        },
    }
    return write_json(Path(folder) / "metrics.json", record)
