"""Spectral clustering of a neighbour graph as an MPI job: `penstock.solvers.programs.spectral`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, tensor_type
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.core.reading import Check
from penstock.errors import SchemaError, UnitError
from penstock.solvers.programs.results import found_arrays
from penstock.solvers.reference import Reference, require_reference
from penstock.solvers.work import Work, computed

__all__ = ["Spectral"]

_PROGRAM = "penstock.solvers.programs.spectral"
_COLUMNS = ["row", "neighbour", "similarity"]


@dataclass(frozen=True)
class Spectral:
    """Clusters the rows of a neighbours dataset.

    Each rank reads its own rows by the dataset's manifest, from a path or S3.

    Columns: ``row``; ``cluster`` (int32), numbered as the clusters appear; ``clusters`` (int32,
    ``"row max_clusters-1"``), the same for 2, 3, ... clusters; ``coordinates`` (float32, ``"row max_clusters"``),
    eigenvectors of the graph's normalised Laplacian; ``eigenvalues`` (float32, ``"row max_clusters"``), rising,
    the same in each row. As many eigenvalues are 0 as the graph has components.

    Attributes:
        clusters: how many; 0 chooses, from 2 on, where the gap to the next eigenvalue is widest.
        max_clusters: the most that are tried.
        seed: of the first vectors and of k-means.
        check: how each file is held against the manifest before it is read: by its ``sha256``, or by its ``size``
            alone, which costs nothing (for large datasets, of which ``penstock verify`` was run).
        cluster: where it runs, and on how many MPI ranks; the result does not depend on them.
    """

    clusters: int = 0
    max_clusters: int = 12
    seed: int = 0
    check: Check = "sha256"
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("check", "cluster")
    NEEDS = ("h5py", "mpi4py")

    def __post_init__(self) -> None:
        if self.max_clusters < 2:
            raise ValueError(f"max_clusters must be 2 or more, not {self.max_clusters}")
        if self.clusters and not 2 <= self.clusters <= self.max_clusters:
            raise ValueError(f"clusters must be 0 or from 2 to max_clusters ({self.max_clusters}), not {self.clusters}")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """See the class. Raises `SchemaError`."""
        require_reference(given, "spectral")
        most = self.max_clusters
        tensors = {
            "clusters": tensor_type(np.int32, most - 1),
            "coordinates": tensor_type(np.float32, most),
            "eigenvalues": tensor_type(np.float32, most),
        }
        return pa.schema([("row", pa.int64()), ("cluster", pa.int32()), *tensors.items()])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that runs the job on the dataset it is given the reference of."""
        yield lambda batch: self._solved(Reference.of(batch))

    def _solved(self, reference: Reference) -> Batch:
        with computed(self._work(reference), self.cluster) as folder:
            return _table(folder / "result.npz", reference.rows)

    def _work(self, reference: Reference) -> Work:
        self._require(reference)
        ranks = self.cluster.tasks
        told = {
            **reference.told(),
            "ranks": ranks,
            "clusters": self.clusters,
            "max_clusters": self.max_clusters,
            "seed": self.seed,
            "result": "result.npz",
            "check": self.check,
        }
        what = (_PROGRAM, reference.plain(), self.clusters, self.max_clusters, self.seed, ranks)
        return Work("spectral", what, (self.cluster.python, "-m", "mpi4py", "-m", _PROGRAM), told, ("result.npz",))

    def _require(self, reference: Reference) -> None:
        manifest = reference.manifest()
        if missing := set(_COLUMNS) - set(manifest.schema.names):
            raise SchemaError(
                f"{reference.dataset} lacks {', '.join(sorted(missing))}; it has {', '.join(manifest.schema.names)}. "
                "Spectral reads what the neighbours stage gives"
            )
        if reference.rows <= self.max_clusters:
            raise UnitError(
                f"{reference.rows} rows cannot be parted into up to {self.max_clusters} clusters; lower max_clusters"
            )


def _table(path: Path, rows: int) -> Batch:
    columns = found_arrays(path, ("cluster", "clusters", "coordinates", "eigenvalues"))
    columns["eigenvalues"] = np.tile(columns["eigenvalues"], (rows, 1))
    return pa.table({"row": np.arange(rows), **{name: tensor_column(values) for name, values in columns.items()}})
