"""The doctor, on this machine and on ones where something is amiss."""

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import serving

from micse_utils.sources.packaged import MANIFEST
from tools import doctor
from tools.doctor import BAD, GOOD, NOTE, hide

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # refuses every connection


def consult(*options, **variables):
    """Run the doctor in a process of its own; returns its status and its lines."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MICSE_")}
    done = subprocess.run(
        [sys.executable, *options, "-m", "tools.doctor"],
        cwd=ROOT,
        env={**environment, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": "", **variables},
        capture_output=True,
        encoding="utf-8",
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.splitlines()


def marks(findings):
    return [mark for mark, _ in findings]


@pytest.fixture
def alice(tmp_path):
    """Variables of a user with a name, a home folder and an index that refuses her."""
    home = tmp_path / "home" / "alice-liddell"
    (home / "data").mkdir(parents=True)
    return {
        **dict.fromkeys(("USER", "LOGNAME", "LNAME", "USERNAME"), home.name),
        **dict.fromkeys(("HOME", "USERPROFILE"), str(home)),
        "MICSE_DATA": str(home / "data"),
        "MICSE_CACHE": str(home / "cache"),
        "HF_HUB_OFFLINE": "0",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_INDEX_URL": NOBODY.replace("//", f"//{home.name}:secret@"),
    }


def test_without_a_network_it_says_what_is_missing_and_names_nobody(alice, tmp_path):
    status, lines = consult(**alice, HF_ENDPOINT=NOBODY)
    assert status == 1
    assert lines.pop() == "To be mended: 1, see above."
    assert all(line[0] in GOOD + BAD + NOTE for line in lines)
    [index] = [line for line in lines if line[0] == BAD]
    assert index.startswith("✗ package index: 127.0.0.1: connection error: ")
    assert f"; {', '.join(MANIFEST)} cannot be fetched; set pip up for a proxy" in index
    text = "\n".join(lines)
    assert "✓ MICSE_DATA=~/data, MICSE_CACHE=~/cache" in text
    assert "✓ cache ~/cache: holds nothing yet; " in text
    assert f"· hub: {NOBODY} could not be reached: " in text
    assert not re.search("alice|liddell|secret", text)
    assert str(tmp_path) not in text


def test_with_a_hub_only_what_the_hub_does_not_have_is_missing(alice):
    with serving() as hub:
        _, lines = consult(**alice, HF_ENDPOINT=hub.url)
    assert any(line.startswith(f"✓ hub: {hub.url} answers; ") for line in lines)
    [index] = [line for line in lines if line[0] == BAD]
    assert "; judgments, tweets, snippets cannot be fetched; " in index


@pytest.mark.parametrize(("encoding", "cross"), [("utf-8", "✗ "), ("ascii", "NO ")])
def test_an_environment_without_any_package_is_told_line_by_line(encoding, cross):
    status, lines = consult("-S", PYTHONIOENCODING=encoding)
    assert status == 1
    broken = [line for line in lines if line.startswith(cross)]
    assert len(broken) == 5  # the variables are read without any package
    assert any(
        "device: ModuleNotFoundError: No module named 'torch'; mend it by: " in b for b in broken
    )
    assert all(line.endswith(" -m pip install -r requirements.lock -e .") for line in broken)
    assert lines[-1] == "To be mended: 5, see above."


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 15, 0)])
def test_a_python_that_is_too_old_or_too_new_is_a_cross(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    [(mark, text)] = doctor.python()
    assert mark == BAD and "PYTHON=python3.12 make run" in text


def test_packages_out_of_range_hinder_and_others_than_the_locked_are_noted(tmp_path, monkeypatch):
    assert marks(doctor.packages()) == [GOOD]
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    with (tmp_path / "requirements.lock").open("a", encoding="utf-8") as lock:
        lock.write("\npytest==0.1\nnot-there-at-all==1.0\nelsewhere==1 ; sys_platform == 'none'\n")
    (_, stands), (mark, text) = doctor.packages()
    assert "requirements.lock" not in stands
    assert mark == NOTE and re.search(r"pytest [\d.]+ \(==0.1\), not-there-at-all is missing", text)
    assert "elsewhere" not in text

    project = (
        (tmp_path / "pyproject.toml")
        .read_text(encoding="utf-8")
        .replace('"numpy>=2,<3"', '"numpy>=9"')
    )
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    [(mark, text)] = doctor.packages()
    assert mark == BAD and re.match(r"packages: numpy [\d.]+ \(>=9\); mend it by: ", text)


def test_a_device_that_is_not_there_is_a_cross(monkeypatch):
    monkeypatch.setenv("MICSE_DEVICE", "cpu")
    [(mark, text)] = doctor.device()
    assert mark == GOOD and text.startswith("device cpu by MICSE_DEVICE, ")
    monkeypatch.setenv("MICSE_DEVICE", "cuda:99")
    [(mark, text)] = doctor.device()
    assert mark == BAD and "try cpu, or unset it" in text


def test_variables_that_lead_nowhere_are_crosses_and_unknown_ones_are_noted(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MICSE_")]:
        monkeypatch.delenv(name)
    assert marks(doctor.variables()) == [GOOD]
    monkeypatch.setenv("MICSE_DATA", str(tmp_path / "none"))
    assert marks(doctor.variables()) == [BAD]
    monkeypatch.setenv("MICSE_SENTEVAL", str(tmp_path))
    monkeypatch.setenv("MICSE_CHACHE", str(tmp_path))
    (bad, reason), (good, stands), (note, unknown) = doctor.variables()
    assert (bad, good, note) == (BAD, GOOD, NOTE)
    assert reason.startswith(f"MICSE_DATA={tmp_path / 'none'} is not a folder")
    assert stands == f"MICSE_SENTEVAL={tmp_path}"
    assert unknown.startswith("MICSE_CHACHE: no setting of the kit; there are MICSE_DATA, ")


@pytest.mark.parametrize(("needed", "mark"), [(True, BAD), (False, NOTE)])
def test_a_cache_that_cannot_be_written_hinders_where_something_is_still_to_come(
    tmp_path, needed, mark
):
    assert doctor._disk(tmp_path / "not" / "yet", "holds nothing yet", needed)[0] == GOOD
    (tmp_path / "file").touch()
    found, text = doctor._disk(tmp_path / "file" / "cache", "holds nothing yet", needed)
    assert found == mark
    assert re.search("cannot be written .*set MICSE_CACHE to another folder", text)


def test_a_full_disk_hinders_where_something_is_still_to_come(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_FREE", 1e18)
    mark, text = doctor._disk(tmp_path, "holds nothing yet", True)
    assert mark == BAD and "GB free; make room, or set MICSE_CACHE" in text


def test_a_kit_of_another_folder_hinders(tmp_path, monkeypatch):
    assert marks(doctor.kit()) == [GOOD]
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(doctor, "ROOT", tmp_path)  # where the folder is now
    [(mark, text)] = doctor.kit()
    assert mark == BAD and "not that of this folder; mend it by" in text


def kernel_of(folder, *program):
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True)
    spec = {"argv": [*program, "{connection_file}"], "display_name": "mine", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def test_another_kernel_of_the_same_name_is_told(tmp_path, monkeypatch):
    kernel_of(tmp_path / "foreign", "/opt/other/bin/python")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "foreign"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert marks(doctor.kernel()) == [GOOD, NOTE]
    kernel_of(tmp_path / "own" / "share" / "jupyter", "/opt/other/bin/python")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    assert marks(doctor.kernel()) == [BAD]


def test_a_kernel_that_does_not_answer_hinders(tmp_path, monkeypatch):
    kernel_of(tmp_path / "share" / "jupyter", sys.executable, "-c", "exit(1)")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    [(mark, text)] = doctor.kernel()
    assert mark == BAD and "kernel python3: Kernel died before replying" in text


def test_a_port_that_is_taken_is_only_a_note():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        (_, stands), (mark, text) = doctor.lab(port)
        assert stands.startswith("JupyterLab 4.")
        assert mark == NOTE and text.startswith(f"port {port} cannot be had")
    [(mark, text)] = doctor.lab(port)
    assert mark == GOOD and text.endswith(f"port {port} is free")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("cache /people/alice/.cache/micse: x", "cache ~/.cache/micse: x"),
        ("in /people/alice.", "in ~."),
        ("/people/alicent/x", "/people/alicent/x"),
        ("/scratch/alice/kit", "/scratch/…/kit"),
        ("/scratch/alice-tmp", "/scratch/…-tmp"),
        ("no right for alice", "no right for …"),
        ("https://alice:word@mirror.local/x", "https://mirror.local/x"),
    ],
)
def test_neither_name_nor_home_nor_password_is_printed(monkeypatch, text, hidden):
    monkeypatch.setenv("HOME", "/people/alice")
    monkeypatch.setenv("LOGNAME", "alice")
    assert hide(text) == hidden


def test_a_container_without_users_or_home_is_no_trouble(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(getpass, "getuser", nobody)
    monkeypatch.setenv("HOME", "/")
    assert hide("cache /data/micse") == "cache /data/micse"
    monkeypatch.setattr(Path, "home", homeless)
    assert hide("cache /data/micse") == "cache /data/micse"


def make_doctor(environment):
    done = subprocess.run(
        ["make", "--no-print-directory", "doctor", f"VENV={environment}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    return done.returncode != 0, done.stdout


def test_before_there_is_an_environment_its_needs_are_checked(monkeypatch, capsys):
    assert doctor.main(["--before"]) == 0
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "ensurepip" else name)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1e9))
    assert doctor.main(["--before"]) == 1
    said = capsys.readouterr().out
    assert "apt install python3-venv" in said
    assert "1.0 GB free; the packages take 3" in said


def test_make_says_that_the_environment_is_missing_or_broken(tmp_path):
    venv = tmp_path / "venv"
    failed, said = make_doctor(venv)
    assert not failed  # nothing hinders its being made
    assert said.endswith(f"There is no environment in {venv} yet: make run makes it.\n")
    assert "✓ this Python can make an environment" in said  # and what else it takes
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "uninstalled")
    failed, said = make_doctor(venv)
    assert failed and said.startswith(f"The environment in {venv} is broken")
