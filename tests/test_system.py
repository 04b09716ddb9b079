"""Disks without file locks, files that are open elsewhere, consoles of all kinds."""

import errno
import os
import subprocess
import sys

import pytest
from filelock import Timeout

from micse_utils.results import write_json, write_text
from micse_utils.system import hold

fcntl = pytest.importorskip("fcntl", reason="Windows has no flock")


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP])
def no_locks(request, monkeypatch):
    """A disk without file locks, such as some network disks."""

    def flock(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_without_file_locks_a_marker_keeps_others_out(no_locks, tmp_path, capsys):
    lock = tmp_path / "lock"
    for _ in range(2):
        with hold(lock, 0):
            assert str(tmp_path) in capsys.readouterr().out
            with pytest.raises(Timeout):
                hold(lock, 0)
    with hold(lock, 0):
        pass


@pytest.mark.parametrize("times", [2, 9])
def test_replacing_an_open_file_is_retried_and_then_reported(tmp_path, monkeypatch, times):
    """As Windows does while Excel, or for a moment a virus scanner, has the file open."""
    target, left, rename = tmp_path / "table.csv", iter(range(times)), type(tmp_path).replace
    target.write_text("old", encoding="utf-8")

    def replace(*paths):
        if next(left, None) is not None:
            raise PermissionError(13, "Access is denied")
        return rename(*paths)

    monkeypatch.setattr(type(tmp_path), "replace", replace)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    if times == 2:
        write_text(target, "new")
    else:
        with pytest.raises(PermissionError, match=r"table\.csv cannot .*close the file"):
            write_text(target, "new")
    assert target.read_text(encoding="utf-8") == ("new" if times == 2 else "old")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_an_undecodable_name_can_be_kept_in_json(tmp_path):
    write_json(tmp_path / "a.json", {"file": os.fsdecode(b"caf\xe9 \xc3\xa9")})
    assert b"caf\\udce9 \xc3\xa9" in (tmp_path / "a.json").read_bytes()


REFUSED = "micse_utils train no-such-\u00e9.txt --output out"
FINE = "micse_utils --version"


@pytest.mark.parametrize(
    ("call", "status", "streams"),
    [
        (REFUSED, 1, ""),
        pytest.param(REFUSED, 1, ">&- 2>&-", marks=pytest.mark.slow),
        (FINE, 0, ">&-"),
    ],
)
def test_a_console_without_utf8_or_none_at_all_changes_no_exit_status(
    call, status, streams, tmp_path
):
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m {call} {streams}', sys.executable],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status
    assert (done.stdout, [*tmp_path.iterdir()]) == ("", [])
    said = done.stderr.splitlines()
    if call == REFUSED and not streams:
        assert len(said) == 1 and "no-such-\\xe9.txt" in said[0]
    else:
        assert said == []


@pytest.mark.parametrize(("tool", "status"), [("doctor --before", 0), ("run_notebooks 09", 2)])
def test_a_tool_without_a_console_ends_as_with_one(tool, status):
    done = subprocess.run(["sh", "-c", f'"$0" -m tools.{tool} >&- 2>&-', sys.executable])
    assert done.returncode == status
