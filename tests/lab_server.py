"""JupyterLab as `make lab` starts it, with the settings of nobody and no browser of its own."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
READY = f".venv/ready-{sys.version_info.major}.{sys.version_info.minor}"


@dataclasses.dataclass(frozen=True)
class Lab:
    """A running server.

    Attributes:
        pid, port: of the server.
        url: its address, with a slash at the end.
        token: what it asks for.
        opening: the page that `make lab` hands to the user's browser.
        client: asks the server with its token; paths are relative to `url`.
    """

    pid: int
    port: int
    url: str
    token: str
    opening: Path
    client: httpx.Client


def is_at_hand():
    """Whether this Python is that of the environment that `make lab` starts from."""
    return (ROOT / READY).exists() and (ROOT / ".venv").samefile(sys.prefix)


@contextlib.contextmanager
def running(folder, **environment):
    """Call `make lab` and wait until it answers; settings and run-time files go into a folder.

    Raises:
        RuntimeError: it ended, or did not answer within a minute; with what it said.
    """
    arguments = "--no-browser"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        arguments += " --allow-root"
    outside = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "MAKE", "MFLA"))}
    places = {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_RUNTIME_DIR": str(folder)}
    said = folder / "said.txt"
    with said.open("w") as stream:
        process = subprocess.Popen(
            # The environment is taken as it stands, although a file it is made from be newer.
            ["make", "lab", f"--old-file={READY}", f"ARGS={arguments}"],
            cwd=ROOT,
            env={**outside, **places, **environment},
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield _answering(process, folder, said)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _answering(process, folder, said):
    """The server that `process` started, once it answers."""
    for _ in range(600):
        for record in folder.glob("jpserver-*.json"):
            with contextlib.suppress(httpx.TransportError, json.JSONDecodeError):
                info = json.loads(record.read_text())
                token = {"Authorization": f"token {info['token']}"}
                client = httpx.Client(
                    base_url=info["url"], headers=token, trust_env=False, timeout=30
                )
                client.get("api/status").raise_for_status()
                return Lab(
                    info["pid"],
                    info["port"],
                    info["url"],
                    info["token"],
                    folder / f"jpserver-{info['pid']}-open.html",
                    client,
                )
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"`make lab` did not start:\n{said.read_text()}")
