"""Where models and data came from, and the versions that influence results."""

import dataclasses
import hashlib
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from micse_utils import __version__

PACKAGES = (
    "torch", "transformers", "sentence-transformers", "scikit-learn", "umap-learn", "usearch",
    "numpy",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model or a corpus came from."""

    name: str  # its own, such as all-MiniLM-L6-v2; a stand-in never bears the name of another
    source: str  # folder, hub, package, kit (comes with it) or memory (the caller's model)
    origin: str  # hub repository, pinned package, or name of the folder or file
    revision: str | None = None  # commit on the hub
    sha256: str | None = None  # of the file with weights or texts, of the hashes if several
    pooling: str | None = None  # of a model: how token vectors become one embedding
    engine: str | None = None  # of a model that does not run in PyTorch: its engine, with version

    @classmethod
    def of_kit_file(cls, file: Path) -> "Provenance":
        """Return the provenance of a file that comes with the kit."""
        return cls(file.stem, "kit", f"data/{file.name}", sha256=sha256_of([file]))

    def __str__(self) -> str:
        """Return the provenance as one line of text."""
        mark = f", SHA-256 {self.sha256[:8]}…" if self.sha256 else ""
        mark = f", commit {self.revision[:8]}" if self.revision else mark
        pooling = f", {self.pooling} pooling" if self.pooling else ""
        engine = f" by {self.engine}" if self.engine else ""
        return f"{self.name}{pooling}{engine} ({self.source}: {self.origin}{mark})"


def sha256_of(files: Iterable[Path]) -> str:
    """Return the SHA-256 of a file; of several, that of their concatenated hex digests."""
    digests = []
    for file in files:
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    return digest_of(digests)


def digest_of(digests: Sequence[str]) -> str:
    """Return the SHA-256 of concatenated hex digests; of only one, the digest itself."""
    of_all = hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if len(digests) == 1 else of_all


def versions() -> dict[str, str]:
    """Return the versions of Python, the kit and each library that influences results."""
    own = {"python": platform.python_version(), "micse-kit": __version__}
    return own | {name: version(name) for name in PACKAGES}
