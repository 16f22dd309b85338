"""Values of a row on the cells of a mesh: grids of a periodic square, or values in the order of cells."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam import Mesh

__all__ = ["cell_of_grid", "gridded", "interpolated", "on_cells"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Ints: TypeAlias = npt.NDArray[np.int64]

_ROUNDING = 1e-6


def on_cells(given: Floats, mesh: Mesh, components: int) -> npt.NDArray[np.float64]:
    """The values *given* by one row, as a field has them: ``"cell component"``, or ``"cell"`` for one component.

    Values ``"cell"`` and ``"cell component"`` go as they are. A grid, ``"y x"`` or ``"component y x"``, goes point by
    point to a mesh that is the grid, and is interpolated to the centres of any other, which lies in its period.

    Raises:
        UnitError: they fit neither the mesh nor a grid.
    """
    values: npt.NDArray[np.float64] = np.asarray(given, np.float64)
    if values.shape in {(mesh.cells,), (mesh.cells, components)}:
        return values
    planes = values[None] if values.ndim == 2 and components == 1 else values
    if planes.ndim != 3 or planes.shape[0] > components:
        raise UnitError(
            f"values of the shape {values.shape} fit neither the mesh of {mesh.cells} cells nor a grid "
            f"(component, y, x) of {components} components at most"
        )
    place = cell_of_grid(mesh, planes.shape[-2:])
    found = interpolated(planes, mesh.cell_centres) if place is None else _placed(planes, place)
    whole = np.zeros((mesh.cells, components))
    whole[:, : len(planes)] = found
    return whole[:, 0] if components == 1 else whole


def _placed(planes: Floats, place: Ints) -> Floats:
    found = np.empty((planes[0].size, len(planes)))
    found[place.reshape(-1)] = planes.reshape(len(planes), -1).T
    return found


def cell_of_grid(mesh: Mesh, shape: tuple[int, ...]) -> Ints | None:
    """The cell at each point of a grid, ``"y x"``, or None when the mesh is no such grid; whatever their order."""
    rows, columns = shape
    if mesh.cells != rows * columns:
        return None
    low, high = mesh.points.min(0)[:2], mesh.points.max(0)[:2]
    at = (mesh.cell_centres[:, :2] - low) / (high - low) * (columns, rows) - 0.5
    x, y = np.rint(at).astype(np.int64).T
    if abs(at - np.rint(at)).max() > _ROUNDING * max(shape):
        return None
    place = np.full(shape, -1, np.int64)
    place[y.clip(0, rows - 1), x.clip(0, columns - 1)] = np.arange(mesh.cells)
    return None if (place < 0).any() else place


def gridded(values: Floats, mesh: Mesh, shape: tuple[int, ...]) -> Floats:
    """The inverse of `on_cells` for a mesh that is a grid: ``"cell component -> component y x"``, or ``"y x"``.

    Raises:
        UnitError: the mesh is no such grid.
    """
    place = cell_of_grid(mesh, shape[-2:])
    if place is None:
        raise UnitError(
            f"the mesh of {mesh.cells} cells is no grid of {shape[-2]} x {shape[-1]}; leave the shape to it"
        )
    grid = values[place]
    return grid if grid.ndim == 2 else np.moveaxis(grid, -1, 0)[: shape[0]]


def interpolated(planes: Floats, points: Floats) -> Floats:
    """Values at *points* of a periodic square of side 2 pi with a value at ``2 pi i / n``: ``"point component"``.

    Linear in each direction.
    """
    rows, columns = planes.shape[-2:]
    x, y = points[:, 0] / (2 * np.pi) * columns, points[:, 1] / (2 * np.pi) * rows
    i, j = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    a, b = x - i, y - j
    corners = [((0, 0), (1 - a) * (1 - b)), ((0, 1), a * (1 - b)), ((1, 0), (1 - a) * b), ((1, 1), a * b)]
    parts = [planes[:, (j + up) % rows, (i + over) % columns] * weight for (up, over), weight in corners]
    return np.asarray(np.sum(parts, axis=0).T)
