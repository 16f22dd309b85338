"""How MPI programs share the rows of a dataset, and how a rank reads its own.

Rank *r* of *p* has the rows ``[n r // p, n (r + 1) // p)``. Every rank opens the index with HDF5's ordinary
driver: the parallel one cannot read virtual datasets
(https://docs.hdfgroup.org/hdf5/v1_14/group___d_a_p_l.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["bounds", "gather_rows", "read_slab"]

Array = npt.NDArray[Any]


def bounds(rows: int, ranks: int) -> npt.NDArray[np.int64]:
    """Where each rank's rows begin, and behind the last one the end: int64, ``"rank+1"``."""
    return rows * np.arange(ranks + 1) // ranks


def read_slab(path: str, sha256: str, columns: Sequence[str], start: int, stop: int) -> dict[str, Array]:
    """The rows *start* to *stop* of the index at *path*, which must be that of the dataset *sha256*.

    Raises:
        ValueError: it is of another dataset, or some of the rows are fill values: HDF5 gives those
            without a word where a part of a virtual dataset is missing.
    """
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        found = file.attrs.get("manifest_sha256")
        if found != sha256:
            raise ValueError(
                f"{path} is the index of dataset {found}, {sha256} was needed; run the pipeline that writes it again"
            )
        if not np.array_equal(file["row"][start:stop], np.arange(start, stop)):
            raise ValueError(
                f"{path}: rows {start} to {stop} are not all there, so a part of the dataset is missing or damaged; "
                "restore it, or run the pipeline that writes it again"
            )
        return {name: file[name][start:stop] for name in columns}


def gather_rows(comm: Any, own: Array, rows: int) -> Array:
    """Put the slabs of all ranks together on every rank, ``"row ..."``; collective."""
    whole = np.empty((rows, *own.shape[1:]), own.dtype)
    width = whole[:1].size
    counts = np.diff(bounds(rows, comm.size)) * width
    comm.Allgatherv(np.ascontiguousarray(own), [whole, counts])
    return whole
