import os
import subprocess
import sys

import pytest

from micse_utils.settings import folder_setting


def test_a_data_folder_that_is_none_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("MICSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        folder_setting("MICSE_DATA")


def test_a_console_without_utf8_shows_what_is_wrong(tmp_path):
    call = [sys.executable, "-m", "micse_utils", "train", "no-such-\u00e9.txt", "--output", "out"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(call, env=ascii_only, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, [*tmp_path.iterdir()]) == (1, "", [])
    [said] = done.stderr.splitlines()
    assert "no-such-\\xe9.txt" in said
