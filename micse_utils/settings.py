"""Read environment variables (only here) and limits, find the kit's own data, check arguments.

Only the standard library is imported at the top, because the doctor runs in a broken environment.
"""

from __future__ import annotations  # the doctor also runs in a Python that is too old for the kit

import json
import math
import os
import reprlib
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from numbers import Integral
from pathlib import Path

# data/ stands beside the package in a checkout, inside it where a wheel was installed.
_HERE = Path(__file__).parent
KIT_DATA = next(p for p in (_HERE / "data", _HERE.parent / "data") if p.is_dir())

BUNDLE = _HERE.parent / "bundle"
"""Where `make bundle`'s archive is unpacked to: wheels, weights and texts for no network."""

VARIABLES = {
    "MICSE_DATA": "folder with your own model and data, asked before the hub",
    "MICSE_SENTEVAL": "SentEval's folder, or a part of it, asked before the hub",
    "MICSE_CACHE": "folder that keeps what the kit fetched (default: the user's cache folder)",
    "MICSE_DEVICE": "device to compute on: cpu, cuda, cuda:1, mps (default: the best there is)",
    "MICSE_ENGINE": "what runs a model: torch (default), openvino, or auto, for encoding on a CPU",
    "MICSE_STATIC": "set it to anything: figures in place of sliders, for a page nobody can move",
    "MICSE_THREADS": "threads to compute with (default: OMP_NUM_THREADS, or the cores allowed)",
}


def setting(name: str) -> str | None:
    """Return the value of one of `VARIABLES`, or None if it is unset or empty."""
    if name not in VARIABLES:
        raise KeyError(f"{name} is not a setting of the kit; there are {', '.join(VARIABLES)}")
    return os.environ.get(name) or None


def cache_folder() -> Path:
    """Return the folder for fetched weights and data; it need not exist yet."""
    if chosen := setting("MICSE_CACHE"):
        return expanded(chosen)
    if (BUNDLE / "cache").is_dir():
        return BUNDLE / "cache"
    import platformdirs  # here, as a bundle is unpacked before anything is installed

    return Path(platformdirs.user_cache_dir("micse"))


def folder_setting(name: str) -> Path | None:
    """Return the folder that a setting names, or None if it is unset.

    Raises:
        NotADirectoryError: it names something that is not a folder.
    """
    chosen = setting(name)
    if chosen is None:
        return None
    if (folder := folder_at(chosen)) is None:
        raise NotADirectoryError(
            f"{name}={chosen} is not a folder; name one that exists or unset the variable"
        )
    return folder


def expanded(place: str | Path) -> Path:
    """Expand `~` in a path; leave it if there is no such home."""
    try:
        return Path(place).expanduser()
    except (RuntimeError, ValueError):
        return Path(place)


def folder_at(place: str | Path) -> Path | None:
    """Return the folder of this name, or None if it does not exist or the name is invalid."""
    folder = expanded(place)
    return folder if os.path.isdir(folder) else None  # noqa: PTH112  Path's own fails on long names


def file_at(place: str | Path) -> Path | None:
    """Return the file of this name, or None if it does not exist or the name is invalid."""
    file = expanded(place)
    return file if os.path.isfile(file) else None  # noqa: PTH113  as above


def process() -> tuple[int, int]:
    """Return the rank of this process and the number of processes (torchrun, accelerate)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


SYSTEM = Path("/")
LIMITS = {
    "cpu": ("CPU_LIMIT", ["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]),
    "memory": ("MEM_LIMIT", ["memory.max"], ["memory.limit_in_bytes"]),
}
"""Of each controller: JupyterHub's variable, and files of control groups in versions 2 and 1."""


def limit(controller: str) -> float:
    """Return how many CPU cores ("cpu") or bytes ("memory") this process may use, or infinity.

    The least that JupyterHub and the nested control groups around this process (of a container,
    systemd or Slurm) allow.
    """
    variable, *files = LIMITS[controller]
    texts = [os.environ.get(variable, "")]
    with suppress(OSError):  # not Linux
        for line in (SYSTEM / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = SYSTEM / "sys/fs/cgroup" / (controller if controllers else "")
            group = top / path.strip("/")
            if not controllers or controller in controllers.split(","):
                for folder in {group, *group.parents} - {*top.parents}:
                    for names in files:
                        with suppress(OSError):
                            texts.append(" ".join((folder / n).read_text() for n in names))
    found = [math.inf]
    for text in texts:
        with suppress(ValueError):  # such as "max"
            amount, *period = map(float, text.split())
            found.append(amount / period[0] if period else amount)
    return min(number for number in found if number > 0)  # -1: no limit


def settle_console() -> None:
    """Let `print` work on any console: escape characters that it cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # such as under pythonw
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")


LONGEST = 300  # characters of a value in a message


def whole(name: str, value: object, least: int = 0) -> int:
    """Return `value`; raise ValueError if it is not a whole number from `least`."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {shown(value)}")
    return int(value)


def shown(value: object) -> str:
    """Return a value for a message: on one line, and cut if it is too long."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else reprlib.repr(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def check_texts(name: str, texts: object) -> list[str]:
    """Return the texts as a list; raise TypeError if they are not a sequence of strings."""
    check_sequence(name, texts)
    texts = list(texts)
    for position, text in enumerate(texts):
        check_text(name, position, text)
    return texts


def check_sequence(name: str, texts: object) -> None:
    """Raise TypeError unless `texts` is an ordered sequence; its items are not read."""
    if isinstance(texts, str):
        raise TypeError(f"{name} must be a list of strings, got one string; give [text]")
    unordered = isinstance(texts, (Mapping, set, frozenset)) or hasattr(texts, "columns")
    if unordered or not isinstance(texts, Iterable):
        raise TypeError(f"{name} must be a sequence of strings, got a {type(texts).__name__}")


def check_text(name: str, position: int, text: object) -> None:
    """Raise TypeError, with the position, if the text is not a string."""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise TypeError(f"{name}[{position}] must be a string, got {shown(text)} ({kind})")


def repaired(text: str) -> str:
    """Return valid Unicode: a lone surrogate, such as half an emoji, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
