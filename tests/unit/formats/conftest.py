"""Small meshes."""

import itertools

import numpy as np
import pytest

from penstock.formats.openfoam import Faces, Mesh, Patch


def box(nx, ny, nz, side=1.0):
    """A box of cubes by its definition, one face after the other; all boundary faces are one patch."""
    point = {p: i for i, p in enumerate((x, y, z) for z in range(nz + 1) for y in range(ny + 1) for x in range(nx + 1))}
    cell = {c: i for i, c in enumerate((x, y, z) for z in range(nz) for y in range(ny) for x in range(nx))}
    inside, outside = [], []
    for (x, y, z), axis in itertools.product(cell, range(3)):
        for step in (0, 1):
            corners = [(0, 0), (1, 0), (1, 1), (0, 1)]
            corners = corners if step else corners[::-1]
            face = []
            for a, b in corners:
                offset = [0, 0, 0]
                offset[axis], offset[(axis + 1) % 3], offset[(axis + 2) % 3] = step, a, b
                face.append(point[(x + offset[0], y + offset[1], z + offset[2])])
            beyond = [x, y, z]
            beyond[axis] += 1 if step else -1
            if tuple(beyond) not in cell:
                outside.append((face, cell[(x, y, z)], -1))
            elif step:
                inside.append((face, cell[(x, y, z)], cell[tuple(beyond)]))
    inside.sort(key=lambda found: found[1:])
    both = inside + outside
    return Mesh(
        np.array(list(point), float) * side,
        Faces.of([face for face, _, _ in both]),
        np.array([own for _, own, _ in both]),
        np.array([other for _, _, other in inside], np.int64),
        (Patch("walls", "wall", len(inside), len(outside), {"inGroups": "1(wall)"}),),
    )


@pytest.fixture
def cubes():
    return box(2, 3, 2, 0.5)


@pytest.fixture
def tetrahedron():
    """One cell of four triangles."""
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    faces = Faces.of([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    return Mesh(points, faces, np.zeros(4, np.int64), np.empty(0, np.int64), (Patch("all", "patch", 0, 4, {}),))


@pytest.fixture
def prisms():
    """Two prisms that share a square: polyhedra that are no hexahedra."""
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], float)
    faces = [
        [0, 2, 6, 4],
        [0, 2, 1],
        [4, 5, 6],
        [0, 1, 5, 4],
        [1, 2, 6, 5],
        [0, 3, 2],
        [4, 6, 7],
        [0, 4, 7, 3],
        [3, 7, 6, 2],
    ]
    faces[0] = faces[0][::-1]
    owner = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    return Mesh(points, Faces.of(faces), owner, np.array([1]), (Patch("all", "patch", 1, 8, {}),))
