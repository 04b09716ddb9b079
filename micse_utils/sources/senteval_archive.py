"""SentEval's data folder, and the hub's copy of it: one archive, fetched and unpacked once."""

import re
import tarfile
from pathlib import Path

from micse_utils.job import RECORD, cache_job
from micse_utils.provenance import sha256_of
from micse_utils.results import write_atomically
from micse_utils.settings import cache_folder
from micse_utils.sources import hub
from micse_utils.sources.locate import Need

REPOSITORY = "princeton-nlp/datasets-for-simcse"
FILE = "senteval.tar"
MEMBER = re.compile(
    r"(?:(?:\.|senteval|SentEval|data|downstream)/)*"
    r"((?:STS|SICK|MR|CR|SUBJ|MPQA|SST|TREC|MRPC)/(?!.*\.\.).+)"
)
"""Files that the kit reads, without paths that lead out; SNLI, for one, is not unpacked."""


def senteval_need(kind: str, name: str, *files: str, stand_in: str | None = None) -> Need:
    """Return what to look for to load a task of SentEval with these files in its data folder."""
    return Need(
        kind, name, [files], places=("", "data/downstream", "downstream"), repository=REPOSITORY,
        hub_files=[files], fetch=unpacked, stand_in=stand_in, own="MICSE_SENTEVAL",
    )  # fmt: skip


def unpacked(revision: str | None = None) -> tuple[Path, str]:
    """Return SentEval's data folder, unpacked from the hub's archive, and the archive's commit."""
    snapshot, commit = hub.snapshot(REPOSITORY, [FILE], "dataset", revision)
    archive, folder = snapshot / FILE, cache_folder() / "senteval" / commit
    if not (folder / RECORD).is_file():
        if not archive.is_file():
            raise _unusable(hub.hub_problem() or "the repository does not have it")
        try:
            with tarfile.open(archive, "r:") as tar, cache_job(folder, _unusable) as work:
                if work.record is None:  # no other process was faster
                    _unpack(tar, archive, folder)
                    work.finish({"archive": FILE})
        except tarfile.TarError as error:
            way_out = f"delete {archive.resolve()} and try again"
            raise _unusable(f"damaged, or not a plain tar file: {error}; {way_out}") from error
    return folder, commit


def _unpack(tar: tarfile.TarFile, archive: Path, folder: Path) -> None:
    """Unpack what the kit reads; links and devices are left out."""
    blob = archive.resolve().name  # the hub's client names large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", blob) and sha256_of([archive]) != blob:
        raise tarfile.TarError("its SHA-256 is not the hub's")
    for member in tar:
        if member.isreg() and (match := MEMBER.fullmatch(member.name)):
            content = tar.extractfile(member).read()
            write_atomically(folder / match[1], lambda path, it=content: path.write_bytes(it))


def _unusable(reason: str) -> hub.HubError:
    return hub.HubError(f"{FILE} of {REPOSITORY}", reason, "cannot be used")
