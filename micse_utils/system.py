"""File locks and archives."""

from __future__ import annotations  # the doctor also runs in a Python that is too old for the kit

import errno
import tarfile
from contextlib import AbstractContextManager
from pathlib import Path, PurePath


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


def extract(tar: tarfile.TarFile, members: list[tarfile.TarInfo], folder: Path) -> None:
    """Extract files and folders; raise TarError for links, devices and paths out of `folder`."""
    for member in members:
        leads_out = member.name.startswith(("/", "\\")) or ".." in PurePath(member.name).parts
        if leads_out or not (member.isreg() or member.isdir()):
            raise tarfile.TarError(f"unsafe path in archive: {member.name!r}")
    # Python before 3.11.4, such as Debian 12 has, lacks the filter, which also sets the modes.
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    tar.extractall(folder, members, **safely)
