"""Launch badges, written into copies of README and notebooks; the cell that installs the kit."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tools import badges
from tools.badges import write_badges

ROOT = Path(__file__).parents[2]
NAMES = [path.stem for path in sorted((ROOT / "notebooks").glob("0*.ipynb"))]
BINDER = "https://mybinder.org/v2/gh/{}/main?urlpath=lab/tree/notebooks/{}.ipynb"
COLAB = "https://colab.research.google.com/github/{}/blob/main/notebooks/{}.ipynb"


@pytest.fixture
def checkout(tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    return tmp_path


def contents(checkout):
    return {path: path.read_bytes() for path in checkout.rglob("*") if path.is_file()}


def pip_calls(source, asked=None):
    """What a cell asks IPython to do, when it is run."""
    asked = [] if asked is None else asked

    class Shell:
        def run_line_magic(self, *magic):
            asked.append(magic)

    exec(TransformerManager().transform_cell(source), {"get_ipython": Shell})
    return asked


def test_readme_and_notebooks_lead_to_the_repository(checkout):
    before = (checkout / "README.md").read_text(encoding="utf-8")
    write_badges(checkout, "an-owner/micse-kit")
    after = (checkout / "README.md").read_text(encoding="utf-8")
    [line] = set(after.splitlines()) - set(before.splitlines())
    assert after.splitlines()[2] == line
    assert line.count("[![") == 2
    for pattern in (BINDER, COLAB):
        assert f"({pattern.format('an-owner/micse-kit', NAMES[0])})" in line

    for name in NAMES:
        opening = nbformat.read(checkout / "notebooks" / f"{name}.ipynb", as_version=4).cells[0]
        links = re.findall(r"\((http[^)]+)\)", opening.source.splitlines()[2])
        assert links == [p.format("an-owner/micse-kit", name) for p in (COLAB, BINDER)]
        assert "![" not in opening.source  # a picture would be fetched whenever it is opened


def test_badges_of_a_different_repository_replace_the_first_and_the_same_change_nothing(checkout):
    write_badges(checkout, "an-owner/micse-kit")
    first = contents(checkout)
    write_badges(checkout, "an-owner/micse-kit")
    assert contents(checkout) == first
    write_badges(checkout, "a-school/nlp.course")
    assert not any(b"an-owner/micse-kit" in content for content in contents(checkout).values())
    write_badges(checkout, "an-owner/micse-kit")
    assert contents(checkout) == first


def test_notebooks_change_in_their_first_two_cells_only(checkout):
    write_badges(checkout, "an-owner/micse-kit")
    for name in NAMES:
        before, after = (
            nbformat.read(folder / "notebooks" / f"{name}.ipynb", as_version=4)
            for folder in (ROOT, checkout)
        )
        assert before.cells[2:] == after.cells[2:]
        assert before.metadata == after.metadata


def missing(monkeypatch, *, for_good=False):
    """Let the kit be missing, until pip was called or for good."""
    found = iter([None])
    spec = lambda name: None if for_good else next(found, name)  # noqa: E731
    monkeypatch.setattr("importlib.util.find_spec", spec)


@pytest.mark.parametrize("writable", [True, False])
def test_the_first_cell_stops_the_page_if_the_kit_could_not_be_installed(monkeypatch, writable):
    cells = nbformat.read(ROOT / "notebooks" / f"{NAMES[0]}.ipynb", as_version=4).cells
    missing(monkeypatch, for_good=True)
    monkeypatch.setattr("os.access", lambda *_: writable)
    asked = []
    with pytest.raises(RuntimeError, match="No kit in this kernel"):
        pip_calls(cells[1].source, asked)
    assert len(asked) == writable  # nothing is built in a folder that is read-only


@pytest.mark.parametrize("name", NAMES)
def test_the_first_cell_installs_the_kit_only_if_it_is_missing(checkout, monkeypatch, name):
    def first_cell():
        path = checkout / "notebooks" / f"{name}.ipynb"
        cells = nbformat.read(path, as_version=4).cells
        return next(cell.source for cell in cells if cell.cell_type == "code")

    assert pip_calls(first_cell()) == []
    missing(monkeypatch)
    assert pip_calls(first_cell()) == [("pip", 'install --quiet "..[notebooks]"')]
    missing(monkeypatch)
    write_badges(checkout, "an-owner/micse-kit")
    address = "micse-kit[notebooks] @ git+https://github.com/an-owner/micse-kit"
    assert pip_calls(first_cell()) == [("pip", f'install --quiet "{address}"')]

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["name"] == "micse-kit"
    assert "notebooks" in project["optional-dependencies"]


@pytest.mark.parametrize(
    "address",
    [
        "https://github.com/an-owner/micse-kit",
        "https://github.com/an-owner/micse-kit.git",
        "https://github.com/an-owner/micse-kit/",
        "git@github.com:an-owner/micse-kit.git",
        "ssh://git@github.com/an-owner/micse-kit.git",
    ],
)
def test_the_address_is_taken_as_git_and_browsers_write_it(checkout, monkeypatch, address):
    monkeypatch.setattr(badges, "ROOT", checkout)
    assert badges.main([address]) == 0
    assert BINDER.format("an-owner/micse-kit", NAMES[0]) in (checkout / "README.md").read_text()


def test_without_an_address_it_is_that_of_origin(checkout, monkeypatch, capsys):
    monkeypatch.setattr(badges, "ROOT", checkout)
    subprocess.run(["git", "init", "--quiet", checkout], check=True)
    with pytest.raises(SystemExit):
        badges.main([])
    assert "this checkout, without an origin, is not" in capsys.readouterr().err
    origin = ["remote", "add", "origin", "git@github.com:a-school/kit.git"]
    subprocess.run(["git", "-C", checkout, *origin], check=True)
    assert badges.main([]) == 0
    assert "github.com/a-school/kit" in capsys.readouterr().out


@pytest.mark.parametrize(
    "address",
    ["an-owner/micse-kit", "https://gitlab.com/you/kit", "https://github.com/you", "a\nb"],
)
def test_an_address_that_colab_cannot_open_is_refused(checkout, monkeypatch, capsys, address):
    monkeypatch.setattr(badges, "ROOT", checkout)
    before = contents(checkout)
    with pytest.raises(SystemExit):
        badges.main([address])
    assert "is not a repository on GitHub" in capsys.readouterr().err
    assert contents(checkout) == before
