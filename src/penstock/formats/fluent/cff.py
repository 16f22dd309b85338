"""Fluent's HDF5 files: the mesh of a case (``.cas.h5``) and the values of a solution (``.dat.h5``).

::

    case  /settings/Rampant Variables            Scheme text: dimension, precision, iterations
          /meshes/1                              attributes dimension, nodeCount, faceCount, cellCount
          /meshes/1/nodes/coords/1               "point axis"
          /meshes/1/faces/nodes/1/{nnodes,nodes} number of points of each face; the points, from 1
          /meshes/1/faces/{c0,c1}/1              cells on both sides, from 1, 0 for none
          /meshes/1/cells/ctype/1/cell-types     types of the cells
          /meshes/1/*/zoneTopology/{id,name,minId,maxId,zoneType,...}   names joined by ;
    data  /results/1/phase-1/{cells,faces}/fields                       names, each closed by ;
          /results/1/phase-1/{cells,faces}/SV_U/1                       attributes minId, maxId

A case that is written here holds a mesh and no models: Fluent's own settings are set up in Fluent.
There is no public specification. Sources: PyFluent's offline readers (ansys.fluent.core.offline), VTK's
vtkFLUENTCFFReader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.fluent.files import scratch
from penstock.formats.fluent.mesh import ZONE_TYPES, Mesh, Zone, cell_types
from penstock.formats.fluent.names import require_field

__all__ = ["Solution", "count_cells", "read_case", "read_solution", "write_case", "write_solution"]

Group: TypeAlias = Any
_CELL_KINDS = MappingProxyType({"fluid": 1, "solid": 17})


@dataclass(frozen=True, eq=False)
class Solution:
    """The values of a solution.

    Attributes:
        cells: by Fluent's names (``SV_U``, ``SV_P``), each ``"cell"``, or ``"cell component"``.
        faces: the same at faces; a face without a value has 0.
        case: the name of the case file.
        phase: which one of several.
    """

    cells: Mapping[str, npt.NDArray[Any]]
    faces: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    case: str = ""
    phase: str = "phase-1"

    def __post_init__(self) -> None:
        for where, fields in (("cells", self.cells), ("faces", self.faces)):
            sizes = {len(values) for values in fields.values()}
            if len(sizes) > 1:
                raise ValueError(f"{where}: all fields must have one length, found {sorted(sizes)}")
            for name in fields:
                require_field(name)


# --- writing ---------------------------------------------------------------------------------------------


def write_case(path: str | Path, mesh: Mesh) -> None:
    """Write a case that holds *mesh*, whole or not at all."""
    import h5py

    with scratch(path) as temporary, h5py.File(temporary, "w") as file:
        flag = "#t" if mesh.dimension == 3 else "#f"
        text = (
            f"(37 ((case-config ((rp-3d? . {flag}) (rp-double? . #t) (rp-unsteady? . #f))) (number-of-iterations 0)))"
        )
        file["settings/Rampant Variables"] = _text(text)
        file["settings/Version"] = _text("0")
        group = file.create_group("meshes/1")
        group.attrs["dimension"] = np.array([mesh.dimension], np.int32)
        group.attrs["version"] = np.array([2], np.int32)
        for name, count in (("node", len(mesh.points)), ("face", mesh.faces), ("cell", mesh.cells)):
            group.attrs[f"{name}Count"] = np.array([count], np.uint64)
            group.attrs[f"{name}Offset"] = np.array([0], np.uint64)
        _write_nodes(group, mesh)
        _write_cells(group, mesh)
        _write_faces(group, mesh)


def _write_nodes(group: Group, mesh: Mesh) -> None:
    zone = Zone(1, "nodes", "interior", 0, len(mesh.points))
    _topology(group.create_group("nodes/zoneTopology"), [zone], mesh.dimension, {"zoneType": [1]})
    _ranged(group.create_dataset("nodes/coords/1", data=mesh.points), len(mesh.points))
    group["nodes/coords"].attrs["nSections"] = np.array([1], np.uint64)


def _write_cells(group: Group, mesh: Mesh) -> None:
    types, zones = cell_types(mesh), mesh.cell_zones
    each = [np.unique(types[zone.start : zone.stop]) for zone in zones]
    uniform = [int(kinds[0]) if len(kinds) == 1 else 0 for kinds in each]
    columns = {"zoneType": [_CELL_KINDS.get(zone.kind, 1) for zone in zones], "cellType": uniform}
    _topology(group.create_group("cells/zoneTopology"), zones, mesh.dimension, columns)
    _sections(group, "cells/ctype", 1)
    section = _ranged(group.create_group("cells/ctype/1"), mesh.cells)
    whole = np.unique(types)
    section.attrs["elementType"] = np.array([whole[0] if len(whole) == 1 else 0], np.int16)
    section.create_dataset("cell-types", data=types.astype(np.int16))


def _write_faces(group: Group, mesh: Mesh) -> None:
    sizes, zones = np.diff(mesh.offsets), mesh.face_zones
    each = [np.unique(sizes[zone.start : zone.stop]) for zone in zones]
    columns = {
        "zoneType": [ZONE_TYPES[zone.kind] for zone in zones],
        "faceType": [int(found[0]) if len(found) == 1 and found[0] <= 4 else 0 for found in each],
        "shadowZoneId": [0] * len(zones),
        "c0": [mesh.cell_zones[0].id] * len(zones),
        "c1": [mesh.cell_zones[0].id if zone.kind == "interior" else 0 for zone in zones],
    }
    _topology(group.create_group("faces/zoneTopology"), zones, mesh.dimension, columns)
    _sections(group, "faces/nodes", 1)
    section = _ranged(group.create_group("faces/nodes/1"), mesh.faces)
    section.create_dataset("nnodes", data=sizes.astype(np.int16))
    section.create_dataset("nodes", data=(mesh.nodes + 1).astype(np.uint32))
    inner = _inner(mesh)
    for name, ids in (("c0", mesh.sides[:, 0]), ("c1", mesh.sides[:inner, 1])):
        _sections(group, f"faces/{name}", 1)
        _ranged(group.create_dataset(f"faces/{name}/1", data=(ids + 1).astype(np.uint32)), len(ids))


def _inner(mesh: Mesh) -> int:
    """One past the last face that has a second cell."""
    return int(np.max(np.flatnonzero(mesh.sides[:, 1] >= 0), initial=-1)) + 1


def _topology(group: Group, zones: Sequence[Zone], dimension: int, columns: Mapping[str, Sequence[int]]) -> None:
    group.attrs["nZones"] = np.array([len(zones)], np.uint64)
    group["id"] = np.array([zone.id for zone in zones], np.int32)
    group["name"] = _text(";".join(zone.name for zone in zones))
    group["minId"] = np.array([zone.start + 1 for zone in zones], np.uint64)
    group["maxId"] = np.array([zone.stop for zone in zones], np.uint64)
    group["dimension"] = np.full(len(zones), dimension, np.uint64)
    for name in ("childZoneId", "parentZoneId", "flags"):
        group[name] = np.zeros(len(zones), np.int32)
    for name, values in columns.items():
        group[name] = np.array(values, np.int32)


def _sections(group: Group, name: str, count: int) -> None:
    group.require_group(name).attrs["nSections"] = np.array([count], np.uint64)


def _ranged(part: Group, count: int) -> Group:
    part.attrs["minId"], part.attrs["maxId"] = np.array([1], np.uint64), np.array([count], np.uint64)
    return part


def _text(text: str) -> npt.NDArray[np.bytes_]:
    """One text of fixed length, with the zero byte at its end that C programs look for."""
    return np.array([text.encode("ascii")], f"S{len(text) + 1}")


def write_solution(path: str | Path, solution: Solution) -> None:
    """Write a data file, whole or not at all."""
    import h5py

    with scratch(path) as temporary, h5py.File(temporary, "w") as file:
        file["settings/Case File"] = _text(solution.case)
        file["settings/Data Variables"] = _text("(33 ((flow-time 0) (time-step 0)))")
        file.create_group("results/1").attrs["nPhases"] = np.array([1], np.uint64)
        for where, fields in (("cells", solution.cells), ("faces", solution.faces)):
            group = file.create_group(f"results/1/{solution.phase}/{where}")
            group["fields"] = _text("".join(f"{name};" for name in fields))
            for name, values in fields.items():
                _sections(group, name, 1)
                _ranged(group.create_dataset(f"{name}/1", data=values), len(values))


# --- reading ---------------------------------------------------------------------------------------------


def count_cells(path: str | Path) -> int:
    """How many cells a case has, without reading its mesh. Raises `UnitError`."""
    with _opened(path) as file:
        return int(np.ravel(_part(path, file, "meshes/1").attrs["cellCount"])[0])


def read_case(path: str | Path) -> Mesh:
    """The mesh of a case.

    Raises:
        UnitError: it is no case, or its mesh has parts (hanging nodes, several meshes) that are not known here.
    """
    with _opened(path) as file:
        group = _part(path, file, "meshes/1")
        if "tree" in _part(path, group, "cells") or "tree" in _part(path, group, "faces"):
            raise UnitError(
                f"{path}: its mesh was refined with hanging nodes, which is not read here; coarsen it first"
            )
        try:
            return _mesh(path, group)
        except (KeyError, ValueError, IndexError) as error:
            raise UnitError(f"{path}: its mesh cannot be understood ({error})") from error


def _mesh(path: str | Path, group: Group) -> Mesh:
    faces = group["faces"]
    count = int(np.ravel(group.attrs["faceCount"])[0])
    sizes = _numbered(faces["nodes"], "nnodes")
    sides = np.zeros((count, 2), np.int64)
    for at, name in enumerate(("c0", "c1")):
        for part in faces[name].values():
            low, high = _range(part)
            sides[low:high, at] = part[:]
    return Mesh(
        np.concatenate([part[:] for part in _by_range(group["nodes/coords"])]).astype(np.float64),
        _numbered(faces["nodes"], "nodes") - 1,
        np.concatenate([[0], np.cumsum(sizes)]),
        sides - 1,
        _zones(faces["zoneTopology"], {number: kind for kind, number in ZONE_TYPES.items()}, "wall"),
        _zones(group["cells/zoneTopology"], {number: kind for kind, number in _CELL_KINDS.items()}, "fluid"),
    )


def _by_range(group: Group) -> list[Group]:
    return sorted(group.values(), key=lambda part: _range(part)[0])


def _numbered(group: Group, name: str) -> npt.NDArray[np.int64]:
    return np.concatenate([part[name][:] for part in _by_range(group)]).astype(np.int64)


def _range(part: Group) -> tuple[int, int]:
    return int(np.ravel(part.attrs["minId"])[0]) - 1, int(np.ravel(part.attrs["maxId"])[0])


def _zones(group: Group, kinds: Mapping[int, str], other: str) -> tuple[Zone, ...]:
    columns = (group["id"][:], _names(group["name"]), group["zoneType"][:], group["minId"][:], group["maxId"][:])
    found = [
        Zone(int(number), name.lower(), kinds.get(int(kind), other), int(low) - 1, int(high))
        for number, name, kind, low, high in zip(*columns, strict=True)
    ]
    return tuple(sorted(found, key=lambda zone: (zone.start, zone.stop)))


def _names(dataset: Group) -> list[str]:
    """The names in a text; Fluent closes some of its lists by a ``;`` and parts others."""
    return [name for name in bytes(np.ravel(dataset[()])[0]).decode("ascii", "replace").split(";") if name]


def read_solution(path: str | Path, phase: str = "phase-1", names: Sequence[str] | None = None) -> Solution:
    """The values of a data file; of its fields those *names*, or all.

    Raises:
        UnitError: it is none, or lacks the phase or a field.
    """
    with _opened(path) as file:
        results = _part(path, file, "results/1")
        if phase not in results:
            raise UnitError(f"{path}: there is no {phase}; there are: {', '.join(results)}")
        case = _names(file["settings/Case File"]) if "settings/Case File" in file else []
        parts = [results[phase].get(where) for where in ("cells", "faces")]
        there = [] if parts[0] is None else _names(parts[0]["fields"])
        if missing := set(names or ()) - set(there):
            raise UnitError(
                f"{path}: it lacks {', '.join(sorted(missing))} at cells; it has {', '.join(there) or 'none'}"
            )
        cells, faces = ({} if part is None else _fields(part, names) for part in parts)
        return Solution(cells, faces, case[0] if case else "", phase)


def _fields(group: Group, names: Sequence[str] | None) -> dict[str, npt.NDArray[Any]]:
    every = _names(group["fields"])
    return {name: _joined(group[name], group) for name in every if names is None or name in names}


def _joined(group: Group, above: Group) -> npt.NDArray[Any]:
    """A field from its sections. Some cover a part of the faces alone, the others have 0."""
    sections = _by_range(group)
    if len(sections) == 1 and _range(sections[0])[0] == 0 and len(above) == 2:
        return np.asarray(sections[0][:])
    stop = max(_range(part)[1] for name in _names(above["fields"]) for part in above[name].values())
    values = np.zeros((stop, *sections[0].shape[1:]), sections[0].dtype)
    for part in sections:
        values[slice(*_range(part))] = part[:]
    return values


def _opened(path: str | Path) -> Group:
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise UnitError(f"{path}: it cannot be opened as HDF5 ({error}); a .cas.h5 or .dat.h5 was needed") from error


def _part(path: str | Path, group: Group, name: str) -> Group:
    if name not in group:
        raise UnitError(f"{path}: there is no group {name}; is this a Fluent file (.cas.h5, .dat.h5)?")
    return group[name]
