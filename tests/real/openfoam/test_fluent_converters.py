"""Fluent's files against OpenFOAM's own converters (Debian's package openfoam)."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from penstock.formats.fluent import Mesh, Zone, block, from_foam, read_msh, to_foam, write_msh
from penstock.formats.openfoam import read_mesh, write_mesh

NAMES = ("inlet", "outlet", "floor-wall", "roof-wall", "left", "right")
SYSTEM = {
    "controlDict": "application icoFoam; startFrom startTime; startTime 0; stopAt endTime; endTime 1; deltaT 1; "
    "writeControl timeStep; writeInterval 1; writeFormat ascii; writePrecision 17;",
    "fvSchemes": "ddtSchemes{default Euler;} gradSchemes{default Gauss linear;} divSchemes{default Gauss linear;} "
    "laplacianSchemes{default Gauss linear corrected;} interpolationSchemes{default linear;} "
    "snGradSchemes{default corrected;}",
    "fvSolution": "solvers{}",
    "foamDataToFluentDict": "p 1; U 2;",
}


@pytest.fixture
def case(tmp_path):
    (tmp_path / "system").mkdir()
    (tmp_path / "constant").mkdir()
    for name, text in SYSTEM.items():
        head = f"FoamFile{{version 2.0; format ascii; class dictionary; object {name};}}\n"
        (tmp_path / "system" / name).write_text(head + text + "\n")
    return tmp_path


def run(case: Path, *command: str) -> str:
    environment = {**os.environ, "WM_PROJECT_DIR": "/usr/share/openfoam", "PWD": str(case)}
    done = subprocess.run(command, cwd=case, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return done.stdout


def skewed(cells, size):
    """A block whose inner points were moved, so that no two cells are equal."""
    foam = block(cells, size, NAMES)
    points = foam.points.copy()
    inside = np.all((points > 0) & (points < size), axis=1)
    points[inside] += 0.1 * np.min(np.array(size) / cells) * np.random.default_rng(0).standard_normal((inside.sum(), 3))
    return foam.moved(points)


def geometry(foam):
    """What does not depend on the numbers of faces and cells: volumes by centre, and the areas of the patches."""
    cells = sorted(
        (*np.round(centre, 6), round(volume, 9))
        for centre, volume in zip(foam.cell_centres, foam.cell_volumes, strict=True)
    )
    areas = {patch.name: foam.face_areas[patch.faces].sum(0).round(6).tolist() for patch in foam.patches}
    return cells, areas


@pytest.mark.parametrize("converter", ["fluentMeshToFoam", "fluent3DMeshToFoam"])
def test_openfoam_reads_our_mesh(case, converter):
    foam = skewed((4, 3, 2), (2.0, 1.0, 0.5))
    write_msh(case / "ours.msh", from_foam(foam, {"inlet": "velocity-inlet", "left": "symmetry"}))
    said = run(case, converter, "ours.msh")
    assert "FatalError" not in said
    assert "Mesh OK" in run(case, "checkMesh")
    theirs = read_mesh(case / "constant" / "polyMesh")
    assert geometry(theirs) == geometry(foam)
    kinds = {patch.name: patch.kind for patch in theirs.patches}
    assert kinds["floor-wall"] == kinds["roof-wall"] == "wall"
    assert kinds["left"].startswith("symmetry")


def test_our_mesh_is_read_by_openfoam_as_its_own_would_be(case):
    """From .msh by us and by OpenFOAM: the same points, and the same faces of each cell."""
    foam = skewed((3, 3, 3), (1.0, 1.0, 1.0))
    write_mesh(case / "constant" / "polyMesh", foam)
    run(case, "foamMeshToFluent")
    (written,) = (case / "fluentInterface").glob("*.msh")
    theirs = to_foam(read_msh(written))
    np.testing.assert_allclose(theirs.points, foam.points, atol=1e-10)
    assert np.array_equal(theirs.faces.labels, foam.faces.labels)
    assert np.array_equal(theirs.owner, foam.owner)
    assert np.array_equal(theirs.neighbour, foam.neighbour)
    assert [(patch.name, patch.kind, patch.size) for patch in theirs.patches] == [
        (patch.name, patch.kind, patch.size) for patch in foam.patches
    ]


def test_what_openfoam_writes_goes_through_us_and_back(case):
    foam = skewed((3, 2, 4), (1.0, 2.0, 1.0))
    write_mesh(case / "constant" / "polyMesh", foam)
    run(case, "foamMeshToFluent")
    (written,) = (case / "fluentInterface").glob("*.msh")
    write_msh(case / "again.msh", read_msh(written))
    run(case, "fluentMeshToFoam", "again.msh")
    assert "Mesh OK" in run(case, "checkMesh")
    cells, areas = geometry(read_mesh(case / "constant" / "polyMesh"))
    wanted_cells, wanted_areas = geometry(foam)
    np.testing.assert_allclose(cells, wanted_cells, atol=2e-6)
    assert areas == wanted_areas


def test_mixed_cells_are_read_by_openfoam(case):
    """Two pyramids base to base: triangles and a quadrilateral, zones of either."""
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1], [0.5, 0.5, -1.0]])
    faces = [[0, 1, 2, 3]] + [[i, 4, (i + 1) % 4] for i in range(4)] + [[(i + 1) % 4, 5, i] for i in range(4)]
    sides = np.array([[0, 1], *[[0, -1]] * 4, *[[1, -1]] * 4])
    zones = (Zone(2, "interior-1", "interior", 0, 1), Zone(3, "above", "wall", 1, 5), Zone(4, "below", "wall", 5, 9))
    offsets = np.cumsum([0, *map(len, faces)])
    mesh = Mesh(points, np.concatenate(faces), offsets, sides, zones, (Zone(1, "fluid-1", "fluid", 0, 2),))
    np.testing.assert_allclose(to_foam(mesh).cell_volumes, [1 / 3, 1 / 3])
    write_msh(case / "pyramids.msh", mesh)
    run(case, "fluentMeshToFoam", "pyramids.msh")
    assert "pyramids:      2" in run(case, "checkMesh")
    np.testing.assert_allclose(read_mesh(case / "constant" / "polyMesh").cell_volumes, [1 / 3, 1 / 3])


def test_the_numbers_of_cells_are_those_of_openfoams_data_files(case):
    """`foamDataToFluent` writes values in the order of cells: that order is the one of our mesh."""
    foam = block((3, 2, 2), (1.0, 1.0, 1.0), NAMES)
    write_mesh(case / "constant" / "polyMesh", foam)
    (case / "0").mkdir()
    values = "\n".join(str(float(cell)) for cell in range(foam.cells))
    (case / "0" / "p").write_text(
        "FoamFile{version 2.0; format ascii; class volScalarField; object p;}\ndimensions [0 2 -2 0 0 0 0];\n"
        f"internalField nonuniform List<scalar> {foam.cells}(\n{values}\n);\n"
        'boundaryField{".*" {type zeroGradient;}}\n'
    )
    run(case, "foamDataToFluent", "-time", "0")
    text = next((case / "fluentInterface").glob("*.dat")).read_text()
    found = [float(word) for word in text.split(f"(300 (1 1 1 0 0 1 {foam.cells})(")[1].split(")")[0].split()]
    assert found == list(range(foam.cells))


def test_polyhedra_are_read_by_openfoam(case):
    """A pentagonal prism with a pentagonal pyramid on it: faces of five corners, two cell zones."""
    angle = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([np.c_[ring, np.zeros(5)], np.c_[ring, np.ones(5)], [[0, 0, 2]]])
    faces = [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    faces += [[(i + 1) % 5, i, i + 5, (i + 1) % 5 + 5] for i in range(5)]
    faces += [[(i + 1) % 5 + 5, i + 5, 10] for i in range(5)]
    sides = np.array([[1, 0], [0, -1], *[[0, -1]] * 5, *[[1, -1]] * 5])
    zones = (Zone(5, "inside", "interior", 0, 1), Zone(6, "base", "wall", 1, 2), Zone(7, "sides", "symmetry", 2, 12))
    inside = (Zone(3, "below", "fluid", 0, 1), Zone(4, "above", "fluid", 1, 2))
    mesh = Mesh(points, np.concatenate(faces), np.cumsum([0, *map(len, faces)]), sides, zones, inside)
    assert (to_foam(mesh).cell_volumes > 0).all()
    write_msh(case / "poly.msh", mesh)
    run(case, "fluent3DMeshToFoam", "poly.msh")
    theirs = read_mesh(case / "constant" / "polyMesh")
    np.testing.assert_allclose(theirs.cell_volumes, to_foam(mesh).cell_volumes, rtol=1e-9)
    assert {patch.name: patch.size for patch in theirs.patches if patch.size} == {"base": 1, "sides": 10}


def test_a_mesh_of_two_dimensions_is_read_by_openfoam(case):
    """OpenFOAM extrudes it by one layer."""
    points = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1], [2, 0]])
    faces = [[2, 1], [0, 1], [2, 3], [3, 0], [1, 4], [4, 2]]
    sides = np.array([[1, 0], [0, -1], [0, -1], [0, -1], [1, -1], [1, -1]])
    zones = (Zone(2, "interior-1", "interior", 0, 1), Zone(3, "walls", "wall", 1, 6))
    mesh = Mesh(points, np.ravel(faces), np.arange(7) * 2, sides, zones, (Zone(1, "fluid-1", "fluid", 0, 2),))
    write_msh(case / "flat.msh", mesh)
    run(case, "fluentMeshToFoam", "flat.msh")
    theirs = read_mesh(case / "constant" / "polyMesh")
    depth = np.ptp(theirs.points[:, 2])
    np.testing.assert_allclose(theirs.cell_volumes, [depth, depth / 2])
    np.testing.assert_allclose(theirs.cell_centres[:, :2], [[0.5, 0.5], [4 / 3, 1 / 3]])
