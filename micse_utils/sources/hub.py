"""The Hugging Face hub: probe it briefly, then load a repository's files as a folder."""

import re
import tarfile
import threading
from functools import cache, partial
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from micse_utils.job import RECORD, cache_job
from micse_utils.provenance import sha256_of
from micse_utils.results import write_bytes
from micse_utils.settings import BUNDLE, cache_folder

WAIT = 5  # seconds for an answer, at most
MICSE = "sap-ai-research/miCSE"
SENTEVAL = "princeton-nlp/datasets-for-simcse"
ARCHIVE = "senteval.tar"  # SentEval's data folder
# Files that are unpacked from it, without the folders around and without paths that lead out.
MEMBER = re.compile(r"(?:.*?/)?((?:STS|SICK|MR|CR|SUBJ|MPQA|SST|TREC|MRPC)/(?!.*\.\.).+)")


class HubError(ConnectionError):
    """A repository could not be loaded from the hub; `reason` says why in a few words."""

    def __init__(self, repository: str, reason: str, fault: str) -> None:
        super().__init__(
            f"{repository} {fault} ({reason}). Ways out: start again online; take the packaged "
            "stand-in (package as source, auto as model); or name a folder that exists and has it."
        )
        self.reason = reason


@cache
def hub_problem() -> str | None:
    """Return why the hub is unreachable, or None; probe it once, as its client retries for long."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    problem = f"no answer from {constants.ENDPOINT} within {WAIT} s"

    def ask() -> None:
        nonlocal problem
        try:
            # Reads JSON: the login page of a captive network is not taken for the hub.
            HfApi().model_info(MICSE, timeout=WAIT)
            problem = None
        except RepositoryNotFoundError:
            problem = None  # a mirror without this repository is still a hub
        except Exception as error:  # any failure of the network stack means the same: no hub
            problem = f"{constants.ENDPOINT} could not be reached: {_reason(error)}"

    # Name resolution ignores the time limits of HTTP clients. A daemon does not delay the exit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(WAIT)
    return problem


def snapshot(
    repository: str, patterns: list[str], repo_type: str = "model", revision: str | None = None
) -> tuple[Path, str]:
    """Return the folder with the files of a repository that match `patterns`, and its commit.

    If the hub is unreachable, they come from its local cache or an unpacked bundle. Raises HubError
    if they are not there, or the transfer broke off; complete files stay cached.
    """
    problem = hub_problem()
    bundled = (BUNDLE / "hub" / repo_folder_name(repo_id=repository, repo_type=repo_type)).is_dir()
    try:
        folder = snapshot_download(
            repository, repo_type=repo_type, revision=revision, allow_patterns=patterns,
            local_files_only=problem is not None,
            cache_dir=BUNDLE / "hub" if problem and bundled else None,
        )  # fmt: skip
    except Exception as error:  # the client raises errors of six libraries; all mean "not fetched"
        fault = "is neither in the hub's local cache nor could it be fetched"
        raise HubError(repository, problem or _reason(error), fault) from error
    return Path(folder), Path(folder).name


def unpacked_senteval() -> tuple[Path, str]:
    """Return SentEval's data folder, unpacked once, and the commit of its archive."""
    folder, commit = snapshot(SENTEVAL, [ARCHIVE], "dataset")
    archive, folder = folder / ARCHIVE, cache_folder() / "senteval" / commit
    if (folder / RECORD).is_file():
        return folder, commit
    unusable = partial(HubError, f"{ARCHIVE} of {SENTEVAL}", fault="cannot be used")
    if not archive.is_file():
        raise unusable(hub_problem() or "the repository does not have it")
    try:
        blob = archive.resolve().name  # the hub's client names large files by their SHA-256
        if re.fullmatch("[0-9a-f]{64}", blob) and sha256_of([archive]) != blob:
            raise tarfile.TarError("its SHA-256 is not the hub's")
        with tarfile.open(archive, "r:") as tar, cache_job(folder, unusable) as work:
            for member in tar if work.record is None else ():  # no other process was faster
                if member.isreg() and (match := MEMBER.fullmatch(member.name)):
                    write_bytes(folder / match[1], tar.extractfile(member).read())
            work.finish({"archive": ARCHIVE})
    except tarfile.TarError as error:
        way_out = f"delete {archive.resolve()} and try again"
        raise unusable(f"damaged, or not a plain tar file: {error}; {way_out}") from error
    return folder, commit


def _reason(error: BaseException) -> str:
    """Return the error as one line; the client's classes have telling names."""
    return f"{type(error).__name__}: {error}".split("\n")[0].strip()
