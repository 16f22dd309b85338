"""How MPI programs share the rows of a dataset, and how a rank reads its own.

Rank *r* of *p* has the rows ``[n r // p, n (r + 1) // p)``. It goes by the manifest, on a file system or S3, and
reads those files alone that hold rows of its own: each column into one piece of memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.core.reading import Check, read_arrays
from penstock.solvers.reference import Reference

__all__ = ["bounds", "gather_rows", "own_rows", "require_ranks"]

Array = npt.NDArray[Any]


def bounds(rows: int, ranks: int) -> npt.NDArray[np.int64]:
    """Where each rank's rows begin, and behind the last one the end: int64, ``"rank+1"``."""
    return rows * np.arange(ranks + 1) // ranks


def require_ranks(comm: Any, tasks: int) -> None:
    """Refuse another number of ranks than *tasks*.

    Raises:
        ValueError: the launcher and the MPI library do not know each other, so that each process is alone.
    """
    if comm.size != tasks:
        raise ValueError(
            f"{tasks} ranks were expected and there are {comm.size}; "
            "is mpiexec of the same MPI as the one mpi4py loads?"
        )


def own_rows(
    comm: Any, reference: Mapping[str, Any], columns: Sequence[str], check: Check = "sha256"
) -> dict[str, Array]:
    """This rank's rows of *columns*, ``"own row ..."``; collective.

    Args:
        comm: the communicator; rank 0 reads the manifest for all.
        reference: ``dataset``, ``version``, ``rows`` and ``sha256``, as in the job's file.
        columns: numbers or tensors of numbers.
        check: ``sha256`` refuses a file of which any byte has changed; ``size`` one that has another length,
            and reads at the speed of the file system.

    Raises:
        DatasetError: a file is missing or changed, the dataset was written anew, or its manifest is of a later
            Penstock.
        SchemaError: there is no such column, or it has no numbers.
    """
    manifest = comm.bcast(Reference(**reference).manifest() if comm.rank == 0 else None)
    start, stop = bounds(manifest.rows, comm.size)[comm.rank : comm.rank + 2]
    return read_arrays(manifest, int(start), int(stop), columns, check)


def gather_rows(comm: Any, own: Array, rows: int) -> Array:
    """Put the slabs of all ranks together on every rank, ``"row ..."``; collective."""
    whole = np.empty((rows, *own.shape[1:]), own.dtype)
    width = whole[:1].size
    counts = np.diff(bounds(rows, comm.size)) * width
    comm.Allgatherv(np.ascontiguousarray(own), [whole, counts])
    return whole
