"""Each row starts a solver case of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import adding, field_of, tensor_column, tensor_type, to_numpy, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.core.storage import Uri
from penstock.errors import PenstockError, RowErrors, SchemaError
from penstock.flows.projection import flux_projected
from penstock.solvers.openfoam.case import Case
from penstock.solvers.openfoam.ensemble import Ensemble, Outcome, tensor_shape

__all__ = ["Openfoam"]

_LOG: Mapping[str, pa.DataType] = {
    "continuity": pa.list_(pa.float64()),
    "courant": pa.float64(),
    "steps": pa.int64(),
    "seconds": pa.float64(),
}


@dataclass(frozen=True)
class Openfoam:
    """Starts a solver from each row's field, and adds what it makes of it.

    A row becomes a case: the template, with the row's column as a binary field of time 0. All rows of a batch are one
    job, an item each (a job array on Slurm), so that as many run at once as the cluster allows.

    A field is a tensor ``"component y x"`` of a periodic square, or ``"cell [component]"`` in the solver's order. A
    grid goes point by point to a mesh that is that grid (a blockMesh box), and is interpolated to any other.

    Added columns: ``time``, that of the field; those of *gives*; and what *log* asks for: ``continuity`` (list:
    ``sum local`` of each pressure solution, in order), ``courant`` (the largest), ``steps``, and ``seconds`` (of the
    solver's wall clock, which no two runs have alike). With ``times = "all"`` there is a row for each written time.

    A row whose solver fails is quarantined with the first thing that went wrong in its log.

    Attributes:
        case: the template's folder, a plain OpenFOAM case. Without a mesh it is made by ``blockMesh``.
        columns: columns and the fields that they become, ``{ velocity = "U" }``.
        gives: columns and the fields that they are afterwards, ``{ later = "U", pressure = "p" }``; on the grid of
            the first of *columns*, where that is one.
        settings: columns with numbers of ``constant``, ``{ viscosity = "transportProperties/nu" }``.
        points: a column with the mesh's points, such as `penstock.solvers.openfoam.deform.Deform` gives.
        control: entries of ``controlDict`` in place of the template's, ``{ endTime = 0.1 }``.
        application: the solver; empty takes that of ``controlDict``.
        times: the last one, or all that are written.
        projection: ``fluxes`` takes from a periodic grid what the solver's own divergence sees, before it starts.
        log: what is told of the run.
        ranks: MPI ranks of each solver; give the cluster as many ``cpus_per_task``.
        cluster: where the solvers run.
    """

    case: Uri
    columns: Mapping[str, str] = field(default_factory=lambda: {"velocity": "U"})
    gives: Mapping[str, str] = field(default_factory=lambda: {"later": "U"})
    settings: Mapping[str, str] = field(default_factory=dict)
    points: str = ""
    control: Mapping[str, str | float | int] = field(default_factory=dict)
    application: str = ""
    times: Literal["last", "all"] = "last"
    projection: Literal["none", "fluxes"] = "none"
    log: tuple[Literal["continuity", "courant", "steps", "seconds"], ...] = ("continuity", "courant", "steps")
    ranks: int = 1
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("case", "cluster", "ranks")

    def __post_init__(self) -> None:
        if not self.columns and not self.points:
            raise ValueError('columns is empty; write columns = { velocity = "U" }')
        if self.ranks < 1:
            raise ValueError(f"ranks must be 1 or more, not {self.ranks}")
        if not self.gives:
            raise ValueError('gives is empty; write gives = { later = "U" }')
        if clash := (set(self.gives) | {"time"}) & set(_LOG) or {"time"} & set(self.gives):
            raise ValueError(f"gives names '{min(clash)}', which has another meaning here; choose another name")

    def identity(self) -> Mapping[str, str]:
        """The hash of the template."""
        return {"case": self._case.sha256()}

    def schema(self, given: pa.Schema) -> pa.Schema:
        """See the class. Raises `SchemaError`."""
        for name in (*self.columns, *self.settings, *([self.points] if self.points else [])):
            field_of(given, name, "openfoam")
        for name in self.columns:
            _require_tensor(given.field(name))
        added = {name: tensor_type(np.float64, *self._shape(given, field)) for name, field in self.gives.items()}
        return adding(given, {"time": pa.float64(), **added, **{name: _LOG[name] for name in self.log}})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that runs the job for its batch."""
        yield self._run

    @property
    def _case(self) -> Case:
        return Case(self.case, self.application, self.control)

    def _grid(self, given: pa.Schema) -> tuple[int, int] | None:
        """Of the first column, where it is on one."""
        shape = tensor_shape(given.field(next(iter(self.columns))).type) if self.columns else ()
        return (shape[-2], shape[-1]) if len(shape) == 3 else None

    def _shape(self, given: pa.Schema, name: str) -> tuple[int, ...]:
        """Of a field that is given back."""
        components = self._components(name)
        if grid := self._grid(given):
            return (*((min(components, 2),) if components == 3 else (components,) * (components > 1)), *grid)
        cells = self._case.cells()
        if cells is None:
            raise SchemaError(
                f"{self.case} has no mesh yet, so it is not known how many cells there are; run blockMesh in it"
            )
        return (cells, *((components,) if components > 1 else ()))

    def _components(self, name: str) -> int:
        try:
            return int(np.prod(self._case.start(name).shape, dtype=int))
        except PenstockError as error:
            raise SchemaError(f"openfoam cannot give '{name}': {error}") from error

    def _ensemble(self, given: pa.Schema) -> Ensemble:
        grid = self._grid(given)
        shapes = {name: self._shape(given, field) if grid else None for name, field in self.gives.items()}
        gives = {name: (field, shapes[name]) for name, field in self.gives.items()}
        return Ensemble(
            self._case, self.columns, gives, self.settings, self.points, times=self.times, ranks=self.ranks
        )  # fmt: skip

    def _run(self, batch: Batch) -> Batch:
        given = self._projected(batch) if self.projection == "fluxes" else batch
        return self._table(batch, self._ensemble(batch.schema).outcomes(given, self.cluster))

    def _projected(self, batch: Batch) -> Batch:
        name = next(iter(self.columns))
        values = to_numpy(batch[name])
        if values.ndim != 4 or values.shape[1] != 2:
            raise SchemaError(
                f"projection = \"fluxes\" needs column '{name}' on a periodic grid (2, y, x); it is {batch[name].type}"
            )
        with np.errstate(invalid="ignore"):  # a row that is not finite is refused by itself, later
            projected = flux_projected(values.astype(np.float64))
        return with_columns(batch, {name: tensor_column(projected)})

    def _table(self, batch: Batch, outcomes: list[Outcome]) -> Batch:
        reasons = [outcome for outcome in outcomes if isinstance(outcome, str)]
        good = [(row, outcome) for row, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
        found = self._good(batch, good)
        if not reasons:
            return found
        bad = [row for row, outcome in enumerate(outcomes) if isinstance(outcome, str)]
        raise RowErrors(found, batch.take(pa.array(bad)), reasons)

    def _good(self, batch: Batch, good: list[tuple[int, dict[str, npt.NDArray[Any]]]]) -> Batch:
        schema = self.schema(batch.schema)
        if not good:
            return schema.empty_table()
        counts = [len(found["time"]) for _, found in good]
        rows = batch.take(pa.array(np.repeat([row for row, _ in good], counts)))
        added = {"time": pa.array(np.concatenate([found["time"] for _, found in good]))}
        for name in self.gives:
            added[name] = tensor_column(np.concatenate([found[f"field {name}"] for _, found in good]))
        for name in self.log:
            values = [
                found[name].tolist() for (_, found), count in zip(good, counts, strict=True) for _ in range(count)
            ]
            added[name] = pa.array(values, _LOG[name])
        return with_columns(rows, added).select(schema.names)


def _require_tensor(column: pa.Field) -> None:
    if not isinstance(column.type, pa.FixedShapeTensorType):
        raise SchemaError(f"openfoam needs column '{column.name}' as a tensor, a field on cells; it is {column.type}")
