"""Ansys Fluent: each row becomes a case folder, and Fluent runs in it where there is one.

::

    <folders>/channel.cas.h5      the case, set up once in Fluent
    <folders>/<key of the row>/   inlet.prof  initial.ip  run.jou

``fluent 3ddp -g -t4 -i run.jou``, in the row's folder, runs it. `FluentCase` stops there and needs no licence;
`Fluent` goes on, on a cluster, and reads the solution back.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core import plugins
from penstock.core.batch import adding, digest, field_of, tensor_column, tensor_type, to_bytes, to_numpy, with_columns
from penstock.core.dataset import sha256_of
from penstock.core.nouns import Batch, Transform
from penstock.core.plugins import ClusterField
from penstock.core.storage import Uri, join, local_copy, publish, store_of
from penstock.errors import PlanError, RowErrors, SchemaError, UnitError
from penstock.formats.fluent.cff import count_cells, read_solution
from penstock.formats.fluent.files import Floats
from penstock.formats.fluent.interpolation import Cloud, write_cloud
from penstock.formats.fluent.journal import Journal, write_journal
from penstock.formats.fluent.msh import read_msh
from penstock.formats.fluent.names import require_field, require_name
from penstock.formats.fluent.profiles import Profile, write_profiles
from penstock.solvers.reference import local_folder
from penstock.solvers.work import Work, computed

__all__ = ["DATA", "Fluent", "FluentCase", "Grid", "Setup", "write_row"]

Vector: TypeAlias = tuple[float, float, float]
Row: TypeAlias = Mapping[str, npt.NDArray[Any]]

DATA = "out.dat.h5"
"""What a run leaves in its row's folder."""

_PROGRAM = "penstock.solvers.programs.fluent"
_BOX = 2 * math.pi


@dataclass(frozen=True)
class Grid:
    """A column of fields on a regular grid, and where the grid lies.

    Attributes:
        column: a tensor column, ``"row component ..."``; with one name the axis of components may be missing.
        names: what Fluent calls the components.
        axes: the vectors (metres) that the grid spans, one for each axis of the tensor after the components, in
            their order. The one given spans the periodic box ``"y x"`` of side 2 pi.
        origin: the grid's corner, metres.
        offset: of the first point from the corner, in steps of the grid: 0.5 are the centres of cells, 0 their corners.
    """

    column: str = "velocity"
    names: tuple[str, ...] = ("x-velocity", "y-velocity")
    axes: tuple[Vector, ...] = ((0.0, _BOX, 0.0), (_BOX, 0.0, 0.0))
    origin: Vector = (0.0, 0.0, 0.0)
    offset: float = 0.5

    def __post_init__(self) -> None:
        for name in self.names:
            require_field(name)
        if not self.names or not self.axes:
            raise ValueError("a grid needs the name of at least one component, and at least one axis")

    def require(self, given: pa.Schema, who: str) -> None:
        """Raises `SchemaError` when *given* lacks the column, or it has another shape."""
        kind = field_of(given, self.column, who).type
        shape = tuple(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else ()
        if len(shape) == len(self.axes) and len(self.names) == 1:
            return
        if len(shape) != len(self.axes) + 1 or shape[0] != len(self.names):
            raise SchemaError(
                f"{who} needs column '{self.column}' as a tensor of {len(self.names)} components "
                f"({', '.join(self.names)}) on {len(self.axes)} axes; it is {kind}"
            )

    def points(self, shape: tuple[int, ...]) -> Floats:
        """The grid's points, ``"point 3"``, in the order of the tensor's values."""
        steps = [(np.arange(count) + self.offset) / count for count in shape]
        weights = np.stack([each.reshape(-1) for each in np.meshgrid(*steps, indexing="ij")], axis=1)
        return np.asarray(self.origin + weights @ np.array(self.axes))

    def values(self, row: Row) -> tuple[Floats, dict[str, npt.NDArray[Any]]]:
        """The points, and the values of each component there."""
        tensor = row[self.column].reshape(len(self.names), *row[self.column].shape[-len(self.axes) :])
        components = tensor.reshape(len(self.names), -1)
        return self.points(tensor.shape[1:]), dict(zip(self.names, components, strict=True))


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What Fluent does with a row.

    Attributes:
        case: a ``.cas.h5`` that was set up in Fluent, or a ``.msh`` with all that is set up in `commands`.
        version: of the solver: dimension, and ``dp`` for double precision.
        initial: fields from which the run starts; without, Fluent initialises from its boundaries.
        profiles: by name, what boundary conditions of the case read: a profile of that name in the case is replaced.
        first: text commands before all others, such as ``/file/set-tui-version "24.1"``.
        commands: text commands after the case and the profiles are read.
        iterations: of a steady run, or the most within each time step.
        time_steps: 0 for a steady run.
    """

    case: Uri
    version: Literal["3ddp", "2ddp", "3d", "2d"] = "3ddp"
    initial: Grid | None = None
    profiles: Mapping[str, Grid] = field(default_factory=dict)
    first: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    iterations: int = 100
    time_steps: int = 0

    def __post_init__(self) -> None:
        for name in self.profiles:
            require_name(name)
        _journal(self).text()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """All that is taken from the row."""
        return (*((self.initial,) if self.initial else ()), *self.profiles.values())

    @property
    def case_name(self) -> str:
        """The name of the case's file."""
        return self.case.rstrip("/").rsplit("/", 1)[-1]

    def require(self, given: pa.Schema, who: str) -> None:
        """Raises `SchemaError` when columns are missing, or nothing of the row would be used."""
        if not self.grids:
            raise SchemaError(f"{who} uses nothing of its rows; give it initial, or profiles, or both")
        for grid in self.grids:
            grid.require(given, who)

    def identity(self) -> Mapping[str, str]:
        """The hash of the case."""
        with local_copy(self.case) as path:
            return {"case": sha256_of(path)}


def _journal(setup: Setup) -> Journal:
    return Journal(
        case=f"../{setup.case_name}",
        data=DATA,
        first=setup.first,
        profiles=tuple(f"{name}.prof" for name in setup.profiles),
        commands=setup.commands,
        initial="initial.ip" if setup.initial else "",
        iterations=setup.iterations,
        time_steps=setup.time_steps,
    )


def write_row(folder: Path, setup: Setup, row: Row) -> None:
    """Write a row's files; the journal comes last, so that a folder that has one is ready.

    Raises:
        ValueError: the row has values that Fluent does not read.
    """
    axes = int(setup.version[0])
    for name, grid in setup.profiles.items():
        points, values = grid.values(row)
        write_profiles(folder / f"{name}.prof", [Profile(name, _coordinates(points[:, :axes]) | values)])
    if setup.initial:
        points, values = setup.initial.values(row)
        write_cloud(folder / "initial.ip", Cloud(points[:, :axes], values))
    write_journal(folder / "run.jou", _journal(setup))


def _coordinates(points: Floats) -> dict[str, npt.NDArray[Any]]:
    return {"xyz"[axis]: points[:, axis] for axis in range(points.shape[1])}


def rows_of(setup: Setup, batch: Batch) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """The columns that *setup* takes, row for row."""
    columns = {grid.column: to_numpy(batch[grid.column]) for grid in setup.grids}
    return ({name: values[at] for name, values in columns.items()} for at in range(batch.num_rows))


def _setup_of(stage: Setup) -> Setup:
    return Setup(**{each.name: getattr(stage, each.name) for each in fields(Setup)})


# --- the stages ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class FluentCase(Setup):
    """Writes a ready folder for each row and starts nothing; adds ``folder``, its address.

    Attributes:
        folders: below which the case is put, and a folder for each row, named by its content.
    """

    folders: Uri

    def schema(self, given: pa.Schema) -> pa.Schema:
        """*given* and ``folder``. Raises `SchemaError`."""
        self.require(given, "fluent_case")
        return adding(given, {"folder": pa.string()})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Put the case in its place."""
        setup = _setup_of(self)
        case = self.identity()["case"]
        self._put_case(case)
        what = [plugins.describe(setup) | {"case": case}]
        yield lambda batch: with_columns(
            batch, {"folder": pa.array([self._put_row(setup, what, row) for row in rows_of(setup, batch)], pa.string())}
        )

    def _put_case(self, sha256: str) -> None:
        target = join(self.folders, self.case_name)
        if store_of(self.folders).entry(target):
            with local_copy(target) as there:
                if sha256_of(there) == sha256:
                    return
        with local_copy(self.case) as path, publish(self.folders, ".case") as (scratch, upload):
            shutil.copyfile(path, scratch)
            upload(self.case_name)

    def _put_row(self, setup: Setup, what: list[Any], row: Row) -> str:
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
        for name in sorted(row):
            key.update(f"{name} {row[name].dtype} {row[name].shape}".encode() + row[name].tobytes())
        folder = join(self.folders, key.hexdigest()[:16])
        with TemporaryDirectory(dir=store_of(self.folders).scratch(self.folders), prefix="row-") as here:
            write_row(Path(here), setup, row)
            for path in sorted(Path(here).iterdir(), key=lambda path: (path.suffix == ".jou", path.name)):
                store_of(folder).upload(path, join(folder, path.name))
        return folder


@dataclass(frozen=True, kw_only=True)
class Fluent(Setup):
    """Runs Fluent on each row and adds its solution: a float64 tensor ``"cell"`` for each of *results*.

    A unit is one job array, with an item for each row. A row whose run ends without a solution is quarantined with
    the end of Fluent's transcript. A missing licence fails the job, so the cluster's ``retries`` count.

    Attributes:
        results: what is read at the cells, by Fluent's names.
        program: on PATH where the job runs, or a path there.
        arguments: further ones for the program, such as ``-mpi=intel``.
        cluster: where it runs; a case that is a file must be there under the same path. ``cpus_per_task`` are
            Fluent's processes (``-t``), which Fluent starts itself, so ``tasks`` is 1.
    """

    results: tuple[str, ...] = ("SV_U", "SV_V", "SV_P")
    program: str = "fluent"
    arguments: tuple[str, ...] = ()
    cluster: ClusterField = field(default_factory=Local)

    ASIDE = ("cluster", "program", "arguments")
    NEEDS = ("h5py",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster.tasks != 1:
            raise ValueError(
                f"the cluster has {self.cluster.tasks} tasks; Fluent starts its processes itself: set tasks = 1 and "
                "cpus_per_task to how many there shall be"
            )
        if not self.results:
            raise ValueError('results is empty; name what is read, such as results = ["SV_U", "SV_P"]')

    def schema(self, given: pa.Schema) -> pa.Schema:
        """*given* and the results. Raises `SchemaError`, or `PlanError` where there is no Fluent."""
        self.require(given, "fluent")
        if isinstance(self.cluster, Local) and shutil.which(self.program) is None:
            raise PlanError(
                f"fluent: there is no program '{self.program}' on PATH of this machine; add the folder of Ansys Fluent "
                "(.../fluent/bin) to PATH, set 'program' to its path, choose a cluster that has it, or take the stage "
                "fluent_case, which writes the same folders and starts nothing"
            )
        return adding(given, dict.fromkeys(self.results, tensor_type(np.float64, _cells(self.case))))

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """A function that runs a job for the batch it is given."""
        setup, identity, cells = _setup_of(self), dict(self.identity()), _cells(self.case)
        yield lambda batch: self._solved(setup, identity, cells, batch)

    def _solved(self, setup: Setup, identity: Mapping[str, str], cells: int, batch: Batch) -> Batch:
        reasons = [_refusal(row) for row in rows_of(setup, batch)]
        sound = batch.filter(pa.array([not reason for reason in reasons]))
        found: list[Mapping[str, npt.NDArray[Any]] | str] = []
        if sound.num_rows:
            with computed(self._work(setup, identity, sound), self.cluster) as folder:
                found = [self._found(folder, item, cells) for item in range(sound.num_rows)]
        told = iter(found)
        reasons = [reason or (end if isinstance(end := next(told), str) else "") for reason in reasons]
        good = batch.filter(pa.array([not reason for reason in reasons]))
        solved = [each for each in found if not isinstance(each, str)]
        good = with_columns(good, {name: _stacked([each[name] for each in solved], cells) for name in self.results})
        if any(reasons):
            raise RowErrors(
                good, batch.filter(pa.array([bool(reason) for reason in reasons])), list(filter(None, reasons))
            )
        return good

    def _work(self, setup: Setup, identity: Mapping[str, str], batch: Batch) -> Work:
        processes = getattr(self.cluster, "cpus_per_task", 1)  # clusters of other packages may have none
        plain = plugins.describe(setup) | {"case": self.case_name}
        command = (
            self.program,
            self.version,
            "-g",
            f"-t{processes}",
            *self.arguments,
            "-i",
            "run.jou",
        )
        case = local_folder(self.case)
        return Work(
            "fluent",
            (_PROGRAM, plain, dict(identity), digest(batch), self.program),
            (self.cluster.python, "-m", _PROGRAM),
            {"setup": plain, "command": command, "case": str(case or "")},
            ("data.*", "ended.*"),
            () if case else ((self.case, self.case_name),),
            batch.num_rows,
            files={"batch.arrow": to_bytes(batch).to_pybytes()},
        )

    def _found(self, folder: Path, item: int, cells: int) -> Mapping[str, npt.NDArray[Any]] | str:
        """The solution of an item, or why there is none."""
        ended = json.loads((folder / f"ended.{item}").read_text())
        if ended["why"]:
            return str(ended["why"])
        values = read_solution(folder / f"data.{item}", names=self.results).cells
        for name in self.results:
            if values[name].shape != (cells,):
                raise UnitError(
                    f"fluent: {name} has the shape {values[name].shape}, {self.case_name} has {cells} cells"
                )
        return values


def _refusal(row: Row) -> str:
    bad = [name for name, values in row.items() if not np.isfinite(values).all()]
    return f"{bad[0]} has NaN or infinite values, which Fluent does not read" if bad else ""


def _stacked(rows: list[npt.NDArray[Any]], cells: int) -> pa.ExtensionArray:
    return tensor_column(np.stack(rows).astype(np.float64) if rows else np.empty((0, cells)))


def _cells(case: str) -> int:
    """How many cells *case* has. Raises `SchemaError` when its form is not known."""
    with local_copy(case) as path:
        try:
            if path.name.endswith(".cas.h5"):
                return count_cells(path)
            if path.suffix == ".msh":
                return read_msh(path).cells
        except (UnitError, OSError) as error:
            raise SchemaError(f"fluent: the case cannot be read: {error}") from error
    raise SchemaError(
        f"fluent: {case}: the cells are counted in .cas.h5 and text .msh files; write the case as one of them"
    )
