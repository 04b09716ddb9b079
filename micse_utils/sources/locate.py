"""Find a model or data in the first source that has it: a folder, the hub, a pinned package."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import KIT_DATA, folder_at, folder_setting, shown
from micse_utils.sources import hub, packaged

WORDS = ("auto", "hub", "package")


@dataclass(frozen=True)
class Need:
    """A model or data set, and where each source keeps it.

    Attributes:
        kind: what it is, for the messages, such as `tweets`.
        name: its own name, which a stand-in never bears.
        files: files of it in a user's folder, names or patterns; any one of these sets will do.
        places: where in that folder they may be, in this order.
        repository: the one on the hub.
        hub_files: sets of files there, if they differ from `files`.
        fetch: given a revision, return the folder with the repository's files, and its commit; by
            default fetches `hub_files` of a data set.
        stand_in: artifact of the manifest, or file of `data/`, that may replace it; None: nothing.
        own: the setting that names the folder `auto` tries first.
    """

    kind: str
    name: str
    files: Sequence[Sequence[str]]
    places: Sequence[str] = ("",)
    repository: str = ""
    hub_files: Sequence[Sequence[str]] = ()
    fetch: Callable[[str | None], tuple[Path, str]] | None = None
    stand_in: str | None = None
    own: str = "MICSE_DATA"


class Found(NamedTuple):
    """Files of what was needed, their provenance, and why no earlier source has it."""

    files: list[Path]
    provenance: Provenance
    reason: str = ""


def locate(need: Need, source: str | Path, revision: str | None = None) -> Found:
    """Find what is needed in a source; with `auto`, in the first that has it.

    Args:
        need: what to find.
        source: `auto`, `hub`, `package` or a folder. `hub` never falls back.
        revision: commit, tag or branch of the hub repository.

    Raises:
        ValueError: `source` is neither a source nor a folder that exists, or no package has it.
        HubError, FileNotFoundError, FetchError: the requested source lacks it.
    """
    if not is_source(source):
        raise ValueError(
            f"source must be auto, hub, package or a folder that exists, got {shown(source)}"
        )
    if source == "hub":
        return _on_hub(need, revision)
    if source == "package":
        return _packaged(need)
    if source != "auto":
        try:
            return _in_folder(need, folder_at(source))
        except FileNotFoundError as error:
            way_out = f"name the folder in {need.own}, with auto as source, to fetch what it lacks"
            raise FileNotFoundError(f"{error}; {way_out}") from error
    reason = ""
    if (folder := folder_setting(need.own)) is not None:
        try:
            return _in_folder(need, folder)
        except FileNotFoundError as error:
            reason = f"; not in {need.own}: {error}"
    try:
        return _on_hub(need, revision)._replace(reason=reason)
    except hub.HubError as error:
        if need.stand_in is None:
            raise
        return _packaged(need)._replace(reason=f"{reason}; not from the hub: {error.reason}")


def _in_folder(need: Need, folder: Path) -> Found:
    files = files_in(folder, need.files, need.places)
    origin = files[0].name if len(files) == 1 else files[0].parent.resolve().name
    return Found(files, Provenance(need.name, "folder", origin, sha256=sha256_of(files)))


def _on_hub(need: Need, revision: str | None) -> Found:
    wanted = need.hub_files or need.files
    patterns = [name for names in wanted for name in names]
    fetch = need.fetch or partial(hub.snapshot, need.repository, patterns, "dataset")
    folder, commit = fetch(revision)
    try:
        files = files_in(folder, wanted)
    except FileNotFoundError as error:
        raise hub.HubError(need.repository, str(error), "is incomplete") from error
    provenance = Provenance(need.name, "hub", need.repository, commit, sha256_of(files))
    return Found(files, provenance)


def _packaged(need: Need) -> Found:
    if need.stand_in is None:
        raise ValueError(f"no package carries {need.name}: take the hub or a folder as source")
    if need.stand_in not in packaged.MANIFEST:
        file = KIT_DATA / need.stand_in
        return Found([file], Provenance.of_kit_file(file))
    folder = packaged.fetch(need.stand_in)
    files = [folder / name for name in packaged.MANIFEST[need.stand_in]["files"]]
    return Found(files, packaged.package_provenance(need.stand_in))


def files_in(
    folder: Path, sets: Sequence[Sequence[str]], places: Sequence[str] = ("",)
) -> list[Path]:
    """Return the files of the first set that is complete in one of the places of a folder.

    Raises:
        FileNotFoundError: there is none.
    """
    missing = []
    for number, place in enumerate(places):
        for names in sets:
            found = [sorted((folder / place).glob(name)) for name in names]
            if all(found):
                return [file for files in found for file in files]
            present = len(found) - found.count([])
            missing.append(((-present, number), Path(place, names[found.index([])]).as_posix()))
    nearest = [name for rank, name in missing if rank == min(missing)[0]]
    raise FileNotFoundError(f"no {' or '.join(nearest)} in {folder}")


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
