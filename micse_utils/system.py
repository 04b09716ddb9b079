"""Deal with differences between systems: limits, file locks, archives, consoles.

Only the standard library is imported at the top, because the doctor runs in a broken environment.
"""

from __future__ import annotations  # the doctor also runs in a Python that is too old for the kit

import errno
import math
import os
import sys
import tarfile
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path, PurePath

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


def hold(lock: str | Path, timeout: float) -> AbstractContextManager:
    """Hold a lock file; wait up to `timeout` seconds while another process has it, -1: forever.

    On network disks without file locks a marker file replaces it, and a line says so.

    Raises:
        filelock.Timeout: another process still holds it.
    """
    from filelock import FileLock, SoftFileLock

    try:
        return FileLock(lock).acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    marker = f"{lock}.marker"
    print(f"this disk has no file locks: using {marker}; delete it if a killed run left it behind")
    return SoftFileLock(marker).acquire(timeout=timeout)


def replace(new: Path, old: Path) -> Path:
    """Rename a file to an existing name; wait if, on Windows, a program has it open."""
    for seconds in (0.1, 0.3, 1, 0):
        try:
            return new.replace(old)
        except PermissionError as error:
            if not seconds:
                raise PermissionError(
                    f"{old} cannot be replaced ({error.strerror}); close the file if it is open"
                ) from error
            time.sleep(seconds)


def extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], folder: Path) -> None:
    """Extract files and folders; raise TarError for links, devices and paths out of `folder`."""
    for member in members:
        leads_out = member.name.startswith(("/", "\\")) or ".." in PurePath(member.name).parts
        if leads_out or not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"unsafe path in archive: {member.name!r}")
    # Python before 3.11.4, such as Debian 12 has, lacks the filter, which also sets the modes.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    tar.extractall(folder, members, **safely)


def settle_console() -> None:
    """Let `print` work on any console: escape characters that it cannot show."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # such as under pythonw
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123
        elif hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="backslashreplace")
