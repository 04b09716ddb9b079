"""Where models and data came from, and the versions that decide a figure."""

import dataclasses
import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from micse_utils import __version__

PACKAGES = (
    "torch", "transformers", "sentence-transformers", "scikit-learn", "umap-learn", "usearch",
    "numpy",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model or a corpus came from.

    Attributes:
        name: its own name, such as `all-MiniLM-L6-v2`; a stand-in never bears another's.
        source: `folder`, `hub`, `package`, or `kit` for what comes with the kit.
        origin: the hub repository, the pinned package, or the name of the folder or file.
        revision: the hub's commit, or None.
        sha256: SHA-256 of the file with the weights or the texts (of the hashes, if several).
        pooling: for a model, how token vectors become one embedding.
    """

    name: str
    source: str
    origin: str
    revision: str | None = None
    sha256: str | None = None
    pooling: str | None = None

    @classmethod
    def of_kit_file(cls, file: Path) -> "Provenance":
        """Provenance of a file that was written for the kit and comes with it."""
        return cls(file.stem, "kit", f"data/{file.name}", sha256=sha256_of([file]))

    def __str__(self) -> str:
        """One line for people."""
        mark = f", SHA-256 {self.sha256[:8]}…" if self.sha256 else ""
        if self.revision:
            mark = f", commit {self.revision[:8]}"
        pooling = f", {self.pooling} pooling" if self.pooling else ""
        return f"{self.name}{pooling} ({self.source}: {self.origin}{mark})"


def sha256_of(files: Iterable[Path]) -> str:
    """SHA-256 of one file; of several, the SHA-256 of their concatenated hex digests."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Version of Python, of the kit and of each library that decides a figure."""
    own = {"python": platform.python_version(), "micse-kit": __version__}
    return own | {name: version(name) for name in PACKAGES}
