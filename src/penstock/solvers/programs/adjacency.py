"""The neighbour graph as the rows of a symmetric sparse matrix, shared out over the ranks."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.solvers.programs.rows import bounds

__all__ = ["symmetric"]

Sparse: TypeAlias = Any
"""A CSR matrix of scipy."""


def symmetric(
    neighbour: npt.NDArray[np.int64], similarity: npt.NDArray[Any], start: int, rows: int, comm: Any
) -> Sparse:
    """Our rows of ``(S + S^T) / 2`` with negative similarities as 0; CSR, float64, ``"own row"``; collective.

    Each edge also goes to the rank of its end.

    Raises:
        ValueError: some neighbours are no rows of the dataset, or similarities are not finite.
    """
    from scipy import sparse

    if ((neighbour < 0) | (neighbour >= rows)).any() or not np.isfinite(similarity).all():
        raise ValueError(f"rows from {start} on have fill values in place of neighbours; a part is missing or damaged")
    ours = np.repeat(np.arange(start, start + len(neighbour)), neighbour.shape[1])
    theirs, weight = neighbour.ravel(), similarity.ravel().astype(np.float64).clip(0) / 2
    owner = np.searchsorted(bounds(rows, comm.size)[1:-1], theirs, side="right")
    sent = [(theirs[owner == rank], ours[owner == rank], weight[owner == rank]) for rank in range(comm.size)]
    parts = [(ours, theirs, weight), *comm.alltoall(sent)]
    to, other, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    matrix = sparse.csr_matrix((weights, (to - start, other)), (len(neighbour), rows))
    matrix.sum_duplicates()  # sorts too, so that products add up in one order whatever the ranks
    matrix.eliminate_zeros()
    return matrix
