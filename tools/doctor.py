"""Check whether the kit can run here: `make doctor`, or `python -m tools.doctor`.

One line a check: what was found (✓), or what blocks a run and the way out (✗). A bug report needs
these lines; they contain neither the user's name nor the home folder. Only the standard library is
imported at the top, so that this runs in a broken environment, too.
"""

from __future__ import annotations  # for a Python that is too old to say so itself

import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from micse_utils import __version__
from micse_utils.settings import limit

ROOT = Path(__file__).parent.parent
ON_THE_HUB = ("encoder", "wikipedia")  # artifacts that nobody needs who reaches the hub
PAGE, LARGEST_PAGE = 2e9, 4e9  # bytes of memory of most notebooks, and of all


class Fault(RuntimeError):
    """Something that blocks a run; the message says what, and the way out."""


def main(checks: list[Callable[[], str]] | None = None) -> int:
    """Print what every check found; 0 if nothing blocks a run, else 1."""
    faults = 0
    for check in checks or CHECKS:
        try:
            line = f"✓ {check()}"
        except (Fault, OSError, ValueError) as fault:  # a sentence, as the package writes it
            line = f"✗ {check.__name__}: {fault}"
        except Exception as error:  # a broken library may raise anything when it is imported
            reason = f"{type(error).__name__}: {error}".strip().split("\n")[0]
            line = f"✗ {check.__name__}: {reason}; {_repair()}"
            if "torchvision" in f"{error} {error.__cause__}":
                line += " and remove torchvision, which is for a different PyTorch and not needed"
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
    return found


def memory() -> str:
    """Check that the memory limit of a container, JupyterHub or Slurm fits a notebook."""
    allowed = limit("memory")
    found = f"limited to {allowed / 1e9:.1f} GB" if allowed < 1e15 else "no limit"
    if allowed < PAGE:
        raise Fault(f"{found}, a notebook takes 2, notebooks 4 and 5 take 4; ask for more")
    return f"memory: {found}" + ", too little for notebooks 4 and 5" * (allowed < LARGEST_PAGE)


def packages() -> str:
    """Compare installed packages with requirements.lock."""
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").split("\n")
    locked = [Requirement(line) for line in lines if line]
    needed = {one: _version(one.name) for one in locked if not one.marker or one.marker.evaluate()}
    if missing := [one.name for one, version in needed.items() if not version]:
        raise Fault(f"{', '.join(missing)} missing; {_repair()}")
    differing = [f"{one} (here {v})" for one, v in needed.items() if not one.specifier.contains(v)]
    if differing:
        return f"packages: differ from requirements.lock: {', '.join(differing)}; {_repair()}"
    return "packages: all as in requirements.lock"


def kit() -> str:
    """Check that notebooks import the kit of this folder, wherever they are run."""
    ask = "from importlib.util import find_spec; print(find_spec('micse_utils').origin)"
    elsewhere = {"cwd": tempfile.gettempdir(), "capture_output": True, "text": True}
    origin = subprocess.run([sys.executable, "-c", ask], **elsewhere).stdout.strip()
    if not origin or not Path(origin).parents[1].samefile(ROOT):
        raise Fault(f"notebooks import {origin or 'none'} (was the folder moved?); {_repair()}")
    return "kit: notebooks import this folder's"


def device() -> str:
    """Check that PyTorch and what builds on it can be imported; report the device."""
    import sentence_transformers  # noqa: F401
    import torch

    from micse_utils.device import pick_device, pick_dtype

    chosen = pick_device()
    numbers = f"{pick_dtype(chosen)}, threads {torch.get_num_threads()}"
    build = f"PyTorch {torch.__version__}, transformers {_version('transformers')}"
    return f"device {chosen}, {numbers}; {build}"


def variables() -> str:
    """Report the kit's environment variables; check that the folders they name exist."""
    from micse_utils.settings import VARIABLES, folder_setting

    folder_setting("MICSE_DATA"), folder_setting("MICSE_SENTEVAL")
    given = [f"{k}={v}" for k, v in sorted(os.environ.items()) if k in VARIABLES and v]
    unknown = [k for k in os.environ if k.startswith("MICSE_") and k not in VARIABLES]
    hint = f"; {', '.join(unknown)} unknown, the kit reads {', '.join(VARIABLES)}"
    return f"variables: {', '.join(given) or 'none is set'}{hint if unknown else ''}"


def model() -> str:
    """Report which model the notebooks will use."""
    from huggingface_hub import try_to_load_from_cache

    from micse_utils.sources.hub import MICSE, hub_problem

    problem = hub_problem()
    if problem is None or isinstance(try_to_load_from_cache(MICSE, "config.json"), str):
        return f"model: miCSE, {'from the cache' if problem else 'as the Hub answers'}"
    return f"model: all-MiniLM-L6-v2 in place of miCSE, as {problem}"


def cache() -> str:
    """Check that packaged weights and texts are in the cache, or can be fetched into it."""
    from micse_utils.results import output_folder
    from micse_utils.settings import cache_folder
    from micse_utils.sources.hub import hub_problem
    from micse_utils.sources.packaged import MANIFEST, index_problem, is_cached

    absent = [name for name in MANIFEST if not is_cached(name)]
    if not absent:
        return "packaged weights and texts: all here, no network needed"
    output_folder(cache_folder())
    missing = [name for name in absent if hub_problem() or name not in ON_THE_HUB]
    if missing and (problem := index_problem()):
        raise Fault(
            f"cannot fetch {', '.join(missing)} ({problem}): set pip up for a proxy or mirror, or "
            "copy the cache of a machine that has them and set MICSE_CACHE to the copy"
        )
    return f"packaged weights and texts: {', '.join(absent)} will be fetched when needed"


def kernel() -> str:
    """Check that this environment's kernel `python3` answers."""
    from jupyter_client.manager import start_new_kernel

    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    manager, client = start_new_kernel(kernel_name="python3", **silent)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return "kernel python3 answers"


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


def _repair() -> str:
    """Return the command that repairs the environment of this Python."""
    program = Path(sys.executable)
    program = program.relative_to(ROOT) if program.is_relative_to(ROOT) else program
    return f"repair it: {program} -m pip install -r requirements.lock -e ."


CHECKS = (python, memory, packages, kit, device, variables, model, cache, kernel)


if __name__ == "__main__":
    sys.exit(main())
