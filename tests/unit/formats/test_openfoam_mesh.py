"""Meshes: geometry against what is known, files against their round trip."""

import numpy as np
import pytest

from penstock.errors import UnitError
from penstock.formats.openfoam import read_mesh, write_mesh


def test_centres_and_volumes_of_cubes(cubes):
    np.testing.assert_allclose(cubes.cell_volumes, 0.125)
    expected = [(0.5 * x + 0.25, 0.5 * y + 0.25, 0.5 * z + 0.25) for z in range(2) for y in range(3) for x in range(2)]
    np.testing.assert_allclose(cubes.cell_centres, expected)
    np.testing.assert_allclose(np.linalg.norm(cubes.face_areas, axis=1), 0.25)


def test_a_tetrahedron_and_prisms(tetrahedron, prisms):
    np.testing.assert_allclose(tetrahedron.cell_volumes, [1 / 6])
    np.testing.assert_allclose(tetrahedron.cell_centres, [[0.25] * 3])
    np.testing.assert_allclose(prisms.cell_volumes, [0.5, 0.5])
    np.testing.assert_allclose(prisms.cell_centres, [[2 / 3, 1 / 3, 1 / 2], [1 / 3, 2 / 3, 1 / 2]])


def test_volumes_add_up_and_cells_are_closed_whatever_the_points(cubes):
    """Gauss: the volume of all is that of its boundary, and areas of a closed surface cancel."""
    rng = np.random.default_rng(0)
    mesh = cubes.moved(cubes.points + 0.05 * rng.standard_normal(cubes.points.shape))
    outside = slice(len(mesh.neighbour), None)
    by_boundary = np.einsum("fi,fi->", mesh.face_areas[outside], mesh.face_centres[outside]) / 3
    assert mesh.cell_volumes.sum() == pytest.approx(by_boundary, rel=1e-3)
    sums = np.zeros((mesh.cells, 3))
    np.add.at(sums, mesh.owner, mesh.face_areas)
    np.subtract.at(sums, mesh.neighbour, mesh.face_areas[: len(mesh.neighbour)])
    np.testing.assert_allclose(sums, 0, atol=1e-15)


@pytest.mark.parametrize("binary", [True, False])
def test_a_mesh_is_read_as_it_was_written(tmp_path, cubes, prisms, binary):
    for name, mesh in {"cubes": cubes, "prisms": prisms}.items():
        write_mesh(tmp_path / name, mesh, binary)
        found = read_mesh(tmp_path / name)
        np.testing.assert_array_equal(found.points, mesh.points)
        np.testing.assert_array_equal(found.faces.offsets, mesh.faces.offsets)
        np.testing.assert_array_equal(found.faces.labels, mesh.faces.labels)
        np.testing.assert_array_equal(found.owner, mesh.owner)
        np.testing.assert_array_equal(found.neighbour, mesh.neighbour)
        assert found.patches == mesh.patches
        assert found.cells == mesh.cells


def test_points_of_a_patch_stand_in_the_order_in_which_its_faces_name_them(cubes):
    seen = []
    patch = cubes.patch("walls")
    for face in range(patch.start, patch.start + patch.size):
        seen += [point for point in cubes.faces[face].tolist() if point not in seen]
    assert cubes.patch_points("walls").tolist() == seen


def test_a_patch_that_is_not_there_is_named(cubes):
    with pytest.raises(UnitError, match="there is no patch 'inlet'; there are: walls"):
        cubes.patch("inlet")


def test_a_boundary_that_is_none_is_refused(tmp_path, cubes):
    write_mesh(tmp_path, cubes)
    (tmp_path / "boundary").write_text("1\n(\nwalls { type wall; }\n)\n")
    with pytest.raises(UnitError, match="patch 'walls' has no type, startFace and nFaces"):
        read_mesh(tmp_path)
    (tmp_path / "owner").write_text("3\n(\n0 0 x\n)\n")
    with pytest.raises(UnitError, match="no number"):
        read_mesh(tmp_path)
