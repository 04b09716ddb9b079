"""Exact search and an HNSW index, as the vectors grow beyond what notebook 6 has.

Texts of all kinds, and of Wikipedia also pieces that begin anywhere. Queries are some of the texts,
kept out of the index. Recall is that of the ten nearest.
"""

import random
from functools import partial

import numpy as np
from compare import interleaved, pool, speed_rows
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits
from usearch.index import Index

from micse_utils.datasets.texts import load_sentences
from micse_utils.encoding import encode
from micse_utils.explore import nearest
from micse_utils.models import load_model

SIZES = (15_000, 125_000)
QUERIES = 200


def measure(options) -> list[dict]:
    """Seconds of the same queries, one at a time and in a batch, with 64 candidates."""
    sizes = sorted({min(size, options.texts or size) for size in SIZES})
    texts = _texts(max(sizes) + QUERIES)
    vectors = normalize(encode(load_model(source="package"), texts, progress=False))
    order = np.random.default_rng(0).permutation(len(vectors))
    queries, vectors = vectors[order[:QUERIES]], vectors[order[QUERIES:]]
    rows = []
    for size in sizes:
        part = vectors[:size]
        right = nearest(queries, part)
        searches = {"exact": (partial(nearest, vectors=part), queries)}
        notes = {"exact": "recall 1"}
        for name, dtype, given in (
            ("index, float32", "f32", np.asarray),
            ("index, float16", "f16", np.asarray),
            ("index, int8", "i8", _to_int8),
        ):
            index = Index(ndim=part.shape[1], dtype=dtype, connectivity=16, expansion_add=128)
            index.add(np.arange(size), given(part), threads=1)
            searches[name] = (partial(index.search, count=10), given(queries))
            shared = (right[:, :, None] == index.search(given(queries), 10).keys[:, None]).any(2)
            notes[name] = f"recall {shared.mean():.3f}"
        for way, call in (("one at a time", _one_by_one), ("in one batch", _together)):
            calls = {name: partial(call, *search) for name, search in searches.items()}
            seconds = interleaved(calls, options.rounds)
            item = f"{QUERIES} queries in {size:,} vectors, {way}"
            rows += [
                row | {"note": notes[row["variant"]]}
                for row in speed_rows(item, seconds, "exact", {})
            ]
    return rows


def _texts(count: int) -> list[str]:
    """Distinct texts: all there are, and pieces of 8 to 18 words."""
    texts = dict.fromkeys(pool())
    words = " ".join(load_sentences("package").texts).split()
    draw = random.Random(0)
    while len(texts) < count:
        start = draw.randrange(len(words) - 18)
        texts[" ".join(words[start : start + draw.randint(8, 18)])] = None
    return list(texts)[-count:]


def _to_int8(vectors: np.ndarray) -> np.ndarray:
    return np.round(127 * vectors / np.abs(vectors).max(axis=1, keepdims=True)).astype(np.int8)


def _one_by_one(search, queries: np.ndarray) -> None:
    with threadpool_limits(1):  # the index takes one core for one query anyway
        for query in queries:
            search(query[None])


def _together(search, queries: np.ndarray) -> None:
    search(queries)
