"""Spectral clustering of a neighbour graph, under MPI: ``mpiexec -n P python -m mpi4py -m ... CONFIG``.

Ng, Jordan and Weiss (2002), "On spectral clustering"; von Luxburg (2007), "A tutorial on spectral clustering",
https://arxiv.org/abs/0711.0189. With ``W`` the symmetrised similarities and ``D`` their row sums, the
eigenvectors of ``L = I - D^-1/2 W D^-1/2`` for its smallest eigenvalues are the coordinates, and k-means on
their rows, scaled to length one, gives the clusters.

The result has the same bits for any number of ranks: each rank multiplies its own rows of the matrix, sums that
run over all rows are made on rank 0 alone, and k-means is shared out by whole values of k.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.reading import Check
from penstock.solvers.programs.adjacency import symmetric
from penstock.solvers.programs.results import write_arrays
from penstock.solvers.programs.rows import bounds, gather_rows, own_rows, require_ranks

__all__ = ["Config", "main", "solve"]

Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Comm: TypeAlias = Any
Sparse: TypeAlias = Any

_TOLERANCE = 1e-9
_MAX_ROUNDS = 200
_STARTS = 4


@dataclass(frozen=True)
class Config:
    """What is to be done.

    Attributes:
        dataset: address of the neighbours dataset.
        version: number of its manifest.
        sha256: its identity.
        rows: how many it has.
        ranks: how many there must be.
        clusters: 0 chooses by the eigengap.
        max_clusters: labels are made for 2 to this many.
        seed: of the first vectors and of k-means.
        result: path of the ``.npz`` that rank 0 writes.
        check: how files are held against the manifest.
        dense_rows: up to so many rows the eigenvectors are found by a dense solver.
    """

    dataset: str
    version: int
    sha256: str
    rows: int
    ranks: int
    clusters: int
    max_clusters: int
    seed: int
    result: str
    check: Check = "sha256"
    dense_rows: int = 200


def main() -> None:
    """Solve what the configuration file says."""
    from mpi4py import MPI

    config = Config(**json.loads(Path(sys.argv[1]).read_text()))
    solve(config, MPI.COMM_WORLD)


def solve(config: Config, comm: Comm) -> None:
    """Read, solve and write; collective.

    Raises:
        ValueError: there are other ranks or rows than were expected.
        RuntimeError: the eigenvectors did not converge.
    """
    require_ranks(comm, config.ranks)
    matrix = adjacency(config, comm)
    values, vectors = eigenpairs(matrix, config, comm)
    labels = all_labels(vectors, config, comm)
    if comm.rank == 0:
        chosen = config.clusters or eigengap(values)
        write(config, values, vectors, labels, chosen)


# --- the graph -------------------------------------------------------------------------------------------


def adjacency(config: Config, comm: Comm) -> Sparse:
    """Our rows of ``D^-1/2 W D^-1/2``; CSR, float64, ``"own row"``.

    A row without any similarity is joined to itself, so that it counts as a component like any other.
    """
    from scipy import sparse

    start, stop = (int(edge) for edge in bounds(config.rows, comm.size)[comm.rank : comm.rank + 2])
    reference = {name: getattr(config, name) for name in ("dataset", "version", "rows", "sha256")}
    found = own_rows(comm, reference, ["neighbour", "similarity"], config.check)
    matrix = symmetric(found["neighbour"], found["similarity"], start, config.rows, comm)
    own = matrix @ np.ones(config.rows)
    lonely = np.flatnonzero(own == 0)
    loops = sparse.csr_matrix((np.ones(len(lonely)), (lonely, start + lonely)), matrix.shape)
    matrix, own[lonely] = (matrix + loops).tocsr(), 1.0
    scale = 1 / np.sqrt(gather_rows(comm, own, config.rows))
    matrix.data *= np.repeat(scale[start:stop], np.diff(matrix.indptr)) * scale[matrix.indices]
    return matrix


# --- its eigenvectors ------------------------------------------------------------------------------------


def eigenpairs(matrix: Sparse, config: Config, comm: Comm) -> tuple[Floats, Floats]:
    """The ``max_clusters + 1`` smallest eigenvalues of L, rising, and their vectors ``"row vector"``; on all ranks."""
    count = config.max_clusters + 1
    if count > config.rows:
        raise ValueError(f"{config.rows} rows are too few for {config.max_clusters} clusters; lower max_clusters")
    if config.rows <= max(config.dense_rows, 4 * count):
        found = dense(comm.gather(matrix), count)
    else:
        found = filtered(matrix, config.rows, count, config.seed, comm)
    values, vectors = comm.bcast(found)
    return values, vectors


def dense(parts: list[Sparse] | None, count: int) -> tuple[Floats, Floats] | None:
    """By LAPACK, on the rank that has all *parts*."""
    from scipy import linalg, sparse

    if parts is None:
        return None
    values, vectors = linalg.eigh(-sparse.vstack(parts).toarray(), subset_by_index=(0, count - 1))
    return (1 + values).clip(0), signed(vectors)


def filtered(matrix: Sparse, rows: int, count: int, seed: int, comm: Comm) -> tuple[Floats, Floats] | None:
    """By Chebyshev-filtered subspace iteration; on rank 0.

    A block finds repeated eigenvalues, which graphs of several components have, where a single Krylov
    sequence may not. Zhou, Saad, Tiago and Chelikowsky (2006), J. Comput. Phys. 219, 172-184.
    """
    width = count + max(6, count // 2)
    block = np.random.default_rng(seed).standard_normal((rows, width))
    for _ in range(_MAX_ROUNDS):
        if comm.rank == 0:
            block = np.linalg.qr(block)[0]
        comm.Bcast(block)
        product = gather_rows(comm, matrix @ block, rows)
        found = ritz(block, product) if comm.rank == 0 else None
        values, block, residuals = comm.bcast(found)
        if residuals[:count].max() < _TOLERANCE:
            return (1 - values[:count]).clip(0), signed(block[:, :count])
        block = chebyshev(matrix, block, values[-1], comm)
    raise RuntimeError(
        f"the eigenvectors did not converge: after {_MAX_ROUNDS} rounds a residual is {residuals[:count].max():.1e}, "
        f"{_TOLERANCE:g} was needed; lower max_clusters"
    )


def ritz(block: Floats, product: Floats) -> tuple[Floats, Floats, Floats]:
    """The best eigenpairs within an orthonormal *block*: values (falling), vectors, norms of their residuals."""
    small = block.T @ product
    values, turn = np.linalg.eigh((small + small.T) / 2)
    values, turn = values[::-1], turn[:, ::-1]
    vectors = block @ turn
    return values, vectors, np.linalg.norm(product @ turn - vectors * values, axis=0)


def chebyshev(matrix: Sparse, block: Floats, low: float, comm: Comm) -> Floats:
    """A polynomial of the matrix on *block* that damps eigenvalues in [-1, low] and lets those above grow.

    Its degree is as high as lets the largest eigenvalue, 1, grow by 1e8 over the damped ones; more would drown
    the other columns in it.
    """
    rows = len(block)
    edges = bounds(rows, comm.size)
    own = slice(edges[comm.rank], edges[comm.rank + 1])
    low = min(low, 1 - 1e-4)  # where the whole block is at 1, as with very many components, something must be damped
    center, half = (low - 1) / 2, (low + 1) / 2
    degree = int(np.clip(np.arccosh(1e8) / np.arccosh((1 - center) / half), 2, 300))
    before, here = block[own], (matrix @ block - center * block[own]) / half
    for _ in range(degree - 1):
        whole = gather_rows(comm, here, rows)
        before, here = here, 2 / half * (matrix @ whole - center * here) - before
    return gather_rows(comm, here, rows)


def signed(vectors: Floats) -> Floats:
    """The same vectors with their largest entry positive: a vector and its negative are equally good."""
    size = np.abs(vectors)
    first = (size >= size.max(axis=0) * (1 - 1e-6)).argmax(axis=0)
    return vectors * np.sign(np.take_along_axis(vectors, first[None], 0))


def eigengap(values: Floats) -> int:
    """The number of clusters, 2 or more, behind which the eigenvalues rise most (von Luxburg, section 8.3).

    Where they do not rise at all the graph has more components than were tried, and it is the most.
    """
    rises = np.diff(values)[1:]
    return int(rises.argmax()) + 2 if rises.max() > _TOLERANCE else len(rises) + 1


# --- clusters --------------------------------------------------------------------------------------------


def all_labels(vectors: Floats, config: Config, comm: Comm) -> Labels | None:
    """Labels for 2 to ``max_clusters`` clusters, ``"row k"``; on rank 0. The values of k are shared out."""
    ours = range(2, config.max_clusters + 1)[comm.rank :: comm.size]
    found = comm.gather({k: clustered(vectors[:, :k], k, config.seed) for k in ours})
    if comm.rank:
        return None
    labels = {k: column for part in found for k, column in part.items()}
    return np.stack([labels[k] for k in sorted(labels)], axis=1)


def clustered(vectors: Floats, k: int, seed: int) -> Labels:
    """The best of a few k-means of the rows of *vectors*, scaled to length one; numbered as they appear."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    points = vectors / np.where(norms > 0, norms, 1)
    others = np.random.default_rng(seed).integers(len(points), size=_STARTS - 1)
    labels, least = kmeans(points, farthest(points, 0, k))
    for first in others:
        more, spread = kmeans(points, farthest(points, int(first), k))
        if spread < least * (1 - 1e-9):
            labels, least = more, spread
    return by_appearance(labels)


def farthest(points: Floats, first: int, k: int) -> Floats:
    """Seeds ``"k dim"``: the point *first*, then again and again the one farthest from all before.

    Gonzalez (1985), Theoretical Computer Science 38, 293-306.
    """
    seeds = [points[first]]
    distance = ((points - seeds[0]) ** 2).sum(axis=1)
    while len(seeds) < k:
        seeds.append(points[distance.argmax()])
        distance = np.minimum(distance, ((points - seeds[-1]) ** 2).sum(axis=1))
    return np.stack(seeds)


def kmeans(points: Floats, centers: Floats, rounds: int = 100) -> tuple[Labels, float]:
    """Lloyd's iteration: labels, and the sum of squared distances. A center that loses its points stays."""
    labels = np.full(len(points), -1)
    for _ in range(rounds):
        distance = ((points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)).clip(0)
        nearest = distance.argmin(axis=1)
        if np.array_equal(nearest, labels):
            break
        labels, centers = nearest, means(points, nearest, centers)
    return labels, float(distance.min(axis=1).sum())


def means(points: Floats, labels: Labels, centers: Floats) -> Floats:
    """The mean of each label's points, or its old center when it has none."""
    groups = [points[labels == label] for label in range(len(centers))]
    return np.stack([group.mean(axis=0) if len(group) else old for group, old in zip(groups, centers, strict=True)])


def by_appearance(labels: Labels) -> Labels:
    """The same groups, numbered by the first row of each."""
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


# --- the result ------------------------------------------------------------------------------------------


def write(config: Config, values: Floats, vectors: Floats, labels: Labels | None, chosen: int) -> None:
    """What was found, for the stage."""
    assert labels is not None
    count = config.max_clusters
    arrays = {
        "cluster": labels[:, chosen - 2].astype(np.int32),
        "clusters": labels.astype(np.int32),
        "coordinates": vectors[:, :count].astype(np.float32),
        "eigenvalues": values[:count].astype(np.float32),
    }
    write_arrays(config.result, arrays)


if __name__ == "__main__":
    main()
