"""The neighbour graph of 1,000,000 x 384 points, and PageRank, components, eigenvectors and communities of it.

On one graph, in one run: ours inside two MPI ranks, which read the dataset first, beside igraph and SciPy, which have
it in memory; a way that does not end within the limit is told with that as its reason, and all is done again with a
third of the rows. scikit-learn's default for eigenvectors factorises the matrix, which no memory holds at this size;
its LOBPCG is SciPy's.

The neighbours stage is exact or builds HNSW by one thread, so that it gives the same each time: both are measured on
fewer rows, and what they would take is told from how they grow. So the graph here is made by an inverted file of
faiss, whose recall is measured on a thousand rows. The points lie near planes of 24 dimensions, as embeddings do.
`make bench NAME=graph_million`; `--rows 20000` for a try.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import graph as bench
import measuring
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import eigsh, lobpcg

from penstock.solvers.neighbours import Neighbours

DIM, INNER, CLOUDS, K = 384, 24, 6, 10
PROBES, SAMPLE = 16, 1000
PEERS = ("igraph pagerank", "igraph components", "igraph communities", "scipy eigsh (Lanczos)", "scipy lobpcg")


def points(rows: int) -> np.ndarray:
    """Unit vectors of overlapping clouds."""
    random = np.random.default_rng(7)
    spread = random.standard_normal((INNER, DIM)).astype(np.float32)
    inner = 0.6 * random.standard_normal((CLOUDS, INNER)).astype(np.float32)[np.arange(rows) % CLOUDS]
    inner += random.standard_normal((rows, INNER), np.float32)
    x = inner @ spread + 0.3 * random.standard_normal((rows, DIM), np.float32)
    x -= x.mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def by_inverted_file(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Neighbours and similarities without oneself, and how they were found."""
    import faiss

    lists = max(16, int(2 * len(x) ** 0.5))
    started = time.perf_counter()
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(x[: 64 * lists])
    index.add(x)
    index.nprobe = PROBES
    similarity, neighbour = index.search(x, K + 1)
    similarity[neighbour == np.arange(len(x))[:, None]] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :K]
    neighbour, similarity = (np.take_along_axis(array, order, 1) for array in (neighbour, similarity))
    neighbour[neighbour < 0] = 0  # a list with fewer rows than asked for; its similarity is no edge
    seconds = time.perf_counter() - started
    told = {"seconds": seconds, "lists": lists, "probes": PROBES, "recall": recall(x, neighbour)}
    return neighbour.astype(np.int64), np.maximum(similarity, 0), told


def recall(x: np.ndarray, neighbour: np.ndarray) -> float:
    """The share of the true neighbours of some rows that were found."""
    import faiss

    rows = np.random.default_rng(1).choice(len(x), min(SAMPLE, len(x)), replace=False)
    true = faiss.knn(x[rows], x, K + 1, faiss.METRIC_INNER_PRODUCT)[1]
    found = [len(np.intersect1d(a, b[b != row])) for a, b, row in zip(neighbour[rows], true, rows, strict=True)]
    return float(np.sum(found) / (K * len(rows)))


def stage_on_fewer(x: np.ndarray, rows: int) -> dict[str, object]:
    """Seconds of the neighbours stage on a few rows, and what they grow to: with the square, or as they do here."""
    sizes = min(10_000, rows // 4), min(20_000, rows // 2)
    told: dict[str, object] = {}
    for method in ("exact", "hnsw"):
        stage = Neighbours(k=K, method=method)
        small, large = (measuring.seconds(lambda size=size, stage=stage: stage.nearest(x[:size])) for size in sizes)
        power = 2.0 if method == "exact" else max(1.0, np.log(large / small) / np.log(sizes[1] / sizes[0]))
        guess = float(large * (rows / sizes[1]) ** power)
        told[method] = {"seconds": dict(zip(map(str, sizes), (small, large), strict=True)), "all_rows_by_growth": guess}
        print(f"stage, {method}: {told[method]}", flush=True)
    return told


def alone(name: str, file: Path, told: Connection) -> None:
    """Tell that all is ready, and then the seconds of one way; in a process of its own."""
    way = peer(name, scipy.sparse.load_npz(file))
    told.send("ready")
    told.send(measuring.seconds(way))


def within(name: str, file: Path, seconds: float) -> float | str:
    """Seconds of that way, or why there are none. Nothing is forked: OpenMP hangs in the child of who has used it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=alone, args=(name, file, theirs))
    process.start()
    theirs.close()
    try:
        ours.recv()
        found = ours.recv() if ours.poll(seconds) else f"not within {seconds:g} s"
    except EOFError:
        found = "it ended by itself, of memory or an error"
    process.kill()
    process.join()
    print(f"{name}: {found}", flush=True)
    return found


def peer(name: str, matrix) -> Callable[[], object]:
    """One of `PEERS` on a graph that it has in memory already."""
    program, _, what = name.partition(" ")
    if program == "igraph":
        return bench.igraph_ways(*bench.igraph_of(matrix), {})[what]
    one, _ = bench.normalised(matrix)
    start = np.random.default_rng(0).standard_normal((matrix.shape[0], CLOUDS + 1))
    if what == "eigsh (Lanczos)":
        return lambda: eigsh(one, k=CLOUDS + 1, tol=bench.TOLERANCE, which="LA", v0=start[:, 0])
    return lambda: lobpcg(one, start, tol=bench.TOLERANCE * len(start) ** 0.5, maxiter=500, largest=True)


def measured(rows: int, limit_seconds: int) -> dict[str, object]:
    x = points(rows)
    told: dict[str, object] = {"neighbours_stage": stage_on_fewer(x, rows)}
    neighbour, similarity, told["inverted_file"] = by_inverted_file(x)
    print(told["inverted_file"], flush=True)
    del x
    matrix = bench.symmetric(neighbour, similarity)
    with tempfile.TemporaryDirectory() as name:
        reference = bench.publish(Path(name) / "graph", neighbour, similarity)
        ours = bench.in_ranks(Path(name), reference, 2, limit_seconds)
        print(f"penstock: {ours}", flush=True)
        scipy.sparse.save_npz(file := Path(name) / "matrix.npz", matrix, compressed=False)
        others = {way: within(way, file, limit_seconds) for way in PEERS}
    missing = dict.fromkeys(("pagerank", "components", "eigenvectors", "communities"), f"not within {limit_seconds} s")
    told |= {"edges": int(matrix.nnz // 2), "penstock_2_ranks_seconds": missing | ours, "others_seconds": others}
    return told


def complete(found: dict[str, object]) -> bool:
    return not any(isinstance(seconds, str) for seconds in found["penstock_2_ranks_seconds"].values())


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--limit-seconds", type=int, default=480)
    options = arguments.parse_args()
    rows, by_rows = options.rows, {}
    while True:
        by_rows[str(rows)] = measured(rows, options.limit_seconds)
        if complete(by_rows[str(rows)]) or rows < 1000:
            break
        rows //= 3
    told = {"dim": DIM, "k": K, "limit_seconds": options.limit_seconds, "rows": rows, "asked_for": options.rows}
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    measuring.write("graph_million", {**told, "largest_process_bytes": largest * 1024, "by_rows": by_rows})


if __name__ == "__main__":
    main()
