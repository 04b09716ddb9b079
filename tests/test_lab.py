"""The server that `make lab` starts: where it listens, whom it lets in, what its kernel is."""

import json
import re
from pathlib import Path

import httpx
import psutil


def test_lab_listens_on_loopback_only(lab):
    listening = [c for c in psutil.Process(lab.pid).net_connections() if c.status == "LISTEN"]
    assert lab.port in {connection.laddr.port for connection in listening}
    assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1"}


def test_a_busy_port_makes_lab_take_another_one(lab):
    """Jupyter's usual port is held by the test session, or by somebody else."""
    assert lab.port != 8888


def test_lab_asks_for_its_token(lab):
    with httpx.Client(base_url=lab.url, trust_env=False) as stranger:
        assert stranger.get("api/contents").status_code == 403
        assert stranger.get("api/contents?token=guess").status_code == 403
        turned_away = stranger.get("lab")
        assert (turned_away.status_code, turned_away.next_request.url.path) == (302, "/login")
        assert stranger.get(f"lab?token={lab.token}").status_code == 200


def test_lab_neither_offers_news_nor_looks_for_updates(lab):
    """It would ask on the first page, and a room without internet has nothing to answer with."""
    page = lab.client.get("lab").text
    config = re.search(r'<script id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)
    disabled = json.loads(config[1])["disabledExtensions"]
    assert "@jupyterlab/apputils-extension:announcements" in disabled


def test_lab_opens_the_first_notebook_in_the_checkout(lab):
    assert f"{lab.url}lab/tree/notebooks/01_similarity.ipynb?token=" in lab.opening.read_text()
    listed = lab.client.get("api/contents/notebooks").json()["content"]
    assert "notebooks/01_similarity.ipynb" in [entry["path"] for entry in listed]


def test_the_kernel_runs_in_the_environment_whatever_the_user_installed(lab):
    """The user has a kernel of the same name, which does not even start."""
    specs = lab.client.get("api/kernelspecs").json()
    assert specs["default"] == "python3"
    assert "ipykernel_launcher" in specs["kernelspecs"]["python3"]["spec"]["argv"]

    kernel = lab.client.post("api/kernels", json={"name": "python3"}).json()["id"]
    children = psutil.Process(lab.pid).children()
    alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    commands = [process.cmdline() for process in alive]
    [command] = [c for c in commands if any(f"kernel-{kernel}.json" in word for word in c)]
    lab.client.delete(f"api/kernels/{kernel}").raise_for_status()
    environment = Path(command[0]).parents[1]
    assert environment.samefile(Path(__file__).parents[1] / ".venv")
