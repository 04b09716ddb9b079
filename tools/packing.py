"""Make the archive for a room without internet: `python -m tools.packing`, or `make bundle`.

One tar file with the kit, the wheels of `requirements.lock`, and the weights and texts that the
notebooks need. `bundle` unpacks it.
"""

import argparse
import contextlib
import fnmatch
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from micse_utils.results import output_folder
from micse_utils.settings import BUNDLE
from micse_utils.sources.packaged import MANIFEST, FetchError, fetch
from tools.bundle import (
    KIT,
    LIST,
    ROOT,
    BundleError,
    extract,
    machine,
    opened,
    read_list,
    scratch_folder,
    sha256,
)


def main(arguments: list[str] | None = None) -> int:
    """Write the archive where the command line says; 0 if it stands."""
    parser = argparse.ArgumentParser(prog="python -m tools.packing", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, default=ROOT / "results", help="default: the results folder"
    )
    try:
        pack(output_folder(parser.parse_args(arguments).folder))
    except (BundleError, FetchError) as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"the archive could not be written: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def pack(folder: Path) -> Path:
    """Write the archive for this system and Python; one that stands and has all of it is left.

    Wheels are taken from the archive that stands, if they are those of `requirements.lock`.

    Raises:
        BundleError: pip could not get the wheels.
        FetchError: the weights and texts could not be had.
    """
    fetched, kit = _fetched(), {name: ROOT / name for name in _kit_files()}
    archive = folder / "{}-bundle-{system}-python{python}.tar".format(KIT, **machine())
    folder.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder) as scratch:
        earlier = _earlier(archive, scratch)
        wheels = {n: h for n, h in earlier["files"].items() if n.startswith("wheels/")}
        if (earlier["files"], earlier["kit"]) == (wheels | _hashes(fetched), _hashes(kit)):
            _say(archive, fetched, "stands")
            return archive
        if not wheels or not _taken_over(archive, wheels, scratch):
            _download(scratch / "wheels")
        paths = sorted((scratch / "wheels").iterdir())
        _write(archive, {f"wheels/{path.name}": path for path in paths} | fetched, kit, scratch)
    _say(archive, fetched, "written")
    return archive


def _write(archive: Path, files: dict[str, Path], kit: dict[str, Path], scratch: Path) -> None:
    """Write an archive with its list, whole or not at all."""
    wheels = [zipfile.ZipFile(path) for name, path in files.items() if name.startswith("wheels/")]
    bytes_inside = sum(member.file_size for wheel in wheels for member in wheel.filelist)
    record = machine() | {
        "installed": bytes_inside * 5 // 4,  # with the bytecode that pip compiles
        "files": _hashes(files),
        "kit": _hashes(kit),
    }
    (scratch / LIST).write_text(json.dumps(record, indent=1), encoding="utf-8")
    bundled = {f"bundle/{name}": path for name, path in {LIST: scratch / LIST, **files}.items()}
    with tarfile.open(scratch / "tar", "w") as tar:
        for name, path in {**bundled, **kit}.items():
            tar.add(path.resolve(), f"{KIT}/{name}", recursive=False, filter=_anonymous)
    (scratch / "tar").replace(archive)


def _say(archive: Path, fetched: dict[str, Path], what: str) -> None:
    print(f"{archive}: {what}, {archive.stat().st_size / 1e6:,.0f} MB.")
    print("On another machine of this kind, without any network:")
    print(f"  tar xf {archive.name} && cd {KIT} && make run")
    if not any("miCSE" in name for name in fetched):
        print(
            "all-MiniLM-L6-v2 will stand in for miCSE there: the hub's cache here has no miCSE. "
            "To take it along: make run SOURCE=hub, then make bundle."
        )


def _kit_files() -> list[str]:
    """Files that git tracks; without git, all but those that `.gitignore` names."""
    command = ["git", "-c", "core.quotePath=off", "ls-files", "-z"]
    with contextlib.suppress(OSError):  # no git
        listed = subprocess.run(command, cwd=ROOT, capture_output=True).stdout.decode("utf-8")
        if "Makefile" in (names := listed.split("\0")):  # else it is the git of a folder around
            return [name for name in names if (ROOT / name).is_file()]
    patterns = (ROOT / ".gitignore").read_text(encoding="utf-8").replace("/", "").split()
    places = [path.relative_to(ROOT) for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [
        place.as_posix()
        for place in places
        if not any(fnmatch.fnmatch(part, p) for part in place.parts for p in [".git", *patterns])
    ]


def _fetched() -> dict[str, Path]:
    """Weights and texts by their names in a bundle: all packaged ones, and those from the hub."""
    files = {f"cache/{a}/{f}": fetch(a) / f for a in MANIFEST for f in MANIFEST[a]["files"]}
    caches = [cache for cache in (BUNDLE / "hub", Path(constants.HF_HUB_CACHE)) if cache.is_dir()]
    if not caches:
        return files
    from micse_utils import models  # seconds; seldom needed
    from micse_utils.datasets import sentences, texts
    from micse_utils.sources import senteval_archive

    of_models = [models.MICSE, models.BERT, models.PACKAGED]
    of_data = [texts.TWEETS, sentences.SENTENCES, sentences.SPLITS, senteval_archive.REPOSITORY]
    for kind, repositories in (("model", of_models), ("dataset", of_data)):
        for folder in (repo_folder_name(repo_id=r, repo_type=kind) for r in repositories):
            for main in (cache / folder / "refs" / "main" for cache in caches):
                if main.is_file():
                    commit = main.read_text(encoding="utf-8").strip()
                    snapshot = main.parents[1] / "snapshots" / commit
                    places = [main, *(p for p in snapshot.rglob("*") if p.is_file())]
                    files |= {
                        f"hub/{folder}/{p.relative_to(main.parents[1]).as_posix()}": p
                        for p in places
                    }
    return files


def _earlier(archive: Path, scratch: Path) -> dict:
    """List of the archive that stands; of an empty one if there is none of use."""
    with contextlib.suppress(BundleError), opened(archive) as tar:
        extract(tar, [LIST], scratch)
        return read_list(scratch / LIST)
    return {"files": {}, "kit": {}}


def _taken_over(archive: Path, wheels: dict[str, str], scratch: Path) -> bool:
    """Whether the wheels of the archive that stands could be unpacked, all of them whole."""
    with contextlib.suppress(BundleError), opened(archive) as tar:
        extract(tar, wheels, scratch)
        if _hashes({name: scratch / name for name in wheels}) == wheels:
            return True
    shutil.rmtree(scratch / "wheels", ignore_errors=True)
    return False


def _download(folder: Path) -> None:
    """Let pip put the wheels of `requirements.lock`, and of what they need, into `folder`."""
    print("Collecting the packages of requirements.lock: a minute or two.", flush=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", f"--wheel-dir={folder}"]
    if (BUNDLE / "wheels").is_dir():
        command += ["--isolated", "--no-index", f"--find-links={BUNDLE / 'wheels'}"]
    if subprocess.run([*command, f"--requirement={ROOT / 'requirements.lock'}"]).returncode:
        raise BundleError("pip could not get the packages of requirements.lock (see above)")


def _hashes(files: dict[str, Path]) -> dict[str, str]:
    return {name: sha256(path) for name, path in files.items()}


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without the name of who packed it; readable by everybody."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.mode & 0o100 else 0o644
    return member


if __name__ == "__main__":
    sys.exit(main())
