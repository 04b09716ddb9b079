"""The Hugging Face hub: ask once and briefly, then load a repository's files as a folder."""

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

PROBE_SECONDS = 5
"""Longest wait, in seconds, for the one question whether the hub can be reached."""

NO_SECONDS = 60
"""How long an unreachable hub is not asked again."""

PROBE_REPOSITORY = "sap-ai-research/miCSE"


class HubError(ConnectionError):
    """A repository could not be had from the hub; the message says why and the ways out.

    Attributes:
        reason: why, in a few words.
    """

    def __init__(self, repository: str, reason: str) -> None:
        """Say what could not be had, why, and the ways out."""
        super().__init__(
            f"{repository} is neither in the hub's local cache nor could it be fetched ({reason}). "
            'Ways out: try again with a network; take the packaged stand-in (source="package", a '
            'model\'s name left at "auto"); or name a folder that holds it.'
        )
        self.reason = reason


def hub_problem() -> str | None:
    """Return why the hub cannot be asked, or None if it can.

    A yes holds for the life of the process, a no for a minute, so that joining a network helps.
    """
    problem, asked = _answer()
    if problem and time.monotonic() > asked + NO_SECONDS:
        _answer.cache_clear()
        problem, _ = _answer()
    return problem


@functools.cache
def _answer() -> tuple[str | None, float]:
    """Ask the hub; return why it cannot be asked, if so, and when this was found out, within 5 s.

    The hub client's own retries take about 23 s for every file when there is no network. This asks
    for one small JSON answer, so that a login page of a captive network is not taken for the hub.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set", math.inf
    problem = f"no answer from {constants.ENDPOINT} within {PROBE_SECONDS} s"

    def ask() -> None:
        nonlocal problem
        try:
            HfApi().model_info(PROBE_REPOSITORY, timeout=PROBE_SECONDS)
        except RepositoryNotFoundError:
            problem = None  # a mirror that holds other things is a hub all the same
        except json.JSONDecodeError as error:
            problem = _reason(error)
        except Exception as error:  # any failure of the network stack means the same: no hub
            problem = f"{constants.ENDPOINT} could not be reached: {_reason(error)}"
        else:
            problem = None

    # A thread, because name resolution ignores the time limits of HTTP clients.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return problem, time.monotonic()


def snapshot(
    repository: str, patterns: list[str], *, repo_type: str = "model", revision: str | None = None
) -> tuple[Path, str]:
    """Folder with the files of a repository that match `patterns`, and its resolved commit.

    Files that stand in the hub's local cache are not fetched again; without the hub they, or those
    of an unpacked bundle, are all there is.

    Raises:
        HubError: the hub cannot be reached and its cache does not hold the repository, or the
            transfer broke off. Files that had arrived whole stay in the cache and are not fetched
            again.
    """
    problem = hub_problem()
    bundled = (BUNDLE / "hub" / repo_folder_name(repo_id=repository, repo_type=repo_type)).is_dir()
    try:
        folder = snapshot_download(
            repository,
            repo_type=repo_type,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=problem is not None,
            cache_dir=BUNDLE / "hub" if problem and bundled else None,
        )
    except LocalEntryNotFoundError as error:
        raise HubError(repository, problem or _reason(error.__cause__ or error)) from error
    except Exception as error:  # the client raises errors of six libraries; all mean "not fetched"
        raise HubError(repository, _reason(error)) from error
    return Path(folder), Path(folder).name


def _reason(error: BaseException) -> str:
    """What an error of the hub's client means, in one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{constants.ENDPOINT} gives answers that are no hub's, perhaps a login page"
    if isinstance(error, GatedRepoError):
        return "the hub gives it only to those who are logged in and have accepted its terms"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such repository, or does not show it to you"
    if isinstance(error, RevisionNotFoundError):
        return "the hub has no such revision of it"
    return str(error).strip().split("\n")[0] or type(error).__name__
