"""The Hugging Face hub: probe it briefly, then load a repository's files as a folder."""

import functools
import json
import math
import threading
import time
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from micse_utils.settings import BUNDLE

PROBE_SECONDS = 5  # longest wait for an answer
NO_SECONDS = 60  # until an unreachable hub is probed again
PROBE_REPOSITORY = "sap-ai-research/miCSE"
UNREACHABLE = "is neither in the hub's local cache nor could it be fetched"


class HubError(ConnectionError):
    """A repository could not be loaded from the hub; `reason` says why in a few words."""

    def __init__(self, repository: str, reason: str, fault: str) -> None:
        super().__init__(
            f"{repository} {fault} ({reason}). Ways out: try again online; take the packaged "
            "stand-in (package as source, auto as model); or name a folder that exists and has it."
        )
        self.reason = reason


def hub_problem() -> str | None:
    """Return why the hub is unreachable, or None if it is not.

    A yes holds for the life of the process, a no for a minute, so that joining a network helps.
    """
    problem, asked = _answer()
    if problem and time.monotonic() > asked + NO_SECONDS:
        _answer.cache_clear()
        problem, _ = _answer()
    return problem


@functools.cache
def _answer() -> tuple[str | None, float]:
    """Probe the hub within 5 s; return why it is unreachable, or None, and the time.

    Offline, the client's own retries take about 23 s a file. The probe asks for JSON, so that the
    login page of a captive network is not taken for the hub.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set", math.inf
    problem = f"no answer from {constants.ENDPOINT} within {PROBE_SECONDS} s"

    def ask() -> None:
        nonlocal problem
        try:
            HfApi().model_info(PROBE_REPOSITORY, timeout=PROBE_SECONDS)
            problem = None
        except RepositoryNotFoundError:
            problem = None  # a mirror without this repository is still a hub
        except json.JSONDecodeError as error:
            problem = _reason(error)
        except Exception as error:  # any failure of the network stack means the same: no hub
            problem = f"{constants.ENDPOINT} could not be reached: {_reason(error)}"

    # A thread, because name resolution ignores the time limits of HTTP clients.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem, time.monotonic()


def snapshot(
    repository: str, patterns: list[str], repo_type: str = "model", revision: str | None = None
) -> tuple[Path, str]:
    """Return the folder with the files of a repository that match `patterns`, and its commit.

    Files in the hub's local cache are not fetched again. If the hub is unreachable, they, or those
    of an unpacked bundle, are all there is.

    Raises:
        HubError: the hub is unreachable and its cache lacks the repository, or the transfer broke
            off; complete files stay in the cache.
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
        if isinstance(error, LocalEntryNotFoundError):
            reason = problem or _reason(error.__cause__ or error)
        else:
            reason = _reason(error)
        no_folder = "is not a folder here, and " if repo_type == "model" else ""
        raise HubError(repository, reason, f"{no_folder}{UNREACHABLE}") from error
    return Path(folder), Path(folder).name


def _reason(error: BaseException) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{constants.ENDPOINT} did not return JSON (captive portal?)"
    if isinstance(error, GatedRepoError):
        return "it is gated: log in to the hub and accept its terms"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or does not show it to you"
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such revision of it"
    return str(error).strip().split("\n")[0] or type(error).__name__
