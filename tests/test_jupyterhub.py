"""The configuration that teachers copy: what it says, and what it does as a student logs in."""

import os
import subprocess
from pathlib import Path

from traitlets.config import Config

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "jupyterhub_config.py"


def configuration():
    config = Config()
    exec(FILE.read_text(encoding="utf-8"), {"get_config": lambda: config})
    return config


def test_only_named_students_of_this_machine_are_let_in_and_share_a_cache(monkeypatch):
    monkeypatch.setenv("MICSE_CACHE", "/srv/shared")
    config = configuration()
    assert config.Authenticator == {"allowed_users": {"ada", "bob"}}
    assert config.JupyterHub.bind_url == "http://127.0.0.1:8000"
    assert config.Spawner.environment["MICSE_CACHE"] == "/srv/shared"
    assert config.Spawner.environment["HF_HUB_OFFLINE"] == "1" and config.Spawner.cpu_limit == 1


def test_a_login_copies_the_notebooks_and_keeps_changed_copies(tmp_path):
    """The command as it is, up to JupyterHub's own program, which is not in this environment."""
    shell, option, command, _ = configuration().Spawner.cmd
    copies = tmp_path / "micse" / "notebooks"
    for changed in ("first login", "second login"):
        subprocess.run([shell, option, command], env={**os.environ, "HOME": str(tmp_path)})
        assert copies.joinpath("02_tweet_clustering.ipynb").is_file(), changed
        copies.joinpath("01_similarity.ipynb").write_text("changed", encoding="utf-8")
        copies.joinpath("02_tweet_clustering.ipynb").unlink()
    subprocess.run([shell, option, command], env={**os.environ, "HOME": str(tmp_path)})
    assert copies.joinpath("01_similarity.ipynb").read_text(encoding="utf-8") == "changed"
    assert os.access(copies / "02_tweet_clustering.ipynb", os.W_OK)
