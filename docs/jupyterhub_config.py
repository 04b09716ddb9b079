"""One installation of the kit for a class on JupyterHub: copy this file, adapt it, start the hub.

How to prepare the server: "JupyterHub" in docs/offline-and-classrooms.md.
"""

import os
import sys

from micse_utils.settings import KIT_DATA

KIT = KIT_DATA.parent  # the shared checkout, whose .venv the hub runs in; students only read it
CACHE = os.environ.get("MICSE_CACHE", "/srv/micse-cache")  # models and data; students only read it

c = get_config()  # noqa: F821  JupyterHub provides it
# Accounts of this server that may log in; or c.PAMAuthenticator.allowed_groups = {"students"}.
c.Authenticator.allowed_users = {"ada", "bob"}
# Passwords of these accounts travel in plain HTTP, so the hub listens on this machine only. Put a
# proxy with TLS in front of it (nginx, Caddy), or let it speak TLS itself, on all interfaces:
# c.JupyterHub.bind_url = "https://:443"
# c.JupyterHub.ssl_key, c.JupyterHub.ssl_cert = "/etc/ssl/private/hub.key", "/etc/ssl/certs/hub.pem"
c.JupyterHub.bind_url = "http://127.0.0.1:8000"
# All students' servers share one origin: a page that one of them shows another can act as that
# other. For students who do not trust each other, give each a host name of its own:
# c.JupyterHub.subdomain_host = "https://hub.example.org"

# The kit computes with as many threads as this allows. JupyterHub's own spawner enforces neither
# limit; this one does: pip install jupyterhub-systemdspawner
# c.JupyterHub.spawner_class = "systemd"
c.Spawner.cpu_limit = 1
c.Spawner.mem_limit = "4G"  # notebook 4 alone, or any other two

c.Spawner.environment = {
    "MICSE_CACHE": CACHE,
    "HF_HUB_CACHE": f"{CACHE}/hub",
    "HF_HUB_OFFLINE": "1",  # everybody computes with what the cache holds
    "MICSE_ENGINE": "auto",  # OpenVINO where pages only encode: quick also beside busy neighbours
    "OMP_WAIT_POLICY": "PASSIVE",  # else kernels that share cores slow each other down many times
    "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's kernel, whatever students installed
}
# The server starts as the student, so that the copies of the notebooks are the student's. Existing
# copies are kept; results go to micse/results beside them.
copy = f"mkdir -p ~/micse && cp -Rn --no-preserve=mode '{KIT}/notebooks' ~/micse"
c.Spawner.cmd = ["sh", "-c", f'{copy}; exec {sys.prefix}/bin/jupyterhub-singleuser "$@"', "sh"]
# An extension that no notebook needs, and that takes memory and seconds of each server.
c.Spawner.args = ["--ServerApp.jpserver_extensions=panel.io.jupyter_server_extension=False"]
c.Spawner.default_url = "/lab/tree/micse/notebooks/01_similarity.ipynb"
c.Spawner.http_timeout = 120  # seconds that a server may take to start while thirty others do
