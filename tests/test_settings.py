import os
import subprocess
import sys

import pytest

from micse_utils.settings import folder_setting


def test_a_data_folder_that_is_none_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("MICSE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match="nowhere is not a folder"):
        folder_setting("MICSE_DATA")


REFUSED = "micse_utils train no-such-\u00e9.txt --output out"
FINE = "micse_utils --version"


@pytest.mark.parametrize(("call", "status", "streams"), [(REFUSED, 1, ""), (FINE, 0, ">&-")])
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
