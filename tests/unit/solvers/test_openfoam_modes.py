"""Random deformations: statistics against their definition, and what must stay in place."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.errors import UnitError
from penstock.formats.openfoam import Faces, Mesh, Patch
from penstock.solvers.openfoam.modes import FreeForm, KarhunenLoeve, in_plane, patch_normals
from penstock.solvers.openfoam.moving import displacement_field


def channel(nx=12, ny=6, length=4.0, height=1.0):
    """A plane channel, one cell thick: inlet, outlet, walls, and an empty patch for the sides."""
    xs, ys = np.linspace(0, length, nx + 1), np.linspace(0, height, ny + 1)
    points = np.array([(x, y, z) for z in (0, 0.1) for y in ys for x in xs])

    def p(i, j, k):
        return i + (nx + 1) * (j + (ny + 1) * k)

    inside, patches = [], {"inlet": [], "outlet": [], "walls": [], "sides": []}
    for j in range(ny):
        for i in range(nx):
            cell = i + nx * j
            east = [p(i + 1, j, 0), p(i + 1, j + 1, 0), p(i + 1, j + 1, 1), p(i + 1, j, 1)]
            north = [p(i, j + 1, 0), p(i, j + 1, 1), p(i + 1, j + 1, 1), p(i + 1, j + 1, 0)]
            (inside if i + 1 < nx else patches["outlet"]).append((east, cell, cell + 1))
            (inside if j + 1 < ny else patches["walls"]).append((north, cell, cell + nx))
            if i == 0:
                patches["inlet"].append(([p(0, j, 0), p(0, j, 1), p(0, j + 1, 1), p(0, j + 1, 0)], cell, -1))
            if j == 0:
                patches["walls"].append(([p(i, 0, 0), p(i + 1, 0, 0), p(i + 1, 0, 1), p(i, 0, 1)], cell, -1))
            patches["sides"].append(([p(i, j, 0), p(i, j + 1, 0), p(i + 1, j + 1, 0), p(i + 1, j, 0)], cell, -1))
            patches["sides"].append(([p(i, j, 1), p(i + 1, j, 1), p(i + 1, j + 1, 1), p(i, j + 1, 1)], cell, -1))
    faces, made = list(inside), []
    for name, found in patches.items():
        kind = {"walls": "wall", "sides": "empty"}.get(name, "patch")
        made.append(Patch(name, kind, len(faces), len(found), {}))
        faces += found
    owner = np.array([own for _, own, _ in faces])
    neighbour = np.array([other for *_, other in inside])
    return Mesh(points, Faces.of([face for face, *_ in faces]), owner, neighbour, tuple(made))


@pytest.fixture(scope="module")
def mesh():
    return channel()


def test_the_channel_of_these_tests_is_sound(mesh):
    np.testing.assert_allclose(mesh.cell_volumes, 4 / 12 * 1 / 6 * 0.1)


def test_axes_that_an_empty_patch_faces_are_no_way_to_move(mesh):
    assert in_plane(mesh).tolist() == [True, True, False]
    normals = patch_normals(mesh, ("walls",), mesh.patch_points("walls"))
    np.testing.assert_allclose(abs(normals), [[0, 1, 0]] * len(normals), atol=1e-12)


def test_modes_have_the_covariance_that_was_asked_for(mesh):
    """All modes together: the covariance by the definition, under the condition that inlet and outlet stay."""
    maker = KarhunenLoeve(mesh, ("walls",), 0.3, 0.8, 1000)
    found = maker.modes @ maker.modes.T
    moving = mesh.points[maker.moving][:, :2]
    held = np.unique(mesh.points[maker.held][:, :2], axis=0)

    def kernel(a, b):
        return np.array([[np.exp(-((p - q) ** 2).sum() / (2 * 0.8**2)) for q in b] for p in a])

    inner = kernel(held, held) + 1e-8 * np.eye(len(held))
    expected = kernel(moving, moving) - kernel(moving, held) @ np.linalg.inv(inner) @ kernel(held, moving)
    np.testing.assert_allclose(found, 0.3**2 * expected, atol=1e-5)


def test_the_strongest_modes_are_kept(mesh):
    few, all_ = (KarhunenLoeve(mesh, ("walls",), 0.3, 0.8, count).modes for count in (4, 1000))
    np.testing.assert_allclose(few, all_[:, :4])
    strengths = (all_**2).sum(0)
    assert (np.diff(strengths) < 1e-12).all()


def test_walls_move_and_ends_stay_and_the_case_stays_plane(mesh):
    maker = KarhunenLoeve(mesh, ("walls",), 0.1, 0.8, 8)
    moved = maker.displaced(7)
    np.testing.assert_array_equal(moved, maker.displaced(7))
    np.testing.assert_array_equal(moved, KarhunenLoeve(mesh, ("walls",), 0.1, 0.8, 8).displaced(7))
    assert abs(moved - maker.displaced(8)).max() > 0.01
    ends = np.isin(np.arange(len(moved)), np.r_[mesh.patch_points("inlet"), mesh.patch_points("outlet")])
    np.testing.assert_array_equal(moved[ends], mesh.points[ends])
    np.testing.assert_array_equal(moved[:, [0, 2]], mesh.points[:, [0, 2]])
    back, front = np.split(moved - mesh.points, 2)
    np.testing.assert_allclose(back, front, atol=1e-9)


def test_points_inside_lie_between_those_of_the_boundary(mesh):
    """A harmonic displacement has no extremum inside, and one that is the same everywhere is kept."""
    maker = KarhunenLoeve(mesh, ("walls",), 0.1, 0.8, 8)
    shift = maker.displaced(1) - mesh.points
    edge = np.isin(np.arange(len(shift)), np.r_[maker.moving, maker.held])
    assert abs(shift[~edge]).max() <= abs(shift[edge]).max() + 1e-12
    assert abs(shift[~edge]).max() > 0.001


def test_free_forms_are_bernstein_sums(mesh):
    maker = FreeForm(mesh, 0.2, (6, 3, 2), 1)
    moved = maker.displaced(3)
    control = 0.2 * np.random.default_rng(3).standard_normal((6, 3, 1))
    control[:2] = control[-2:] = 0
    x, y = mesh.points[30, :2] / (4, 1)
    row = [1, 5, 10, 10, 5, 1]
    expected = sum(
        control[i, j, 0] * row[i] * x**i * (1 - x) ** (5 - i) * [1, 2, 1][j] * y**j * (1 - y) ** (2 - j)
        for i in range(6)
        for j in range(3)
    )
    assert moved[30, 1] - mesh.points[30, 1] == pytest.approx(expected)
    np.testing.assert_array_equal(moved[:, [0, 2]], mesh.points[:, [0, 2]])


def test_lattices_that_make_no_sense_are_refused(mesh):
    with pytest.raises(UnitError, match="lattice has 4 points along x, the longest axis; 5 or more were needed"):
        FreeForm(mesh, 0.2, (4, 3, 2), 1).displaced(0)
    with pytest.raises(UnitError, match="the case is plane across z; choose another direction"):
        FreeForm(mesh, 0.2, (6, 3, 2), 2).displaced(0)
    with pytest.raises(UnitError, match="there is no patch 'lid'; there are: inlet, outlet, walls, sides"):
        KarhunenLoeve(mesh, ("lid",), 0.1, 1.0, 3).displaced(0)


@pytest.mark.parametrize("maker", [KarhunenLoeve, FreeForm])
def test_the_boundary_goes_where_the_points_go(mesh, maker):
    """What OpenFOAM is told to do with the patches is what is done to them here."""
    made = maker(mesh, ("walls",), 0.1, 0.8, 8) if maker is KarhunenLoeve else maker(mesh, 0.1, (7, 3, 2), 1)
    told, done = made.on_boundary(3), made.displaced(3) - mesh.points
    for name in ("inlet", "outlet", "walls"):
        at = mesh.patch_points(name)
        np.testing.assert_allclose(told[at], done[at], atol=1e-12)
    assert abs(told).max() > 0.02


def test_patches_without_faces_have_their_entry_too(mesh):
    """OpenFOAM gives up on a field that lacks one."""
    nothing = Patch("nothing", "patch", mesh.patches[-1].faces.stop, 0, {})
    field = displacement_field(replace(mesh, patches=(*mesh.patches, nothing)), np.ones_like(mesh.points))
    assert field.boundary["nothing"]["type"] == "fixedValue"
    np.testing.assert_array_equal(field.boundary["nothing"]["value"], np.zeros(3))


def test_point_displacement_is_given_on_patches_in_their_own_order(mesh):
    displacement = np.random.default_rng(0).standard_normal(mesh.points.shape)
    field = displacement_field(mesh, displacement)
    assert field.kind == "pointVectorField"
    assert field.dimensions == (0, 1, 0, 0, 0, 0, 0)
    assert field.boundary["sides"] == {"type": "empty"}
    walls = field.boundary["walls"]
    assert walls["type"] == "fixedValue"
    np.testing.assert_array_equal(walls["value"], displacement[mesh.patch_points("walls")])
