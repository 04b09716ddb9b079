"""UMAP with the model card's parameters, on more texts than the tweets that the package carries.

The card's approximate search of neighbours against exact ones that are computed first, with the
layout repeatable (one core) or not (all of them); and whether the map is as trustworthy.
"""

import itertools
import warnings
from functools import partial

import numpy as np
from compare import interleaved, pool, speed_rows
from sklearn.manifold import trustworthiness
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from micse_utils.encoding import encode
from micse_utils.models import load_model

NEIGHBOURS = 250
COMPILING = 5_000
"""Texts of a first round, not reported, in which numba compiles; fewer take another path."""


def measure(options) -> list[dict]:
    """12,000 texts and all there are, each variant once, for they are long."""
    warnings.filterwarnings("ignore", module="numba|umap|sklearn")
    texts = pool()
    vectors = normalize(encode(load_model(source="package"), texts, progress=False))
    random = np.random.default_rng(0)
    rows = []
    sizes = [min(size, len(texts)) for size in options.map_sizes]
    for size in [COMPILING, *sizes]:
        points = vectors[np.sort(random.permutation(len(vectors))[:size])]
        maps = {}
        calls = {}
        for kind, seed in itertools.product(("approximate", "exact"), (0, None)):
            name = f"{kind}, {'not ' if seed is None else ''}seeded"
            calls[name] = partial(_keep, maps, name, points, kind == "exact", seed)
        seconds = interleaved(calls, 1, warm_up=False)
        if size == COMPILING:
            continue
        sample = random.permutation(size)[:3000]
        for row in speed_rows(f"UMAP of {size:,} texts", seconds, "approximate, seeded", {}):
            drawn = maps[row["variant"]][sample]
            trust = trustworthiness(points[sample], drawn, n_neighbors=15, metric="cosine")
            rows.append(row | {"note": f"trustworthiness {trust:.3f}"})
    return rows


def _keep(
    maps: dict[str, np.ndarray], name: str, points: np.ndarray, exact: bool, seed: int | None
) -> None:
    """Draw the map, [n, 2], and keep it under its name."""
    import umap  # compiles for seconds

    neighbours = (None, None, None)
    if exact:
        search = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="sqeuclidean").fit(points)
        squares, indices = search.kneighbors(points)
        squares[squares < 1e-6] = 0  # to itself; UMAP would take the rounding error for a distance
        neighbours = (indices, (squares / 2).astype(np.float32))
    mapper = umap.UMAP(
        n_neighbors=NEIGHBOURS, min_dist=1e-9, metric="cosine", angular_rp_forest=True,
        low_memory=True, precomputed_knn=neighbours, random_state=seed,
        n_jobs=1 if seed is not None else -1,
    )  # fmt: skip
    maps[name] = mapper.fit_transform(points)
