"""The runner on two small notebooks: killed, beside another one, on a full disk, without a kernel.

What the real notebooks show is held in `test_notebooks`.
"""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import joblib
import nbformat
import psutil
import pytest

from micse_utils.results import write_json
from tools import run_notebooks
from tools.clean_notebooks import KERNEL
from tools.run_notebooks import PARAMETERS, main, read_parameter

CELLS = [
    'seed = 0  # of the numbers\nresults = "."  # folder',
    "import time\nimport numpy as np\nimport pandas as pd\nimport matplotlib.pyplot as plt",
    "from micse_utils.provenance import Provenance\n"
    "from micse_utils.results import save_figure, save_table, write_metrics\n"
    "numbers = np.random.default_rng(seed).normal(size=50)\ntime.sleep(0.3)",
    'save_table(results, "numbers", pd.DataFrame({"number": numbers}))\ntime.sleep(0.3)',
    'save_figure(results, "numbers", plt.plot(numbers)[0].figure)\ntime.sleep(0.3)',
    'source = Provenance("numbers", "kit", "this page")\n'
    'headline = f"mean {numbers.mean():.3f}"\n'
    'write_metrics(results, {"mean": numbers.mean()}, headline=headline, model=source,'
    " data=source, seed=seed)\nprint(headline)",
]
FIGURES = ("metrics.json", "numbers.csv", "numbers.png")
NAMES = ("01_first", "02_second")
NOTEBOOKS = run_notebooks.NOTEBOOKS  # the kit's
KIT = [path.stem for path in sorted(NOTEBOOKS.glob("0*.ipynb"))]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with two notebooks that take a few seconds."""
    folder = tmp_path_factory.mktemp("notebooks")
    for name in NAMES:
        cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
        cells[0].metadata["tags"] = ["parameters"]
        cells.insert(0, nbformat.v4.new_markdown_cell("# Numbers\n\n**Time** a moment"))
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


def start(pages, results, *arguments, first="", **variables):
    """Start the runner on these notebooks, after some code of its own."""
    code = f"""
import pathlib, sys
{first}
from tools import run_notebooks
run_notebooks.NOTEBOOKS = pathlib.Path({str(pages)!r})
sys.exit(run_notebooks.main(["--results", {str(results)!r}, *{arguments!r}]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=run_notebooks.ROOT,
        env=os.environ | variables,
    )  # fmt: skip


def finish(process):
    """Wait for the runner, which must succeed; returns what it said."""
    said, complaints = process.communicate()
    assert process.returncode == 0, said + complaints
    return said


def figures(results):
    return {(n, file): (results / n / file).read_bytes() for n in NAMES for file in FIGURES}


@pytest.fixture(scope="module")
def undisturbed(pages, tmp_path_factory):
    """Results of a run to the end."""
    results = tmp_path_factory.mktemp("results")
    assert finish(start(pages, results)).count("mean ") == 2
    return results


@pytest.mark.slow
def test_killed_it_leaves_the_last_figures_and_the_next_call_runs_it_again(
    pages, undisturbed, tmp_path
):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    process = start(pages, tmp_path, "--force")
    while (tmp_path / NAMES[0] / "run.json").exists():
        time.sleep(0.01)
    process.kill()  # its kernel is not told, and ends by itself
    process.communicate()
    assert figures(tmp_path) == figures(undisturbed)
    assert "01_first: running (no finished run yet)" in finish(start(pages, tmp_path))
    assert figures(tmp_path) == figures(undisturbed)


@pytest.mark.slow
def test_two_runners_of_one_folder_wait_for_each_other(pages, undisturbed, tmp_path):
    """As where `make` was killed and called again, while what it had started goes on."""
    both = [start(pages, tmp_path) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    lines = "".join(out for out, _ in said).splitlines()
    assert len([line for line in lines if ": up to date" in line]) == 2
    assert figures(tmp_path) == figures(undisturbed)


def test_a_kernel_that_does_not_come_up_is_one_sentence_and_ends_the_run(
    pages, tmp_path, monkeypatch, capsys
):
    """It dies at once; one that cannot be reached raises the same error after a minute."""
    broken = tmp_path / "broken"
    register(broken / "share", "-c", "exit(1)", "{connection_file}")
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", pages)
    monkeypatch.setattr(sys, "prefix", str(broken))
    with patch.dict(os.environ):
        assert main(["--results", str(tmp_path), *NAMES]) == 1
    said = capsys.readouterr().out
    assert "01_first: FAILED, Kernel died before replying" in said
    assert "make doctor" in said and "02_" not in said


@pytest.fixture
def short(tmp_path_factory):
    """A folder with a notebook that is done at once."""
    folder = tmp_path_factory.mktemp("{short}")
    cells = [nbformat.v4.new_markdown_cell("# Short\n\n**Time** none")]
    for source in (
        'results = "."',
        "import os\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        'print(os.environ["OMP_WAIT_POLICY"])',
        'open(f"{results}/made.txt", "w").write("made")',
    ):
        cells.append(nbformat.v4.new_code_cell(source))
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


def test_settings_and_places_of_the_user_leave_pages_whole(run_short, tmp_path):
    """A backend without pages, a home folder and braces."""
    folder = tmp_path / "of {me}" / "01_short"
    os.environ |= {"OMP_WAIT_POLICY": "ACTIVE", "MPLBACKEND": "agg", "HOME": str(tmp_path)}
    run_short("~/of {me}")
    page = nbformat.read(folder / "01_short.ipynb", as_version=4)
    outputs = [output for cell in page.cells[1:] for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert "ACTIVE\n" in [output.get("text") for output in outputs]  # who set it is obeyed
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert record["files"] == ["01_short.ipynb", "made.txt"]


def test_it_says_why_a_page_is_run_again_and_keeps_what_people_wrote(run_short, short, tmp_path):
    """Lab's autosave changes metadata and outputs; neither makes a page old or edited."""
    folder = tmp_path / "01_short"
    assert "running (no finished run yet)" in run_short(tmp_path)
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    for page in (short / "01_short.ipynb", folder / "01_short.ipynb"):
        notebook = nbformat.read(page, as_version=4)
        notebook.metadata["language_info"] = {"name": "python", "version": "3.99"}
        notebook.cells[-1].outputs = [nbformat.v4.new_output("stream", text="seen in Lab")]
        nbformat.write(notebook, page)
    assert ": up to date" in run_short(tmp_path)
    (folder / "made.txt").unlink()
    assert "running (made.txt is missing)" in run_short(tmp_path)
    os.environ["MICSE_DATA"] = str(tmp_path)
    assert "running (changed: MICSE_ variables)" in run_short(tmp_path)

    notebook = nbformat.read(folder / "01_short.ipynb", as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("My notes"))
    nbformat.write(notebook, folder / "01_short.ipynb")
    annotated = (folder / "01_short.ipynb").read_bytes()
    del os.environ["MICSE_DATA"]
    assert "01_short.ipynb was edited: rename it" in run_short(tmp_path, status=1)
    assert (folder / "01_short.ipynb").read_bytes() == annotated
    assert "running (--force)" in run_short(tmp_path, "--force")
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_a_folder_of_the_user_is_refused_and_unchanged(run_short, tmp_path):
    (tmp_path / "01_short").mkdir()
    (tmp_path / "01_short" / "made.txt").write_text("mine", encoding="utf-8")
    assert '"made.txt" and no marker of the kit' in run_short(tmp_path, status=1)
    assert [path.name for path in (tmp_path / "01_short").iterdir()] == ["made.txt"]


def test_the_section_of_a_running_page_is_printed(tmp_path, monkeypatch, capsys):
    cells = [nbformat.v4.new_markdown_cell("# A\n\n## Train it"), nbformat.v4.new_code_cell("x")]
    cells[1].metadata["papermill"] = {"status": "running"}
    cells.append(nbformat.v4.new_markdown_cell("## Later"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "page.ipynb")
    monkeypatch.setattr(run_notebooks, "REPORT_SECONDS", 0.01)
    ended = threading.Event()
    threading.Timer(0.5, ended.set).start()
    run_notebooks._report("04_training", tmp_path / "page.ipynb", ended)
    assert capsys.readouterr().out.startswith("04_training: 0 min, in 'Train it'")


def test_a_stand_in_for_micse_is_named_at_the_end(tmp_path):
    write_json(tmp_path / "a" / "metrics.json", {"provenance": {"model": {"source": "hub"}}})
    line = partial(run_notebooks._stand_in, tmp_path)
    assert line(["a"], {"a": {}}) is None
    model = {"source": "package", "name": "all-MiniLM-L6-v2"}
    write_json(tmp_path / "b" / "metrics.json", {"provenance": {"model": model}})
    assert line(["b"], {"b": {}}) == (
        "Note: every number above is of all-MiniLM-L6-v2, not miCSE (the hub was unreachable)."
    )
    assert "every number of b is" in line(["a", "b"], {"b": {"source": "package"}})


def test_a_folder_whose_name_is_not_utf8_is_refused_before_a_kernel_starts(tmp_path, capsys):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    for call in (["--results", str(folder)], ["-p", "source", str(folder)]):
        with pytest.raises(SystemExit):
            main([KIT[0], "--results", str(tmp_path / "new"), *call])
        assert "must be UTF-8" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == [folder] and not [*folder.iterdir()]


def register(share, *arguments):
    """Register a kernel that starts Python with these arguments."""
    (spec := share / "jupyter" / "kernels" / "python3").mkdir(parents=True)
    starts = {"argv": [sys.executable, *arguments], **KERNEL}
    (spec / "kernel.json").write_text(json.dumps(starts), encoding="utf-8")


@pytest.fixture
def here(pages, monkeypatch):
    """The runner in this process, on these notebooks."""
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", pages)
    monkeypatch.setattr(run_notebooks, "_use_own_kernel", lambda: None)
    return monkeypatch


@pytest.fixture
def course(tmp_path):
    """A checkout with four pages, which write down when they ran and with how many threads.

    Each ends when a file of results exists.
    """
    for module in ("__init__", "clean_notebooks", "run_notebooks"):
        (tmp_path / "tools").mkdir(exist_ok=True)
        shutil.copy(run_notebooks.ROOT / "tools" / f"{module}.py", tmp_path / "tools")
    (tmp_path / "requirements.lock").write_text("", encoding="utf-8")
    (tmp_path / "notebooks").mkdir()
    source = (
        "import json, os, pathlib, time\n"
        "start, threads = time.time(), os.environ.get('OMP_NUM_THREADS')\n"
        "folder = pathlib.Path(results)\n"
        "(folder / 'begun').touch()\n"
        "while not (folder.parent / awaited).exists() and time.time() < start + 60:\n"
        "    time.sleep(0.05)\n"
        "(folder / 'times.json').write_text(json.dumps([start, time.time(), threads]))"
    )
    for name in (KIT[0], *run_notebooks.TRAINING, *run_notebooks.TIMED):
        cells = [
            nbformat.v4.new_markdown_cell("# Course\n\n**Time** a moment"),
            nbformat.v4.new_code_cell(
                'awaited = "."\nresults = "."', metadata={"tags": ["parameters"]}
            ),
            nbformat.v4.new_code_cell(source),
        ]
        page = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL})
        nbformat.write(page, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def run_course(course, *arguments):
    variables = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "CPU_LIMIT")}
    return subprocess.Popen(
        [sys.executable, "-m", "tools.run_notebooks", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=course, env=variables,
        # Tests that a shell runs in the background inherit that Ctrl-C is ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


small = joblib.cpu_count(only_physical_cores=True) < 2 or psutil.virtual_memory().total < 7e9
two_cores = pytest.mark.skipif(small, reason="needs two cores and 7 GB")


@two_cores
@pytest.mark.slow
def test_training_runs_beside_the_other_pages_and_speed_is_measured_alone(course):
    said, _ = run_course(course, "-p", "awaited", "04_low_shot_training/begun").communicate()
    times = {
        file.parent.name[:2]: json.loads(file.read_text(encoding="utf-8"))
        for file in course.glob("results/*/times.json")
    }
    assert sorted(times) == ["01", "04", "05", "06"], said
    assert times["01"][0] < times["04"][1] and times["04"][0] < times["01"][1]  # at the same time
    assert times["05"][0] > times["04"][1]
    assert times["06"][0] > max(times[page][1] for page in ("01", "04", "05"))
    assert int(times["01"][2]) >= 1 and times["04"][2] is times["06"][2] is None


@two_cores
@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_leaves_no_process_behind(course, sent):
    process = run_course(course, "-p", "awaited", "never")
    end = time.monotonic() + 60
    while len([*course.glob("results/*/begun")]) < 2 and time.monotonic() < end:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3  # two kernels and a second runner
    process.send_signal(sent)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def refuses(name, text, cell):
    try:
        read_parameter(name, text, cell)
    except ValueError as error:
        assert str(error).startswith(f"{name} must ")
        return True


def refusals(**given):
    """Notebooks that refuse one of these parameters, written as on the command line."""
    cells = {name: run_notebooks._parameter_lines(name) for name in KIT}
    return [
        name[:2]
        for name, cell in cells.items()
        for key, text in given.items()
        if key in cell and refuses(key, text, cell[key])
    ]


@pytest.mark.parametrize(
    ("parameter", "text", "refused"),
    [
        ("source", "nowhere", ["01", "02", "03", "04", "05", "06"]),
        ("source", "5", ["01", "02", "03", "04", "05", "06"]),
        ("source", "", ["01", "02", "03", "04", "05", "06"]),
        ("model_name", "None", ["01", "02", "03", "04", "06"]),
        ("max_length", "2", ["01"]),
        ("limit", "many", ["02", "03", "06"]),
        ("limit", "99", ["02", "03", "06"]),
        ("limit", "1e3", ["02", "03", "06"]),
        ("limit", "True", ["02", "03", "06"]),
        ("limit", "auto", ["03", "06"]),
        ("n_neighbors", "0", ["02"]),
        ("seed", "1.5", ["02", "03", "04", "05", "06"]),
        ("seed", "-1", ["02", "03", "04", "05", "06"]),
        ("seed", "4294967296", ["02", "03", "04", "05", "06"]),
        ("seed", "None", ["03", "04", "05", "06"]),
        ("held_out", "0", ["06"]),
        ("same_from", "1.1", ["06"]),
        ("same_from", "True", ["06"]),
        ("size", "32", ["04"]),
        ("size", "True", ["04"]),
        ("steps", "0", ["04"]),
        ("sentence", "", ["04"]),
        ("quick", "true", ["04"]),
        ("whole_steps", "0", ["04"]),
        ("tasks", "STS16", ["05"]),
        ("tasks", "['STS17']", ["05"]),
        ("tasks", "[]", ["05"]),
        ("tasks", "STS16, STS16", ["05"]),
        ("transfer_limit", "few", ["05"]),
        ("transfer_limit", "399", ["05"]),
        ("triplet_count", "99", ["03"]),
    ],
)
def test_an_invalid_parameter_is_rejected(parameter, text, refused):
    assert refusals(**{parameter: text}) == refused


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("source", "hub"),
        ("model_name", "someone/their-model"),
        ("limit", "8_000"),
        ("limit", "None"),
        ("seed", "4294967295"),
        ("size", "1_000"),
        ("steps", "160"),
        ("quick", "True"),
        ("whole_steps", "None"),
        ("tasks", "['STS16', 'kit sample']"),
        ("tasks", "None"),
        ("trained_in", "not/there/yet"),
        ("held_out", "50"),
        ("same_from", "0.85"),
        ("same_from", "1"),
    ],
)
def test_a_valid_parameter_is_accepted(parameter, text):
    assert refusals(**{parameter: text}) == []


@pytest.mark.parametrize("name", KIT)
def test_every_parameter_of_a_notebook_has_a_type_and_a_default_of_it(name):
    lines = run_notebooks._parameter_lines(name)
    assert lines.keys() - PARAMETERS.keys() == {"results"}
    for key, line in lines.items():
        default = ast.literal_eval(line.split("=", 1)[1].strip())
        assert read_parameter(key, str(default), line) == default


def test_a_value_of_several_parts_is_read():
    assert read_parameter("tasks", "'STS12', 'STS16'", "tasks = []") == ["STS12", "STS16"]
    assert read_parameter("whole_steps", "None", "whole_steps = 10  # or None") is None


def test_a_default_with_an_equals_sign_is_still_a_parameter(pages, tmp_path, monkeypatch):
    """Papermill's own reading of the cell drops such a line."""
    notebook = nbformat.read(pages / "01_first.ipynb", as_version=4)
    notebook.cells[1].source = 'seed = 0  # of x = 1\nsentence = "a = b"'
    nbformat.write(notebook, tmp_path / "01_first.ipynb")
    monkeypatch.setattr(run_notebooks, "NOTEBOOKS", tmp_path)
    given = [("sentence", "c = d"), ("seed", "3")]
    values = run_notebooks.read_parameters(["01_first"], given)
    assert values == {"01_first": {"sentence": "c = d", "seed": 3}}


def test_a_folder_is_found_from_the_callers_working_directory(tmp_path, monkeypatch):
    for name in ("mine", "2024", "hub"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    cell = 'source = "auto"'
    for name in ("mine", "2024"):
        assert read_parameter("source", name, cell) == str(tmp_path / name)
    assert read_parameter("model_name", "./mine", cell) == str(tmp_path / "mine")
    assert read_parameter("source", "hub", cell) == "hub"  # the word, not the folder
