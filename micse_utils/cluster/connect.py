"""Connect to Ray, on a laptop or a cluster, and divide its cores and GPUs among workers.

Needs the extra: pip install -e '.[cluster]'. Without an address Ray starts here and ends with the
work; with one, the kit must be installed on the cluster's machines, too.
"""

import contextlib
import copy
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import ray

from micse_utils.device import allowed_cores, pick_device
from micse_utils.training.grid import GridRun, Trainer

CPUS = 8
"""CPU cores of a worker, if a machine has as many: batches are too small to keep more busy."""


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[None]:
    """Connect to a Ray cluster for the duration of the block; without an address, start one here.

    Raises:
        ConnectionError: there is no cluster at that address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its notes are no user's business
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # GPUs stay as they are
    options = {} if address else {"include_dashboard": False, "num_cpus": allowed_cores()}
    if address not in (None, "auto"):
        _check_address(address)
    try:
        with _suppress_stderr():
            ray.init(address or "local", log_to_driver=False, logging_level="ERROR", **options)
    except ConnectionError as error:
        raise ConnectionError(
            f"{error}; if it asks for a token, set RAY_AUTH_MODE=token (`ray get-auth-token`)"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ConnectionError if nobody listens at an address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"there is no Ray cluster at {address} ({error}); say the address that `ray start` "
            "printed on its head, such as 10.0.0.1:6379"
        ) from None


@contextlib.contextmanager
def _suppress_stderr() -> Iterator[None]:
    """Discard what C++ code writes to stderr; exceptions are still raised."""
    console = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(console, 2)
        os.close(console)


def shares(workers: int | None = None) -> tuple[int, float, float]:
    """Return the number of workers, and the CPUs and GPUs of each, for the connected cluster.

    By default a worker for each GPU; without any, one for every `CPUS` cores of a machine.
    """
    cpus = [int(c) for c, _ in _machines()]
    gpus = int(sum(g for _, g in _machines()))
    count = workers or gpus or sum(max(1, n // CPUS) for n in cpus if n)
    return count, max(1, min(sum(cpus) // count, max(cpus))), 1 if gpus >= count else 0


def check_room(cpus: float, gpus: float) -> None:
    """Raise ValueError if no machine of the cluster is large enough: Ray would wait for one."""
    if not any(cpus <= c and gpus <= g for c, g in _machines()):
        there = ", ".join(f"{c:g} and {g:g}" for c, g in _machines())
        raise ValueError(
            f"a run of {cpus:g} CPU cores and {gpus:g} GPUs fits no machine; there are {there}"
        )


def _machines() -> list[tuple[float, float]]:
    """Return the CPU cores and GPUs of each machine of the connected cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(resources.get("CPU", 0), resources.get("GPU", 0)) for resources in alive]


def on_ray(cpus: float, gpus: float = 0) -> Callable[..., Iterator[tuple[GridRun, dict]]]:
    """Return what makes `train_grid` run its trainings as Ray tasks, as many at a time as fit.

    A run that fails, by whatever accident, is kept with its error and made again next time; the
    others go on. Their folder is to be on a disk that all machines see, or else a run that is cut
    off begins anew.

    Args:
        cpus, gpus: what each run needs.
    """

    def train_here(train: Trainer, run: GridRun, model: object, *shared: object) -> dict:
        return train(run, copy.deepcopy(model).to(pick_device()), *shared)

    def each(
        train: Trainer, runs: list[GridRun], *shared: object
    ) -> Iterator[tuple[GridRun, dict[str, object]]]:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=1)(train_here)
        there = [ray.put(item) for item in shared]
        pending = {task.remote(train, run, *there): run for run in runs}
        while pending:
            (ready,), _ = ray.wait(list(pending))
            run = pending.pop(ready)
            try:
                yield run, ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                reason = str(cause).strip().splitlines()[0]
                yield run, {"error": f"{type(cause).__name__}: {reason}", "settings": None}

    return each
