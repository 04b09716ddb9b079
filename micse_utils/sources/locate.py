"""Find a model or data in the first source that has it: a folder, the hub, a pinned package."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import KIT_DATA, folder_at, folder_setting, setting, shown
from micse_utils.sources import hub, packaged

WORDS = ("auto", "hub", "package")
PACKAGED = "sentence-transformers/all-MiniLM-L6-v2"
BERT = "bert-base-uncased"
SHORT_NAMES = {"auto": hub.MICSE, "start": BERT, "miCSE": hub.MICSE, "all-MiniLM-L6-v2": PACKAGED}


@dataclass(frozen=True)
class Need:
    """A model or data set, and where each source keeps it."""

    name: str  # its own, which a stand-in never bears
    files: Sequence[str]  # in a folder, by their names or patterns
    places: Sequence[str] = ("",)  # where in the folder they may be, in this order
    repository: str = ""  # on the hub
    hub_files: Sequence[str] = ()  # there, if they differ
    # Returns the folder with the repository's files, and its commit; by default of a data set.
    fetch: Callable[[], tuple[Path, str]] | None = None
    stand_in: str | None = None  # artifact of the manifest, or file of `data/`, if there is one
    own: str = "MICSE_DATA"  # setting with the folder that `auto` tries first


def senteval_need(name: str, *files: str, stand_in: str | None = None) -> Need:
    """Return what to look for to load a task of SentEval with these files in its data folder."""
    return Need(
        name, files, ("", "data/downstream", "downstream"), hub.SENTEVAL,
        fetch=hub.unpacked_senteval, stand_in=stand_in, own="MICSE_SENTEVAL",
    )  # fmt: skip


class Found(NamedTuple):
    """Files of what was needed, their provenance, and why no earlier source has it."""

    files: list[Path]
    provenance: Provenance
    reason: str = ""


def locate(need: Need, source: str | Path) -> Found:
    """Find what is needed in `auto`, `hub`, `package` or a folder; only `auto` tries several.

    Raises ValueError for a wrong source, or if no package has what is needed, and HubError,
    FileNotFoundError or FetchError if the source lacks it.
    """
    check_source(source)
    if source == "hub":
        return _on_hub(need)
    if source == "package":
        return _packaged(need)
    if source != "auto":
        return _in_folder(need, folder_at(source))
    reason = ""
    if folder := folder_setting(need.own):
        try:
            return _in_folder(need, folder)
        except FileNotFoundError as error:
            reason = f"; not in {need.own}: {error}"
    try:
        return _on_hub(need)._replace(reason=reason)
    except hub.HubError as error:
        if need.stand_in is None:
            error.reason, error.args = error.reason + reason, (f"{error}{reason}",)
            raise
        return _packaged(need)._replace(reason=f"{reason}; not from the hub: {error.reason}")


def _in_folder(need: Need, folder: Path) -> Found:
    files = files_in(folder, need.files, need.places)
    origin = files[0].name if len(files) == 1 else files[0].parent.resolve().name
    return Found(files, Provenance(need.name, "folder", origin, sha256=sha256_of(files)))


def _on_hub(need: Need) -> Found:
    wanted = need.hub_files or need.files
    try:
        if need.fetch:
            folder, commit = need.fetch()
        else:
            folder, commit = hub.snapshot(need.repository, list(wanted), "dataset")
        files = files_in(folder, wanted)
    except FileNotFoundError as error:
        raise hub.HubError(need.repository, str(error), "is incomplete") from error
    return Found(files, Provenance(need.name, "hub", need.repository, commit, sha256_of(files)))


def _packaged(need: Need) -> Found:
    if need.stand_in is None:
        raise ValueError(f"no package carries {need.name}: take the hub or a folder as source")
    if need.stand_in not in packaged.MANIFEST:
        file = KIT_DATA / need.stand_in
        return Found([file], Provenance.of_kit_file(file))
    folder = packaged.fetch(need.stand_in)
    files = [folder / name for name in packaged.MANIFEST[need.stand_in]["files"]]
    return Found(files, packaged.package_provenance(need.stand_in))


def files_in(folder: Path, names: Sequence[str], places: Sequence[str] = ("",)) -> list[Path]:
    """Return the files from the first place that has them all, or raise FileNotFoundError."""
    lacking = []
    for place in places:
        found = {name: sorted((folder / place).glob(name)) for name in names}
        if all(found.values()):
            return [file for files in found.values() for file in files]
        lacking.append([Path(place, name).as_posix() for name in names if not found[name]])
    nearest = min(lacking, key=len)
    raise FileNotFoundError(f"no {nearest[0]} in {folder}")


def check_source(source: object) -> None:
    """Raise ValueError unless this is one of the three words, or an existing folder."""
    is_folder = isinstance(source, (str, Path)) and source != "" and folder_at(source)
    if source not in WORDS and not is_folder:
        what = "source must be auto, hub, package or a folder that exists"
        raise ValueError(f"{what}, got {shown(source)}")


def model_folder(name: str | Path, source: str | Path = "auto") -> Path | None:
    """Return the folder that a model's name means; None if it names a repository.

    Raises ValueError if it can be neither, or if it is nearly one of the short names.
    """
    if folder := folder_at(name):
        return folder
    is_name = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)
    if not is_name or Path(name).suffix in (".txt", ".csv"):  # such as a file to score
        raise ValueError(f"there is no model folder {name}")
    short = {known.lower(): known for known in SHORT_NAMES}
    close = get_close_matches(name.lower(), short, n=1, cutoff=0.8)
    own = source not in WORDS or setting("MICSE_DATA")  # a folder may hold a model of any name
    if close and not own and "/" not in name and name not in SHORT_NAMES:
        meant = f"{short[close[0]]}, or a repository of the Hub with its owner, owner/{name}"
        raise ValueError(f"no model is called {name}; did you mean {meant}?")
    return None


def absolute(text: str) -> str:
    """Make the path of a folder absolute; return other names and the words for sources as is."""
    folder = None if text in ("", *WORDS, "start") else folder_at(text)
    return str(folder.absolute()) if folder else text
