"""Check whether the kit can run here: `make doctor`, or `python -m tools.doctor`.

One line a check: what was found (✓), or what blocks a run and the way out (✗). A bug report needs
these lines; they contain neither the user's name nor the home folder. Only the standard library is
imported at the top, so that this runs in a broken environment, too.
"""

from __future__ import annotations  # for a Python that is too old to say so itself

import argparse
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from micse_utils import __version__
from micse_utils.settings import limit

ROOT = Path(__file__).parent.parent
ON_THE_HUB = ("encoder", "wikipedia")  # artifacts that nobody needs who reaches the hub
LEAST_FREE, PACKAGES, PAGE, LARGEST_PAGE = 1e9, 3e9, 2e9, 4e9
"""Bytes: of the cache's disk, what an environment takes, memory of most notebooks, and of all."""
KERNEL_SECONDS = 30


class Fault(RuntimeError):
    """Something that blocks a run; the message says what, and the way out."""


def main(arguments: list[str] | None = None) -> int:
    """Print what every check found; 0 if nothing blocks a run, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.doctor", description=__doc__)
    parser.add_argument(
        "--before", action="store_true", help="check what an environment needs to be made at all"
    )
    checks = BEFORE if parser.parse_args(arguments).before else CHECKS
    faults = 0
    for check in checks:
        try:
            line = f"✓ {check()}"
        except Fault as fault:
            line = f"✗ {fault}"
        except Exception as error:  # a broken library may raise anything when it is imported
            reason = str(error).strip().split("\n")[0]
            line = f"✗ {check.__name__}: {type(error).__name__}: {reason}; {_repair()}"
        faults += line.startswith("✗")
        print(hide(line), flush=True)
    print(f"{faults} problem{'s' * (faults > 1)} found." if faults else "No problems found.")
    return 1 if faults else 0


def python() -> str:
    """Report Python, the environment, the kit and the machine."""
    found = f"Python {platform.python_version()} in {sys.prefix}, miCSE kit {__version__}"
    found += f", {platform.platform()}, {os.cpu_count()} logical cores"
    if not (3, 11) <= sys.version_info < (3, 15):
        raise Fault(f"{found}: the kit needs 3.11 to 3.14; PYTHON=python3.12 make run")
    if (sys.platform, platform.machine()) == ("darwin", "x86_64"):
        raise Fault(f"{found}: no PyTorch for Intel; on Apple silicon, use an arm64 Python")
    return found


def room() -> str:
    """Check that an environment can be created here: venv, ensurepip and disk space."""
    if not (find_spec("venv") and find_spec("ensurepip")):
        raise Fault("this Python cannot make an environment; on Debian: apt install python3-venv")
    free = shutil.disk_usage(ROOT).free
    if free < PACKAGES:
        raise Fault(f"disk of the checkout: {free / 1e9:.1f} GB free, the packages take 3")
    return f"this Python can make an environment; {free / 1e9:.1f} GB free"


def memory() -> str:
    """Check that the memory limit of a container, JupyterHub or Slurm fits a notebook."""
    allowed = limit("memory")
    if allowed >= 1e15:
        return "memory: no limit"
    found = f"memory: limited to {allowed / 1e9:.1f} GB"
    if allowed < PAGE:
        raise Fault(f"{found}, a notebook takes 2, and notebook 4 takes 4; ask for more")
    return found if allowed >= LARGEST_PAGE else f"{found}, too little for notebooks 4 and 5"


def packages() -> str:
    """Compare installed packages with pyproject.toml and requirements.lock."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["notebooks"]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n")
    wrong, differing = (
        [
            f"{one.name} {_version(one.name) or 'is missing'} ({one.specifier})"
            for one in map(Requirement, filter(None, requirements))
            if one.marker is None or one.marker.evaluate()
            if not one.specifier.contains(_version(one.name) or "0", prereleases=True)
        ]
        for requirements in (needed, locked)
    )
    if wrong:
        raise Fault(f"packages: {', '.join(wrong)}; {_repair()}")
    if differing:
        return f"packages: differ from requirements.lock: {', '.join(differing)}; {_repair()}"
    return "packages: all as in requirements.lock"


def device() -> str:
    """Check that PyTorch and what builds on it can be imported; report the device."""
    import torch

    try:
        import sentence_transformers  # noqa: F401  transformers imports torchvision if it is there
    except Exception as error:
        if "torchvision" not in f"{error} {error.__cause__}":
            raise
        program = _program()
        raise Fault(
            f"the torchvision here was made for a different PyTorch than {torch.__version__}, and "
            f"the kit needs none; remove it: {program} -m pip uninstall torchvision"
        ) from error
    try:
        from micse_utils.device import pick_device, pick_dtype

        chosen = pick_device()
    except ValueError as error:  # names the variable and the way out
        raise Fault(str(error)) from error
    name = f" ({torch.cuda.get_device_name(chosen)})" if chosen.type == "cuda" else ""
    numbers = str(pick_dtype(chosen)).removeprefix("torch.")
    build = f"PyTorch {torch.__version__}, transformers {_version('transformers')}"
    return f"device {chosen}{name}, {numbers}, threads {torch.get_num_threads()}; {build}"


def compiler() -> str:
    """Check that UMAP's compiler can cache what it compiles."""
    import numba

    from micse_utils.plotting.maps import prepare_umap

    prepare_umap()
    if numba.config.CACHE_DIR.startswith(tempfile.gettempdir()):
        return "UMAP: no folder for what it compiles, so each notebook 2 takes a minute longer"
    return "UMAP can keep what it compiles"


def variables() -> str:
    """Report the kit's environment variables; check that the folders they name exist."""
    from micse_utils.settings import VARIABLES, folder_setting

    for name in ("MICSE_DATA", "MICSE_SENTEVAL"):  # the cache is made if it is missing
        try:
            folder_setting(name)
        except NotADirectoryError as error:
            raise Fault(str(error)) from error
    given = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k in VARIABLES and v]
    unknown = [k for k in os.environ if k.startswith("MICSE_") and k not in VARIABLES]
    hint = f"; {', '.join(unknown)} unknown, the kit reads {', '.join(VARIABLES)}"
    return f"variables: {', '.join(given) or 'none is set'}{hint if unknown else ''}"


def sources() -> str:
    """Check where models and data come from: cache, hub, package index."""
    from huggingface_hub import constants, try_to_load_from_cache

    from micse_utils.settings import cache_folder
    from micse_utils.sources.hub import PROBE_REPOSITORY, hub_problem
    from micse_utils.sources.packaged import MANIFEST, index_problem, is_cached

    cache, no_hub, no_index = cache_folder(), hub_problem(), index_problem()
    absent = [name for name in MANIFEST if not is_cached(name)]
    missing = [name for name in absent if no_hub or name not in ON_THE_HUB]
    held = isinstance(try_to_load_from_cache(PROBE_REPOSITORY, "config.json"), str)
    found = [
        f"cache {cache} lacks {', '.join(absent) or 'nothing'}; {(disk := _disk(cache))}",
        f"hub {constants.ENDPOINT}: {no_hub or 'answers'}, "
        f"{PROBE_REPOSITORY} is {'' if held else 'not '}in its cache",
        f"package index: {no_index or 'answers'}",
    ]
    if absent and not disk.endswith("free"):
        raise Fault(f"{found[0]}; make room, or set MICSE_CACHE to a different folder")
    if missing and no_index:
        raise Fault(
            f"{'; '.join(found)}; cannot fetch {', '.join(missing)}: set pip up for a proxy or "
            "mirror, or copy the cache of a machine that has them and set MICSE_CACHE to the copy"
        )
    return "; ".join(found)


def _disk(folder: Path) -> str:
    """Return the free space at a folder; the text ends in "free" if it is enough."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return f"{free / 1e9:.1f} GB " + ("free" if free > LEAST_FREE else "left")


def kit() -> str:
    """Check that notebooks import the kit of this folder, wherever they are run."""
    ask = "from importlib.util import find_spec; print(find_spec('micse_utils').origin)"
    elsewhere = {"cwd": tempfile.gettempdir(), "capture_output": True, "text": True}
    origin = subprocess.run([sys.executable, "-c", ask], **elsewhere).stdout.strip()
    if not origin:
        raise Fault(f"kit: not installed here (was the folder moved?); {_repair()}")
    if not Path(origin).parents[1].samefile(ROOT):
        raise Fault(f"kit: installed is {Path(origin).parent}, not this folder's; {_repair()}")
    return "kit: notebooks import this folder's"


def kernel() -> str:
    """Check that the kernel `python3` starts this Python and answers."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import KernelManager

    def starts_this(kernels: KernelSpecManager) -> bool:
        program = kernels.get_kernel_spec("python3").argv[0]
        named = ("python", "python3", f"python3.{sys.version_info[1]}")  # mean Jupyter's own
        return program in named or Path(program).parent == Path(sys.executable).parent

    own = KernelSpecManager(kernel_dirs=[str(Path(sys.prefix, "share", "jupyter", "kernels"))])
    if not starts_this(own):
        raise Fault(f"kernel python3 of this environment starts a different Python; {_repair()}")
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=own)
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=KERNEL_SECONDS)
    except RuntimeError as error:
        raise Fault(
            f"kernel python3: {error}; {_repair()}, unless a firewall blocks 127.0.0.1"
        ) from error
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    if starts_this(KernelSpecManager()):
        return "kernel python3 starts this Python and answers"
    return "kernel python3 answers; outside make lab that name is a different environment's kernel"


def lab(port: int = 8888) -> str:
    """Report JupyterLab and whether its default port is free."""
    if not (version := _version("jupyterlab")):
        raise Fault(f"JupyterLab is missing; {_repair()}")
    with socket.socket() as probe:
        if os.name != "nt":  # as Jupyter does; on Windows this would let two share a port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = f"port {port} is not available ({error.strerror}), Lab takes the next free one"
            return f"JupyterLab {version}; {taken}"
    return f"JupyterLab {version}, port {port} is free"


def hide(text: str) -> str:
    """Return the text without home folder (~), user name (…) and passwords in addresses."""
    text = re.sub(r"//[^/@\s]+@", "//", text)
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path's own fails if nobody knows
    for place in {str(home), str(home.resolve())} if len(home.parts) > 1 else ():
        text = re.sub(rf"(?<!\w){re.escape(place)}(?!\w)", "~", text, flags=re.IGNORECASE)
    users = {home.name, *(os.environ.get(name) for name in ("LOGNAME", "USER", "USERNAME"))}
    for user in map(re.escape, filter(None, users - {"~"})):
        text = re.sub(rf"(?<=[/\\]){user}(?!\w)|\b{user}\b(?<=\w\w\w)", "…", text)
    return text


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _program() -> Path:
    program = Path(sys.executable)
    return program.relative_to(ROOT) if program.is_relative_to(ROOT) else program


def _repair() -> str:
    """Return the command that repairs the environment of this Python."""
    return f"repair it: {_program()} -m pip install -r requirements.lock -e ."


CHECKS = (python, memory, packages, kit, device, compiler, variables, sources, kernel, lab)
BEFORE = (python, room, memory)


if __name__ == "__main__":
    sys.exit(main())
