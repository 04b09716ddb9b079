"""The three sources of models and data, in order: a folder, the hub, a pinned package."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from micse_utils.checks import shown
from micse_utils.settings import folder_at, folder_setting
from micse_utils.sources.hub import HubError

Found = TypeVar("Found")
WORDS = ("auto", "hub", "package")


def is_source(source: object) -> bool:
    """Whether this names a source: one of the three words, or a folder that exists."""
    if source in WORDS:
        return True
    return isinstance(source, (str, Path)) and source != "" and folder_at(source) is not None


def absolute(text: str) -> str:
    """Return the absolute path of the folder that `text` names, else `text`.

    For work that is done in another folder: by a worker, or in a notebook. The words for a source,
    and `start` for a model, stay as they are even if a folder has that name.
    """
    is_word = text in ("", *WORDS, "start")
    folder = None if is_word else folder_at(text)
    return str(folder.absolute()) if folder else text


def choose(
    need: str,
    source: str | Path,
    *,
    folder: Callable[[Path], Found],
    hub: Callable[[], Found],
    package: Callable[[], Found],
    stand_in: bool = True,
    own: str = "MICSE_DATA",
) -> Found:
    """Load `need` from the source asked for; with `auto`, from the first that has it. Say which.

    Args:
        need: what is loaded, for the messages: `model`, `tweets`.
        source: `auto`, `hub`, `package` or a folder. `hub` never falls back.
        folder, hub, package: load it from there. `folder` raises FileNotFoundError where the folder
            lacks it, `hub` raises HubError.
        stand_in: whether `auto` may take the package's in place of what the hub lacks.
        own: the setting that names the folder `auto` asks first.

    Returns:
        What the chosen loader returned; its `provenance` tells which one that was.

    Raises:
        ValueError: `source` is neither a source nor a folder that exists.
        HubError, FileNotFoundError, FetchError: from the source asked for.
    """
    reason = ""
    if source == "hub":
        found = hub()
    elif source == "package":
        found = package()
    elif source != "auto":
        if not is_source(source):
            raise ValueError(
                f'source={shown(source)} is neither "auto", "hub" nor "package", nor a folder here'
            )
        try:
            found = folder(folder_at(source))
        except FileNotFoundError as error:
            way_out = f'name the folder in {own}, with source="auto", to take from elsewhere'
            raise FileNotFoundError(f"{error}; {way_out} what it lacks") from error
    else:
        found, reason = _first(own, folder, hub, package if stand_in else None)
    print(f"{need}: {found.provenance}{reason}")
    return found


def _first(
    own: str,
    folder: Callable[[Path], Found],
    hub: Callable[[], Found],
    package: Callable[[], Found] | None,
) -> tuple[Found, str]:
    """What the first source that has it gives, and why it was none of those before."""
    reason = ""
    if (path := folder_setting(own)) is not None:
        try:
            return folder(path), reason
        except FileNotFoundError as error:
            reason = f"; not in {own}: {error}"
    try:
        return hub(), reason
    except HubError as error:
        if package is None:
            raise
        return package(), f"{reason}; not from the hub: {error.reason}"
