"""Runs OpenFOAM on one row: ``python -m penstock.solvers.programs.foam job.json``, in the job's folder.

Reads ``batch.arrow`` and the template ``template.tar`` beside it; makes the case ``run-<item>`` of them, runs the
programs, and leaves ``row.<item>.npz``, or ``row.<item>.txt``, which says why there is no result. A row whose
solver fails is not the job's failure; a missing program is.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.core.batch import from_bytes, to_numpy
from penstock.errors import PenstockError, UnitError
from penstock.formats.openfoam import read_case_field, read_case_mesh, read_field, times
from penstock.formats.openfoam.fields import Field
from penstock.formats.openfoam.mesh import Mesh
from penstock.solvers.openfoam.case import launched, made, run, unpacked
from penstock.solvers.openfoam.log import Log
from penstock.solvers.openfoam.moving import moved
from penstock.solvers.openfoam.placing import gridded, on_cells

__all__ = ["main"]


def main(config: str) -> None:
    """Run item ``PENSTOCK_ITEM`` of the batch."""
    told = json.loads(Path(config).read_text())
    item = int(os.environ.get("PENSTOCK_ITEM", "0"))
    template = unpacked(Path("template.tar"), Path("template").absolute())
    row = from_bytes(Path("batch.arrow").read_bytes()).slice(item, 1)
    folder = Path(f"run-{item}").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    try:
        result = solved(told, template, folder, row)
    except (UnitError, ValueError) as error:
        Path(f"row.{item}.txt").write_text(str(error))
        return
    with Path(f".row.{item}").open("wb") as file:
        np.savez(file, **result)
    Path(f".row.{item}").replace(f"row.{item}.npz")
    shutil.rmtree(folder)


def solved(told: Mapping[str, Any], template: Path, folder: Path, row: pa.Table) -> dict[str, Any]:
    """The results of one row, arrays by name. Raises `UnitError` with what went wrong first."""
    values = {name: to_numpy(row[name])[0] for name in row.column_names}
    points = np.asarray(values[told["points"]], np.float64) if told["points"] else None
    mesh = read_case_mesh(template)
    if points is not None and points.shape != mesh.points.shape:
        raise UnitError(f"'{told['points']}' has the shape {points.shape}; the mesh has {mesh.points.shape}")
    fields = {name: _field(template, name, values[column], mesh) for column, name in told["fields"].items()}
    settings = {name: float(values[column]) for column, name in told["settings"].items()}
    started = time.perf_counter()
    if told["displacement"]:
        points = _moved(template, folder, values[told["displacement"]], told["moving"])
    made(template, folder, fields, told["control"], settings=settings, points=points)
    for command in told["checks"]:
        _refuse(checked(command, folder))
    text, why = launched(told["program"], folder, told["ranks"]) if told["times"] != "none" else ("", "")
    _refuse(why)
    found = _fields(told, folder, mesh) if told["gives"] else {}
    moved_to = {"points": points} if told["displacement"] else {}
    return {**found, **moved_to, **_told(Log.of(text)), "seconds": time.perf_counter() - started}


def _moved(template: Path, folder: Path, displacement: Any, patches: Sequence[str]) -> Any:
    """The points where OpenFOAM moves them, in a case of its own beside the run's."""
    beside = folder.with_name(f"{folder.name}-moved")
    shutil.rmtree(beside, ignore_errors=True)
    points = moved(template, beside, np.asarray(displacement, np.float64), patches)
    shutil.rmtree(beside)
    return points


def _field(template: Path, name: str, values: Any, mesh: Mesh) -> Field:
    start = read_field(template / "0" / name)
    components = int(np.prod(start.shape, dtype=int))
    placed = on_cells(values, mesh, components)
    if not np.isfinite(placed).all():
        raise UnitError(f"the values for {name} are not all finite; the solver would not start from them")
    return Field(placed, start.dimensions, start.boundary, start.kind)


def _refuse(why: str) -> None:
    if why:
        raise UnitError(why)


def checked(command: Sequence[str], folder: Path) -> str:
    """What a check of the mesh found wrong, or nothing."""
    text, why = run(command, folder)
    stars = [line.strip().lstrip("*").strip() for line in text.splitlines() if line.lstrip().startswith("***")]
    if why or "Mesh OK." in text or command[0] != "checkMesh":
        return why
    return f"checkMesh: {'; '.join(stars)[:400] or 'the mesh is not OK'}"


def _fields(told: Mapping[str, Any], folder: Path, mesh: Mesh) -> dict[str, Any]:
    """The written fields, ``"time cell component"`` or ``"time component y x"``, of the times that are wanted."""
    later = [time for time in times(folder) if float(time) > 0]
    if not later:
        raise UnitError(f"{told['program']} wrote no time; is writeInterval larger than the steps to endTime?")
    wanted = later[-1:] if told["times"] == "last" else later
    found: dict[str, Any] = {"time": np.array([float(time) for time in wanted])}
    for column, (name, shape) in told["gives"].items():
        found[f"field {column}"] = np.stack([_read(folder, time, name, shape, mesh) for time in wanted])
    return found


def _read(folder: Path, time: str, name: str, shape: Sequence[int] | None, mesh: Mesh) -> Any:
    values = read_case_field(folder, time, name).values(mesh.cells)
    if not np.isfinite(values).all():
        raise UnitError(f"{name} at time {time} is not finite everywhere; the solver went astray without saying so")
    return gridded(values, mesh, tuple(shape)) if shape else values


def _told(log: Log) -> dict[str, Any]:
    return {
        "continuity": np.array(log.continuity),
        "courant": max(log.courant, default=float("nan")),
        "steps": len(log.times),
    }


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except PenstockError as error:
        sys.exit(str(error))
