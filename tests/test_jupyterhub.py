"""A class on one server: users of a JupyterHub with the configuration that teachers copy.

Needs JupyterHub (`pip install -e ".[hub]"`) and its proxy (`npm install -g
configurable-http-proxy`).
"""

import shutil

import jupyterhub_server
import psutil
import pytest

from micse_utils.settings import cache_folder

pytestmark = pytest.mark.slow
PAGE = "micse/notebooks/01_similarity.ipynb"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    pytest.importorskip("jupyterhub", reason='needs JupyterHub: pip install -e ".[hub]"')
    if not shutil.which("configurable-http-proxy"):
        pytest.skip("needs the proxy: npm install -g configurable-http-proxy")
    folder = tmp_path_factory.mktemp("hub")
    with jupyterhub_server.running(folder, MICSE_CACHE=str(cache_folder())) as hub:
        yield hub


def test_each_student_gets_a_copy_a_shared_cache_and_limits(hub):
    user = hub.log_in("ada")
    assert user.get(f"contents/{PAGE}?content=0").json()["writable"]
    kernel = user.post("kernels", json={"name": "python3", "path": "micse"}).json()["id"]
    [process] = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(f"kernel-{kernel}.json" in word for word in process.info["cmdline"] or ())
    ]
    environment = process.environ()
    assert environment["MICSE_CACHE"] == str(cache_folder())
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert float(environment["CPU_LIMIT"]) == 1
    assert process.cwd() == str(hub.homes / "ada" / "micse")


def test_a_changed_copy_of_a_notebook_survives_the_next_login(hub):
    hub.log_in("bob")
    copy = hub.homes / "bob" / PAGE
    copy.write_text("changed", encoding="utf-8")
    copy.with_name("02_tweet_clustering.ipynb").unlink()
    hub.log_out("bob")
    user = hub.log_in("bob")
    assert user.get(f"contents/{PAGE}?type=file").json()["content"] == "changed"
    assert copy.with_name("02_tweet_clustering.ipynb").is_file()


def test_who_is_not_named_is_not_let_in_and_only_this_machine_is_answered(hub):
    """Named in the configuration are ada and bob; cem has a password all the same."""
    allowed = {name: hub.accepts(name) for name in ("ada", "cem")}
    assert allowed == {"ada": True, "cem": False}
    text = jupyterhub_server.CONFIGURATION.read_text(encoding="utf-8")
    assert '\nc.JupyterHub.bind_url = "http://127.0.0.1:8000"\n' in text
