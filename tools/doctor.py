"""Whether the kit can run here: `make doctor`, or `python -m tools.doctor`.

One line a check: what stands (✓), what hinders a run and the way out (✗), what is good to know (·).
These lines are what a bug report needs; they hold neither the user's name nor the home folder. Only
the standard library is imported at once, so that this runs in a broken environment, too.
"""

from __future__ import annotations  # for a Python that is too old to say so itself

import argparse
import getpass
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from micse_utils import __version__

ROOT = Path(__file__).parent.parent
GOOD, BAD, NOTE = "✓", "✗", "·"
PLAIN = {GOOD: "ok ", BAD: "NO ", NOTE: "-- "}  # where the terminal has no such signs
MAIN = ("torch", "transformers", "sentence-transformers", "numpy", "scikit-learn", "umap-learn")
ON_THE_HUB = ("encoder", "wikipedia")  # artifacts that a hub in reach makes needless
LEAST_FREE, PACKAGES = 1e9, 3e9
"""Bytes: of the cache's disk, and what an environment takes."""
KERNEL_SECONDS = 30
COPY = "copy the cache of a machine that has them and set MICSE_CACHE to the copy"
if TYPE_CHECKING:  # a Python before 3.9 cannot read it
    from jupyter_client.kernelspec import KernelSpecManager

    Findings = Iterator[tuple[str, str]]


def main(arguments: list[str] | None = None) -> int:
    """Print the findings of every check; 0 if nothing hinders a run, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.doctor", description=__doc__)
    parser.add_argument(
        "--before", action="store_true", help="check what an environment needs to be made at all"
    )
    checks = BEFORE if parser.parse_args(arguments).before else CHECKS
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        "".join(PLAIN).encode(sys.stdout.encoding)
        marks = {}
    except UnicodeEncodeError:
        marks = PLAIN
    hindrances = 0
    for mark, text in findings(checks):
        print(marks.get(mark, mark), hide(text), flush=True)
        hindrances += mark == BAD
    print(f"To be mended: {hindrances}, see above." if hindrances else "Nothing hinders a run.")
    return 1 if hindrances else 0


def findings(checks: Iterable[Callable[[], Findings]]) -> Findings:
    """Mark and text of every check, one after the other; a check that breaks is a finding, too."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # a broken library may raise anything when it is imported
            reason = str(error).strip().split("\n")[0]
            yield BAD, f"{check.__name__}: {type(error).__name__}: {reason}; {_repair()}"


def python() -> Findings:
    """Version of Python and of the kit, and the environment both stand in."""
    found = f"Python {platform.python_version()} in {sys.prefix}, miCSE kit {__version__}"
    if not (3, 11) <= sys.version_info < (3, 15):
        yield BAD, f"{found}: it needs 3.11 to 3.14; name one: PYTHON=python3.12 make run"
    else:
        yield GOOD, found


def system() -> Findings:
    """Operating system and processor."""
    processor, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if names := cpuinfo.is_file() and re.findall(
        r"model name\s*: (.+)", cpuinfo.read_text(encoding="utf-8")
    ):
        processor = names[0]
    processor = processor or platform.machine()
    yield GOOD, f"{platform.platform()}; {processor}, {os.cpu_count()} logical cores"
    if (sys.platform, platform.machine()) == ("darwin", "x86_64"):
        yield NOTE, "PyTorch is no longer made for Intel; on Apple silicon, take an arm64 Python"


def room() -> Findings:
    """Whether an environment can be made here: Python's own tools for it, and the disk."""
    if find_spec("venv") and find_spec("ensurepip"):
        yield GOOD, "this Python can make an environment"
    else:
        yield BAD, "this Python cannot make an environment; on Debian: apt install python3-venv"
    free = shutil.disk_usage(ROOT).free
    said = f"disk of the checkout: {free / 1e9:.1f} GB free"
    yield (GOOD, said) if free > PACKAGES else (BAD, f"{said}; the packages take 3: make room")


def packages() -> Findings:
    """What is installed, against the ranges of pyproject.toml and the pins of requirements.lock."""
    import tomllib

    from packaging.requirements import Requirement

    if not (ROOT / "requirements.lock").is_file():
        yield NOTE, "packages: no requirements.lock here to compare with; this is no checkout"
        return
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    hindering, differing = (
        [
            f"{one.name} {_version(one.name) or 'is missing'} ({one.specifier})"
            for one in map(Requirement, filter(None, requirements))
            if one.marker is None or one.marker.evaluate()
            if not one.specifier.contains(_version(one.name) or "0", prereleases=True)
        ]
        for requirements in (needed, locked)
    )
    if hindering:
        yield BAD, f"packages: {', '.join(hindering)}; {_repair()}"
        return
    as_locked = "" if differing else ", all as in requirements.lock"
    yield GOOD, "packages: " + ", ".join(f"{name} {_version(name)}" for name in MAIN) + as_locked
    if differing:
        yield NOTE, f"not as in requirements.lock: {', '.join(differing)}; {_repair()}"


def device() -> Findings:
    """Device, number format and threads."""
    import torch

    from micse_utils.device import pick_device, pick_dtype
    from micse_utils.settings import setting

    try:
        chosen = pick_device()
    except ValueError as error:  # names the value and the way out
        yield BAD, str(error)
        return
    chooser = " by MICSE_DEVICE" if setting("MICSE_DEVICE") else ""
    name = f" ({torch.cuda.get_device_name(chosen)})" if chosen.type == "cuda" else ""
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
    numbers = str(pick_dtype(chosen)).removeprefix("torch.")
    threads = f"threads {torch.get_num_threads()}"
    yield GOOD, f"device {chosen}{name}{chooser}, {numbers}, {threads}; {build}"


def variables() -> Findings:
    """The kit's environment variables for folders, and whether those exist."""
    from micse_utils.settings import VARIABLES, folder_setting, setting

    folders = [name for name in VARIABLES if name != "MICSE_DEVICE"]
    given = {name: setting(name) for name in folders if setting(name)}
    if not given:
        yield GOOD, f"none of {', '.join(folders)} is set"
    for name in ("MICSE_DATA", "MICSE_SENTEVAL"):  # the cache is made where it is not there
        try:
            folder_setting(name)
        except NotADirectoryError as error:
            del given[name]
            yield BAD, str(error)
    if given:
        yield GOOD, ", ".join(f"{name}={value}" for name, value in given.items())
    if unknown := [k for k in os.environ if k.startswith("MICSE_") and k not in VARIABLES]:
        yield NOTE, f"{', '.join(unknown)}: no setting of the kit; there are {', '.join(VARIABLES)}"


def sources() -> Findings:
    """The cache and its disk, the hub, the package index: where models and data come from."""
    from huggingface_hub import constants, try_to_load_from_cache

    from micse_utils.settings import cache_folder
    from micse_utils.sources.hub import PROBE_REPOSITORY, hub_problem
    from micse_utils.sources.packaged import MANIFEST, index_problem, is_cached

    folder = cache_folder()
    there = [name for name in MANIFEST if is_cached(name)]
    absent = [name for name in MANIFEST if name not in there]
    yield _disk(folder, f"holds {', '.join(there) or 'nothing yet'}", bool(absent))

    hub_away = hub_problem()
    kept = isinstance(try_to_load_from_cache(PROBE_REPOSITORY, "config.json"), str)
    own = f"its cache on this machine holds {'' if kept else 'no '}{PROBE_REPOSITORY}"
    if hub_away:
        yield NOTE, f"hub: {hub_away}; {own}; without it, the packaged stand-in is taken"
    else:
        yield GOOD, f"hub: {constants.ENDPOINT} answers; {own}"

    missing = [name for name in absent if hub_away or name not in ON_THE_HUB]
    index_away = index_problem()
    if not index_away:
        yield GOOD, "package index: answers, and carries the stand-in"
    elif not missing:
        yield NOTE, f"package index: {index_away}; nothing more is needed from it"
    else:
        lacking = f"{index_away}; {', '.join(missing)} cannot be fetched"
        yield BAD, f"package index: {lacking}; set pip up for a proxy or mirror, or {COPY}"


def kit() -> Findings:
    """Whether it is the kit of this folder that notebooks import, wherever they are run."""
    if not (ROOT / "pyproject.toml").is_file():
        return
    ask = "from importlib.util import find_spec; print(find_spec('micse_utils').origin)"
    elsewhere = {"cwd": tempfile.gettempdir(), "capture_output": True, "text": True}
    origin = subprocess.run([sys.executable, "-c", ask], **elsewhere).stdout.strip()
    if origin and Path(origin).parents[1].samefile(ROOT):
        yield GOOD, "kit: that of this folder, so notebooks run what stands here"
    else:
        installed = f"in {Path(origin).parent}" if origin else "not there (was the folder moved?)"
        yield BAD, f"kit: the one installed is {installed}, not that of this folder; {_repair()}"


def kernel() -> Findings:
    """Whether the kernel `python3` starts this Python, here and elsewhere, and answers."""
    from jupyter_client.kernelspec import KernelSpecManager

    names = ("python", "python3", f"python3.{sys.version_info[1]}")  # mean Jupyter's own
    own = KernelSpecManager(kernel_dirs=[str(Path(sys.prefix, "share", "jupyter", "kernels"))])
    started = []
    for kernels in (own, KernelSpecManager()):
        program = kernels.get_kernel_spec("python3").argv[0]
        started.append(program in names or Path(program).parent == Path(sys.executable).parent)
    if not started[0]:
        yield BAD, f"kernel python3 of this environment starts another Python; {_repair()}"
    elif silence := _silence(own):
        way_out = f"{_repair()}, unless a firewall keeps programs from 127.0.0.1"
        yield BAD, f"kernel python3: {silence}; {way_out}"
    elif not started[1]:
        yield GOOD, "kernel python3 starts this Python under make run and make lab, and answers"
        yield NOTE, "outside make lab, python3 is another kernel: choose that of this environment"
    else:
        yield GOOD, "kernel python3 starts this Python and answers"


def _silence(kernels: KernelSpecManager) -> str | None:
    """Start the kernel; what is wrong where it does not answer, None where it does."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3", kernel_spec_manager=kernels)
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=KERNEL_SECONDS)
    except RuntimeError as error:
        return str(error)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def lab(port: int = 8888) -> Findings:
    """JupyterLab and the port it asks for first."""
    if not (version := _version("jupyterlab")):
        yield BAD, f"JupyterLab is missing; {_repair()}"
        return
    with socket.socket() as probe:
        if os.name != "nt":  # as Jupyter does; on Windows this would let two share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            yield GOOD, f"JupyterLab {version}"
            yield NOTE, f"port {port} cannot be had ({error.strerror}); Lab takes the next free one"
        else:
            yield GOOD, f"JupyterLab {version}, port {port} is free"


def hide(text: str) -> str:
    """The text without home folder (~), user name (…) and passwords in addresses."""
    text = re.sub(r"//[^/@\s]+@", "//", text)
    try:
        home = Path.home()
    except RuntimeError:  # nobody knows
        home = Path("/")
    for place in (home, home.resolve()):
        for form in {str(place), str(place).replace("\\", "\\\\"), place.as_posix()}:
            if len(place.parts) > 1:  # not where home is /
                text = re.sub(rf"(?<!\w){re.escape(form)}(?!\w)", "~", text, flags=re.IGNORECASE)
    try:
        users = {getpass.getuser(), home.name}
    except (OSError, KeyError, ImportError):  # a container that knows no user of this number
        users = {home.name}
    for user in map(re.escape, filter(None, users)):
        text = re.sub(rf"(?<=[/\\]){user}(?!\w)|\b{user}\b(?<=\w\w\w)", "…", text)
    return text


def _disk(folder: Path, holds: str, needed: bool) -> tuple[str, str]:
    """What the cache holds and whether it can be written; `needed`: something is still to come."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    mark, way_out = (BAD if needed else NOTE), "set MICSE_CACHE to another folder"
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return mark, f"cache {folder}: {holds}; cannot be written ({error.strerror}); {way_out}"
    said = f"cache {folder}: {holds}; {free / 1e9:.1f} GB free"
    return (GOOD, said) if free > LEAST_FREE else (mark, f"{said}; make room, or {way_out}")


def _version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _repair() -> str:
    """The command that brings the environment of this Python in order."""
    program = Path(sys.executable)
    if program.is_relative_to(ROOT):
        program = program.relative_to(ROOT)
    return f"mend it by: {program} -m pip install -r requirements.lock -e ."


CHECKS = (python, system, packages, kit, device, variables, sources, kernel, lab)
BEFORE = (python, system, room)


if __name__ == "__main__":
    sys.exit(main())
