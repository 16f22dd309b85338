"""Algorithms on a neighbour graph, under MPI: ``mpiexec -n P python -m mpi4py -m ... CONFIG``.

The result has the same bits for any number of ranks: each rank multiplies its own rows of the matrix, floating
sums over all rows are made on rank 0 alone, and everything else is counted in integers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.reading import Check
from penstock.solvers.programs.adjacency import symmetric
from penstock.solvers.programs.results import write_arrays
from penstock.solvers.programs.rows import bounds, gather_rows, own_rows, require_ranks

__all__ = ["Config", "Graph", "colours", "communities", "components", "main", "pagerank", "representatives", "solve"]

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Flags: TypeAlias = npt.NDArray[np.bool_]
Comm: TypeAlias = Any
Sparse: TypeAlias = Any

_TOLERANCE = 1e-12
_MAX_ROUNDS = 1000
_MAX_SWEEPS = 100
_VOTE_UNITS = 2.0**30
"""Similarities are counted in whole units of this fraction, so that the order of adding does not matter."""


@dataclass(frozen=True)
class Config:
    """What is to be done.

    Attributes:
        reference: the neighbours dataset: ``dataset``, ``version``, ``rows`` and ``sha256``.
        tasks: how many ranks there must be.
        damping: of PageRank.
        least: similarities below this are no edges.
        duplicate: rows at least this similar are near-duplicates.
        keep: which of them stay.
        result: path of the ``.npz`` that rank 0 writes.
        check: how files are held against the manifest.
    """

    reference: dict[str, Any]
    tasks: int
    damping: float
    least: float
    duplicate: float
    keep: Literal["component", "greedy"]
    result: str
    check: Check = "sha256"


def main() -> None:
    """Solve what the configuration file says."""
    from mpi4py import MPI

    solve(Config(**json.loads(Path(sys.argv[1]).read_text())), MPI.COMM_WORLD)


def solve(config: Config, comm: Comm) -> None:
    """Read, solve and write; collective.

    Raises:
        ValueError: there are other ranks than were expected.
        DatasetError: the dataset is not what its manifest says.
        RuntimeError: PageRank did not converge.
    """
    require_ranks(comm, config.tasks)
    rows = int(config.reference["rows"])
    found = own_rows(comm, config.reference, ["neighbour", "similarity"], config.check)
    near = Graph.of(found["neighbour"], found["similarity"], config.least, rows, comm)
    same = Graph.of(found["neighbour"], found["similarity"], config.duplicate, rows, comm)
    arrays = {
        "pagerank": pagerank(near, config.damping),
        "component": by_appearance(components(near)),
        "community": by_appearance(communities(near)),
        "duplicate_of": representatives(same) if config.keep == "greedy" else components(same),
    }
    if comm.rank == 0:
        write_arrays(config.result, arrays)


@dataclass(frozen=True)
class Graph:
    """Our rows of a symmetric graph.

    Attributes:
        weights: CSR, float64, ``"own row"``.
        start: our first row.
        comm: the ranks that share it.
    """

    weights: Sparse
    start: int
    comm: Comm

    @classmethod
    def of(cls, neighbour: Integers, similarity: npt.NDArray[Any], least: float, rows: int, comm: Comm) -> Graph:
        """The graph of those neighbours that are at least so similar, in either direction; collective."""
        start = int(bounds(rows, comm.size)[comm.rank])
        kept = np.where(similarity < np.asarray(least, similarity.dtype), 0, similarity)
        return cls(symmetric(neighbour, kept, start, rows, comm), start, comm)

    @property
    def rows(self) -> int:
        """Of the whole graph."""
        return int(self.weights.shape[1])

    @property
    def own(self) -> slice:
        """Our rows among all."""
        return slice(self.start, self.start + self.weights.shape[0])

    def edges(self) -> tuple[Integers, Integers]:
        """Where each of our edges begins and ends, by rows of the whole graph."""
        counts = np.diff(self.weights.indptr)
        ours = np.repeat(np.arange(self.start, self.start + len(counts)), counts)
        return ours, self.weights.indices.astype(np.int64)

    def gather(self, own: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A value of each of our rows, as one for each row of the graph; collective."""
        return gather_rows(self.comm, own, self.rows)


# --- PageRank --------------------------------------------------------------------------------------------


def pagerank(graph: Graph, damping: float) -> Floats:
    """How often a walk that follows edges by their weight, and jumps with probability 1 - damping, is at each row.

    ``x = d (W D^-1 x + lonely / n) + (1 - d) / n``, where *lonely* is what rows without edges hold. Sums to 1.
    Brin and Page (1998), Computer Networks 30, 107-117.

    Raises:
        RuntimeError: it did not converge.
    """
    rows = graph.rows
    degree = graph.gather(graph.weights @ np.ones(rows))
    lonely = degree == 0
    inverse = np.where(lonely, 0, 1 / np.where(lonely, 1, degree))
    rank = np.full(rows, 1 / rows)
    for _ in range(_MAX_ROUNDS):
        jumps = graph.comm.bcast((damping * rank[lonely].sum() + 1 - damping) / rows)
        after = graph.gather(damping * (graph.weights @ (rank * inverse)) + jumps)
        change, rank = graph.comm.bcast(float(np.abs(after - rank).sum())), after
        if change < _TOLERANCE:
            return rank
    raise RuntimeError(
        f"PageRank did not converge: after {_MAX_ROUNDS} rounds it changes by {change:.1e}, {_TOLERANCE:g} was "
        "needed; lower damping"
    )


# --- components ------------------------------------------------------------------------------------------


def components(graph: Graph) -> Integers:
    """The first row of each row's connected component.

    FastSV: trees of rows are hung under smaller rows and flattened, in about log(n) rounds. Zhang, Azad and Hu
    (2020), https://arxiv.org/abs/1910.05971.
    """
    ours, theirs = graph.edges()
    parent = grand = np.arange(graph.rows)
    while True:
        after = np.minimum(parent, grand)
        np.minimum.at(after, parent[ours], grand[theirs])
        np.minimum.at(after, ours, grand[theirs])
        parent = graph.comm.allreduce(after, np.minimum)
        before, grand = grand, np.asarray(parent[parent])
        if np.array_equal(before, grand):
            return grand


# --- communities -----------------------------------------------------------------------------------------


def communities(graph: Graph) -> Integers:
    """A label for each row: that of most of its neighbours' similarity.

    Label propagation (Raghavan, Albert and Kumara 2007, https://arxiv.org/abs/0709.2938) made deterministic: rows
    of one colour, of which no two are neighbours, choose at a time (Cordasco and Gargano 2010,
    https://arxiv.org/abs/1103.4550). A row keeps its label when none has more, else takes the least of the best,
    so the weight within communities grows with every change and it ends.
    """
    colour = colours(graph)
    classes = [graph.weights[colour[graph.own] == one] for one in range(int(colour.max()) + 1)]
    places = [np.flatnonzero(colour[graph.own] == one) for one in range(len(classes))]
    label = np.arange(graph.rows)
    for _ in range(_MAX_SWEEPS):
        before = label
        for own, weights in zip(places, classes, strict=True):
            chosen = label[graph.own].copy()
            chosen[own] = elected(weights, chosen[own], label)
            label = graph.gather(chosen)
        if np.array_equal(before, label):
            break
    return label


def elected(weights: Sparse, old: Integers, label: Integers) -> Integers:
    """The label with the most votes for each row of *weights*; its *old* one when that has as many."""
    counts = np.diff(weights.indptr)
    voter = np.repeat(np.arange(len(old)), counts)
    votes = np.rint(weights.data * _VOTE_UNITS).astype(np.int64)
    choice = label[weights.indices]
    order = np.lexsort((choice, voter))
    voter, choice, votes = voter[order], choice[order], votes[order]
    if not len(voter):
        return old
    first = np.flatnonzero(np.r_[True, (np.diff(voter) != 0) | (np.diff(choice) != 0)])
    total, voter, choice = np.add.reduceat(votes, first), voter[first], choice[first]
    best = np.lexsort((choice, choice != old[voter], -total, voter))
    winner = best[np.r_[True, np.diff(voter[best]) != 0]]
    new = old.copy()
    new[voter[winner]] = choice[winner]
    return new


def colours(graph: Graph) -> Integers:
    """A colour for each row, other than those of its neighbours.

    In each round the rows whose lot is the highest among their neighbours without a colour take the next one.
    Luby (1986), SIAM J. Comput. 15, 1036-1053; lots are fixed, so the colours are.
    """
    ours, theirs = graph.edges()
    apart = ours != theirs
    ours, theirs = ours[apart], theirs[apart]
    lot = np.random.default_rng(0).permutation(graph.rows)
    colour, next_one = np.full(graph.rows, -1), 0
    while (colour < 0).any():
        open_edges = (colour[ours] < 0) & (colour[theirs] < 0)
        ours, theirs = ours[open_edges], theirs[open_edges]
        wins = colour < 0
        wins[ours[lot[ours] < lot[theirs]]] = False
        own = colour[graph.own].copy()
        own[wins[graph.own]] = next_one
        colour, next_one = graph.gather(own), next_one + 1
    return colour


# --- near-duplicates -------------------------------------------------------------------------------------


def representatives(graph: Graph) -> Integers:
    """For each row the row that stays in its place: itself, or the first neighbour before it that stays.

    Going through the rows in order, one stays when no neighbour before it does. Rows are settled as soon as those
    before them are: Blelloch, Fineman and Shun (2012), https://arxiv.org/abs/1202.3205.
    """
    ours, theirs = graph.edges()
    earlier = theirs < ours
    ours, theirs = ours[earlier], theirs[earlier]
    state = np.full(graph.rows, _OPEN, np.int8)
    while (state == _OPEN).any():
        own = np.full(graph.rows, _KEPT, np.int8)
        own[ours[state[theirs] == _OPEN]] = _OPEN
        own[ours[state[theirs] == _KEPT]] = _DROPPED
        state = graph.gather(own[graph.own])
    stays = np.arange(graph.rows)
    kept = state[theirs] == _KEPT
    stays[ours[kept]] = graph.rows
    np.minimum.at(stays, ours[kept], theirs[kept])
    return graph.gather(stays[graph.own])


_OPEN, _KEPT, _DROPPED = 0, 1, 2


def by_appearance(labels: Integers) -> Integers:
    """The same groups, numbered by the first row of each."""
    _, first, which = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[which]


if __name__ == "__main__":
    main()
