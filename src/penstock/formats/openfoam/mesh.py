"""Meshes of polyhedra, as ``constant/polyMesh`` holds them.

Format: https://www.openfoam.com/documentation/user-guide/3-preprocessing/3.1-mesh-description. Centres, areas and
volumes are computed as ``primitiveMesh`` of OpenFOAM 1912 does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam.syntax import Cursor, Value, body, header, listed, read_bytes, replaced

__all__ = [
    "Faces",
    "Mesh",
    "Patch",
    "read_labels",
    "read_mesh",
    "read_patches",
    "read_points",
    "write_mesh",
    "write_points",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_FACE = re.compile(rb"(\d+)\s*\(([^()]*)\)")
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Faces:
    """Polygons: those points ``labels[offsets[i]:offsets[i + 1]]`` make face i, seen from its owner anticlockwise.

    Attributes:
        offsets: ``"face+1"``.
        labels: ``"corner"``.
    """

    offsets: Ints
    labels: Ints

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, face: int) -> Ints:
        return self.labels[self.offsets[face] : self.offsets[face + 1]]

    @property
    def sizes(self) -> Ints:
        """Corners of each, ``"face"``."""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, faces: Sequence[Sequence[int]]) -> Faces:
        """From a list for each."""
        offsets = np.cumsum([0, *map(len, faces)], dtype=np.int64)
        return cls(offsets, np.array([point for face in faces for point in face], np.int64))


@dataclass(frozen=True)
class Patch:
    """A range of boundary faces.

    Attributes:
        kind: ``patch``, ``wall``, ``cyclic``, ``empty``, ``processor`` ...
        start: its first face.
        size: how many it has.
        more: its other entries.
    """

    name: str
    kind: str
    start: int
    size: int
    more: Mapping[str, Value]

    @property
    def faces(self) -> slice:
        """Its faces among all."""
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A mesh. Internal faces come first, and point from their owner to their neighbour.

    Attributes:
        points: ``"point xyz"``.
        faces: the polygons.
        owner: the cell of each face, ``"face"``.
        neighbour: the cell beyond, ``"internal"``.
        patches: of the boundary.
    """

    points: Floats
    faces: Faces
    owner: Ints
    neighbour: Ints
    patches: tuple[Patch, ...]

    @property
    def cells(self) -> int:
        """How many there are."""
        return int(max(self.owner.max(initial=-1), self.neighbour.max(initial=-1))) + 1

    def patch(self, name: str) -> Patch:
        """The patch called *name*. Raises `UnitError`."""
        found = next((patch for patch in self.patches if patch.name == name), None)
        if found is None:
            raise UnitError(f"there is no patch '{name}'; there are: {', '.join(p.name for p in self.patches)}")
        return found

    def patch_points(self, name: str) -> Ints:
        """The points of a patch in OpenFOAM's order, by first appearance in its faces: ``"patch_point"``."""
        faces = self.patch(name).faces
        labels = self.faces.labels[self.faces.offsets[faces.start] : self.faces.offsets[faces.stop]]
        _, first = np.unique(labels, return_index=True)
        return np.asarray(labels[np.sort(first)])

    def moved(self, points: Floats) -> Mesh:
        """The same mesh with other points."""
        return replace(self, points=points)

    @cached_property
    def face_centres(self) -> Floats:
        """``"face xyz"``."""
        return self._face_geometry[0]

    @cached_property
    def face_areas(self) -> Floats:
        """Normals as long as the faces are large, out of the owner: ``"face xyz"``."""
        return self._face_geometry[1]

    @cached_property
    def cell_centres(self) -> Floats:
        """``"cell xyz"``."""
        return self._cell_geometry[0]

    @cached_property
    def cell_volumes(self) -> Floats:
        """``"cell"``."""
        return self._cell_geometry[1]

    @cached_property
    def _face_geometry(self) -> tuple[Floats, Floats]:
        """Polygons are cut into triangles about the mean of their corners; triangles need no cut, but bear it."""
        sizes = self.faces.sizes
        face = np.repeat(np.arange(len(sizes)), sizes)
        here = self.points[self.faces.labels]
        following = np.arange(len(face)) + 1
        following[self.faces.offsets[1:] - 1] = self.faces.offsets[:-1]
        there = here[following]
        middle = (_summed(here, face, len(sizes)) / sizes[:, None])[face]
        normals = np.cross(there - here, middle - here) / 2
        weights = np.linalg.norm(normals, axis=1)[:, None]
        centres = _summed(weights * (here + there + middle) / 3, face, len(sizes))
        return centres / (_summed(weights, face, len(sizes)) + _TINY), _summed(normals, face, len(sizes))

    @cached_property
    def _cell_geometry(self) -> tuple[Floats, Floats]:
        """Cells are cut into pyramids over their faces, with their tips at the mean of the faces' centres."""
        count, inside = self.cells, len(self.neighbour)
        cell = np.concatenate([self.owner, self.neighbour])
        centres = np.concatenate([self.face_centres, self.face_centres[:inside]])
        areas = np.concatenate([self.face_areas, -self.face_areas[:inside]])
        tip = (_summed(centres, cell, count) / np.bincount(cell, minlength=count)[:, None])[cell]
        volumes = np.einsum("fi,fi->f", areas, centres - tip)[:, None] / 3
        total = _summed(volumes, cell, count)
        return _summed(volumes * (0.75 * centres + 0.25 * tip), cell, count) / (total + _TINY), total[:, 0]


def _summed(values: Floats, group: Ints, count: int) -> Floats:
    """Sums of rows that belong together."""
    columns = [np.bincount(group, column, count) for column in values.T]
    return np.stack(columns, axis=1)


# --- files -----------------------------------------------------------------------------------------------


def read_mesh(folder: str | os.PathLike[str]) -> Mesh:
    """Read a ``polyMesh`` folder, ascii or binary, also where files are ``.gz``. Raises `UnitError`."""
    root = Path(folder)
    return Mesh(
        read_points(root / "points"),
        _read_faces(root / "faces"),
        read_labels(root / "owner"),
        read_labels(root / "neighbour"),
        read_patches(root / "boundary"),
    )


def read_points(path: str | os.PathLike[str]) -> Floats:
    """Points, ``"point xyz"``. Raises `UnitError`."""
    return np.asarray(_opened(Path(path)).numbers("vector"))


def read_labels(path: str | os.PathLike[str]) -> Ints:
    """A list of numbers of cells, faces or points, ``"item"``. Raises `UnitError`."""
    return np.asarray(_opened(Path(path)).numbers("label"))


def _opened(path: Path) -> Cursor:
    """A cursor behind the header."""
    cursor = Cursor(read_bytes(path), str(path))
    cursor.head()
    return cursor


def _read_faces(path: Path) -> Faces:
    cursor = _opened(path)
    if cursor.form.binary:
        return Faces(cursor.numbers("label"), cursor.numbers("label"))
    found = [match[2] for match in _FACE.finditer(cursor.data, cursor.data.index(b"(", cursor.at) + 1)]
    sizes = [len(words.split()) for words in found]
    return Faces(np.cumsum([0, *sizes], dtype=np.int64), np.array(b" ".join(found).split(), np.int64))


def read_patches(path: Path) -> tuple[Patch, ...]:
    """The patches in a ``boundary`` file. Raises `UnitError`."""
    cursor = _opened(path)
    cursor.count()
    return tuple(_patch(name, entries, path) for name, entries in cursor.entries(b")").items())


def _patch(name: str, entries: Value, path: Path) -> Patch:
    if not isinstance(entries, dict) or not {"type", "startFace", "nFaces"} <= set(entries):
        raise UnitError(f"{path}: patch '{name}' has no type, startFace and nFaces; is this a polyMesh/boundary?")
    more = {key: value for key, value in entries.items() if key not in ("type", "startFace", "nFaces")}
    return Patch(name, str(entries["type"]), int(str(entries["startFace"])), int(str(entries["nFaces"])), more)


def write_points(path: str | os.PathLike[str], points: Floats, binary: bool = True) -> None:
    """Write points, whole or not at all."""
    _write(Path(path), "vectorField", points, binary)


def write_mesh(folder: str | os.PathLike[str], mesh: Mesh, binary: bool = True) -> None:
    """Write a ``polyMesh`` folder."""
    root = Path(folder)
    write_points(root / "points", mesh.points, binary)
    _write_faces(root / "faces", mesh.faces, binary)
    counts = len(mesh.points), mesh.cells, len(mesh.faces), len(mesh.neighbour)
    note = "nPoints:{} nCells:{} nFaces:{} nInternalFaces:{}".format(*counts)
    _write(root / "owner", "labelList", mesh.owner, binary, note)
    _write(root / "neighbour", "labelList", mesh.neighbour, binary, note)
    _write_patches(root / "boundary", mesh.patches)


def _write(path: Path, kind: str, values: npt.NDArray[Any], binary: bool, note: str = "") -> None:
    replaced(path, [header(kind, path.name, "constant/polyMesh", binary, note), *listed(values, binary)])


def _write_faces(path: Path, faces: Faces, binary: bool) -> None:
    if binary:
        lists = [*listed(faces.offsets, binary), *listed(faces.labels, binary)]
        replaced(path, [header("faceCompactList", path.name, "constant/polyMesh", binary), *lists])
        return
    lines = (f"{len(face)}({' '.join(map(str, face.tolist()))})\n" for face in (faces[i] for i in range(len(faces))))
    text = f"{len(faces)}\n(\n{''.join(lines)})\n"
    replaced(path, [header("faceList", path.name, "constant/polyMesh"), text.encode()])


def _write_patches(path: Path, patches: tuple[Patch, ...]) -> None:
    ranges = {p.name: {"type": p.kind, **p.more, "nFaces": p.size, "startFace": p.start} for p in patches}
    text = [b"%d\n(\n" % len(patches), *body(ranges, indent=4), b")\n"]
    replaced(path, [header("polyBoundaryMesh", path.name, "constant/polyMesh"), *text])
