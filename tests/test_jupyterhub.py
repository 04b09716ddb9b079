"""A class on one server: two users of a JupyterHub with the configuration that teachers copy.

Needs JupyterHub (`pip install -e ".[hub]"`) and its proxy (`npm install -g
configurable-http-proxy`).
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import jupyterhub_server
import psutil
import pytest

from micse_utils.settings import cache_folder

pytestmark = pytest.mark.slow
USERS = ("ada", "bob")
PAGE = "micse/notebooks/01_similarity.ipynb"


@pytest.fixture(scope="module")
def hub(tmp_path_factory, encoder):
    pytest.importorskip("jupyterhub", reason='needs JupyterHub: pip install -e ".[hub]"')
    if not shutil.which("configurable-http-proxy"):
        pytest.skip("needs the proxy: npm install -g configurable-http-proxy")
    folder = tmp_path_factory.mktemp("hub")
    with jupyterhub_server.running(folder, MICSE_CACHE=str(cache_folder())) as hub:
        yield hub


def written(folder):
    """When each file of a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_two_users_run_a_page_at_once_and_write_to_their_homes_only(hub):
    shared = [cache_folder(), jupyterhub_server.CONFIGURATION.parents[1] / "notebooks"]
    before = [written(folder) for folder in shared]

    def run(name):
        user = hub.log_in(name)
        kernel, printed = jupyterhub_server.run_page(user, PAGE, source="package")
        return process_of(kernel), printed

    with ThreadPoolExecutor() as pool:
        ran = list(pool.map(run, USERS))

    assert [written(folder) for folder in shared] == before
    for name, (kernel, printed) in zip(USERS, ran, strict=True):
        results = hub.homes / name / "micse" / "results" / "01_similarity"
        assert json.loads((results / "metrics.json").read_text())["figures"]
        assert (results / "similarity.png").stat().st_size > 10_000
        assert "on cpu, 1 threads" in printed  # by CPU_LIMIT
        assert weights_of_its_own(kernel) == 0


def test_a_changed_copy_of_a_notebook_survives_the_next_login(hub):
    user = hub.log_in("cem")
    copy = hub.homes / "cem" / PAGE
    copy.write_text("changed", encoding="utf-8")
    copy.with_name("02_tweet_clustering.ipynb").unlink()
    hub.log_out("cem")
    user = hub.log_in("cem")
    assert user.get(f"contents/{PAGE}?type=file").json()["content"] == "changed"
    assert copy.with_name("02_tweet_clustering.ipynb").is_file()


def process_of(kernel):
    """The process of a kernel."""
    for process in psutil.process_iter(["cmdline"]):
        if any(f"kernel-{kernel}.json" in word for word in process.info["cmdline"] or ()):
            return process
    raise LookupError(kernel)


def weights_of_its_own(process):
    """Bytes of the model's weights that a process does not share with others that load them."""
    maps = process.memory_maps(grouped=False)
    weights = [each for each in maps if each.path.endswith("model.safetensors")]
    assert sum(each.rss for each in weights) > 80e6
    return sum(each.private_dirty for each in weights)
