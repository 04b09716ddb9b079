"""One query and bulk encoding beside busy processes, and in four processes at once."""

import contextlib
import multiprocessing
import time
from collections.abc import Iterator

import torch
from compare import interleaved, speed_rows, workloads
from encoding import ENGINE, LIBRARY, OURS

from micse_utils.encoding import encode
from micse_utils.models import load_model

BUSY, ROUNDS = 4, 15
TEXTS = 1200  # that each of several processes encodes


def measure(options) -> list[dict]:
    """A query while four processes compute; then four processes that all encode."""
    model, fast = load_model(source="package"), load_model(source="package", engine="openvino")
    query = workloads()["tweets"][:1]
    variants = {
        LIBRARY: lambda: model.encode(query, show_progress_bar=False),
        OURS: lambda: encode(model, query),
        ENGINE: lambda: encode(fast, query),
    }
    with _busy(BUSY):
        seconds = interleaved(variants, max(ROUNDS, options.rounds))
    rows = speed_rows(f"a query beside {BUSY} busy processes", seconds, LIBRARY, {ENGINE: ">= 4"})
    together = {}
    for name, engine in {OURS: "torch", ENGINE: "openvino"}.items():
        for processes in (1, BUSY):
            with multiprocessing.get_context("spawn").Pool(processes) as pool:
                texts = options.texts or TEXTS
                found = pool.map(_encode, [(engine, texts)] * processes, chunksize=1)
            together[f"{name}, {processes} at once"] = max(found)
    return rows + speed_rows(
        f"{options.texts or TEXTS} tweets in each process", together, f"{OURS}, {BUSY} at once", {}
    )


def _encode(work: tuple[str, int]) -> float:
    """Return the seconds of one call; the model is loaded and warm before."""
    model = load_model(source="package", engine=work[0])
    texts = workloads(work[1])["tweets"]
    encode(model, texts[:100], progress=False)
    start = time.perf_counter()
    encode(model, texts, progress=False)
    return time.perf_counter() - start


@contextlib.contextmanager
def _busy(processes: int) -> Iterator[None]:
    """Keep so many processes multiplying matrices, each with one thread."""
    workers = [
        multiprocessing.get_context("spawn").Process(target=_multiply, daemon=True)
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    time.sleep(20)  # until all have imported PyTorch
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()


def _multiply() -> None:
    torch.set_num_threads(1)
    matrix = torch.ones(512, 512)
    while True:
        matrix @ matrix
