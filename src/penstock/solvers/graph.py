"""Algorithms on a neighbour graph as an MPI job: `penstock.solvers.programs.graph`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import field_of
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.core.reading import Check
from penstock.solvers.programs.results import found_arrays
from penstock.solvers.reference import Reference, require_reference
from penstock.solvers.work import Work, computed

__all__ = ["Graph", "kept"]

_PROGRAM = "penstock.solvers.programs.graph"
_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("pagerank", pa.float64()),
        ("component", pa.int64()),
        ("community", pa.int64()),
        ("kept", pa.bool_()),
        ("duplicate_of", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Graph:
    """PageRank, components, communities and near-duplicates of a neighbours dataset.

    The graph joins two rows when either is among the neighbours of the other, by their mean similarity. Each rank
    reads its own rows by the dataset's manifest, from a path or S3.

    Columns: ``row``; ``pagerank`` (float64), summing to 1; ``component`` and ``community`` (int64), numbered as they
    appear; ``kept`` (bool), false for near-duplicates; ``duplicate_of`` (int64), the row that stays in its place,
    itself where it is kept.

    Attributes:
        damping: of PageRank: the probability of following an edge rather than jumping anywhere.
        least_similarity: neighbours below this are no edges, for all but duplicates.
        duplicate_similarity: rows at least this similar are near-duplicates.
        keep: ``component`` keeps the first row of each group that is linked by such similarities, so none of them
            is left; ``greedy`` goes through the rows and drops one only for a kept neighbour, so each that is
            dropped is that similar to one that stays.
        check: how each file is held against the manifest before it is read: by its ``sha256``, or by its ``size``
            alone, which costs nothing (for large datasets, of which ``penstock verify`` was run).
        cluster: where it runs, and on how many MPI ranks; the result does not depend on them.
    """

    damping: float = 0.85
    least_similarity: float = 0.0
    duplicate_similarity: float = 0.95
    keep: Literal["component", "greedy"] = "component"
    check: Check = "sha256"
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("check", "cluster")
    NEEDS = ("h5py", "mpi4py", "scipy")

    def __post_init__(self) -> None:
        if not 0 <= self.damping < 1:
            raise ValueError(f"damping must be from 0 to below 1, not {self.damping}")
        if not 0 <= self.least_similarity <= 1 or not 0 < self.duplicate_similarity <= 1:
            raise ValueError(
                f"similarities go from 0 to 1; least_similarity is {self.least_similarity}, "
                f"duplicate_similarity {self.duplicate_similarity}"
            )

    def schema(self, given: pa.Schema) -> pa.Schema:
        """See the class. Raises `SchemaError`."""
        require_reference(given, "graph")
        return _SCHEMA

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that runs the job on the dataset it is given the reference of."""
        yield lambda batch: self._solved(Reference.of(batch))

    def _solved(self, reference: Reference) -> Batch:
        manifest = reference.manifest()
        for name in ("neighbour", "similarity"):
            field_of(manifest.schema, name, f"graph reads what the neighbours stage gives, so {reference.dataset}")
        with computed(self._work(reference), self.cluster) as folder:
            return _table(folder / "result.npz", reference.rows)

    def _work(self, reference: Reference) -> Work:
        options = {
            "damping": self.damping,
            "least": self.least_similarity,
            "duplicate": self.duplicate_similarity,
            "keep": self.keep,
        }
        tasks = self.cluster.tasks
        told = {"reference": reference.told(), "tasks": tasks, **options, "check": self.check, "result": "result.npz"}
        what = (_PROGRAM, reference.plain(), options, tasks)
        return Work("graph", what, (self.cluster.python, "-m", "mpi4py", "-m", _PROGRAM), told, ("result.npz",))


def _table(path: Path, rows: int) -> Batch:
    found = found_arrays(path, ("pagerank", "component", "community", "duplicate_of"))
    row = np.arange(rows)
    columns = {"row": row, "kept": found["duplicate_of"] == row, **found}
    return pa.table([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)


def kept(batch: Batch) -> Batch:
    """The rows that stay, for a later pipeline: ``use = "function"``, ``function = "penstock.solvers.graph:kept"``."""
    return batch.filter(batch["kept"])
