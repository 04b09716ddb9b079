"""A JupyterHub as teachers configure it, but for users without accounts and passwords."""

import contextlib
import dataclasses
import os
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

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

    def accepts(self, name):
        """Whether a user of this name may log in on the hub's page."""
        with httpx.Client(base_url=self.url, trust_env=False, timeout=60) as browser:
            browser.get("/hub/login")
            form = {"username": name, "password": "x", "_xsrf": browser.cookies["_xsrf"]}
            return browser.post("/hub/login", data=form).status_code == 302

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
        RuntimeError: it ended, or did not answer within five minutes; with its log.
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
        for _ in range(3000):
            with contextlib.suppress(httpx.HTTPError):
                client.get("users").raise_for_status()
                break
            if process.poll() is not None:
                raise RuntimeError(f"JupyterHub ended:\n{log.read_text()}")
            time.sleep(0.1)
        else:
            raise RuntimeError(f"JupyterHub does not answer:\n{log.read_text()}")
        yield Hub(url, homes, client)
    finally:
        process.terminate()  # it stops the users' servers and the proxy
        process.wait(60)


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
