"""SentEval's data folder from the hub: one archive, fetched once, checked and unpacked."""

import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from micse_utils.provenance import sha256_of
from micse_utils.settings import cache_folder
from micse_utils.sources import hub
from micse_utils.sources.hub import HubError, hub_problem
from micse_utils.sources.packaged import cache_lock
from micse_utils.system import extract

REPOSITORY = "princeton-nlp/datasets-for-simcse"
FILE = "senteval.tar"
FOLDERS = ("STS", "SICK", "MR", "CR", "SUBJ", "MPQA", "SST", "TREC", "MRPC")
"""Folders that the kit reads; what else the archive holds (SNLI) is not unpacked."""

Found = TypeVar("Found")


class ArchiveError(HubError):
    """The hub's archive cannot be used, or lacks something."""

    def __init__(self, reason: str) -> None:
        ConnectionError.__init__(
            self,
            f"{FILE} of {REPOSITORY}: {reason}. Way out: name a SentEval folder as source or in "
            "MICSE_SENTEVAL.",
        )
        self.reason = reason


def from_hub(read: Callable[[Path], Found], revision: str | None = None) -> Found:
    """Read a task from the hub's copy of SentEval's folder.

    Args:
        read: reads the task from a SentEval folder; what it returns has a `provenance`.
        revision: commit, tag or branch of the hub repository.

    Raises:
        HubError: the archive cannot be fetched or used, or lacks the task.
        ValueError: a file in it is damaged.
    """
    folder, commit = _unpacked(revision)
    try:
        found = read(folder)
    except FileNotFoundError as error:
        raise ArchiveError(str(error)) from error
    provenance = replace(found.provenance, source="hub", origin=REPOSITORY, revision=commit)
    return replace(found, provenance=provenance)


def _unpacked(revision: str | None) -> tuple[Path, str]:
    """Return the unpacked archive and its commit; fetch and unpack it only the first time."""
    snapshot, commit = hub.snapshot(REPOSITORY, [FILE], repo_type="dataset", revision=revision)
    archive, cache = snapshot / FILE, cache_folder() / "senteval"
    if not archive.is_file():
        raise HubError(f"{REPOSITORY}/{FILE}", hub_problem() or "the repository does not have it")
    blob = archive.resolve().name  # the hub's client names large files by their SHA-256
    sha256 = blob if re.fullmatch("[0-9a-f]{64}", blob) else None
    done = f"{commit}-{sha256[:16] if sha256 else '*'}"  # no link in a bundle or on Windows
    if folder := next(cache.glob(done), None):
        return folder, commit
    with cache_lock(cache / "lock", ArchiveError):
        if folder := next(cache.glob(done), None):  # another process was faster
            return folder, commit
        return _unpack(archive, sha256, cache, commit), commit


def _unpack(archive: Path, expected: str | None, cache: Path, commit: str) -> Path:
    """Check the archive and unpack it into `cache` atomically; return the folder."""
    for leftover in cache.glob(".unpack-*"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a killed process; we hold the lock
    sha256 = sha256_of([archive])
    damaged = f"it is damaged or not a plain tar file; delete {archive.resolve()} and try again"
    if expected not in (None, sha256):
        raise ArchiveError(damaged)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=cache) as scratch:
        new = Path(scratch, "senteval")  # not `scratch` itself, which only its owner may read
        try:
            # Plain tar only ("r:"), as its name says: a compressed one could hide any size.
            with archive.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                members = tar.getmembers()
                # tarfile takes a damaged header, or a cut between two files, for the end, which is
                # at least two blocks of zeros.
                rest = stream.read()
                if len(rest) < tarfile.BLOCKSIZE or rest.strip(b"\0"):
                    raise tarfile.ReadError("unexpected end of data")
                top = _top(members)
                wanted = tuple(f"{top / name}/" for name in FOLDERS)
                chosen = [m for m in members if f"{PurePosixPath(m.name)}/".startswith(wanted)]
                extract(tar, chosen, new)
        except OSError:  # the disk's, or an ArchiveError
            raise
        except Exception as error:  # damaged headers raise anything, MemoryError too
            raise ArchiveError(damaged) from error
        return (new / top).replace(cache / f"{commit}-{sha256[:16]}")


def _top(members: list[tarfile.TarInfo]) -> PurePosixPath:
    """Return the outermost folder of the archive with one of `FOLDERS` in it."""
    paths = {p for m in members for p in (PurePosixPath(m.name), *PurePosixPath(m.name).parents)}
    tops = {path.parent for path in paths if path.name in FOLDERS}
    if not tops:
        raise ArchiveError(f"it is not SentEval's data: it has none of {', '.join(FOLDERS)}")
    return min(tops, key=lambda top: (len(top.parts), top))
