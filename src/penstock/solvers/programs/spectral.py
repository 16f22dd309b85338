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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.reading import Check
from penstock.solvers.programs.adjacency import symmetric
from penstock.solvers.programs.graph import Graph, components
from penstock.solvers.programs.results import write_arrays
from penstock.solvers.programs.rows import bounds, gather_rows, own_rows, require_ranks

__all__ = ["Config", "main", "solve"]

Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int64]
Comm: TypeAlias = Any
Sparse: TypeAlias = Any
Multiply: TypeAlias = Callable[[Floats], Floats]

_TOLERANCE = 1e-9
_NOTHING = 1e-13
"""Shorter vectors are what rounding has left of none."""
_MAX_ROUNDS = 5000
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
    matrix, root = adjacency(config, comm)
    values, vectors = eigenpairs(matrix, root, config, comm)
    labels = all_labels(vectors, config, comm)
    if comm.rank == 0:
        chosen = config.clusters or eigengap(values)
        write(config, values, vectors, labels, chosen)


# --- the graph -------------------------------------------------------------------------------------------


def adjacency(config: Config, comm: Comm) -> tuple[Sparse, Floats]:
    """Our rows of ``D^-1/2 W D^-1/2``; CSR, float64, ``"own row"``; and the whole diagonal of ``D^1/2``, ``"row"``.

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
    root = np.sqrt(gather_rows(comm, own, config.rows))
    matrix.data /= np.repeat(root[start:stop], np.diff(matrix.indptr)) * root[matrix.indices]
    return matrix, root


# --- its eigenvectors ------------------------------------------------------------------------------------


def eigenpairs(matrix: Sparse, root: Floats, config: Config, comm: Comm) -> tuple[Floats, Floats]:
    """The ``max_clusters + 1`` smallest eigenvalues of L, rising, and their vectors ``"row vector"``; on all ranks."""
    count = config.max_clusters + 1
    if count > config.rows:
        raise ValueError(f"{config.rows} rows are too few for {config.max_clusters} clusters; lower max_clusters")
    if config.rows <= max(config.dense_rows, 4 * count):
        found = dense(comm.gather(matrix), count)
    else:
        start = int(bounds(config.rows, comm.size)[comm.rank])
        component = components(Graph(matrix, start, comm))
        found = restarted(matrix, of_components(component, root, count), config, comm)
    values, vectors = comm.bcast(found)
    return values, vectors


def dense(parts: list[Sparse] | None, count: int) -> tuple[Floats, Floats] | None:
    """By LAPACK, on the rank that has all *parts*."""
    from scipy import linalg, sparse

    if parts is None:
        return None
    values, vectors = linalg.eigh(-sparse.vstack(parts).toarray(), subset_by_index=(0, count - 1))
    return (1 + values).clip(0), signed(vectors)


def of_components(component: Labels, root: Floats, most: int) -> Floats:
    """The eigenvectors of L for 0, ``"row vector"``: one for each component, for the largest *most* of them.

    ``D^1/2`` of the component's rows, scaled to length one (von Luxburg, proposition 4).
    """
    first, sizes = np.unique(component, return_counts=True)
    largest = first[np.argsort(-sizes, kind="stable")[:most]]
    vectors = np.where(component[:, None] == largest, root[:, None], 0)
    return np.asfortranarray(vectors / np.linalg.norm(vectors, axis=0))


def restarted(matrix: Sparse, known: Floats, config: Config, comm: Comm) -> tuple[Floats, Floats] | None:
    """By Lanczos' method with thick restarts; on rank 0, which asks the others for products alone."""
    asked = np.empty(config.rows)

    def product() -> Floats:
        comm.Bcast(asked)
        return gather_rows(comm, matrix @ asked, config.rows)

    def multiply(vector: Floats) -> Floats:
        comm.bcast(True)
        asked[:] = vector
        return product()

    if comm.rank == 0:
        values, vectors = leading(multiply, known, config.max_clusters + 1, config.seed)
        comm.bcast(False)
        return (1 - values).clip(0), signed(vectors)
    while comm.bcast(None):
        product()
    return None


def leading(multiply: Multiply, known: Floats, count: int, seed: int) -> tuple[Floats, Floats]:
    """The *count* largest eigenvalues of a symmetric operator, falling, and their vectors ``"row vector"``.

    Lanczos' method, restarted with the best of its vectors, which stay orthogonal to all others: Wu and Simon
    (2000), SIAM J. Matrix Anal. Appl. 22, 602-616. A Krylov space holds one vector alone of each eigenvalue, so once
    all have converged it begins anew, orthogonal to them, until no further one is above the least of them.

    Args:
        multiply: the operator, on ``"row"``; no eigenvalue of it is above 1.
        known: orthonormal vectors of its eigenvalue 1, ``"row vector"``.
        count: how many are wanted.
        seed: of the first vectors.

    Raises:
        RuntimeError: they did not converge.
    """
    rows, held = known.shape
    if held >= count:
        return np.ones(count), known[:, :count]
    random, size = np.random.default_rng(seed), min(2 * count + 20, rows - 1)
    basis = np.empty((rows, size + 1), order="F")
    basis[:, :held] = known
    basis[:, held] = another(random, basis[:, :held])
    values, settled = np.ones(held), np.full(count, np.inf)
    for _ in range(_MAX_ROUNDS):
        small, coupling = krylov(multiply, basis, values, random)
        values, turn = (found[..., ::-1] for found in np.linalg.eigh(small))
        residuals = np.abs(coupling * turn[-1])
        converged = residuals[:count].max() < _TOLERANCE
        same = np.abs(values[:count] - settled).max() < 10 * _TOLERANCE
        anew = converged and not same
        kept = count if anew else (count + size) // 2
        basis[:, :kept] = basis[:, :size] @ turn[:, :kept]
        if converged and same and below(values, residuals, count):
            return values[:count], basis[:, :count]
        basis[:, kept] = another(random, basis[:, :kept]) if anew else basis[:, size]
        settled, values = values[:count] if anew else settled, values[:kept]
    raise RuntimeError(
        f"the eigenvectors did not converge: after {_MAX_ROUNDS} rounds a residual is {residuals[:count].max():.1e}, "
        f"{_TOLERANCE:g} was needed; lower max_clusters"
    )


def below(values: Floats, residuals: Floats, count: int) -> bool:
    """Whether the value after the first *count* is known well enough to be below them, or as exactly as they are."""
    return count == len(values) or residuals[count] < max(_TOLERANCE, (values[count - 1] - values[count]) / 10)


def krylov(multiply: Multiply, basis: Floats, values: Floats, random: np.random.Generator) -> tuple[Floats, float]:
    """Fill *basis* behind the vectors of the Ritz *values*: the operator in it, and how much leads out of it."""
    start, size = len(values), basis.shape[1] - 1
    small, coupling = np.zeros((size, size)), 0.0
    small[range(start), range(start)] = values
    for at in range(start, size):
        vector = multiply(basis[:, at])
        near = max(at - 1, 0) if at > start else 0
        share = np.zeros(at + 1)
        for first in (near, 0):  # the terms that are large, then what rounding has left of all
            these = basis[:, first : at + 1]
            part = these.T @ vector
            vector -= these @ part
            share[first:] += part
        small[at, : at + 1] = small[: at + 1, at] = share
        coupling = float(np.linalg.norm(vector))
        if coupling > _NOTHING:
            basis[:, at + 1] = vector / coupling
        else:
            coupling, basis[:, at + 1] = 0.0, another(random, basis[:, : at + 1])
    return small, coupling


def another(random: np.random.Generator, basis: Floats) -> Floats:
    """A vector of length 1 that is orthogonal to the *basis*."""
    vector = random.standard_normal(len(basis))
    for _ in range(2):
        vector -= basis @ (basis.T @ vector)
        vector /= np.linalg.norm(vector)
    return vector


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
