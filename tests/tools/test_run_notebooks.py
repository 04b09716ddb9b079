"""The runner on a small notebook: what runs again and why, killed, without a kernel.

What the real notebooks show is held in `test_notebooks`.
"""

import json
import os
import subprocess
import sys
import time
from unittest.mock import patch

import nbformat
import psutil
import pytest

from tools import run_notebooks
from tools.clean_notebooks import KERNEL
from tools.run_notebooks import main, read_parameter, read_parameters

CELLS = [
    'seed = 0  # of x = 1\nsentence = "a = b"\nplot = False\nresults = "."',
    "import json, os, pathlib, random\n"
    "if plot:\n    import matplotlib.pyplot as plt\n    plt.plot([1, 2])",
    'print(os.environ["OMP_WAIT_POLICY"])\n'
    'if sentence == "fail":\n    raise ValueError("no model; source=\'hub\'\\nand more")',
    'folder = pathlib.Path(results)\n(folder / "begun").touch()\n'
    'while (folder / "wait").exists():\n    pass',
    "value = random.Random(seed).random()\n"
    'made = {"headline": f"value {value:.3f}", "provenance": {"model": {"name": "numbers"}}}\n'
    '(folder / "metrics.json").write_text(json.dumps(made));',
]


@pytest.fixture
def short(tmp_path_factory):
    """A folder with a notebook that is done at once, or else waits while a file is there."""
    folder = tmp_path_factory.mktemp("{short}")
    cells = [nbformat.v4.new_markdown_cell("# Short\n\n**Time** none")]
    cells += [nbformat.v4.new_code_cell(source) for source in CELLS]
    cells[1].metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, folder / "01_short.ipynb")
    return folder


@pytest.fixture
def run_short(short, monkeypatch, capsys):
    """Run that notebook from this process, returns what the runner said."""
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", short)

    def run(results, *arguments, status=0):
        assert main(["--results", str(results), *arguments]) == status
        return capsys.readouterr().out

    with patch.dict(os.environ):
        yield run


@pytest.mark.slow
def test_killed_it_leaves_the_last_figures_and_the_next_call_runs_again(run_short, short, tmp_path):
    run_short(tmp_path)
    folder = tmp_path / "01_short"
    metrics = (folder / "metrics.json").read_bytes()
    (folder / "wait").touch()
    (folder / "begun").unlink()
    code = f"""
import pathlib
from tools import run_notebooks
run_notebooks.NOTEBOOKS = pathlib.Path({str(short)!r})
run_notebooks.main(["--results", {str(tmp_path)!r}, "--force"])
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=run_notebooks.ROOT)
    while not (folder / "begun").exists():
        assert process.poll() is None
        time.sleep(0.05)
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    (folder / "wait").unlink()
    assert kernels and psutil.wait_procs(kernels, timeout=30)[1] == []
    assert (folder / "metrics.json").read_bytes() == metrics
    assert "running (not run before)" in run_short(tmp_path)
    assert (folder / "metrics.json").read_bytes() == metrics


def test_it_says_why_a_page_runs_again_and_keeps_what_people_wrote(run_short, short, tmp_path):
    """Lab's autosave changes metadata and outputs; neither makes a page old or edited."""
    folder = tmp_path / "01_short"
    said = run_short(tmp_path)
    assert "01_short: running (not run before), none" in said
    assert "value 0.844" in said and "The numbers above come from numbers." in said
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    for page in (short / "01_short.ipynb", folder / "01_short.ipynb"):
        notebook = nbformat.read(page, as_version=4)
        notebook.metadata["language_info"] = {"name": "python", "version": "3.99"}
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="seen in Lab")]
        nbformat.write(notebook, page)
    assert "01_short: up to date: value 0.844" in run_short(tmp_path)
    assert "running (changed: parameters)" in run_short(tmp_path, "-p", "seed", "1")

    notebook = nbformat.read(folder / "01_short.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("My notes"))
    nbformat.write(notebook, folder / "01_short.ipynb")
    annotated = (folder / "01_short.ipynb").read_bytes()
    os.environ["MICSE_DATA"] = str(tmp_path)
    assert "01_short.ipynb was edited: rename it" in run_short(tmp_path, status=1)
    assert (folder / "01_short.ipynb").read_bytes() == annotated
    said = run_short(tmp_path, "--force")
    assert "running (changed: parameters, MICSE_ variables)" in said
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_failing_cell_is_one_line_and_loses_nothing(run_short, tmp_path):
    run_short(tmp_path)
    metrics = (tmp_path / "01_short" / "metrics.json").read_bytes()
    said = run_short(tmp_path, "-p", "sentence", "fail", status=1)
    unfinished = tmp_path / "01_short" / "01_short.unfinished.ipynb"
    failed = f"FAILED, ValueError: no model; SOURCE='hub'\n  in cell 4 of {unfinished}\n"
    assert failed in said and "Traceback" not in said
    assert unfinished.is_file()
    assert (tmp_path / "01_short" / "metrics.json").read_bytes() == metrics


def test_settings_and_places_of_the_user_leave_pages_whole(run_short, short, tmp_path):
    """A backend without pages, a home folder and braces; in place, too."""
    os.environ |= {"OMP_WAIT_POLICY": "ACTIVE", "MPLBACKEND": "agg", "HOME": str(tmp_path)}
    run_short("~/of {me}", "--in-place", "-p", "plot", "True")
    made = tmp_path / "of {me}" / "01_short" / "01_short.ipynb"
    for page in (made, short / "01_short.ipynb"):
        cells = nbformat.read(page, as_version=4).cells
        outputs = [o for cell in cells if cell.cell_type == "code" for o in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert "ACTIVE\n" in [output.get("text") for output in outputs]  # who set it is obeyed


def test_a_folder_of_the_user_is_refused_and_unchanged(run_short, tmp_path):
    (tmp_path / "01_short").mkdir()
    (tmp_path / "01_short" / "metrics.json").write_text("{}", encoding="utf-8")
    assert '"metrics.json" and no marker of the kit' in run_short(tmp_path, status=1)
    assert [path.name for path in (tmp_path / "01_short").iterdir()] == ["metrics.json"]
    assert (tmp_path / "01_short" / "metrics.json").read_text(encoding="utf-8") == "{}"


def test_a_kernel_that_does_not_come_up_is_one_sentence(run_short, tmp_path, monkeypatch):
    """It dies at once; one that cannot be reached raises the same error after a while."""
    (spec := tmp_path / "share" / "jupyter" / "kernels" / "python3").mkdir(parents=True)
    starts = {"argv": [sys.executable, "-c", "exit(1)", "{connection_file}"], **KERNEL}
    (spec / "kernel.json").write_text(json.dumps(starts), encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    said = run_short(tmp_path / "results", status=1)
    assert "01_short: FAILED, Kernel died before replying" in said
    assert "make doctor" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["similarity"], "no notebook similarity; there are 01_similarity, 02_"),
        (["-p", "colour", "red"], "no parameter colour; there are held_out, limit, "),
        (["-p", "source", "nowhere"], "source must be auto, hub, package or a folder that exists"),
        (["-p", "steps", "many"], 'steps must be int, got "many"'),
        (["-p", "quick", "false"], 'quick must be bool, got "false"'),
        (["-p", "limit", "-5"], "limit must not be negative, got -5"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_nothing_runs(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["--results", str(tmp_path / "new"), *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "text", "default", "value"),
    [
        ("limit", "8_000", 20_000, 8000), ("limit", "None", 20_000, None),
        ("quick", "True", False, True), ("model_name", "someone/their", "auto", "someone/their"),
        ("tasks", "['STS16', 'kit sample']", None, ["STS16", "kit sample"]),
        ("sentence", "It rained: a lot", "The river", "It rained: a lot"),
    ],
)  # fmt: skip
def test_a_parameter_is_what_was_written(name, text, default, value):
    assert read_parameter(name, text, default) == value


def test_each_notebook_gets_the_parameters_it_has_whatever_else_is_in_their_lines(run_short):
    """Papermill's own reading of the cell drops a line with a second equals sign."""
    given = [("sentence", "c = d"), ("seed", "3")]
    assert read_parameters(["01_short"], given, {"seed": 5, "limit": 7}) == {
        "01_short": {"sentence": "c = d", "seed": 3}
    }
