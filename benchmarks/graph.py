"""Neighbour graph, PageRank and spectral vectors of 20,000 x 64 points, beside scikit-learn, igraph and SciPy.

All work on the same graph, in one run. The points are six clouds that overlap, so that the graph is connected, as
graphs of embeddings mostly are, and its eigenvalues lie apart. Ours run as MPI jobs of 1 and 2 ranks, reading and
starting included; PageRank, components, communities and eigenvectors are also timed by themselves, inside the ranks.
The others have the graph in memory already. For eigenvectors these are LOBPCG of scikit-learn and SciPy, and SciPy's
Lanczos, which like ours only multiply; on a smaller graph also scikit-learn's default (ARPACK), which factorises the
Laplacian. All are held against each other.
`make bench NAME=graph`; `--rows 3000` for a try.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import measuring
import numpy as np
import pyarrow as pa

from penstock.clusters.local import _LAUNCHER, Local
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.nouns import Record, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.solvers.graph import Graph
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.reference import REFERENCE
from penstock.solvers.spectral import Spectral

DIM, K, CLUSTERS, TURNS = 64, 10, 6, 3
APART = 0.5
"""Standard deviation of the clouds' centres, where that of their points is 1: a tenth of the edges joins two clouds."""
TOLERANCE = 1e-9
DAMPING = 0.85

RANK = """
import json, sys
from mpi4py import MPI
from penstock.solvers.programs import graph as program, spectral
from penstock.solvers.programs.rows import own_rows

comm, told, started = MPI.COMM_WORLD, json.load(open(sys.argv[1])), MPI.Wtime()

def tell(**said):
    if comm.rank == 0:
        print(json.dumps(said), flush=True)

reference, count = told["reference"], told["count"]
config = spectral.Config(**reference, ranks=comm.size, clusters=count, max_clusters=count, seed=0, result="")
matrix, root = spectral.adjacency(config, comm)
found = own_rows(comm, reference, ["neighbour", "similarity"])
graph = program.Graph.of(found["neighbour"], found["similarity"], 0.0, reference["rows"], comm)
tell(reading=MPI.Wtime() - started)
ways = {
    "pagerank": lambda: program.pagerank(graph, told["damping"]),
    "components": lambda: program.components(graph),
    "eigenvectors": lambda: spectral.eigenpairs(matrix, root, config, comm),
    "communities": lambda: program.communities(graph),
}
for name, way in ways.items():
    comm.Barrier()
    started = MPI.Wtime()
    way()
    comm.Barrier()
    tell(**{name: MPI.Wtime() - started})
"""


def points(rows: int) -> np.ndarray:
    random = np.random.default_rng(7)
    centers = APART * random.standard_normal((CLUSTERS, DIM))
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


def timed(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, dict[str, float]]:
    found = measuring.turns({name: lambda way=way: measuring.seconds(way) for name, way in ways.items()}, turns)
    return {name: measuring.spread(seconds) for name, seconds in found.items()}


# --- neighbours ------------------------------------------------------------------------------------------


def nearest_ways(x: np.ndarray) -> dict[str, Callable[[], object]]:
    from sklearn.neighbors import NearestNeighbors

    exact, hnsw = Neighbours(k=K, method="exact"), Neighbours(k=K, method="hnsw")
    theirs = NearestNeighbors(n_neighbors=K, metric="cosine", algorithm="brute", n_jobs=2)
    return {
        "neighbours exact": lambda: exact.nearest(x),
        "neighbours hnsw": lambda: hnsw.nearest(x),
        "scikit-learn brute": lambda: theirs.fit(x).kneighbors(),
    }


def symmetric(neighbour: np.ndarray, similarity: np.ndarray):
    """The same graph for the others."""
    from scipy import sparse

    rows, k = neighbour.shape
    weights = similarity.ravel().clip(0).astype(np.float64)
    one_way = sparse.csr_matrix((weights, (np.repeat(np.arange(rows), k), neighbour.ravel())), (rows, rows))
    matrix = ((one_way + one_way.T) / 2).tocsr()
    matrix.eliminate_zeros()
    return matrix


# --- PageRank, components, communities --------------------------------------------------------------------


def igraph_of(matrix):
    import igraph
    from scipy import sparse

    half = sparse.triu(matrix).tocoo()
    return igraph.Graph(n=matrix.shape[0], edges=np.stack([half.row, half.col], axis=1)), half.data.tolist()


def igraph_ways(graph, weights: list[float], found: dict) -> dict[str, Callable[[], object]]:
    def pagerank() -> None:
        found["igraph"] = np.array(graph.pagerank(weights=weights, damping=DAMPING))

    return {
        "pagerank": pagerank,
        "components": graph.connected_components,
        "communities": lambda: graph.community_label_propagation(weights=weights),
    }


def graph_ways(reference: pa.Table, theirs: dict, found: dict) -> dict[str, Callable[[], object]]:
    def ours(tasks: int) -> None:
        found["pagerank"] = to_numpy(solve(Graph(cluster=Local(tasks=tasks)), reference)["pagerank"])

    return {
        "graph stage, 1 rank": lambda: ours(1),
        "graph stage, 2 ranks": lambda: ours(2),
        "igraph: pagerank, components, label propagation": lambda: [way() for way in theirs.values()],
    }


def in_ranks(folder: Path, reference: pa.Table, tasks: int, limit_seconds: int = 600) -> dict[str, float]:
    """Seconds of each algorithm inside an MPI program that has the graph; of those that end within the limit."""
    (folder / "rank.py").write_text(RANK)
    told = {"reference": reference.to_pylist()[0], "damping": DAMPING, "count": CLUSTERS}
    (folder / "told.json").write_text(json.dumps(told))
    launcher = str(Path(sys.executable).with_name("mpiexec"))
    command = ["timeout", "-k", "10", str(limit_seconds), launcher, "-n", str(tasks), sys.executable, "-m", "mpi4py"]
    command += [str(folder / "rank.py"), str(folder / "told.json")]
    env = {**_LAUNCHER, **os.environ, "OMP_NUM_THREADS": "1"}  # as a job has it: a rank is a core
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
    found = {name: value for line in done.stdout.splitlines() for name, value in json.loads(line).items()}
    if done.returncode not in (0, 124, 137):
        raise SystemExit(f"the ranks ended with status {done.returncode}")
    return found


def alone(folder: Path, reference: pa.Table, theirs: dict, turns: int) -> dict[str, dict[str, dict[str, float]]]:
    """Each algorithm without start and reading, ours inside the ranks."""
    found: dict[str, list[dict[str, float]]] = {"penstock, 1 rank": [], "penstock, 2 ranks": [], "igraph": []}
    for _ in range(turns):
        found["penstock, 1 rank"].append(in_ranks(folder, reference, 1))
        found["penstock, 2 ranks"].append(in_ranks(folder, reference, 2))
        found["igraph"].append({name: measuring.seconds(way) for name, way in theirs.items()})
    return {
        name: {way: measuring.spread([turn[name] for turn in each]) for way, each in found.items() if name in each[0]}
        for name in found["penstock, 1 rank"][0]
    }


# --- eigenvectors ----------------------------------------------------------------------------------------


def normalised(matrix):
    """``D^-1/2 W D^-1/2``, and the square roots of D."""
    from scipy import sparse

    root = np.sqrt(np.asarray(matrix.sum(axis=1)).ravel())
    scale = sparse.diags(1 / root)
    return (scale @ matrix @ scale).tocsr(), root


def spectral_ways(
    reference: pa.Table, matrix, count: int, found: dict, factorised: bool = False
) -> dict[str, Callable[[], object]]:
    """Ours finds one pair more than *count*, to see the next gap, and makes clusters; so the others find as many."""
    from scipy.sparse.linalg import eigsh, lobpcg
    from sklearn.manifold import spectral_embedding

    one, root = normalised(matrix)
    start = np.random.default_rng(0).standard_normal((len(root), count + 1))

    def ours(tasks: int) -> None:
        stage = Spectral(clusters=count, max_clusters=count, cluster=Local(tasks=tasks))
        table = solve(stage, reference)
        found["penstock"] = to_numpy(table["eigenvalues"])[0], to_numpy(table["coordinates"])

    def embedding(solver: str) -> None:
        options = {"drop_first": False, "random_state": 0, "eigen_solver": solver}
        vectors = spectral_embedding(matrix, n_components=count + 1, **options) * root[:, None]
        vectors = vectors / np.linalg.norm(vectors, axis=0)
        found[f"scikit-learn {solver}"] = 1 - np.sum(vectors * (one @ vectors), axis=0), vectors

    def lanczos() -> None:
        values, vectors = eigsh(one, k=count + 1, which="LA", tol=TOLERANCE, v0=start[:, 0])
        found["scipy eigsh"] = 1 - values[::-1], vectors[:, ::-1]

    def block() -> None:
        values, vectors = lobpcg(one, start.copy(), tol=TOLERANCE * len(root) ** 0.5, maxiter=500, largest=True)
        found["scipy lobpcg"] = 1 - values, vectors

    return {
        "spectral stage, 1 rank": lambda: ours(1),
        "spectral stage, 2 ranks": lambda: ours(2),
        "scikit-learn spectral_embedding (lobpcg)": lambda: embedding("lobpcg"),
        "scipy eigsh (Lanczos, largest of the normalised matrix)": lanczos,
        "scipy lobpcg": block,
        **({"scikit-learn spectral_embedding (arpack)": lambda: embedding("arpack")} if factorised else {}),
    }


def agreement(found: dict, count: int) -> dict[str, dict[str, float]]:
    """How far each peer's eigenpairs are from ours, which the stage gives in single precision."""
    values, vectors = found["penstock"]
    ours = np.linalg.qr(vectors[:, :count].astype(np.float64))[0]

    def apart(peer: str) -> dict[str, float]:
        theirs, others = found[peer]
        cosine = np.linalg.svd(ours.T @ np.linalg.qr(others[:, :count])[0], compute_uv=False).min()
        return {
            "eigenvalues": float(np.abs(values[:count] - theirs[:count]).max()),
            "sine_of_the_angle_between_the_spaces": float(np.sqrt(max(0.0, 1 - cosine**2))),
        }

    return {peer: apart(peer) for peer in found if peer not in ("penstock", "pagerank", "igraph")}


def solvers(reference: pa.Table, matrix, turns: int, found: dict) -> dict[str, object]:
    from scipy.sparse.csgraph import connected_components

    theirs = igraph_ways(*igraph_of(matrix), found)
    with tempfile.TemporaryDirectory() as name:
        parts = alone(Path(name), reference, theirs, turns)
    graph = timed(graph_ways(reference, theirs, found), turns)
    spectral = timed(spectral_ways(reference, matrix, CLUSTERS, found), turns)
    return {
        "edges": int(matrix.nnz // 2),
        "components": int(connected_components(matrix)[0]),
        "graph_seconds": graph,
        "graph_parts_alone_seconds": parts,
        "spectral_seconds": spectral,
        "pagerank_largest_difference_over_largest_rank": float(
            np.abs(found["pagerank"] - found["igraph"]).max() / found["igraph"].max()
        ),
        "smallest_eigenvalues": found["penstock"][0].tolist(),
        "largest_differences_from_ours": agreement(found, CLUSTERS),
    }


def small(rows: int) -> dict[str, object]:
    """Beside scikit-learn's default, which factorises the Laplacian: work that grows with the cube of the rows."""
    neighbour, similarity = Neighbours(k=K).nearest(points(rows))
    found: dict = {}
    with tempfile.TemporaryDirectory() as name:
        reference = publish(Path(name) / "graph", neighbour, similarity)
        seconds = timed(spectral_ways(reference, symmetric(neighbour, similarity), CLUSTERS, found, True), 1)
    return {"rows": rows, "seconds": seconds, "largest_differences_from_ours": agreement(found, CLUSTERS)}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=20_000)
    arguments.add_argument("--neighbour-rows", type=int, default=20_000, help="all pairs grow with the square")
    arguments.add_argument("--factorised-rows", type=int, default=4000, help="and with their cube")
    arguments.add_argument("--turns", type=int, default=TURNS)
    options = arguments.parse_args()
    near = points(min(options.rows, options.neighbour_rows))
    nearest = timed(nearest_ways(near), options.turns)
    neighbour, similarity = Neighbours(k=K).nearest(points(options.rows))
    told = {"rows": options.rows, "dim": DIM, "k": K, "turns": options.turns, "neighbours_rows": len(near)}
    with tempfile.TemporaryDirectory() as name:
        reference = publish(Path(name) / "graph", neighbour, similarity)
        found = solvers(reference, symmetric(neighbour, similarity), options.turns, {})
    factorised = small(min(options.rows, options.factorised_rows))
    measuring.write("graph", {**told, "neighbours_seconds": nearest, **found, "spectral_small": factorised})


if __name__ == "__main__":
    main()
