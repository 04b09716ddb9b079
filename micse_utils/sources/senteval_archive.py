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
    r"((?:STS|SICK|MR|CR|SUBJ|MPQA|SST|TREC|MRPC)/.+)"
)
"""Files that the kit reads; what else the archive holds (SNLI) is not unpacked."""
LARGEST = 1_000_000_000  # bytes of them all; the official ones have 50 million


def senteval_need(kind: str, name: str, *files: str, stand_in: str | None = None) -> Need:
    """Return what to look for to load a task of SentEval with these files in its data folder."""
    return Need(
        kind, name, [files], places=("", "data/downstream", "downstream"), repository=REPOSITORY,
        hub_files=[files], fetch=unpacked, stand_in=stand_in, own="MICSE_SENTEVAL",
    )  # fmt: skip


def unpacked(revision: str | None = None) -> tuple[Path, str]:
    """Return SentEval's data folder, unpacked from the hub's archive, and the archive's commit.

    Raises:
        HubError: the archive cannot be fetched, unpacked or trusted.
    """
    snapshot, commit = hub.snapshot(REPOSITORY, [FILE], "dataset", revision)
    archive, folder = snapshot / FILE, cache_folder() / "senteval" / commit
    if not archive.is_file():
        raise _unusable(hub.hub_problem() or "the repository does not have it")
    if not (folder / RECORD).is_file():
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
    """Unpack regular files; refuse links, devices, paths out of the folder, and huge files."""
    blob = archive.resolve().name  # the hub's client names large files by their SHA-256
    if re.fullmatch("[0-9a-f]{64}", blob) and sha256_of([archive]) != blob:
        raise tarfile.TarError("its SHA-256 is not the hub's")
    found = [(member, MEMBER.fullmatch(member.name)) for member in tar]
    chosen = {match[1]: member for member, match in found if match and not member.isdir()}
    if (size := sum(member.size for member in chosen.values())) > LARGEST:
        raise tarfile.TarError(f"{size:,} bytes in it are more than SentEval has")
    for name, member in chosen.items():
        if not member.isreg() or ".." in name.split("/"):
            raise tarfile.TarError(f"{member.name!r} in it is unsafe")
    for name, member in chosen.items():
        content = tar.extractfile(member).read()
        write_atomically(folder / name, lambda path, content=content: path.write_bytes(content))


def _unusable(reason: str) -> hub.HubError:
    return hub.HubError(f"{FILE} of {REPOSITORY}", reason, "cannot be used")
