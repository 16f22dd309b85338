"""Spectral clustering of a neighbour graph as an MPI job: `penstock.solvers.programs.spectral`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, tensor_type, to_numpy
from penstock.core.dataset import Manifest
from penstock.core.nouns import Batch, Job, Transform
from penstock.core.plugins import ClusterField
from penstock.core.reading import read_rows
from penstock.core.storage import Uri
from penstock.errors import SchemaError, UnitError
from penstock.solvers.job import job_key, run_job, work_folder
from penstock.solvers.reference import Reference, local_folder, require_reference

__all__ = ["Spectral"]

_PROGRAM = "penstock.solvers.programs.spectral"
_COLUMNS = ["row", "neighbour", "similarity"]


@dataclass(frozen=True)
class Spectral:
    """Clusters the rows of a neighbours dataset.

    Each rank reads its own rows of the dataset's HDF5 index. From another format or store the columns are
    first copied into the job's folder.

    Columns: ``row``; ``cluster`` (int32), numbered as the clusters appear; ``clusters`` (int32,
    ``"row max_clusters-1"``), the same for 2, 3, ... clusters; ``coordinates`` (float32, ``"row max_clusters"``),
    eigenvectors of the graph's normalised Laplacian; ``eigenvalues`` (float32, ``"row max_clusters"``), rising,
    the same in each row. As many eigenvalues are 0 as the graph has components.

    Attributes:
        clusters: how many; 0 chooses, from 2 on, where the gap to the next eigenvalue is widest.
        max_clusters: the most that are tried.
        seed: of the first vectors and of k-means.
        ranks: of the MPI program; the result does not depend on them.
        cluster: where it runs.
        folder: below which it works; all machines of the cluster must see it. Empty takes the temporary folder.
        time_seconds: it is ended after this long; 0 sets no limit.
    """

    clusters: int = 0
    max_clusters: int = 12
    seed: int = 0
    ranks: int = 2
    cluster: ClusterField = field(default_factory=Local)
    folder: Uri = ""
    time_seconds: int = 0

    ASIDE = ("ranks", "cluster", "folder", "time_seconds")
    NEEDS = ("h5py", "mpi4py")

    def __post_init__(self) -> None:
        if self.max_clusters < 2 or self.ranks < 1:
            raise ValueError(f"max_clusters ({self.max_clusters}) must be 2 or more, ranks ({self.ranks}) 1 or more")
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
        manifest = self._manifest(reference)
        key = job_key(_PROGRAM, reference.plain(), self.clusters, self.max_clusters, self.seed, self.ranks)
        with work_folder(self.folder, key) as folder:
            config = folder / "job.json"
            config.write_text(json.dumps(self._config(manifest, folder), indent=1))
            command = (sys.executable, "-m", "mpi4py", "-m", _PROGRAM, str(config))
            run_job(self.cluster, Job(key, command, str(folder), self.ranks, time_seconds=self.time_seconds))
            return _table(folder / "result.npz", reference.rows)

    def _manifest(self, reference: Reference) -> Manifest:
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
        return manifest

    def _config(self, manifest: Manifest, folder: Path) -> dict[str, str | int]:
        return {
            "index": str(_index(manifest, folder)),
            "sha256": manifest.sha256,
            "rows": manifest.rows,
            "ranks": self.ranks,
            "clusters": self.clusters,
            "max_clusters": self.max_clusters,
            "seed": self.seed,
            "result": str(folder / "result.npz"),
        }


def _index(manifest: Manifest, folder: Path) -> Path:
    """A file that the ranks can open: the dataset's own index where it has one, else a copy of the columns."""
    root = local_folder(manifest.uri)
    return root / "index.h5" if root and manifest.format == "hdf5" else copied(manifest, folder / "index.h5")


def copied(manifest: Manifest, path: Path) -> Path:
    """The columns that the program reads, as one plain HDF5 file."""
    import h5py

    table = read_rows(manifest, 0, manifest.rows, _COLUMNS)
    with h5py.File(path, "w", libver=("v108", "v110")) as file:
        file.attrs["manifest_sha256"] = manifest.sha256
        for name in _COLUMNS:
            file[name] = to_numpy(table[name])
    return path


def _table(path: Path, rows: int) -> Batch:
    try:
        with np.load(path) as found:
            columns = {name: found[name] for name in ("cluster", "clusters", "coordinates", "eigenvalues")}
    except (OSError, KeyError, ValueError) as error:
        raise UnitError(f"the job ended well and its result cannot be read ({error}); run again") from error
    columns["eigenvalues"] = np.tile(columns["eigenvalues"], (rows, 1))
    return pa.table({"row": np.arange(rows), **{name: tensor_column(values) for name, values in columns.items()}})
