"""Neighbour graph, PageRank and spectral vectors of 100,000 x 64 points, beside scikit-learn, igraph and SciPy.

All work on the same graph, in one run. Ours run as MPI jobs of 1 and 2 ranks, reading and starting included; the
others have the graph in memory already. `make bench NAME=graph`; `--rows 3000` for a try.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import measuring
import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.nouns import Record, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.solvers.graph import Graph
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.reference import REFERENCE
from penstock.solvers.spectral import Spectral

DIM, K, CLUSTERS, TURNS = 64, 10, 6, 2


def points(rows: int) -> np.ndarray:
    random = np.random.default_rng(7)
    centers = 2 * random.standard_normal((CLUSTERS, DIM))
    return (centers[np.arange(rows) % CLUSTERS] + random.standard_normal((rows, DIM))).astype(np.float32)


def publish(root: Path, neighbour: np.ndarray, similarity: np.ndarray) -> pa.Table:
    """The graph as a dataset, and the reference to it."""
    columns = {"neighbour": tensor_column(neighbour), "similarity": tensor_column(similarity)}
    table, sink = pa.table({"row": np.arange(len(neighbour)), **columns}), Hdf5(str(root))
    unit = Unit.of("memory", "1", 0, len(neighbour))
    provenance = {"fingerprint": "bench", "schema": table.schema.serialize().to_pybytes().hex()}
    manifest = sink.commit(lambda: iter([(unit, Record(unit.key, sink.write(unit, table)))]), provenance)
    row = [[manifest.uri], [manifest.version], [manifest.rows], [manifest.sha256]]
    return pa.table([pa.array(*column) for column in zip(row, REFERENCE.types, strict=True)], schema=REFERENCE)


def solve(stage: Graph | Spectral, reference: pa.Table) -> pa.Table:
    with stage.open() as transform:
        return transform(reference)


def nearest_ways(x: np.ndarray) -> dict:
    from sklearn.neighbors import NearestNeighbors

    def theirs() -> None:
        NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute", n_jobs=2).fit(x).kneighbors()

    exact, hnsw = Neighbours(k=K, method="exact"), Neighbours(k=K, method="hnsw")
    return {
        "neighbours exact": lambda: measuring.seconds(lambda: exact.nearest(x)),
        "neighbours hnsw": lambda: measuring.seconds(lambda: hnsw.nearest(x)),
        "scikit-learn brute": lambda: measuring.seconds(theirs),
    }


def symmetric(neighbour: np.ndarray, similarity: np.ndarray):
    """The same graph for the others."""
    from scipy import sparse

    rows, k = neighbour.shape
    weights = similarity.ravel().clip(0).astype(np.float64)
    one_way = sparse.csr_matrix((weights, (np.repeat(np.arange(rows), k), neighbour.ravel())), (rows, rows))
    return ((one_way + one_way.T) / 2).tocsr()


def graph_ways(reference: pa.Table, matrix, found: dict) -> dict:
    import igraph
    from scipy import sparse

    half = sparse.triu(matrix).tocoo()
    graph = igraph.Graph(n=matrix.shape[0], edges=np.stack([half.row, half.col], axis=1))
    weights = half.data.tolist()

    def ours(tasks: int) -> None:
        found["ours"] = to_numpy(solve(Graph(cluster=Local(tasks=tasks)), reference)["pagerank"])

    def theirs() -> None:
        found["igraph"] = np.array(graph.pagerank(weights=weights, damping=0.85))
        graph.connected_components()
        graph.community_label_propagation(weights=weights)

    return {
        "graph stage, 1 rank": lambda: measuring.seconds(lambda: ours(1)),
        "graph stage, 2 ranks": lambda: measuring.seconds(lambda: ours(2)),
        "igraph: pagerank, components, label propagation": lambda: measuring.seconds(theirs),
    }


def spectral_ways(reference: pa.Table, matrix, found: dict) -> dict:
    from sklearn.manifold import spectral_embedding

    def ours(tasks: int) -> None:
        stage = Spectral(clusters=CLUSTERS, max_clusters=CLUSTERS, cluster=Local(tasks=tasks))
        found["eigenvalues"] = to_numpy(solve(stage, reference)["eigenvalues"])[0].tolist()

    def theirs() -> None:
        spectral_embedding(matrix, n_components=CLUSTERS, drop_first=False, random_state=0)

    return {
        "spectral stage, 1 rank": lambda: measuring.seconds(lambda: ours(1)),
        "spectral stage, 2 ranks": lambda: measuring.seconds(lambda: ours(2)),
        "scikit-learn spectral_embedding (arpack)": lambda: measuring.seconds(theirs),
    }


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--neighbour-rows", type=int, default=20_000, help="all pairs grow with the square")
    options = arguments.parse_args()
    near = points(min(options.rows, options.neighbour_rows))
    nearest = measuring.turns(nearest_ways(near), TURNS)
    stage = Neighbours(k=K)
    neighbour, similarity = stage.nearest(points(options.rows))
    matrix, found = symmetric(neighbour, similarity), {}
    with tempfile.TemporaryDirectory() as name:
        reference = publish(Path(name) / "graph", neighbour, similarity)
        graph = measuring.turns(graph_ways(reference, matrix, found), TURNS)
        spectral = measuring.turns(spectral_ways(reference, matrix, found), TURNS)
    difference = np.abs(found["ours"] - found["igraph"]).max() / found["igraph"].max()
    result = {
        "rows": options.rows,
        "dim": DIM,
        "k": K,
        "edges": int(matrix.nnz // 2),
        "turns": TURNS,
        "neighbours_rows": len(near),
        "neighbours_seconds": {way: measuring.spread(seconds) for way, seconds in nearest.items()},
        "graph_seconds": {way: measuring.spread(seconds) for way, seconds in graph.items()},
        "spectral_seconds": {way: measuring.spread(seconds) for way, seconds in spectral.items()},
        "pagerank_largest_difference_over_largest_rank": float(difference),
        "smallest_eigenvalues": found["eigenvalues"],
    }
    measuring.write("graph", result)


if __name__ == "__main__":
    main()
