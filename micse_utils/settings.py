"""Read environment variables (only here) and limits, find the kit's own data, check arguments.

Only the standard library is imported at the top, because the doctor runs in a broken environment.
"""

from __future__ import annotations  # the doctor also runs in a Python that is too old for the kit

import json
import math
import os
import reprlib
import sys
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from numbers import Integral
from pathlib import Path

# data/ stands beside the package in a checkout, inside it where a wheel was installed.
_HERE = Path(__file__).parent
KIT_DATA = next(p for p in (_HERE / "data", _HERE.parent / "data") if p.is_dir())

BUNDLE = _HERE.parent / "bundle"  # the unpacked archive of `make bundle`, for no network

VARIABLES = (  # docs/your-own-data.md says what each one means
    "MICSE_DATA", "MICSE_SENTEVAL", "MICSE_CACHE", "MICSE_DEVICE", "MICSE_ENGINE", "MICSE_STATIC",
    "MICSE_THREADS",
)  # fmt: skip
SYSTEM = Path("/")
ENGINES = ("torch", "openvino", "auto")  # values of MICSE_ENGINE


def setting(name: str) -> str | None:
    """Return the value of an environment variable, or None if it is unset or empty."""
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
    """Return the folder that a setting names, None if unset; raise OSError if it does not exist."""
    chosen = setting(name)
    folder = folder_at(chosen) if chosen else None
    if chosen and not folder:
        raise NotADirectoryError(f"{name}={chosen} is not a folder; name one or unset it")
    return folder


def expanded(place: str | Path) -> Path:
    """Expand `~` in a path; leave it if there is no such home."""
    return Path(os.path.expanduser(place))  # noqa: PTH111  Path's own fails if there is none


def folder_at(place: str | Path) -> Path | None:
    """Return the folder of this name, or None if it does not exist or the name is invalid."""
    folder = expanded(place)
    return folder if os.path.isdir(folder) else None  # noqa: PTH112  Path's own fails on long names


def process() -> tuple[int, int]:
    """Return the rank of this process and the number of processes (torchrun, accelerate)."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def limit(controller: str) -> float:
    """Return how many CPU cores ("cpu") or bytes ("memory") this process may use, or infinity.

    The least that JupyterHub and the nested control groups (version 2), as of Slurm, allow.
    """
    variable = {"cpu": "CPU_LIMIT", "memory": "MEM_LIMIT"}[controller]
    texts = [os.environ.get(variable, "")]
    with suppress(OSError):  # not Linux
        groups, folder = (SYSTEM / "proc/self/cgroup").read_text(), SYSTEM / "sys/fs/cgroup"
        group = groups.rstrip().partition("0::")[2]
        for name in group.split("/"):  # from the outermost, ""
            folder /= name
            with suppress(OSError):  # a container may show its group by its name outside
                texts.append((folder / f"{controller}.max").read_text())
    least = math.inf
    for text in texts:
        with suppress(ValueError):  # such as "max"
            amount, *period = map(float, text.split())  # "200000 100000": two cores
            if amount > 0:
                least = min(least, amount / period[0] if period else amount)
    return least


def settle_console() -> None:
    """Let `print` work on any console: escape characters that it cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def whole(name: str, value: object, least: int = 0) -> int:
    """Return `value`; raise ValueError if it is not a whole number from `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, got {shown(value)}")
    return int(value)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise ValueError if a value is not one of these."""
    if value not in choices:
        known = ", ".join(map(str, choices))
        raise ValueError(f"{name} must be one of {known}, got {shown(value)}")


def shown(value: object) -> str:
    """Return a value for a message: on one line, and cut if it is too long."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else reprlib.repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:299]}…"


def check_texts(name: str, texts: Iterable[str]) -> list[str]:
    """Return the texts as a list; raise TypeError unless they are a sequence of strings."""
    if isinstance(texts, (str, Mapping, Set)) or hasattr(texts, "columns"):
        raise TypeError(f"{name} must be a sequence of strings, got a {type(texts).__name__}")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"{name}[{position}] must be a string, got {shown(text)}")
    return texts


def repaired(text: str) -> str:
    """Return valid Unicode: a lone surrogate, such as half an emoji, becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
