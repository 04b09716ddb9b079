"""Write launch badges for the repository that publishes the kit: `python -m tools.badges --help`.

Binder builds `environment.yml` and opens JupyterLab; Colab opens one notebook, whose first cell
installs the kit. Both read a public repository on GitHub, so its address has to be written down.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parent.parent
GITHUB = re.compile(r"(?:https://|ssh://git@|git@)github\.com[/:]([\w.-]+/[\w.-]+?)(?:\.git)?/?")
BRANCH = "main"
INSTALL = re.compile(r'(?<=%pip install --quiet ").*(?=")')


def main(arguments: list[str] | None = None) -> int:
    """Write the badges that the command line asks for; 0 on success."""
    parser = argparse.ArgumentParser(prog="python -m tools.badges", description=__doc__)
    parser.add_argument(
        "repository", nargs="?", help="such as https://github.com/you/micse-kit; default: origin"
    )
    repository = parser.parse_args(arguments).repository or _origin()
    found = GITHUB.fullmatch(repository)
    if not found:
        parser.error(
            f"{repository or 'this checkout, without an origin,'} is not a repository on GitHub, "
            'the only place Colab opens; name one: make badges ARGS="https://github.com/you/kit"'
        )
    write_badges(ROOT, found[1])
    print(f"README.md and the notebooks now lead to github.com/{found[1]}: commit and push them")
    return 0


def write_badges(checkout: Path, repository: str) -> None:
    """Write badges into README.md, and links and the kit's address into every notebook.

    What an earlier call wrote is replaced. Notebooks get links instead of pictures, so that an
    opened one asks nobody for anything.

    Args:
        checkout: folder of the kit.
        repository: owner and name, such as `you/micse-kit`.
    """
    notebooks = sorted(checkout.glob("notebooks/[0-9]*.ipynb"))
    colab, binder = _addresses(repository, notebooks[0].name)
    badges = (
        f"[![Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
        f"[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
    )
    readme = checkout / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(_under_title(text, badges, r"\[!\[Binder\]"), encoding="utf-8")
    for path in notebooks:
        colab, binder = _addresses(repository, path.name)
        links = f"[Open it in Colab]({colab}) or [on Binder]({binder})."
        notebook = nbformat.read(path, as_version=4)
        opening, install = notebook.cells[:2]
        opening.source = _under_title(opening.source, links, r"\[Open it in Colab\]")
        kit = f"micse-kit[notebooks] @ git+https://github.com/{repository}"
        install.source = INSTALL.sub(kit, install.source)
        nbformat.write(notebook, path)


def _origin() -> str:
    """Return the address of the remote `origin`, or an empty string."""
    command = ["git", "-C", str(ROOT), "remote", "get-url", "origin"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _addresses(repository: str, notebook: str) -> tuple[str, str]:
    """Return the addresses at which Colab and Binder open a notebook."""
    colab = f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/notebooks"
    binder = f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?urlpath=lab/tree/notebooks"
    return f"{colab}/{notebook}", f"{binder}/{notebook}"


def _under_title(text: str, line: str, earlier: str) -> str:
    """Put a line under the title of a Markdown text, in place of an earlier one."""
    text = re.sub(rf"(?m)^{earlier}.*\n\n", "", text)
    return re.sub(r"\n\n", lambda _: f"\n\n{line}\n\n", text, count=1)


if __name__ == "__main__":
    sys.exit(main())
