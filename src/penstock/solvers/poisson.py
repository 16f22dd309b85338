"""Diffusion driven by embeddings, as an MPI job: `penstock.solvers.programs.poisson`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, tensor_type
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.core.reading import Check
from penstock.errors import SchemaError
from penstock.solvers.programs.results import found_arrays
from penstock.solvers.reference import REFERENCE, Reference, require_reference
from penstock.solvers.work import Work, computed

__all__ = ["Poisson"]

_PROGRAM = "penstock.solvers.programs.poisson"
_LEAST_CELLS = 1.5
_MOST_WIDTH = 1 / 16


@dataclass(frozen=True)
class Poisson:
    """Solves ``-div(kappa grad u) + s u = f``, or the heat equation, with values of a dataset's rows as ``f``.

    Each row lies at a point of a periodic rectangle and adds a Gaussian of its value to the forcing; with a mask,
    ``kappa = exp(contrast g)`` follows another such field. Derivatives are taken in Fourier space.

    A column is named as ``mass``, or as ``embedding[3]`` for a component of its tensor.

    Columns with ``output = "rows"``: ``row`` and ``solution`` (float64, ``"row channel"``), at the row's point. With
    ``output = "grid"``, a row for each line of the grid: ``row``; ``x``, where the line is, and ``y`` (``"row grid"``),
    where its points are; ``forcing`` and ``solution`` (``"row channel grid"``), ``kappa`` (``"row grid"``), float64.

    Attributes:
        points: the columns of the two coordinates.
        forcing: the columns of the values, a channel for each.
        mask: the column that kappa follows; empty keeps it at 1.
        contrast: how strongly.
        period: lengths of the rectangle; points outside come in again on the other side. 0 fits it to the points,
            with a quarter to spare.
        grid: points along each axis, even.
        width: standard deviation of the Gaussians, as a fraction of the period.
        screening: ``s``, per area; where it is 0 the mean of the forcing is left out and the solution's is 0.
        time: how long heat spreads from ``u = 0``; 0 asks for the steady state.
        steps: into which the time is cut.
        output: the solution at the rows' points, or on the grid.
        check: how each file is held against the manifest before it is read: by its ``sha256``, or by its ``size``
            alone, which costs nothing (for large datasets, of which ``penstock verify`` was run).
        cluster: where it runs, and on how many MPI ranks; the result does not depend on them but for rounding.
    """

    points: tuple[str, str] = ("coordinates[0]", "coordinates[1]")
    forcing: tuple[str, ...] = ("embedding[0]",)
    mask: str = ""
    contrast: float = 1.0
    period: tuple[float, float] = (0.0, 0.0)
    grid: int = 128
    width: float = 0.03
    screening: float = 0.0
    time: float = 0.0
    steps: int = 100
    output: Literal["rows", "grid"] = "rows"
    check: Check = "sha256"
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("check", "cluster")
    NEEDS = ("h5py", "mpi4py", "scipy")

    def __post_init__(self) -> None:
        if not self.forcing:
            raise ValueError('forcing is empty; write forcing = ["embedding[0]"]')
        if self.grid < 4 or self.grid % 2:
            raise ValueError(f"grid must be even and 4 or more, not {self.grid}")
        if not _LEAST_CELLS / self.grid <= self.width <= _MOST_WIDTH:
            raise ValueError(
                f"width must be from {_LEAST_CELLS:g} cells of the grid, {_LEAST_CELLS / self.grid:g}, "
                f"to {_MOST_WIDTH:g} of the period, not {self.width:g}"
            )
        if min(self.period) < 0 or self.screening < 0 or self.time < 0 or self.steps < 1:
            raise ValueError("period, screening and time must not be negative, and steps 1 or more")
        for name in self._names():
            _place(name)

    def schema(self, given: pa.Schema) -> pa.Schema:
        """See the class. Raises `SchemaError`."""
        require_reference(given, "poisson")
        channels, size = len(self.forcing), self.grid
        if self.output == "rows":
            return pa.schema([("row", pa.int64()), ("solution", tensor_type(np.float64, channels))])
        line, lines = tensor_type(np.float64, size), tensor_type(np.float64, channels, size)
        columns = {"x": pa.float64(), "y": line, "forcing": lines, "solution": lines, "kappa": line}
        return pa.schema([("row", pa.int64()), *columns.items()])

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that runs the job on the dataset it is given the reference of."""
        yield lambda batch: self._solved(Reference.of(batch))

    def _names(self) -> tuple[str, ...]:
        return (*self.points, *self.forcing, *([self.mask] if self.mask else []))

    def _solved(self, reference: Reference) -> Batch:
        schema = reference.manifest().schema
        for name in self._names():
            _require(schema, name, reference.dataset)
        with computed(self._work(reference), self.cluster) as folder:
            return self._table(folder / "result.npz", reference.rows)

    def _work(self, reference: Reference) -> Work:
        options = self._options()
        tasks = self.cluster.tasks
        told = {"reference": reference.told(), "tasks": tasks, **options, "check": self.check, "result": "result.npz"}
        what = (_PROGRAM, reference.plain(), options, tasks)
        return Work("poisson", what, (self.cluster.python, "-m", "mpi4py", "-m", _PROGRAM), told, ("result.npz",))

    def _options(self) -> Mapping[str, Any]:
        names = ("contrast", "grid", "width", "screening", "time", "steps", "output")
        return {
            "points": [_place(name) for name in self.points],
            "forcing": [_place(name) for name in self.forcing],
            "mask": _place(self.mask) if self.mask else None,
            "period": list(self.period),
            **{name: getattr(self, name) for name in names},
        }

    def _table(self, path: Path, rows: int) -> Batch:
        schema = self.schema(REFERENCE)
        found = found_arrays(path, schema.names[1:])
        row = pa.array(np.arange(rows if self.output == "rows" else self.grid))
        return pa.table([row, *(tensor_column(values) for values in found.values())], schema=schema)


_NAME = re.compile(r"(.+?)(?:\[(\d+)\])?")


def _place(name: str) -> tuple[str, int | None]:
    """The column and the component that *name* means."""
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(f"'{name}' names no column; write mass, or embedding[3] for a component of its tensor")
    return found[1], int(found[2]) if found[2] else None


def _require(schema: pa.Schema, name: str, dataset: str) -> None:
    """Refuse a column that is not there, or has no such number."""
    column, component = _place(name)
    if column not in schema.names:
        raise SchemaError(f"{dataset} has no column '{column}'; there are: {', '.join(schema.names)}")
    kind = schema.field(column).type
    count = int(np.prod(kind.shape)) if isinstance(kind, pa.FixedShapeTensorType) else None
    if count is None and component is not None:
        raise SchemaError(f"column '{column}' of {dataset} is {kind}, no tensor; write '{column}'")
    if count is not None and (component is None or component >= count):
        raise SchemaError(
            f"column '{column}' of {dataset} has {count} components, so '{name}' is no number; "
            f"write '{column}[0]' up to '{column}[{count - 1}]'"
        )
