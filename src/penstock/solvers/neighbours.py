"""Nearest neighbours: the graph that spectral and graph solvers start from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import tensor_column, tensor_type, to_numpy
from penstock.core.nouns import Batch, Transform
from penstock.core.reading import read_rows
from penstock.errors import SchemaError, UnitError
from penstock.solvers.reference import Reference, require_reference

__all__ = ["Neighbours"]

Points: TypeAlias = npt.NDArray[np.float32]
Indices: TypeAlias = npt.NDArray[np.int64]

_EXACT_ROWS = 50_000
_SLACK = 32
"""So many more candidates than neighbours are looked at again in double precision."""
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True)
class Neighbours:
    """The *k* nearest neighbours of each row of a dataset, itself left out.

    Columns: ``row``; ``neighbour`` (int64, ``"row k"``), nearest first, equal ones by row number; and
    ``similarity`` (float32, ``"row k"``): the cosine, or ``1 / (1 + distance)``.

    Attributes:
        column: the tensor column that is compared.
        k: how many neighbours.
        metric: by which they are near.
        center: subtract the mean of all rows first. Embeddings of one model share a large common part,
            beside which cosines hardly differ; distances do not change.
        method: ``exact`` compares all pairs; ``hnsw`` follows a navigable graph
            (Malkov and Yashunin 2016, https://arxiv.org/abs/1603.09320), built by one thread so that it is
            the same each time; ``auto`` is exact below 50,000 rows.
        threads: for the search; 0 takes all cores.
    """

    column: str = "embedding"
    k: int = 10
    metric: Literal["cosine", "euclidean"] = "cosine"
    center: bool = True
    method: Literal["auto", "exact", "hnsw"] = "auto"
    threads: int = 0

    ASIDE = ("threads",)
    NEEDS = ("faiss",)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be 1 or more, not {self.k}")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``row``, ``neighbour`` and ``similarity``. Raises `SchemaError`."""
        require_reference(given, "neighbours")
        columns = {"neighbour": tensor_type(np.int64, self.k), "similarity": tensor_type(np.float32, self.k)}
        return pa.schema([("row", pa.int64()), *columns.items()])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that reads the dataset it is given the reference of."""
        yield lambda batch: self._solved(Reference.of(batch))

    def _solved(self, reference: Reference) -> Batch:
        neighbour, similarity = self.nearest(self._points(reference))
        columns = {"neighbour": tensor_column(neighbour), "similarity": tensor_column(similarity)}
        return pa.table({"row": np.arange(reference.rows), **columns})

    def _points(self, reference: Reference) -> Points:
        table = read_rows(reference.manifest(), 0, reference.rows, [self.column])
        return _points(to_numpy(table[self.column]), self.column)

    def nearest(self, points: Points) -> tuple[Indices, Points]:
        """The neighbours of each of *points*, ``"row dim"``, and their similarities, both ``"row k"``.

        Raises:
            UnitError: there are too few rows.
        """
        rows = len(points)
        if rows <= self.k:
            raise UnitError(
                f"{rows} rows have {max(rows - 1, 0)} neighbours each, k = {self.k} were asked for; "
                f"set k below {max(rows, 2)}"
            )
        points = self._prepared(points)
        with _threads(self.threads):
            candidates = self._candidates(points, min(rows, self.k + 1 + _SLACK))
        return self._ranked(points, candidates)

    def _prepared(self, points: Points) -> Points:
        if self.center:
            points = points - points.mean(axis=0, dtype=np.float64).astype(np.float32)
        if self.metric == "euclidean":
            return points
        norms = np.sqrt((points**2).sum(axis=1, keepdims=True))
        norms[norms == 0] = 1
        return np.asarray(points / norms, np.float32)

    def _candidates(self, points: Points, count: int) -> Indices:
        import faiss

        metric = faiss.METRIC_INNER_PRODUCT if self.metric == "cosine" else faiss.METRIC_L2
        if self.method == "exact" or (self.method == "auto" and len(points) < _EXACT_ROWS):
            index = faiss.IndexFlat(points.shape[1], metric)
            index.add(points)
            return np.asarray(index.search(points, count)[1])
        return _by_hnsw(faiss, metric, points, count)

    def _ranked(self, points: Points, candidates: Indices) -> tuple[Indices, Points]:
        """The best of the candidates by double precision, which does not depend on blocks and threads."""
        neighbour = np.empty((len(points), self.k), np.int64)
        similarity = np.empty((len(points), self.k), np.float32)
        size = max(1, _BLOCK_BYTES // (8 * candidates.shape[1] * points.shape[1]))
        for start in range(0, len(points), size):
            block = slice(start, start + size)
            found = candidates[block]
            score = self._similarity(points[block], points[found])
            score[found == np.arange(start, start + len(found))[:, None]] = -np.inf
            order = np.lexsort((found, -score))[:, : self.k]
            neighbour[block] = np.take_along_axis(found, order, 1)
            similarity[block] = np.take_along_axis(score, order, 1)
        return neighbour, similarity

    def _similarity(self, ours: Points, theirs: Points) -> npt.NDArray[np.float32]:
        """Of ``"row dim"`` and ``"row candidate dim"``, as ``"row candidate"``."""
        one, many = ours[:, None].astype(np.float64), theirs.astype(np.float64)
        if self.metric == "cosine":
            score = (one * many).sum(-1).clip(-1, 1)
        else:
            score = 1 / (1 + np.sqrt(((one - many) ** 2).sum(-1)))
        return np.asarray(score, np.float32)


def _points(values: npt.NDArray[Any], column: str) -> Points:
    if values.ndim != 2:
        raise SchemaError(
            f"column '{column}' holds tensors of {values.ndim - 1} dimensions; vectors were needed, so pool it first"
        )
    points = np.ascontiguousarray(values, np.float32)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(bad):
        raise UnitError(
            f"column '{column}' has {len(bad)} rows with values that are not finite, the first is row {bad[0]}; "
            "mend or drop them in the pipeline that writes it"
        )
    return points


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _by_hnsw(faiss: Any, metric: int, points: Points, count: int) -> Indices:
    index = faiss.IndexHNSWFlat(points.shape[1], 32, metric)
    index.hnsw.efConstruction, index.hnsw.efSearch = 200, max(128, 2 * count)
    with _threads(1):  # several threads would link the points in another order each time
        index.add(points)
    found = np.asarray(index.search(points, count)[1])
    # Where the graph has an island smaller than asked for, all pairs are compared.
    short = np.flatnonzero((found < 0).any(axis=1))
    if len(short):
        found[short] = faiss.downcast_index(index.storage).search(points[short], count)[1]
    return found
