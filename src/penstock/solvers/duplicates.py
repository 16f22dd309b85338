"""Semantic near-duplicates: rows whose embeddings say the same, of which one is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import field_of, to_numpy
from penstock.core.nouns import Batch, Transform
from penstock.core.reading import read_rows
from penstock.errors import SchemaError, UnitError
from penstock.solvers.reference import Reference, require_reference

__all__ = ["Duplicates"]

Points: TypeAlias = npt.NDArray[np.float32]
Numbers: TypeAlias = npt.NDArray[np.float64]
Indices: TypeAlias = npt.NDArray[np.int64]

_CLUSTER_ROWS = 4096
_EXACT_ROWS = 50_000
_BLOCK_BYTES = 64 << 20
_SEED = 0


@dataclass(frozen=True)
class Duplicates:
    """Near-duplicates of a dataset by the cosine of their embeddings, as SemDeDup finds them: k-means, then all pairs
    within each cluster (Abbas et al. 2023, https://arxiv.org/abs/2303.09540).

    A row for each row of the dataset: ``row``; ``keep``; ``duplicate_of``, the row that is kept in its place, null of
    kept ones; ``similarity`` (float32), the cosine to that row; and ``cluster``, -1 of rows that were left out.

    Within a cluster the rows are gone through in order of preference. With ``groups = "star"`` a row is kept unless it
    is at least *threshold* similar to one that is kept: no two kept rows of a cluster are that similar, and each
    dropped one is that similar to the one named. ``connected`` keeps one of each group of rows that hang together by
    similar pairs, which drops more: in a chain the ends may have little in common.

    Attributes:
        column: the embeddings, vectors.
        threshold: least cosine of duplicates.
        clusters: how many; pairs in two clusters are not seen. 0 takes one, which is exact, below 50,000 rows, and
            else one for each 4,096 rows.
        prefer: which row of a group is kept: ``first`` by row number; ``remote`` and ``central`` by least and most
            similarity to the centroid (SemDeDup keeps the remote one); ``most`` and ``least`` by the column *by*.
            Equals go by row number.
        by: a column of numbers, such as ``sharpness``, for ``most`` and ``least``.
        among: a column of truth values; rows where it is false are left out: they are not kept and no duplicates.
        groups: what one row stands for.
        threads: 0 takes all cores.
    """

    column: str = "embedding"
    threshold: float = 0.95
    clusters: int = 0
    prefer: Literal["first", "remote", "central", "most", "least"] = "first"
    by: str = ""
    among: str = ""
    groups: Literal["star", "connected"] = "star"
    threads: int = 0

    ASIDE = ("threads",)
    NEEDS = ("faiss", "scipy")

    def __post_init__(self) -> None:
        if not -1 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold:g}; a cosine, -1 to 1, was needed")
        if bool(self.by) != (self.prefer in ("most", "least")):
            raise ValueError("prefer = 'most' or 'least' goes with by = 'a column of numbers', and only they")
        if self.clusters < 0:
            raise ValueError(f"clusters is {self.clusters}; 0 or more was needed")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The verdicts. Raises `SchemaError`."""
        require_reference(given, "duplicates")
        verdict = {"keep": pa.bool_(), "duplicate_of": pa.int64(), "similarity": pa.float32(), "cluster": pa.int32()}
        return pa.schema([("row", pa.int64()), *verdict.items()])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that reads the dataset it is given the reference of."""
        yield lambda batch: self._solved(Reference.of(batch))

    def _solved(self, reference: Reference) -> Batch:
        table = self._read(reference)
        among = _truths(table, self.among) if self.among else np.ones(table.num_rows, bool)
        rows = np.flatnonzero(among)
        points = _directions(table, self.column, rows)
        worth = _numbers(table, self.by)[rows] if self.by else None
        cluster, found = self.judged(points, worth)
        return _verdicts(table.num_rows, rows, cluster, found)

    def _read(self, reference: Reference) -> pa.Table:
        manifest = reference.manifest()
        wanted = f"duplicates of {reference.dataset}"
        for name in filter(None, (self.column, self.by, self.among)):
            field_of(manifest.schema, name, wanted)
        names = dict.fromkeys(filter(None, (self.column, self.by, self.among)))
        return read_rows(manifest, 0, reference.rows, list(names))

    def judged(self, points: Points, worth: Numbers | None = None) -> tuple[Indices, tuple[Indices, Points]]:
        """The cluster of each of *points* (unit vectors, ``"row dim"``), and whom it is dropped for.

        Returns:
            the cluster; the row that is kept in its place, itself where it is kept; and the similarity to that.
        """
        cluster, centroids = self._clustered(points)
        instead, similarity = np.arange(len(points)), np.ones(len(points), np.float32)
        for members in _members(cluster):
            ours = points[members]
            order = self._order(ours @ centroids[cluster[members[0]]], None if worth is None else worth[members])
            ranked = ours[order]
            kept = self._star(ranked) if self.groups == "star" else self._connected(ranked)
            instead[members[order]] = members[order][kept]
            similarity[members[order]] = np.einsum("rd,rd->r", ranked, ranked[kept]).clip(-1, 1)
        return cluster, (instead, similarity)

    def _clustered(self, points: Points) -> tuple[Indices, Points]:
        count = self.clusters or (1 if len(points) < _EXACT_ROWS else len(points) // _CLUSTER_ROWS)
        if min(count, len(points)) < 2:
            return np.zeros(len(points), np.int64), points.sum(axis=0, keepdims=True)  # its length does not matter
        import faiss

        sizes = {"min_points_per_centroid": 1, "max_points_per_centroid": 256}
        means = faiss.Kmeans(points.shape[1], min(count, len(points)), niter=20, seed=_SEED, spherical=True, **sizes)
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(self.threads or before)
        try:
            means.train(points)
            return np.asarray(means.index.search(points, 1)[1][:, 0]), np.asarray(means.centroids, np.float32)
        finally:
            faiss.omp_set_num_threads(before)

    def _order(self, nearness: Points, worth: Numbers | None) -> Indices:
        """The rows of a cluster, the one that is kept before the others first."""
        if self.prefer == "first":
            return np.arange(len(nearness))
        score = nearness.astype(np.float64) if worth is None else worth
        return np.argsort(score if self.prefer in ("remote", "least") else -score, kind="stable")

    def _star(self, points: Points) -> Indices:
        """For each row the first kept one that is similar to it, itself where there is none."""
        instead, kept = np.full(len(points), -1), np.empty(0, np.int64)
        size = max(1, _BLOCK_BYTES // (4 * len(points)))
        for start in range(0, len(points), size):
            block, mine = points[start : start + size], instead[start : start + size]  # mine is a view
            if len(kept):
                near = block @ points[kept].T >= self.threshold
                found = near.any(axis=1)
                mine[found] = kept[near[found].argmax(axis=1)]
            own = block @ block.T >= self.threshold
            for at in range(len(block)):
                if mine[at] < 0:
                    mine[at:][own[at, at:] & (mine[at:] < 0)] = start + at
                    mine[at] = start + at
            kept = np.flatnonzero(instead == np.arange(len(points)))
        return instead

    def _connected(self, points: Points) -> Indices:
        """For each row the first of those that it hangs together with."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        pairs = [np.empty((2, 0), np.int64)]
        size = max(1, _BLOCK_BYTES // (4 * len(points)))
        for start in range(0, len(points), size):
            one, other = np.nonzero(points[start : start + size] @ points[start:].T >= self.threshold)
            pairs.append(np.stack([one, other])[:, one < other] + start)
        one, other = np.concatenate(pairs, axis=1)
        graph = coo_array((np.ones(len(one), bool), (one, other)), shape=(len(points), len(points)))
        label = connected_components(graph, directed=False)[1]
        first = np.unique(label, return_index=True)[1]
        return np.asarray(first[label], np.int64)


def _members(cluster: Indices) -> Iterator[Indices]:
    """The rows of each cluster that has some, in their order."""
    order = np.argsort(cluster, kind="stable")
    edges = np.flatnonzero(np.diff(cluster[order])) + 1
    return (part for part in np.split(order, edges) if len(part))


def _directions(table: pa.Table, column: str, rows: Indices) -> Points:
    values = to_numpy(table[column])
    if values.ndim != 2:
        raise SchemaError(
            f"column '{column}' holds tensors of {values.ndim - 1} dimensions; vectors were needed, so pool it first"
        )
    points = np.ascontiguousarray(values[rows], np.float32)
    # No copy of all numbers in float64, which would be several times the memory of the points.
    norms = np.sqrt(np.einsum("rd,rd->r", points, points, dtype=np.float64))[:, None]
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if len(bad):
        raise UnitError(
            f"column '{column}' has {len(bad)} rows that are zero or not finite and so have no direction, the first is "
            f"row {rows[bad[0]]}; mend or drop them in the pipeline that writes it"
        )
    return np.asarray(points / norms, np.float32)


def _truths(table: pa.Table, column: str) -> npt.NDArray[np.bool_]:
    kind = table.schema.field(column).type
    if kind != pa.bool_():
        raise SchemaError(f"duplicates: among needs column '{column}' as bool; it is {kind}")
    return np.asarray(table[column].fill_null(False).to_numpy(), bool)


def _numbers(table: pa.Table, column: str) -> Numbers:
    return np.asarray(to_numpy(table[column]), np.float64)


def _verdicts(count: int, rows: Indices, cluster: Indices, found: tuple[Indices, Points]) -> Batch:
    """A row for each of *count*; *cluster* and *found* are of *rows*."""
    keep, groups = np.zeros(count, bool), np.full(count, -1, np.int32)
    instead, similarity = np.full(count, -1, np.int64), np.zeros(count, np.float32)
    mine = found[0] == np.arange(len(rows))
    keep[rows], groups[rows] = mine, cluster
    instead[rows], similarity[rows] = np.where(mine, -1, rows[found[0]]), found[1]
    columns = {
        "row": pa.array(np.arange(count)),
        "keep": pa.array(keep),
        "duplicate_of": pa.array(instead, mask=instead < 0),
        "similarity": pa.array(similarity, mask=instead < 0),
        "cluster": pa.array(groups),
    }
    return pa.table(columns)
