"""Rows of a stream as what a running solver takes: a plane a row, or fields that are swept through an inlet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import to_numpy
from penstock.core.nouns import Batch
from penstock.errors import SchemaError
from penstock.flows.sweeping import Sweep
from penstock.solvers.openfoam.ahead import Plane

__all__ = ["Rows", "needed", "planes", "swept"]

Rows = Callable[[int], Iterator[Batch]]
"""The rows of a stream from number *first* on; see `penstock.core.nouns.Solver`."""

Planes = Callable[[int], Iterator[Plane]]


def needed(given: pa.Schema, column: str, who: str, *, field: bool) -> None:
    """Look whether *column* can be fed.

    Args:
        given: the columns of the rows.
        column: that is fed.
        who: for messages.
        field: whether each row is a field in a square, ``"2 y x"``, or a plane.

    Raises:
        SchemaError: there is no such column, or it has another shape.
    """
    kind = given.field(column).type if column in given.names else None
    shape = kind.shape if isinstance(kind, pa.FixedShapeTensorType) else None
    square = shape is not None and len(shape) == 3 and shape[0] == 2 and shape[1] == shape[2]
    if shape is None or (field and not square):
        wanted = "fields in a square, tensors [2, n, n]" if field else "planes, tensors [points, components]"
        found = ", ".join(f"{f.name}: {f.type}" for f in given)
        raise SchemaError(f"{who} needs a column '{column}' of {wanted}; found: {found}")


def planes(rows: Rows, column: str) -> Planes:
    """A plane for each row, ``"point 3"`` of vectors, ``"point"`` of scalars."""
    return lambda first: map(_plane, _arrays(rows(first), column))


def swept(rows: Rows, column: str, sweep: Sweep, plane_seconds: float, along_y: npt.NDArray[np.float64]) -> Planes:
    """Fields, a row each, swept through an inlet whose faces have their centres at *along_y*, in m."""

    def fields(first: int) -> Iterator[npt.NDArray[np.floating]]:
        return _arrays(rows(first), column)

    return lambda first: sweep.planes(fields, first, plane_seconds, along_y - sweep.bottom)


def _arrays(batches: Iterator[Batch], column: str) -> Iterator[npt.NDArray[np.floating]]:
    return chain.from_iterable(to_numpy(batch[column]) for batch in batches)


def _plane(array: npt.NDArray[np.floating]) -> Plane:
    """A field on a grid, ``"component y x"``, becomes cells with x fastest; two components become three."""
    if array.ndim == 3:
        array = array.reshape(len(array), -1).T
    if array.ndim == 2 and array.shape[1] == 2:
        return np.pad(array, ((0, 0), (0, 1)))
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
