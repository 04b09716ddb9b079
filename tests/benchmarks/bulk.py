"""Bulk encoding on Ray against `encode` in one process with all cores; its growth and memory."""

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import ray
from sentence_transformers import SentenceTransformer

from micse_utils.cluster import Recipe, encode_files, shares
from micse_utils.datasets.tables import open_source
from micse_utils.datasets.texts import load_sentences
from micse_utils.encoding import encode
from micse_utils.models import load_model

ROWS = (50_000, 100_000, 200_000)


def measure(options) -> list[dict]:
    """Rows a second of whole calls, once each, for they are long; the rows that came out."""
    model = load_model(source="package")
    sentences = load_sentences(source="package").texts
    sizes = [rows for rows in ROWS if rows <= (options.texts or rows)] or [options.texts]
    texts = [sentences[n % len(sentences)] for n in range(sizes[-1])]
    encode(model, texts[:3_000], progress=False)  # warm up
    speeds = [_alone(model, texts[: sizes[0]])]
    recipe = Recipe("auto", "package", model.provenance)
    rows = []
    for count, kill in [*((size, False) for size in sizes), (sizes[-1], True)]:
        ours = {"include_dashboard": False, "log_to_driver": False}
        with TemporaryDirectory() as folder, ray.init(**ours):
            file, output = Path(folder) / "in.parquet", Path(folder) / "out"
            table = pa.table({"id": range(count), "text": texts[:count]})
            pa.parquet.write_table(table, file)
            if kill:
                blocks = count // recipe.block_rows
                threading.Thread(target=_kill_a_worker, args=(output, max(1, blocks // 2))).start()
            start = time.perf_counter()
            workers, cpus, _ = shares()
            encode_files(open_source(file, "text"), output, recipe)
            rate = count / (time.perf_counter() - start)
            ids = pa.dataset.dataset(output, format="parquet").to_table(columns=["id"])["id"]
        what = "on Ray, a worker killed" if kill else f"on Ray, {workers} of {cpus} cores"
        note = f"{len(ids.unique()):,} distinct ids of {len(ids):,}"
        rows.append((what, count, rate, note))
    speeds.append(_alone(model, texts[: sizes[0]]))  # the machine may have changed its mind
    alone = ("encode, one process", sizes[0], sum(speeds) / len(speeds), "before and after")
    return [_row(*row, alone[2]) for row in (alone, *rows)]


def _alone(model: SentenceTransformer, texts: list[str]) -> float:
    start = time.perf_counter()
    encode(model, texts, progress=False)
    return len(texts) / (time.perf_counter() - start)


def _kill_a_worker(output: Path, blocks: int) -> None:
    """Kill one worker when so many blocks stand."""
    while len(list(output.glob("*.parquet"))) < blocks:
        time.sleep(0.05)
    workers = [p for p in psutil.process_iter(["name"]) if "Worker" in (p.info["name"] or "")]
    workers[0].kill()


def _row(variant: str, count: int, rate: float, note: str, alone: float) -> dict:
    return {
        "item": f"bulk encoding, {count:,} rows",
        "variant": variant,
        "value": round(rate, 1),
        "unit": "rows/s",
        "baseline": "encode, one process",
        "ratio": round(rate / alone, 3),
        "wanted": "0.85" if variant.startswith("on Ray,") else "",
        "seconds": round(count / rate, 2),
        "note": note,
    }
