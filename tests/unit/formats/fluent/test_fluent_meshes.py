"""Meshes: ``.msh`` and ``.cas.h5`` there and back, and the way to and from OpenFOAM's mesh."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import UnitError
from penstock.formats.fluent import (
    Mesh,
    Solution,
    Zone,
    block,
    count_cells,
    from_foam,
    read_case,
    read_msh,
    read_solution,
    to_foam,
    write_case,
    write_msh,
    write_solution,
)
from penstock.formats.fluent.mesh import CELL_TYPES, cell_types

GOLDEN = Path(__file__).with_name("foam_mesh_to_fluent.msh")
"""What OpenFOAM 1912's foamMeshToFluent makes of a blockMesh of 3 x 2 x 2 cells."""
NAMES = ("inlet", "outlet", "walls", "walls", "front", "back")


def same(found: Mesh, wanted: Mesh) -> None:
    for name in ("points", "nodes", "offsets", "sides"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name)), name
    assert found.face_zones == wanted.face_zones
    assert found.cell_zones == wanted.cell_zones


def same_foam(found, wanted) -> None:
    assert np.array_equal(found.points, wanted.points)
    assert np.array_equal(found.faces.labels, wanted.faces.labels)
    assert np.array_equal(found.faces.offsets, wanted.faces.offsets)
    assert np.array_equal(found.owner, wanted.owner)
    assert np.array_equal(found.neighbour, wanted.neighbour)
    assert found.patches == wanted.patches


def channel(cells=(3, 2, 2), size=(1, 1, 0.5)):
    return from_foam(block(cells, size, NAMES), {"inlet": "velocity-inlet"})


def polyhedra() -> Mesh:
    """Two cells that share a pentagon: a pentagonal prism, and a pyramid over it."""
    angle = 2 * np.pi * np.arange(5) / 5
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = np.concatenate([np.c_[ring, np.zeros(5)], np.c_[ring, np.ones(5)], [[0, 0, 2]]])
    faces = [[5, 6, 7, 8, 9], [0, 1, 2, 3, 4]]
    faces += [[(i + 1) % 5, i, i + 5, (i + 1) % 5 + 5] for i in range(5)]
    faces += [[(i + 1) % 5 + 5, i + 5, 10] for i in range(5)]
    sides = np.array([[1, 0], [0, -1], *[[0, -1]] * 5, *[[1, -1]] * 5])
    return Mesh(
        points,
        np.array([point for face in faces for point in face]),
        np.cumsum([0, *map(len, faces)]),
        sides,
        (Zone(5, "inside", "interior", 0, 1), Zone(6, "base", "wall", 1, 2), Zone(7, "sides", "symmetry", 2, 12)),
        (Zone(3, "below", "fluid", 0, 1), Zone(4, "above", "solid", 1, 2)),
    )


def square() -> Mesh:
    """Two dimensions: a quadrilateral and a triangle."""
    points = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1], [2, 0]])
    faces = [[1, 2], [0, 1], [2, 3], [3, 0], [1, 4], [4, 2]]
    sides = np.array([[0, 1], [0, -1], [0, -1], [0, -1], [1, -1], [1, -1]])
    zones = (Zone(2, "interior-1", "interior", 0, 1), Zone(3, "walls", "wall", 1, 6))
    return Mesh(points, np.ravel(faces), np.arange(7) * 2, sides, zones, (Zone(1, "fluid-1", "fluid", 0, 2),))


def naive_hexahedra(text: str):
    """The faces of a file of one section for each zone, by another way of reading it: line by line."""
    faces, inside = [], False
    for line in text.splitlines():
        if line.startswith("(13 (") and "(0 " not in line[4:8]:
            inside = True
        elif line.startswith("))"):
            inside = False
        elif inside and line.strip("( "):
            numbers = [int(word, 16) for word in line.split()]
            faces.append((numbers[1:-2] if len(numbers) == 7 else numbers[:-2], numbers[-2:]))
    return faces


@pytest.mark.parametrize("mesh", [channel(), channel((1, 1, 1)), polyhedra(), square()], ids="abcd")
def test_meshes_come_back_bit_for_bit(tmp_path, mesh):
    write_msh(tmp_path / "a.msh", mesh)
    same(read_msh(tmp_path / "a.msh"), mesh)
    write_case(tmp_path / "a.cas.h5", mesh)
    same(read_case(tmp_path / "a.cas.h5"), mesh)
    assert count_cells(tmp_path / "a.cas.h5") == mesh.cells
    assert len(list(tmp_path.iterdir())) == 2, "nothing else is left"


@settings(max_examples=20)
@given(st.tuples(*[st.integers(1, 4)] * 3), st.tuples(*[st.floats(1e-6, 1e6)] * 3))
def test_blocks_come_back_through_both_formats_and_openfoam(tmp_path_factory, cells, size):
    folder, foam = tmp_path_factory.mktemp("mesh"), block(cells, size, NAMES)
    write_msh(folder / "a.msh", from_foam(foam))
    same_foam(to_foam(read_msh(folder / "a.msh")), foam)
    write_case(folder / "a.cas.h5", from_foam(foam))
    same_foam(to_foam(read_case(folder / "a.cas.h5")), foam)


@pytest.mark.parametrize("cells", [(3, 2, 2), (1, 4, 2), (1, 1, 1)])
def test_a_block_fills_its_box_with_equal_cells(cells):
    foam = block(cells, (2.0, 3.0, 0.5), NAMES)
    assert foam.cells == np.prod(cells)
    np.testing.assert_allclose(foam.cell_volumes, 3.0 / np.prod(cells))
    steps = [size * (np.arange(count) + 0.5) / count for size, count in zip((2.0, 3.0, 0.5), cells, strict=True)]
    wanted = [(x, y, z) for z in steps[2] for y in steps[1] for x in steps[0]]
    np.testing.assert_allclose(foam.cell_centres, wanted, atol=1e-12)
    assert [(patch.name, patch.kind) for patch in foam.patches] == [
        ("inlet", "patch"),
        ("outlet", "patch"),
        ("walls", "wall"),
        ("front", "patch"),
        ("back", "patch"),
    ]
    place = foam.face_centres[foam.patch("inlet").faces]
    assert np.allclose(place[:, 0], 0)
    assert (foam.face_areas[foam.patch("outlet").faces][:, 0] > 0).all(), "out of the domain"


def test_a_mesh_of_openfoams_own_converter_is_read():
    mesh = read_msh(GOLDEN)
    assert (mesh.cells, mesh.faces, len(mesh.points), mesh.dimension) == (12, 52, 36, 3)
    assert [(zone.id, zone.name, zone.kind, zone.stop - zone.start) for zone in mesh.face_zones] == [
        (2, "interior-1", "interior", 20),
        (10, "inlet", "pressure-outlet", 4),
        (11, "outlet", "pressure-outlet", 4),
        (12, "walls", "wall", 24),
    ]
    for at, (nodes, sides) in enumerate(naive_hexahedra(GOLDEN.read_text())):
        assert (mesh.nodes[mesh.offsets[at] : mesh.offsets[at + 1]] + 1).tolist() == nodes
        assert (mesh.sides[at] + 1).tolist() == sides
    foam, ours = to_foam(mesh), block((3, 2, 2), (1, 1, 0.5), ("inlet", "outlet", *["walls"] * 4))
    np.testing.assert_allclose(foam.cell_centres, ours.cell_centres, atol=1e-9)
    assert np.array_equal(foam.neighbour, ours.neighbour)


def test_a_written_mesh_is_what_openfoams_own_converter_would_write(tmp_path):
    """All but the layout of the text: the same faces with the same cells on the same sides, in the same order."""
    write_msh(tmp_path / "a.msh", read_msh(GOLDEN))
    assert naive_hexahedra((tmp_path / "a.msh").read_text()) == naive_hexahedra(GOLDEN.read_text())


def test_the_text_of_a_mesh_of_one_cell(tmp_path):
    write_msh(tmp_path / "a.msh", from_foam(block((1, 1, 1), (1, 1, 1), ("inlet", *["walls"] * 5))))
    assert (tmp_path / "a.msh").read_text() == (
        '(0 "Penstock to Fluent")\n\n(2 3)\n\n(10 (0 1 8 0 3))\n(12 (0 1 1 0 0))\n(13 (0 1 6 0 0))\n\n'
        "(10 (1 1 8 1 3)(\n0.0 0.0 0.0\n1.0 0.0 0.0\n0.0 1.0 0.0\n1.0 1.0 0.0\n0.0 0.0 1.0\n1.0 0.0 1.0\n"
        "0.0 1.0 1.0\n1.0 1.0 1.0\n))\n"
        "(13 (a 1 1 5 4)(\n1 3 7 5 1 0\n))\n"
        "(13 (b 2 6 3 4)(\n6 8 4 2 1 0\n1 5 6 2 1 0\n4 8 7 3 1 0\n1 2 4 3 1 0\n7 8 6 5 1 0\n))\n"
        "(12 (1 1 1 1 4))\n(45 (1 fluid fluid-1)())\n"
        "(45 (10 pressure-outlet inlet)())\n(45 (11 wall walls)())\n"
    )


def test_cells_are_known_by_their_faces():
    assert cell_types(channel()).tolist() == [CELL_TYPES["hexahedron"]] * 12
    assert cell_types(polyhedra()).tolist() == [CELL_TYPES["polyhedron"]] * 2
    assert cell_types(square()).tolist() == [CELL_TYPES["quadrilateral"], CELL_TYPES["triangle"]]


def test_sections_that_are_not_known_are_passed_over(tmp_path):
    text = '(1 "a ) text")\n(37 ((name ")(" . 3)))\n' + GOLDEN.read_text() + '\n(59 (1 2 0 a 0)(\n1 2\n))\n(0 "end")\n'
    (tmp_path / "a.msh").write_text(text)
    same(read_msh(tmp_path / "a.msh"), read_msh(GOLDEN))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: "hello", "line 1: a section such as"),
        (lambda text: text[:600], "the file is cut off"),
        (lambda text: text.replace("(13 (2 1 14 2 0)", "(13 (2 1 13 2 0)"), "51 of 52"),
        (lambda text: text.replace("(13 (a 15 18 4 0)", "(13 (a 16 18 4 0)"), "51 of 52"),
        (lambda text: text.replace("    4 2 6 12 e 2 1\n", "    4 2 6 12 g 2 1\n"), "hexadecimal number was needed"),
        (lambda text: text.replace("    4 2 6 12 e 2 1\n", "    4 2 6 12 ff 2 1\n"), "faces name points 0 to 254"),
        (lambda text: text.replace("(10 (1 1 24 1 3)", "(3010 (1 1 24 1 3)"), "section 3010 is binary"),
        (lambda text: text.replace("    4 2 6 12 e 2 1\n", "    5 2 6 12 e 2 1\n"), "20 faces were needed"),
        (lambda text: text.replace("1.0000000000e+00", "one", 1), "no number"),
        (lambda text: text.replace("(12 (1 1 c 1 0)", "(12 (1 1)"), "less than four numbers"),
        (lambda text: text.replace("    4 d e 2 1 1 0\n", "    4 d e 2 1 0 0\n"), "no cell on either side"),
    ],
)
def test_damaged_meshes_say_what_is_wrong(tmp_path, change, text):
    (tmp_path / "a.msh").write_text(change(GOLDEN.read_text()))
    with pytest.raises(UnitError, match=text):
        read_msh(tmp_path / "a.msh")


def test_what_openfoam_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="this one has two"):
        to_foam(square())
    mesh = channel()
    whole = replace(mesh, face_zones=(Zone(2, "all", "wall", 0, mesh.faces),))
    with pytest.raises(ValueError, match="zone all: some of its faces have two cells"):
        to_foam(whole)


def test_zones_and_patches_that_do_not_fit_are_refused():
    foam = block((1, 1, 1), (1, 1, 1), NAMES)
    with pytest.raises(ValueError, match="is no patch"):
        from_foam(foam, {"entry": "wall"})
    with pytest.raises(ValueError, match="no type"):
        from_foam(foam, {"inlet": "hole"})
    with pytest.raises(ValueError, match="two would be the same"):
        from_foam(block((1, 1, 1), (1, 1, 1), ("inlet", "Inlet", *["walls"] * 4)))
    with pytest.raises(ValueError, match="the cell zones have 1 cells, the mesh has 12"):
        replace(channel(), cell_zones=(Zone(1, "fluid", "fluid", 0, 1),))
    with pytest.raises(ValueError, match="it should begin at 0"):
        replace(channel(), cell_zones=(Zone(1, "fluid", "fluid", 1, 12),))


# --- solutions -------------------------------------------------------------------------------------------


def test_solutions_come_back_bit_for_bit(tmp_path):
    rng = np.random.default_rng(0)
    cells = {"SV_U": rng.standard_normal(12), "SV_P": rng.standard_normal(12).astype(np.float32)}
    solution = Solution(cells, {"SV_U": rng.standard_normal(52)}, "a.cas.h5")
    write_solution(tmp_path / "a.dat.h5", solution)
    found = read_solution(tmp_path / "a.dat.h5")
    assert (found.case, found.phase, list(found.cells), list(found.faces)) == (
        "a.cas.h5", "phase-1", ["SV_U", "SV_P"], ["SV_U"],
    )  # fmt: skip
    for name, values in cells.items():
        assert found.cells[name].dtype == values.dtype
        assert np.array_equal(found.cells[name], values)
    assert np.array_equal(found.faces["SV_U"], solution.faces["SV_U"])
    assert list(read_solution(tmp_path / "a.dat.h5", names=["SV_P"]).cells) == ["SV_P"]


def test_fields_of_several_sections_are_joined(tmp_path):
    """Fluent leaves out the faces where a field has no value."""
    import h5py

    write_solution(tmp_path / "a.dat.h5", Solution({"SV_U": np.zeros(2)}, {"SV_U": np.zeros(6), "SV_P": np.ones(6)}))
    with h5py.File(tmp_path / "a.dat.h5", "a") as file:
        group = file["results/1/phase-1/faces/SV_U"]
        del group["1"]
        for name, low, high in (("2", 5, 6), ("1", 2, 3)):
            group[name] = np.arange(low, high + 1.0)
            group[name].attrs.update({"minId": [low], "maxId": [high]})
    assert read_solution(tmp_path / "a.dat.h5").faces["SV_U"].tolist() == [0, 2, 3, 0, 5, 6]


def test_what_is_no_fluent_file_is_refused(tmp_path):
    import h5py

    (tmp_path / "a.dat.h5").write_text("(33 (12 52 36))")
    with pytest.raises(UnitError, match="cannot be opened as HDF5"):
        read_solution(tmp_path / "a.dat.h5")
    with h5py.File(tmp_path / "b.cas.h5", "w"):
        pass
    with pytest.raises(UnitError, match="there is no group meshes/1"):
        read_case(tmp_path / "b.cas.h5")
    write_solution(tmp_path / "c.dat.h5", Solution({"SV_U": np.zeros(3)}))
    with pytest.raises(UnitError, match="it lacks SV_W at cells; it has SV_U"):
        read_solution(tmp_path / "c.dat.h5", names=["SV_U", "SV_W"])
    with pytest.raises(UnitError, match="there is no phase-2; there are: phase-1"):
        read_solution(tmp_path / "c.dat.h5", "phase-2")
    with pytest.raises(ValueError, match=r"one length, found \[2, 3\]"):
        Solution({"SV_U": np.zeros(3), "SV_V": np.zeros(2)})


def test_a_mesh_with_hanging_nodes_is_refused(tmp_path):
    import h5py

    write_case(tmp_path / "a.cas.h5", channel())
    with h5py.File(tmp_path / "a.cas.h5", "a") as file:
        file.create_group("meshes/1/cells/tree/1")
    with pytest.raises(UnitError, match="hanging nodes"):
        read_case(tmp_path / "a.cas.h5")


# --- another reader: PyFluent's, which needs no licence ----------------------------------------------------


def test_pyfluent_reads_our_case_and_solution(tmp_path):
    from ansys.fluent.core.filereader.case_file import CaseFile
    from ansys.fluent.core.filereader.data_file import DataFile

    mesh = channel()
    rng = np.random.default_rng(0)
    cells = {name: rng.standard_normal(mesh.cells) for name in ("SV_U", "SV_V", "SV_W", "SV_P")}
    faces = {name: rng.standard_normal(mesh.faces) for name in cells}
    write_case(tmp_path / "a.cas.h5", mesh)
    write_solution(tmp_path / "a.dat.h5", Solution(cells, faces, "a.cas.h5"))
    case = CaseFile(str(tmp_path / "a.cas.h5"))
    assert (case.num_dimensions(), case.precision(), case.iter_count()) == (3, 2, 0)
    theirs = case.get_mesh()
    assert theirs.get_surface_names() == [zone.name for zone in mesh.face_zones]
    assert [int(each) for each in theirs.get_surface_ids()] == [zone.id for zone in mesh.face_zones]
    solution = DataFile(str(tmp_path / "a.dat.h5"), case_file_handle=case)
    assert solution.case_file == "a.cas.h5"
    assert solution.get_phases() == ["phase-1"]
    assert solution.get_cell_variables("phase-1") == [*cells, ""], "as of Fluent's own files, the last one is empty"
    for zone in mesh.face_zones:
        assert list(theirs.get_surface_locs(zone.id)) == [zone.start, zone.stop - 1]
        corners = np.unique(mesh.nodes[mesh.offsets[zone.start] : mesh.offsets[zone.stop]])
        assert np.array_equal(theirs.get_vertices(zone.id).reshape(-1, 3), mesh.points[corners])
        for name, values in faces.items():
            found = solution.get_face_scalar_field_data("phase-1", name, zone.id)
            assert np.array_equal(found, values[zone.start : zone.stop]), (zone.name, name)
