"""The doctor, on this machine and on ones where something is amiss."""

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
from tools.doctor import Fault, hide

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # refuses every connection


def consult(*options, run=("-m", "tools.doctor"), **variables):
    """Run the doctor in a process of its own; returns its status and its lines."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MICSE_")}
    done = subprocess.run(
        [sys.executable, *options, *run],
        cwd=ROOT,
        env={**environment, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        encoding="utf-8",
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout.splitlines()


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


@pytest.mark.slow
def test_without_a_network_it_says_what_is_missing_and_names_nobody(alice, tmp_path):
    status, lines = consult(**alice, HF_ENDPOINT=NOBODY)
    assert (status, lines.pop()) == (1, "1 problem found.")
    [fault] = [line for line in lines if line[0] == "✗"]
    assert all(line[0] == "✓" for line in lines if line != fault)
    assert f"cannot fetch {', '.join(MANIFEST)}: " in fault
    assert "cache ~/cache lacks " in fault and f"hub {NOBODY}: " in fault
    text = "\n".join(lines)
    assert "MICSE_CACHE=~/cache, MICSE_DATA=~/data" in text
    assert not re.search("alice|liddell|secret", text)
    assert str(tmp_path) not in text


def test_with_a_hub_only_what_the_hub_does_not_have_is_missing(alice):
    sources = "from tools import doctor; doctor.CHECKS = (doctor.sources,); doctor.main([])"
    with serving() as hub:
        _, lines = consult(run=("-c", sources), **alice, HF_ENDPOINT=hub.url)
    [fault] = [line for line in lines if line[0] == "✗"]
    assert f"hub {hub.url}: answers" in fault
    assert "cannot fetch judgments, tweets, snippets: " in fault


@pytest.mark.parametrize(("encoding", "cross"), [("utf-8", "✗ "), ("ascii", "\\u2717 ")])
def test_an_environment_without_any_package_is_reported_line_by_line(encoding, cross):
    status, lines = consult("-S", PYTHONIOENCODING=encoding)
    assert (status, lines.pop()) == (1, "6 problems found.")
    faults = [line for line in lines if line.startswith(cross)]
    assert len(faults) == 6  # memory and variables are read without any package
    assert any("device: ModuleNotFoundError: No module named 'torch'" in f for f in faults)
    assert all(line.endswith(" -m pip install -r requirements.lock -e .") for line in faults)


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 15, 0)])
def test_a_python_that_is_too_old_or_too_new_is_a_fault(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(Fault, match=r"PYTHON=python3\.12"):
        doctor.python()


def test_too_little_memory_is_a_fault(monkeypatch):
    monkeypatch.setenv("MEM_LIMIT", str(10**9))
    with pytest.raises(Fault, match=r"limited to 1\.0 GB"):
        doctor.memory()
    monkeypatch.setenv("MEM_LIMIT", str(3 * 10**9))
    assert "3.0 GB, too little for notebooks 4 and 5" in doctor.memory()
    monkeypatch.setenv("MEM_LIMIT", "")
    monkeypatch.setattr("micse_utils.settings.SYSTEM", Path("/nowhere"))
    assert doctor.memory() == "memory: no limit"


def test_what_is_compiled_is_kept_where_only_temporary_folders_can_be_written(tmp_path):
    """Numba finds a folder by writing into it; UMAP's functions are cached as this one is."""
    (tmp_path / "temporary").mkdir()
    (tmp_path / "like_umap.py").write_text(
        "import numba\n@numba.njit(cache=True)\ndef one(): return 1\n", encoding="utf-8"
    )
    code = (
        "import os, tempfile; from tools import doctor; real = tempfile.TemporaryFile\n"
        "def refuse(*rest, dir=None, **more):\n"
        "    if dir and not str(dir).startswith(tempfile.gettempdir()): raise OSError(30, 'no')\n"
        "    return real(*rest, dir=dir, **more)\n"
        "tempfile.TemporaryFile = refuse; print(doctor.compiler())\n"
        "import numba, like_umap; like_umap.one(); assert os.listdir(numba.config.CACHE_DIR)"
    )
    variables = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    variables["PYTHONPATH"] = f"{ROOT}{os.pathsep}{tmp_path}"
    variables.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no folder for what it compiles" in done.stdout


def test_packages_out_of_range_are_a_fault_and_those_not_as_locked_are_named(tmp_path, monkeypatch):
    assert doctor.packages() == "packages: all as in requirements.lock"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lock += "\npytest==0.1\nnot-there-at-all==1.0\nelsewhere==1 ; sys_platform == 'none'\n"
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    (tmp_path / "requirements.lock").write_text(lock, encoding="utf-8")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    found = doctor.packages()
    assert re.search(r"pytest [\d.]+ \(==0.1\), not-there-at-all is missing", found)
    assert "elsewhere" not in found

    project = project.replace('"numpy>=2,<3"', '"numpy>=9"')
    (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
    with pytest.raises(Fault, match=r"numpy [\d.]+ \(>=9\); .* pip install"):
        doctor.packages()


def test_a_device_that_is_not_there_is_a_fault(monkeypatch):
    monkeypatch.setenv("MICSE_DEVICE", "cpu")
    assert doctor.device().startswith("device cpu, ")
    monkeypatch.setenv("MICSE_DEVICE", "cuda:99")
    with pytest.raises(Fault, match="MICSE_DEVICE=cuda:99"):
        doctor.device()


@pytest.mark.slow
def test_a_torchvision_for_another_torch_is_a_fault_with_a_way_out(tmp_path):
    (tmp_path / "torchvision-0.1.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.1\n"
    (tmp_path / "torchvision-0.1.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        'raise RuntimeError("operator torchvision::nms does not exist")', encoding="utf-8"
    )
    code = "from tools import doctor; doctor.CHECKS = (doctor.device,); doctor.main([])"
    variables = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, encoding="utf-8"
    )
    assert "pip uninstall torchvision" in done.stdout, done.stdout + done.stderr


def test_variables_that_lead_nowhere_are_a_fault_and_unknown_ones_are_named(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MICSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MICSE_SENTEVAL", str(tmp_path))
    monkeypatch.setenv("MICSE_CHACHE", str(tmp_path))
    found = doctor.variables()
    assert f"MICSE_SENTEVAL={tmp_path}; MICSE_CHACHE unknown" in found
    monkeypatch.setenv("MICSE_DATA", str(tmp_path / "none"))
    with pytest.raises(Fault, match=f"MICSE_DATA={tmp_path / 'none'}"):
        doctor.variables()


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("micse_utils.sources.hub.hub_problem", lambda: "no network")
    monkeypatch.setattr("micse_utils.sources.packaged.index_problem", lambda: "no network")
    return monkeypatch


@pytest.mark.parametrize("holds_all", [True, False])
def test_a_cache_that_cannot_be_written_is_a_fault_if_something_is_still_to_come(
    offline, tmp_path, holds_all
):
    offline.setattr("micse_utils.sources.packaged.is_cached", lambda name: holds_all)
    (tmp_path / "file").touch()
    offline.setenv("MICSE_CACHE", str(tmp_path / "file" / "cache"))
    if holds_all:
        assert "cannot be written" in doctor.sources()
    else:
        with pytest.raises(Fault, match=r"cannot be written .*MICSE_CACHE"):
            doctor.sources()


def test_a_full_disk_is_a_fault_if_something_is_still_to_come(offline, tmp_path):
    offline.setattr(doctor, "LEAST_FREE", 1e18)
    offline.setenv("MICSE_CACHE", str(tmp_path / "not" / "yet"))
    with pytest.raises(Fault, match=r"GB left; make room"):
        doctor.sources()


def test_a_kit_of_a_different_folder_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    doctor.kit()
    monkeypatch.setattr(doctor, "ROOT", tmp_path)  # where the folder is now
    with pytest.raises(Fault, match="pip install"):
        doctor.kit()


def kernel_of(folder, *program):
    place = folder / "kernels" / "python3"
    place.mkdir(parents=True)
    spec = {"argv": [*program, "{connection_file}"], "display_name": "mine", "language": "python"}
    (place / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def test_a_foreign_kernel_of_the_same_name_is_reported(tmp_path, monkeypatch):
    kernel_of(tmp_path / "foreign", "/opt/other/bin/python")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "foreign"))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert "different environment's kernel" in doctor.kernel()
    kernel_of(tmp_path / "own" / "share" / "jupyter", "/opt/other/bin/python")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "own"))
    with pytest.raises(Fault, match="different Python"):
        doctor.kernel()


def test_a_kernel_that_does_not_answer_is_a_fault(tmp_path, monkeypatch):
    kernel_of(tmp_path / "share" / "jupyter", sys.executable, "-c", "exit(1)")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    with pytest.raises(Fault, match="Kernel died before replying"):
        doctor.kernel()


def test_a_port_that_is_taken_is_not_a_fault():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.listen()
        assert f"port {port} is not available" in doctor.lab(port)
    assert doctor.lab(port).endswith(f"port {port} is free")


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
    for name in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    for home in ("/", "~"):  # "~": nobody knows
        monkeypatch.setattr("os.path.expanduser", lambda path, home=home: home)
        assert hide("cache /data/micse ~ x") == "cache /data/micse ~ x"


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
    assert doctor.main(["--before"]) == 1
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1e9))
    assert "apt install python3-venv" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "find_spec", lambda name: name)
    assert doctor.main(["--before"]) == 1
    assert "1.0 GB free, the packages take 3" in capsys.readouterr().out


def test_make_says_that_the_environment_is_missing_or_broken(tmp_path):
    venv = tmp_path / "venv"
    failed, said = make_doctor(venv)
    assert not failed  # nothing hinders its being made
    assert said.endswith(f"There is no environment in {venv} yet: make run creates it.\n")
    assert "✓ this Python can make an environment" in said  # and what else it takes
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(tmp_path / "uninstalled")
    failed, said = make_doctor(venv)
    assert failed and said.startswith(f"The environment in {venv} is broken")
