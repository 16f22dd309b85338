"""Values of rows on the cells of meshes."""

import numpy as np
import pytest

from penstock.errors import UnitError
from penstock.formats.openfoam import Faces, Mesh, Patch
from penstock.solvers.openfoam.placing import cell_of_grid, gridded, interpolated, on_cells


def plane(nx, ny, order=None, side=2 * np.pi):
    """A box one cell thick, by its definition; cells are numbered by *order*, with x fastest when there is none."""
    order = np.arange(nx * ny) if order is None else order
    points = [(x, y, z) for z in (0, 0.1) for y in np.linspace(0, side, ny + 1) for x in np.linspace(0, side, nx + 1)]

    def p(i, j, k):
        return i + (nx + 1) * (j + (ny + 1) * k)

    inside, outside = [], []
    for j in range(ny):
        for i in range(nx):
            cell = order[i + nx * j]
            sides = {
                (i + 1, j): [p(i + 1, j, 0), p(i + 1, j + 1, 0), p(i + 1, j + 1, 1), p(i + 1, j, 1)],
                (i, j + 1): [p(i, j + 1, 0), p(i, j + 1, 1), p(i + 1, j + 1, 1), p(i + 1, j + 1, 0)],
                (i - 1, j): [p(i, j, 0), p(i, j, 1), p(i, j + 1, 1), p(i, j + 1, 0)],
                (i, j - 1): [p(i, j, 0), p(i + 1, j, 0), p(i + 1, j, 1), p(i, j, 1)],
            }
            for (a, b), face in sides.items():
                if 0 <= a < nx and 0 <= b < ny:
                    other = order[a + nx * b]
                    if (a, b) > (i, j):
                        inside.append((face, cell, other))
                else:
                    outside.append((face, cell))
            outside.append(([p(i, j, 0), p(i, j + 1, 0), p(i + 1, j + 1, 0), p(i + 1, j, 0)], cell))
            outside.append(([p(i, j, 1), p(i + 1, j, 1), p(i + 1, j + 1, 1), p(i, j + 1, 1)], cell))
    faces = Faces.of([face for face, *_ in inside] + [face for face, _ in outside])
    owner = np.array([own for _, own, _ in inside] + [own for _, own in outside])
    neighbour = np.array([other for *_, other in inside], np.int64)
    return Mesh(np.array(points), faces, owner, neighbour, (Patch("all", "patch", len(inside), len(outside), {}),))


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_grid_goes_to_the_cells_point_by_point_and_back(shuffled):
    nx, ny = 6, 4
    order = np.random.default_rng(0).permutation(nx * ny) if shuffled else np.arange(nx * ny)
    mesh = plane(nx, ny, order)
    values = np.random.default_rng(1).standard_normal((2, ny, nx))
    cells = on_cells(values, mesh, 3)
    for j in range(ny):
        for i in range(nx):
            assert cells[order[i + nx * j]].tolist() == [values[0, j, i], values[1, j, i], 0]
    np.testing.assert_array_equal(gridded(cells, mesh, (2, ny, nx)), values)
    pressure = on_cells(values[0], mesh, 1)
    np.testing.assert_array_equal(gridded(pressure, mesh, (ny, nx)), values[0])


def test_values_in_the_order_of_cells_go_as_they_are():
    mesh = plane(3, 2)
    values = np.random.default_rng(1).standard_normal((6, 3))
    np.testing.assert_array_equal(on_cells(values, mesh, 3), values)
    np.testing.assert_array_equal(on_cells(values[:, 0], mesh, 1), values[:, 0])


def test_another_mesh_gets_what_lies_between_the_points():
    n = 64
    x = 2 * np.pi * np.arange(n) / n
    values = np.stack([np.sin(x)[None] * np.cos(x)[:, None], np.cos(x)[None] + 0 * x[:, None]])
    mesh = plane(10, 12)
    assert cell_of_grid(mesh, (n, n)) is None
    cells = on_cells(values, mesh, 3)
    cx, cy, _ = mesh.cell_centres.T
    np.testing.assert_allclose(cells[:, 0], np.sin(cx) * np.cos(cy), atol=2 * (np.pi / n) ** 2)
    np.testing.assert_allclose(cells[:, 1], np.cos(cx), atol=(np.pi / n) ** 2)


def test_points_of_the_grid_get_its_values_beyond_the_period_too():
    values = np.random.default_rng(3).standard_normal((1, 4, 4))
    points = np.array([[2 * np.pi * (i + 4) / 4, 2 * np.pi * (j - 4) / 4, 0] for j in range(4) for i in range(4)])
    np.testing.assert_allclose(interpolated(values, points)[:, 0], values[0].ravel(), atol=1e-12)


def test_what_fits_nowhere_is_refused():
    with pytest.raises(UnitError, match=r"values of the shape \(5,\) fit neither the mesh of 6 cells nor a grid"):
        on_cells(np.ones(5), plane(3, 2), 3)
    with pytest.raises(UnitError, match="the mesh of 6 cells is no grid of 3 x 3"):
        gridded(np.ones(6), plane(3, 2), (3, 3))
