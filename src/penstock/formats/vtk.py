"""VTK's XML files, for ParaView: meshes with fields, grids with fields, and series of them in time.

Format: https://docs.vtk.org/en/latest/vtk_file_formats/vtkxml_file_format.html, with raw appended arrays.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam.cases import field_files, read_case_field, read_case_mesh, times
from penstock.formats.openfoam.mesh import Mesh
from penstock.formats.openfoam.syntax import raw, replaced

__all__ = ["write_case", "write_grid", "write_mesh", "write_series"]

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

_TYPES = {"f4": "Float32", "f8": "Float64", "i4": "Int32", "i8": "Int64", "u1": "UInt8"}
_HEXAHEDRON, _POLYHEDRON = 12, 42


def write_mesh(path: str | os.PathLike[str], mesh: Mesh, cells: Arrays) -> None:
    """Write a ``.vtu``: hexahedra as such, all other cells as polyhedra.

    Args:
        path: where to.
        mesh: of any polyhedra.
        cells: values by name, ``"cell"`` or ``"cell component"``.

    Raises:
        UnitError: an array has another length than the mesh has cells.
    """
    _check(cells, mesh.cells)
    blocks = [
        ("PointData", {}),
        ("CellData", cells),
        ("Points", {"Points": mesh.points}),
        ("Cells", _cells(mesh)),
    ]
    inner = f'<Piece NumberOfPoints="{len(mesh.points)}" NumberOfCells="{mesh.cells}">'
    _write(Path(path), "UnstructuredGrid", "<UnstructuredGrid>", inner, blocks)


def write_grid(
    path: str | os.PathLike[str],
    cells: Arrays,
    spacing: Sequence[float],
    origin: Sequence[float] = (0.0, 0.0, 0.0),
) -> None:
    """Write a ``.vti``: values on the cells of an even grid.

    Args:
        path: where to.
        cells: values by name, ``"z y x"`` or ``"z y x component"``; the first says how many cells there are.
        spacing: side lengths of a cell, in x, y, z.
        origin: the first corner.

    Raises:
        UnitError: the arrays differ in their cells.
    """
    shape = next((values.shape[:3] for values in cells.values()), (0, 0, 0))
    if any(values.ndim not in (3, 4) or values.shape[:3] != shape for values in cells.values()):
        shapes = {name: values.shape for name, values in cells.items()}
        raise UnitError(
            f"arrays of the shapes {shapes} were given; (z, y, x) or (z, y, x, component) was needed for all"
        )
    extent = " ".join(f"0 {size}" for size in reversed(shape))
    flat = {name: values.reshape(-1, *values.shape[3:]) for name, values in cells.items()}
    outer = f'<ImageData WholeExtent="{extent}" Origin="{_words(origin)}" Spacing="{_words(spacing)}">'
    _write(Path(path), "ImageData", outer, f'<Piece Extent="{extent}">', [("CellData", flat)])


def write_series(path: str | os.PathLike[str], files: Mapping[float, str]) -> None:
    """Write a ``.pvd``: which file, relative to it, shows which time."""
    lines = [f'<DataSet timestep="{time!r}" part="0" file={quoteattr(name)}/>' for time, name in files.items()]
    head = '<?xml version="1.0"?>\n<VTKFile type="Collection" version="0.1" byte_order="LittleEndian">\n<Collection>'
    replaced(Path(path), ["\n".join([head, *lines, "</Collection>\n</VTKFile>\n"]).encode()])


def write_case(folder: str | os.PathLike[str], case: str | os.PathLike[str], fields: Sequence[str]) -> Path:
    """Draw an OpenFOAM case: a ``.vtu`` for each written time that has all of *fields*, and the ``.pvd`` over them.

    Returns:
        The ``.pvd``, which is what ParaView opens.

    Raises:
        UnitError: the mesh or a field cannot be read.
    """
    folder, mesh, files = Path(folder), read_case_mesh(case), {}
    for time in times(case):
        if all(field_files(case, time, name) for name in fields):
            found = {name: read_case_field(case, time, name).values(mesh.cells) for name in fields}
            write_mesh(folder / f"{time}.vtu", mesh, found)
            files[float(time)] = f"{time}.vtu"
    write_series(folder / "case.pvd", files)
    return folder / "case.pvd"


def _check(cells: Arrays, count: int) -> None:
    for name, values in cells.items():
        if len(values) != count:
            raise UnitError(f"'{name}' has {len(values)} values, the mesh {count} cells; is it of another case?")


def _words(numbers: Sequence[float]) -> str:
    return " ".join(repr(float(number)) for number in numbers)


def _write(path: Path, kind: str, outer: str, inner: str, blocks: list[tuple[str, Arrays]]) -> None:
    """Arrays stand behind the XML, each with its length before it."""
    prepared = [(name, {key: _array(values) for key, values in arrays.items()}) for name, arrays in blocks]
    lines, offset = [outer, inner], 0
    for name, arrays in prepared:
        lines.append(f"<{name}>")
        for key, values in arrays.items():
            lines.append(_declared(key, values, offset))
            offset += 8 + values.nbytes
        lines.append(f"</{name}>")
    head = (
        f'<?xml version="1.0"?>\n<VTKFile type="{kind}" version="1.0" byte_order="LittleEndian" header_type="UInt64">'
    )
    text = "\n".join([head, *lines, "</Piece>", f"</{kind}>", '<AppendedData encoding="raw">', "_"])
    replaced(path, _pieces(text, [values for _, arrays in prepared for values in arrays.values()]))


def _pieces(text: str, arrays: list[npt.NDArray[Any]]) -> Iterator[bytes | memoryview]:
    yield text.encode()
    for values in arrays:
        yield np.array([values.nbytes], "<u8").tobytes()
        yield raw(values)
    yield b"\n</AppendedData>\n</VTKFile>\n"


def _array(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<"))


def _declared(name: str, values: npt.NDArray[Any], offset: int) -> str:
    kind = _TYPES.get(values.dtype.str[1:])
    if kind is None:
        raise UnitError(f"'{name}' is {values.dtype}; one of {', '.join(_TYPES)} was needed")
    width = f' NumberOfComponents="{values.shape[1]}"' if values.ndim > 1 else ""
    return f'<DataArray type="{kind}" Name={quoteattr(name)}{width} format="appended" offset="{offset}"/>'


# --- cells -----------------------------------------------------------------------------------------------


def _cells(mesh: Mesh) -> Arrays:
    """Connectivity, offsets and types; for polyhedra also their faces."""
    sides, starts = _sides(mesh)
    hexahedra = _hexahedra(mesh, sides, starts)
    points = [
        hexahedra[cell] if cell in hexahedra else _points(mesh, cell, sides, starts) for cell in range(mesh.cells)
    ]
    types = np.full(mesh.cells, _POLYHEDRON, np.uint8)
    types[list(hexahedra)] = _HEXAHEDRON
    arrays = {
        "connectivity": np.concatenate([*points, np.empty(0, np.int64)]),
        "offsets": np.cumsum([len(each) for each in points], dtype=np.int64),
        "types": types,
    }
    return arrays if len(hexahedra) == mesh.cells else {**arrays, **_faces(mesh, sides, starts, types)}


def _sides(mesh: Mesh) -> tuple[Ints, Ints]:
    """The faces of all cells, ``"side"``, and where those of each cell begin, ``"cell+1"``."""
    cell = np.concatenate([mesh.owner, mesh.neighbour])
    face = np.concatenate([np.arange(len(mesh.owner)), np.arange(len(mesh.neighbour))])
    order = np.argsort(cell, kind="stable")
    return face[order], np.concatenate([[0], np.cumsum(np.bincount(cell, minlength=mesh.cells))])


def _hexahedra(mesh: Mesh, sides: Ints, starts: Ints) -> Mapping[int, Ints]:
    """The corners of those cells that are hexahedra, in VTK's order: a face seen from inside, then the one beyond."""
    quads = np.add.reduceat(mesh.faces.sizes[sides] == 4, starts[:-1]) if mesh.cells else np.empty(0, np.int64)
    cells = np.flatnonzero((np.diff(starts) == 6) & (quads == 6))
    if len(cells) == 0:
        return {}
    faces = sides[starts[cells][:, None] + np.arange(6)]
    corners = mesh.faces.labels[mesh.faces.offsets[faces][..., None] + np.arange(4)]
    ours = mesh.owner[faces[:, 0]] == cells
    base = np.where(ours[:, None], corners[:, 0, ::-1], corners[:, 0])
    edges = np.stack([corners, np.roll(corners, 1, -1)], -1).reshape(len(cells), -1, 2)
    edges = np.concatenate([edges, edges[..., ::-1]], 1)
    beyond = [_beyond(base[:, corner], edges, base) for corner in range(4)]
    whole = np.concatenate([base, np.stack(beyond, 1)], 1)
    right = np.diff(np.sort(whole, 1), axis=1).all(1)  # eight different corners
    return dict(zip(cells[right].tolist(), whole[right], strict=True))


def _beyond(corner: Ints, edges: Ints, base: Ints) -> Ints:
    """The other end of the edge that leads away from the base at *corner*, ``"cell"``."""
    away = ~(edges[..., 1, None] == base[:, None]).any(-1)
    at = ((edges[..., 0] == corner[:, None]) & away).argmax(1)
    return np.asarray(edges[np.arange(len(edges)), at, 1])


def _points(mesh: Mesh, cell: int, sides: Ints, starts: Ints) -> Ints:
    return np.unique(np.concatenate([mesh.faces[face] for face in sides[starts[cell] : starts[cell + 1]]]))


def _faces(mesh: Mesh, sides: Ints, starts: Ints, types: npt.NDArray[np.uint8]) -> Arrays:
    """For each polyhedron the count of its faces, and of each face the count of its corners, and these."""
    words: list[Ints] = []
    offsets = np.full(mesh.cells, -1, np.int64)
    total = 0
    for cell in np.flatnonzero(types == _POLYHEDRON):
        faces = [mesh.faces[face] for face in sides[starts[cell] : starts[cell + 1]]]
        words += [np.array([len(faces)]), *(part for face in faces for part in (np.array([len(face)]), face))]
        total += 1 + sum(1 + len(face) for face in faces)
        offsets[cell] = total
    return {"faces": np.concatenate(words), "faceoffsets": offsets}
