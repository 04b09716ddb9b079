"""Use the archive of `make bundle` in a room without internet, before anything is installed.

`python -m tools.bundle` therefore needs nothing but Python itself. `packing` makes archives.
"""

import argparse
import contextlib
import hashlib
import json
import platform
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from micse_utils.settings import BUNDLE, expanded

ROOT = BUNDLE.parent
KIT = "micse-kit"
"""The folder that an archive unpacks to; wheels, weights and texts are in its `bundle/`."""
LIST = "bundle.json"
"""What a bundle was made for, and the SHA-256 of every file in it."""


class BundleError(RuntimeError):
    """A bundle cannot be made or used; the message says why and the way out."""


def main(arguments: list[str] | None = None) -> int:
    """Check the unpacked bundle, or unpack an archive; 0 if it can be used."""
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    parser.add_argument("archive", type=Path, nargs="?", help="unpack it; default: check bundle/")
    options = parser.parse_args(arguments)
    try:
        unpack(expanded(options.archive), BUNDLE) if options.archive else check(BUNDLE)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check(folder: Path) -> None:
    """Verify an unpacked bundle: made for this machine, every file whole, and room to install it.

    Raises:
        BundleError: what is wrong with it.
    """
    record = read_list(folder / LIST)
    for name, expected in record["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise BundleError(f"{folder / name} is damaged or missing: copy and unpack it again")
    needed, libc = _oldest_glibc(record["files"]), platform.libc_ver()[1] or "another C library"
    if needed and (platform.libc_ver()[0] != "glibc" or int(libc.split(".")[1]) < needed):
        raise BundleError(
            f"this bundle needs a Linux with glibc 2.{needed} or later and this one has {libc}: "
            "make bundle on the oldest system in the room"
        )
    free = shutil.disk_usage(folder).free
    if not (ROOT / ".venv").exists() and free < record["installed"]:
        raise BundleError(
            f"the packages take {record['installed'] / 1e9:.1f} GB and the disk has only "
            f"{free / 1e9:.1f} GB left: make room, or unpack the bundle on another disk"
        )


def _oldest_glibc(names: Iterable[str]) -> int:
    """The x of the oldest glibc 2.x that all wheels run on, by their names; 0 where any will do."""
    tags = (re.findall(r"manylinux_2_(\d+)", name) for name in names)
    return max((min(map(int, found)) for found in tags if found), default=0)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack wheels, weights and texts of an archive into `folder`, verified, whole or not at all.

    Only the regular files that its list names are written. A folder that is already this archive's
    stays as it is.

    Raises:
        BundleError: the archive is missing, damaged or made for another machine, or the disk full.
    """
    with opened(archive) as tar, scratch_folder(folder.parent) as scratch:
        new = scratch / "bundle"
        extract(tar, [LIST], new)
        record = read_list(new / LIST)
        if (folder / LIST).is_file() and sha256(folder / LIST) == sha256(new / LIST):
            return
        print(f"Unpacking {archive} into {folder}", flush=True)
        extract(tar, record["files"], new)
        check(new)
        if folder.exists():
            shutil.rmtree(folder)
        new.replace(folder)


def machine() -> dict[str, str]:
    """What wheels depend on: operating system and processor, Python, the locked versions."""
    return {
        "system": f"{platform.system()}-{platform.machine()}".lower(),
        "python": "{}.{}".format(*sys.version_info),
        "lock": sha256(ROOT / "requirements.lock"),
    }


def read_list(file: Path) -> dict:
    """The list of a bundle.

    Raises:
        BundleError: it is damaged, or the bundle was made for another machine.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        system, python, lock, *_ = (
            record[key] for key in ("system", "python", "lock", "files", "installed")
        )
        dict.items(record["files"]), int(record["installed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{file} is damaged or missing: copy and unpack it again") from error
    here = machine()
    if system != here["system"]:
        raise BundleError(
            f"this bundle is for {system} and this machine is {here['system']}: "
            "make bundle on a machine of this kind"
        )
    if python != here["python"]:
        raise BundleError(
            f"this bundle is for Python {python} and this is Python {here['python']}: "
            f"name the other one (PYTHON=python{python} make run), or make bundle with this one"
        )
    if lock != here["lock"]:
        raise BundleError(
            "this bundle was made for another requirements.lock: use the kit it holds (tar xf), "
            "make bundle anew, or delete the folder bundle/ to install from a network"
        )
    return record


@contextlib.contextmanager
def opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """An archive to read; whatever is wrong with it, or with the disk, becomes one sentence."""
    if not archive.is_file():
        raise BundleError(f"there is no archive {archive}: name the one that make bundle wrote")
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"{archive} is damaged, or no archive: copy it again") from error
    except OSError as error:
        raise BundleError(
            f"{archive} could not be unpacked ({error.strerror or error}): is the disk full, "
            "read-only or faulty? Make room, or unpack on another one"
        ) from error


@contextlib.contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder in `parent`; what a call that was killed left there is removed."""
    for leftover in parent.glob(".bundle-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=parent) as scratch:
        yield Path(scratch)


def extract(tar: tarfile.TarFile, names: Iterable[str], folder: Path) -> None:
    """Write regular files of an archive's `bundle/` into `folder`, and nothing outside it.

    Not by tarfile's own filters: Python has them from 3.11.4 on only.
    """
    for name in names:
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts or "\\" in name or ":" in name:
            raise BundleError(f"the archive is not to be trusted: '{name}' leads out of it")
        try:
            member = tar.getmember(f"{KIT}/bundle/{name}")
        except KeyError as error:
            raise BundleError(f"the archive is damaged or no bundle: it has no {name}") from error
        if not member.isreg():
            raise BundleError(f"the archive is not to be trusted: '{name}' is no regular file")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        with tar.extractfile(member) as content, (folder / place).open("wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)


def sha256(file: Path) -> str:
    """SHA-256 of a file; `results` has another, which needs installed packages."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
