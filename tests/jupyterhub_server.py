"""A JupyterHub as teachers configure it, but for users without accounts and passwords."""

import contextlib
import dataclasses
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import websocket

CONFIGURATION = Path(__file__).parents[1] / "docs" / "jupyterhub_config.py"
# JupyterHub's own stand-ins for tests: they ask for no password and need no account.
STAND_INS = """
load_subconfig({configuration!r})
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {homes!r} + "/{{username}}"
c.Spawner.args.extend({arguments!r})
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}"
c.JupyterHub.hub_port = {ports[1]}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.JupyterHub.services = [{{"name": "teacher", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [{{"name": "admin", "services": ["teacher"]}}]
"""


@dataclasses.dataclass(frozen=True)
class Hub:
    """A running hub.

    Attributes:
        url: of the proxy, without a slash at the end.
        homes: folder of the users' home folders.
        client: asks the hub's API as a service that may start everybody's server.
    """

    url: str
    homes: Path
    client: httpx.Client

    def log_in(self, name):
        """Start a user's server; a client of its API, with the user's own token."""
        self.client.post(f"users/{name}")  # 409 if there is one already
        self.client.post(f"users/{name}/server").raise_for_status()
        self._wait_for_server(name, running=True)
        token = self.client.post(f"users/{name}/tokens").raise_for_status().json()["token"]
        return httpx.Client(
            base_url=f"{self.url}/user/{name}/api/",
            headers={"Authorization": f"token {token}"},
            trust_env=False,
            timeout=60,
        )

    def log_out(self, name):
        """Stop a user's server."""
        self.client.delete(f"users/{name}/server").raise_for_status()
        self._wait_for_server(name, running=False)

    def _wait_for_server(self, name, *, running):
        for _ in range(1200):
            user = self.client.get(f"users/{name}").raise_for_status().json()
            if not user["pending"] and bool(user["server"]) == running:
                return
            time.sleep(0.1)
        raise TimeoutError(f"the server of {name} neither starts nor stops: see the hub's log")


@contextlib.contextmanager
def running(folder, command=(sys.executable, "-m", "jupyterhub"), **environment):
    """Start a hub in an empty folder and wait until it answers.

    Raises:
        RuntimeError: it ended, or did not answer within a minute; with its log.
    """
    token, homes, log = secrets.token_hex(), folder / "homes", folder / "log.txt"
    ports = _free_ports(3)
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    text = STAND_INS.format(
        configuration=str(CONFIGURATION),
        arguments=["--allow-root"] if is_root else [],
        homes=str(homes),
        ports=ports,
        token=token,
    )
    (folder / "config.py").write_text(text, encoding="utf-8")
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, "-f", "config.py"],
            cwd=folder,
            env={k: v for k, v in os.environ.items() if "JUPYTER" not in k} | environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # a shell that runs the tests in the background would stop it
        )
    url = f"http://127.0.0.1:{ports[0]}"
    client = httpx.Client(
        base_url=f"{url}/hub/api/",
        headers={"Authorization": f"token {token}"},
        trust_env=False,
        timeout=60,
    )
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                client.get("users").raise_for_status()
                break
            if process.poll() is not None:
                raise RuntimeError(f"JupyterHub ended:\n{log.read_text()}")
            time.sleep(0.1)
        yield Hub(url, homes, client)
    finally:
        process.terminate()  # it stops the users' servers and the proxy
        process.wait(60)


def run_page(user, path, **parameters):
    """Run a notebook as JupyterLab does: in the folder where it is, cell by cell.

    Args:
        user: what `Hub.log_in` returned.
        path: of the notebook, from the user's home folder.
        parameters: replace those of the parameters cell.

    Returns:
        The kernel's id (it still runs), and the text that the cells printed.

    Raises:
        RuntimeError: a cell failed.
    """
    notebook = user.get(f"contents/{path}").raise_for_status().json()["content"]
    session = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    kernel = user.post("sessions", json=session).raise_for_status().json()["kernel"]["id"]
    channel = websocket.create_connection(
        str(user.base_url.copy_with(scheme="ws")) + f"kernels/{kernel}/channels",
        header=[f"Authorization: {user.headers['Authorization']}"],
        timeout=1200,
        http_no_proxy=["127.0.0.1"],
    )
    printed = []
    with contextlib.closing(channel):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                printed.append(_run(channel, "".join(cell["source"])))
                if "parameters" in cell["metadata"].get("tags", []):
                    _run(channel, "\n".join(f"{k} = {v!r}" for k, v in parameters.items()))
    return kernel, "".join(printed)


def _run(channel, code):
    """Run code in a kernel; what it printed."""
    asked = uuid.uuid4().hex
    header = {"msg_id": asked, "msg_type": "execute_request", "session": "s", "username": "u"}
    content = {"code": code, "silent": False, "store_history": True, "stop_on_error": True}
    message = {"header": header | {"version": "5.3"}, "parent_header": {}, "metadata": {}}
    channel.send(json.dumps(message | {"content": content, "channel": "shell"}))
    printed = ""
    while True:
        answer = json.loads(channel.recv())
        if answer["parent_header"].get("msg_id") != asked:
            continue
        content = answer["content"]
        match answer["msg_type"]:
            case "stream":
                printed += content["text"]
            case "error":
                raise RuntimeError(f"{content['ename']}: {content['evalue']}\nin:\n{code}")
            case "status" if content["execution_state"] == "idle":
                return printed


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
