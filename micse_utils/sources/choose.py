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
    """Return whether this is one of the three words, or an existing folder."""
    if source in WORDS:
        return True
    return isinstance(source, (str, Path)) and source != "" and folder_at(source) is not None


def absolute(text: str) -> str:
    """Return the absolute path of the folder that `text` names, else `text`.

    For work in a different directory: by a worker, or in a notebook. The words for a source, and
    `start` for a model, are kept even if a folder has that name.
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
    """Load `need` from a source and print which; with `auto`, from the first that has it.

    Args:
        need: what is loaded, for the messages: `model`, `tweets`.
        source: `auto`, `hub`, `package` or a folder. `hub` never falls back.
        folder, hub, package: load it from there; the first two raise FileNotFoundError and HubError
            if they lack it.
        stand_in: whether `auto` may replace what the hub lacks by what the package has.
        own: the setting that names the folder `auto` tries first.

    Returns:
        What the chosen loader returned; its `provenance` tells which one that was.

    Raises:
        ValueError: `source` is neither a source nor a folder that exists.
        HubError, FileNotFoundError, FetchError: the requested source lacks it.
    """
    reason = ""
    if source in ("hub", "package"):
        found = hub() if source == "hub" else package()
    elif source != "auto":
        if not is_source(source):
            raise ValueError(f"source must be auto, hub, package or a folder, got {shown(source)}")
        try:
            found = folder(folder_at(source))
        except FileNotFoundError as error:
            way_out = f'name the folder in {own}, with source="auto", to fetch what it lacks'
            raise FileNotFoundError(f"{error}; {way_out}") from error
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
    """Load from the first source that has it; return that, and why it was not an earlier one."""
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
