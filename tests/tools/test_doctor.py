"""The doctor, on this machine and on ones where something is amiss."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from micse_utils.sources.packaged import MANIFEST
from tools import doctor
from tools.doctor import Fault, hide

ROOT = Path(__file__).parents[2]
NOBODY = "http://127.0.0.1:9"  # refuses every connection


def consult(*options, code="from tools import doctor; doctor.main()", **variables):
    """Run the doctor in a process of its own; returns its lines."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MICSE_")}
    done = subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=ROOT,
        env={**environment, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        encoding="utf-8",
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout.splitlines()


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
    *lines, summary = consult(**alice, HF_ENDPOINT=NOBODY)
    assert summary == "1 problem found."
    [fault] = [line for line in lines if line[0] == "✗"]
    assert all(line[0] == "✓" for line in lines if line != fault)
    assert f"cannot fetch {', '.join(MANIFEST)} (" in fault
    text = "\n".join(lines)
    assert f"model: all-MiniLM-L6-v2 in place of miCSE, as {NOBODY} could not" in text
    assert "MICSE_CACHE=~/cache, MICSE_DATA=~/data" in text
    assert not re.search("alice|liddell|secret", text)
    assert str(tmp_path) not in text


@pytest.mark.parametrize(("encoding", "cross"), [("utf-8", "✗ "), ("ascii", "\\u2717 ")])
def test_an_environment_without_any_package_is_reported_line_by_line(encoding, cross):
    *lines, summary = consult("-S", PYTHONIOENCODING=encoding)
    assert summary == "5 problems found."
    faults = [line for line in lines if line.startswith(cross)]
    assert len(faults) == 5  # python, memory, kit and variables need no package
    assert all(" -m pip install -r requirements.lock -e ." in line for line in faults)


def test_too_little_memory_is_a_fault(monkeypatch):
    monkeypatch.setenv("MEM_LIMIT", str(10**9))
    with pytest.raises(Fault, match=r"limited to 1\.0 GB"):
        doctor.memory()
    monkeypatch.setenv("MEM_LIMIT", str(3 * 10**9))
    assert "3.0 GB, too little for notebooks 4 and 5" in doctor.memory()
    monkeypatch.setenv("MEM_LIMIT", "")
    monkeypatch.setattr("micse_utils.settings.SYSTEM", Path("/nowhere"))
    assert doctor.memory() == "memory: no limit"


def test_missing_packages_are_a_fault_and_those_not_as_locked_are_named(tmp_path, monkeypatch):
    assert doctor.packages() == "packages: all as in requirements.lock"
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lock += "\npytest==0.1\nelsewhere==1 ; sys_platform == 'none'\n"
    (tmp_path / "requirements.lock").write_text(lock, encoding="utf-8")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    found = doctor.packages()
    assert re.search(r"lock: pytest==0.1 \(here [\d.]+\); repair it", found)
    assert "elsewhere" not in found
    (tmp_path / "requirements.lock").write_text(f"{lock}not-there==1.0\n", encoding="utf-8")
    with pytest.raises(Fault, match=r"not-there missing; .* pip install"):
        doctor.packages()


def test_a_setting_that_leads_nowhere_is_a_fault_and_unknown_ones_are_named(
    tmp_path, monkeypatch, capsys
):
    for name in [name for name in os.environ if name.startswith("MICSE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MICSE_SENTEVAL", str(tmp_path))
    monkeypatch.setenv("MICSE_CHACHE", str(tmp_path))
    assert f"MICSE_SENTEVAL={tmp_path}; MICSE_CHACHE unknown" in doctor.variables()
    monkeypatch.setenv("MICSE_DATA", str(tmp_path / "none"))
    monkeypatch.setenv("MICSE_DEVICE", "cuda:99")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MICSE_CACHE", str(tmp_path / "file" / "cache"))
    assert doctor.main([doctor.device, doctor.variables, doctor.cache]) == 1
    device, variables, cache, summary = capsys.readouterr().out.splitlines()
    assert device.startswith("✗ device: MICSE_DEVICE=cuda:99 cannot be used here")
    assert "MICSE_DATA=" in variables and "is not a folder; name one" in variables
    assert cache.startswith("✗ cache: ") and "file is not a folder" in cache
    assert summary == "3 problems found."


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("cache /people/alice/.cache/micse: x", "cache ~/.cache/micse: x"),
        ("/people/alicent/x", "/people/alicent/x"),
        ("/scratch/alice/kit", "/scratch/…/kit"),
        ("https://alice:word@mirror.local/x", "https://mirror.local/x"),
    ],
)
def test_neither_name_nor_home_nor_password_is_printed(monkeypatch, text, hidden):
    monkeypatch.setenv("HOME", "/people/alice")
    monkeypatch.setenv("LOGNAME", "alice")
    assert hide(text) == hidden
