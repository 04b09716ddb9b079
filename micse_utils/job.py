"""Resumable work in a folder of its own: one lock, one marker, one way to resume."""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from micse_utils.results import json_or_none, output_folder, write_json
from micse_utils.settings import shown

MARKER, LOCK, RECORD = ".micse.json", ".micse.lock", "record.json"
"""In a job's folder: the settings of its work, the lock of a run, what the finished work left."""


@dataclass(frozen=True)
class Job:
    """Work in its folder, and the file with its record."""

    folder: Path
    file: Path

    @property
    def record(self) -> dict[str, object] | None:
        """Return the record of the finished work, or None while it is unfinished."""
        return json_or_none(self.file)

    def finish(self, record: dict[str, object]) -> None:
        """Write the record, which marks the work as finished."""
        write_json(self.file, record)


@contextlib.contextmanager
def job(
    folder: str | Path,
    settings: dict[str, object],
    *,
    record: str = RECORD,
    replaces: Sequence[str] | None = None,
    wait: bool = False,
) -> Iterator[Job]:
    """Do work in a folder, alone; called again with the same settings, it resumes.

    Folders that this call created are removed if the work leaves no file in them.

    Args:
        folder: as for `own_folder`; OSError if another process works there, unless `wait`.
        settings: what decides the results, as JSON.
        record: name of the file that `finish` writes.
        replaces: what to delete if the folder holds different work; None: ValueError.
    """
    deleted = None if replaces is None else [record, *replaces]
    folder = own_folder(folder)  # before the lock file, so that a refused folder gets none
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=-1 if wait else 0):
            _mark(folder, json.loads(json.dumps(settings)), deleted)
            yield Job(folder, folder / record)
    except Timeout:
        created = []  # by the process that works there, perhaps
        raise FileExistsError(f"another process is writing to {folder}: wait for it") from None
    finally:
        if created and {path.name for path in folder.iterdir()} <= {MARKER, LOCK}:
            shutil.rmtree(folder)
            with contextlib.suppress(OSError):  # another process has put something into it
                for parent in created[1:]:
                    parent.rmdir()


@contextlib.contextmanager
def cache_job(folder: Path, error: Callable[[str], Exception]) -> Iterator[Job]:
    """Fill a folder of the cache, alone; raise an `error` with the way out if that fails."""
    try:
        with job(folder, {"cache": folder.name}, wait=True) as work:
            yield work
    except (OSError, ValueError) as reason:
        way_out = "make it writable, or set MICSE_CACHE to a different folder"
        raise error(f"the cache {folder} cannot be used ({reason}): {way_out}") from reason


def page_folder(place: str | Path) -> Path:
    """Create and mark a notebook's results folder, without a lock: the runner holds it."""
    folder = own_folder(place).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _mark(folder, {"notebook": folder.name}, None)
    return folder


def own_folder(place: str | Path) -> Path:
    """Return a writable folder that is new or empty, or bears the kit's marker; raise OSError."""
    folder = output_folder(place)
    if not folder.is_dir() or (folder / MARKER).exists():
        return folder
    if others := sorted(path.name for path in folder.iterdir() if path.name[0] != "."):
        what = f"{shown(others[0])} and no marker of the kit"
        raise FileExistsError(f"{folder} holds {what}: name a new or empty folder")
    return folder


def _mark(folder: Path, settings: dict[str, object], deleted: Sequence[str] | None) -> None:
    """Write the marker; delete these files of different work, or with None refuse it."""
    marker = folder / MARKER
    if marker.exists() and (earlier := json_or_none(marker) or {}) != settings:
        if deleted is None:
            names = [n for n in {**earlier, **settings} if earlier.get(n) != settings.get(n)]
            raise ValueError(
                f"{folder} holds different work (differing in {', '.join(names)}): name a "
                "different folder or delete this one (micse train: --overwrite)"
            )
        for name in deleted:
            place = folder / name
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    write_json(marker, settings)
