"""Read environment variables (only here) and find the kit's own data."""

import os
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
