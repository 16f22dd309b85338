"""Fluent's mesh: faces with the cells on their two sides, in zones; and the way to and from an OpenFOAM mesh.

A face's nodes turn so that its normal by the right-hand rule points to its first cell, ``c0``. In OpenFOAM it points
from the owner to the neighbour, and out of the domain at a boundary. In two dimensions ``c0`` lies on the left of an
edge, on the way from its first point to its second, as OpenFOAM's converter reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.formats.fluent.files import Floats, Ints
from penstock.formats.fluent.names import require_name
from penstock.formats.openfoam.mesh import Faces, Patch
from penstock.formats.openfoam.mesh import Mesh as FoamMesh

__all__ = [
    "CELL_TYPES",
    "ZONE_TYPES",
    "Mesh",
    "Zone",
    "block",
    "cell_types",
    "from_foam",
    "slots",
    "to_foam",
]

ZONE_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "interior": 2,
        "wall": 3,
        "pressure-inlet": 4,
        "pressure-outlet": 5,
        "symmetry": 7,
        "periodic-shadow": 8,
        "pressure-far-field": 9,
        "velocity-inlet": 10,
        "periodic": 12,
        "fan": 14,
        "mass-flow-inlet": 20,
        "interface": 24,
        "outflow": 36,
        "axis": 37,
    }
)
"""Numbers of face zones' types. Source: Fluent User's Guide, "Mesh File Format", Faces."""

CELL_TYPES: Mapping[str, int] = MappingProxyType(
    {
        "mixed": 0,
        "triangle": 1,
        "tetrahedron": 2,
        "quadrilateral": 3,
        "hexahedron": 4,
        "pyramid": 5,
        "wedge": 6,
        "polyhedron": 7,
    }
)
"""Numbers of cells' types. Source: the same, Cells."""

_BY_FACES = {(0, 3): 1, (0, 4): 3}
_BY_SIDES = {(4, 4, 0): 2, (6, 0, 6): 4, (5, 4, 1): 5, (5, 2, 3): 6}


@dataclass(frozen=True)
class Zone:
    """Neighbouring faces, or cells, with a name.

    Attributes:
        id: Fluent's number of it.
        name: lower case.
        kind: one of `ZONE_TYPES`; of cells ``fluid`` or ``solid``.
        start, stop: the range of faces or cells, from 0.
    """

    id: int
    name: str
    kind: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        require_name(self.name)


@dataclass(frozen=True, eq=False)
class Mesh:
    """A mesh as Fluent's files have it; all numbers begin at 0.

    Attributes:
        points: metres, ``"point axis"``, two or three axes.
        nodes: the points of all faces one after the other, ``"entry"``.
        offsets: where each face's points begin, and the end of the last, ``"face+1"``.
        sides: ``c0`` and ``c1`` of each face, -1 for none, ``"face 2"``.
        face_zones, cell_zones: they cover all faces and cells, in their order.
    """

    points: Floats
    nodes: Ints
    offsets: Ints
    sides: Ints
    face_zones: tuple[Zone, ...]
    cell_zones: tuple[Zone, ...]

    def __post_init__(self) -> None:
        if np.ndim(self.points) != 2 or np.shape(self.points)[1] not in (2, 3):
            raise ValueError(f"points must be 'point axis' with 2 or 3 axes, not {np.shape(self.points)}")
        if self.sides.shape != (len(self.offsets) - 1, 2) or self.offsets[-1] != len(self.nodes):
            raise ValueError(f"{len(self.offsets) - 1} faces of {len(self.nodes)} nodes have sides {self.sides.shape}")
        if len(self.nodes) and not 0 <= self.nodes.min() <= self.nodes.max() < len(self.points):
            raise ValueError(
                f"faces name points {self.nodes.min()} to {self.nodes.max()}, there are {len(self.points)}"
            )
        _require_cover("face", self.face_zones, self.faces)
        _require_cover("cell", self.cell_zones, self.cells)
        if (self.sides < 0).all(axis=1).any():
            raise ValueError(f"face {np.argmax((self.sides < 0).all(axis=1))} has no cell on either side")

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return int(self.points.shape[1])

    @property
    def faces(self) -> int:
        """How many there are."""
        return len(self.offsets) - 1

    @property
    def cells(self) -> int:
        """How many there are."""
        return int(self.sides.max(initial=-1)) + 1


def _require_cover(what: str, zones: tuple[Zone, ...], count: int) -> None:
    at = 0
    for zone in zones:
        if zone.start != at or zone.stop < zone.start:
            raise ValueError(f"{what} zone {zone.name} has [{zone.start}, {zone.stop}), it should begin at {at}")
        at = zone.stop
    if at != count:
        raise ValueError(f"the {what} zones have {at} {what}s, the mesh has {count}")


def slots(offsets: Ints, chosen: Ints) -> Ints:
    """Where the entries of the *chosen* lists stand among those of all lists, ``"entry"``."""
    sizes = np.diff(offsets)[chosen]
    ends = np.cumsum(sizes)
    found: Ints = np.arange(int(sizes.sum())) + np.repeat(offsets[chosen] - (ends - sizes), sizes)
    return found


def cell_types(mesh: Mesh) -> Ints:
    """The type of each cell (`CELL_TYPES`) by the number of its faces and of their points, ``"cell"``."""
    sizes = np.diff(mesh.offsets)
    counts = [_per_cell(mesh, sizes > 0), _per_cell(mesh, sizes == 3), _per_cell(mesh, sizes == 4)]
    found = np.full(mesh.cells, CELL_TYPES["polyhedron"])
    if mesh.dimension == 2:
        for (_, edges), kind in _BY_FACES.items():
            found[counts[0] == edges] = kind
        return found
    for sides, kind in _BY_SIDES.items():
        found[np.all([count == side for count, side in zip(counts, sides, strict=True)], axis=0)] = kind
    return found


def _per_cell(mesh: Mesh, faces: npt.NDArray[np.bool_]) -> Ints:
    """How many of the chosen *faces* each cell has."""
    cells = mesh.sides[faces].reshape(-1)
    return np.bincount(cells[cells >= 0], minlength=mesh.cells)


# --- OpenFOAM --------------------------------------------------------------------------------------------


_FOAM_TYPES = {"wall": "wall", "symmetry": "symmetry"}
_FLUENT_TYPES = {"wall": "wall", "symmetry": "symmetry", "symmetryPlane": "symmetry", "empty": "symmetry"}


def from_foam(foam: FoamMesh, kinds: Mapping[str, str] = MappingProxyType({})) -> Mesh:
    """An OpenFOAM mesh as Fluent's.

    Args:
        foam: the mesh.
        kinds: of patches by name (`ZONE_TYPES`). Others follow from the patch's type: walls and symmetry as they are,
            ``empty`` is symmetry, and the rest become ``pressure-outlet``, as OpenFOAM's own converter has it.

    Raises:
        ValueError: *kinds* names a patch or type that there is not, or two patches have one name in lower case.
    """
    inner, names = len(foam.neighbour), [patch.name for patch in foam.patches]
    if unknown := (set(kinds) - set(names)) | (set(kinds.values()) - set(ZONE_TYPES)):
        raise ValueError(f"{sorted(unknown)} is no patch ({', '.join(names)}) and no type ({', '.join(ZONE_TYPES)})")
    lowered = [name.lower() for name in names]
    if len(set(lowered)) < len(lowered):
        raise ValueError(f"Fluent's names are lower case, and of {', '.join(names)} two would be the same; rename one")
    sides = np.full((len(foam.owner), 2), -1)
    sides[:inner] = np.stack([foam.neighbour, foam.owner[:inner]], axis=1)
    sides[inner:, 0] = foam.owner[inner:]
    turned = np.arange(len(foam.owner)) >= inner
    nodes = _turned(foam.faces.labels, foam.faces.offsets, turned)
    zones = [Zone(2, "interior-1", "interior", 0, inner)]
    for at, patch in enumerate(foam.patches):
        fluent = kinds.get(patch.name, _FLUENT_TYPES.get(patch.kind, "pressure-outlet"))
        zones.append(Zone(10 + at, patch.name.lower(), fluent, patch.start, patch.start + patch.size))
    filled = tuple(zone for zone in zones if zone.stop > zone.start)
    inside = (Zone(1, "fluid-1", "fluid", 0, foam.cells),)
    return Mesh(foam.points, nodes, foam.faces.offsets, sides, filled, inside)


def to_foam(mesh: Mesh) -> FoamMesh:
    """Fluent's mesh as OpenFOAM has it: zones whose faces have one cell become patches.

    Raises:
        ValueError: the mesh is two-dimensional, or a zone has faces of both sorts.
    """
    if mesh.dimension != 3:
        raise ValueError("OpenFOAM's meshes have three dimensions, this one has two; extrude it in the mesher")
    inside: npt.NDArray[np.bool_] = np.asarray((mesh.sides >= 0).all(axis=1))
    owner = np.where(inside, mesh.sides.min(axis=1), mesh.sides.max(axis=1))
    neighbour = np.where(inside, mesh.sides.max(axis=1), -1)
    nodes = _turned(mesh.nodes, mesh.offsets, mesh.sides[:, 0] == owner)
    inner = np.flatnonzero(inside)
    inner = inner[np.lexsort((neighbour[inner], owner[inner]))]
    outer = [(zone, np.arange(zone.start, zone.stop)) for zone in _boundaries(mesh, inside)]
    order = np.concatenate([inner, *(faces for _, faces in outer)]).astype(np.int64)
    sizes = np.diff(mesh.offsets)[order]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    labels = nodes[slots(mesh.offsets, order)]
    patches = _patches(len(inner), [(zone.name, _FOAM_TYPES.get(zone.kind, "patch"), len(its)) for zone, its in outer])
    return FoamMesh(mesh.points, Faces(offsets, labels), owner[order], neighbour[inner], patches)


def _patches(start: int, sizes: Sequence[tuple[str, str, int]]) -> tuple[Patch, ...]:
    ends = start + np.cumsum([size for _, _, size in sizes])
    return tuple(
        Patch(name, kind, int(end) - size, size, {}) for (name, kind, size), end in zip(sizes, ends, strict=True)
    )


def _boundaries(mesh: Mesh, inside: npt.NDArray[np.bool_]) -> Iterator[Zone]:
    for zone in mesh.face_zones:
        found = inside[zone.start : zone.stop]
        if found.any() and not found.all():
            raise ValueError(f"zone {zone.name}: some of its faces have two cells and some have one; split the zone")
        if len(found) and not found.any():
            yield zone


def _turned(nodes: Ints, offsets: Ints, chosen: npt.NDArray[np.bool_]) -> Ints:
    """*nodes* with the *chosen* faces turned round."""
    sizes = np.diff(offsets)
    first, last = np.repeat(offsets[:-1], sizes), np.repeat(offsets[1:], sizes)
    here = np.arange(len(nodes))
    return nodes[np.where(np.repeat(chosen, sizes), first + last - 1 - here, here)]


# --- a block of hexahedra --------------------------------------------------------------------------------


def block(cells: tuple[int, int, int], size: Sequence[float], names: Sequence[str]) -> FoamMesh:
    """A box of equal hexahedra from the origin on, cell x fastest, such as OpenFOAM's blockMesh makes.

    Args:
        cells: along x, y and z.
        size: the box's, metres.
        names: of the six sides: low x, high x, low y, high y, low z, high z; sides of one name are one patch, and
            those with ``wall`` in their names are walls.
    """
    edges = [np.linspace(0, length, count + 1) for length, count in zip(size, cells, strict=True)]
    points = np.stack([each.reshape(-1, order="F") for each in np.meshgrid(*edges, indexing="ij")], axis=1)
    sheets = [_sheets(cells, axis) for axis in range(3)]
    quads, owner, neighbour = (np.concatenate(parts) for parts in zip(*(inner for inner, _ in sheets), strict=True))
    order = np.lexsort((neighbour, owner))
    sides = [side for _, both in sheets for side in both]
    patches = {name: [side for side, its in zip(sides, names, strict=True) if its == name] for name in names}
    every = [side for group in patches.values() for side in group]
    labels = np.concatenate([quads[order], *(face for face, _ in every)])
    return FoamMesh(
        points,
        Faces(np.arange(len(labels) + 1) * 4, labels.reshape(-1)),
        np.concatenate([owner[order], *(own for _, own in every)]),
        neighbour[order],
        _patches(
            len(order),
            [
                (name, "wall" if "wall" in name else "patch", sum(len(own) for _, own in group))
                for name, group in patches.items()
            ],
        ),
    )


_Inner: TypeAlias = tuple[Ints, Ints, Ints]
_Side: TypeAlias = tuple[Ints, Ints]


def _sheets(cells: tuple[int, int, int], axis: int) -> tuple[_Inner, list[_Side]]:
    """The faces across *axis*: inner ones with owner and neighbour, and both sides with their owners."""
    counts = np.array(cells)
    ahead, strides = [1, *np.cumprod(counts[:2]).tolist()], [1, *np.cumprod(counts[:2] + 1).tolist()]
    spans = [np.arange(count + (at == axis)) for at, count in enumerate(cells)]
    index = np.stack([each.reshape(-1, order="F") for each in np.meshgrid(*spans, indexing="ij")], axis=1)
    up, over = (strides[(axis + step) % 3] for step in (1, 2))
    quads = (index @ strides)[:, None] + np.array([0, up, up + over, over])
    own = index @ ahead
    place = index[:, axis]
    inside, low, high = (place > 0) & (place < cells[axis]), place == 0, place == cells[axis]
    inner = (quads[inside], own[inside] - ahead[axis], own[inside])
    return inner, [(quads[low][:, ::-1], own[low]), (quads[high], own[high] - ahead[axis])]
