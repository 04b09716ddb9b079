"""Write figures, tables and `metrics.json` without harm to the user's files."""

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

import pandas as pd
from matplotlib.figure import Figure

from micse_utils.provenance import Provenance, versions
from micse_utils.settings import expanded


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call `write` on a temporary name, then rename it to `path`: nobody sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")  # suffix: the format
    try:
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())  # or after a power cut the new name may hold zeros
        return temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file atomically."""
    return write_atomically(path, lambda p: p.write_bytes(content))


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, UTF-8."""
    return write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def output_folder(place: str | Path) -> Path:
    """Return a folder for results, not yet created; raise OSError if it could not be written to."""
    folder = expanded(place)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is not a folder")
    with tempfile.TemporaryFile(dir=existing):
        return folder


def write_json(path: Path, record: object) -> Path:
    """Write a JSON file atomically; NumPy's numbers and arrays are accepted, NaN is not."""
    options = {"ensure_ascii": False, "allow_nan": False, "default": lambda value: value.tolist()}
    return write_text(path, json.dumps(record, indent=2, **options) + "\n")


def json_or_none(path: Path) -> object | None:
    """Read a JSON file; None if it does not exist, or if a power cut left it damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return the rows of a table for a JSON file; missing values become null."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def save_figure(folder: str | Path, name: str, figure: Figure) -> Path:
    """Write a figure as `folder/name.png`, 150 dots per inch."""
    file = Path(folder, f"{name}.png")
    return write_atomically(file, lambda p: figure.savefig(p, dpi=150, bbox_inches="tight"))


def save_table(folder: str | Path, name: str, table: pd.DataFrame) -> Path:
    """Write a table as `folder/name.csv`, UTF-8."""
    return write_text(Path(folder, f"{name}.csv"), table.to_csv(index=False))


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

    The headline is for people, such as "paraphrases 0.82, other topics 0.03", the seed None if
    nothing is random, and `settings` whatever else influences the results.
    """
    found = {"model": asdict(model), "data": asdict(data)}
    made = found | {"seed": seed, "settings": settings, "versions": versions()}
    record = {"headline": headline, "figures": figures, "provenance": made}
    return write_json(Path(folder, "metrics.json"), record)
