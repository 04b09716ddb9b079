"""The Hugging Face hub: probe it briefly, then load a repository's files as a folder."""

import functools
import threading
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from micse_utils.settings import BUNDLE

PROBE_SECONDS = 5  # longest wait for an answer
PROBE_REPOSITORY = "sap-ai-research/miCSE"


class HubError(ConnectionError):
    """A repository could not be loaded from the hub; `reason` says why in a few words."""

    def __init__(self, repository: str, reason: str, fault: str) -> None:
        super().__init__(
            f"{repository} {fault} ({reason}). Ways out: start again online; take the packaged "
            "stand-in (package as source, auto as model); or name a folder that exists and has it."
        )
        self.reason = reason


@functools.cache
def hub_problem() -> str | None:
    """Return why the hub is unreachable, or None if it is not; probe it once, within 5 s.

    Offline, the client's own retries take about 23 s a file.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    problem = f"no answer from {constants.ENDPOINT} within {PROBE_SECONDS} s"

    def ask() -> None:
        nonlocal problem
        try:
            # Asks for JSON: the login page of a captive network is not taken for the hub.
            HfApi().model_info(PROBE_REPOSITORY, timeout=PROBE_SECONDS)
            problem = None
        except RepositoryNotFoundError:
            problem = None  # a mirror without this repository is still a hub
        except Exception as error:  # any failure of the network stack means the same: no hub
            problem = f"{constants.ENDPOINT} could not be reached: {_reason(error)}"

    # A thread, because name resolution ignores the time limits of HTTP clients.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem


def snapshot(
    repository: str, patterns: list[str], repo_type: str = "model", revision: str | None = None
) -> tuple[Path, str]:
    """Return the folder with the files of a repository that match `patterns`, and its commit.

    If the hub is unreachable, its local cache, or an unpacked bundle, is all there is.

    Raises:
        HubError: the files are not there, or the transfer broke off; complete ones stay cached.
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


def _reason(error: BaseException) -> str:
    """Return the error as one line; the client's classes have telling names."""
    return f"{type(error).__name__}: {error}".split("\n")[0].strip()
