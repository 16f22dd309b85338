"""Our reader and writer beside OpenFOAM's own programs and foamlib."""

import shutil

import meshio
import numpy as np
import pytest
from foamlib import FoamFieldFile

from penstock.formats import vtk
from penstock.formats.openfoam import (
    VELOCITY,
    Field,
    pieces,
    read_case_field,
    read_case_mesh,
    read_dictionary,
    read_field,
    times,
    write_dictionary,
    write_field,
    write_mesh,
)
from penstock.solvers.openfoam.case import run
from penstock.sources.fields import Fields

FIELDS = ("U", "p", "phi")


def ran(case, *command):
    text, why = run(command, case)
    assert why == "", text[-2000:]
    return text


def changed(case, **entries):
    path = case / "system" / "controlDict"
    write_dictionary(path, {**read_dictionary(path), **entries})


@pytest.fixture(scope="module", params=["binary", "ascii", "compressed"])
def solved(request, channel, tmp_path_factory):
    """A channel, decomposed, solved on two ranks and reconstructed, in each form."""
    case = tmp_path_factory.mktemp("solved") / "case"
    shutil.copytree(channel, case)
    shutil.rmtree(case / "constant" / "polyMesh")
    form = {"binary": {"writeFormat": "binary"}, "ascii": {"writeFormat": "ascii", "writePrecision": 17}}
    chosen = form.get(request.param, {"writeFormat": "ascii", "writeCompression": "on", "writePrecision": 17})
    changed(case, endTime=0.05, writeInterval=5, **chosen)
    ran(case, "blockMesh")
    ran(case, "decomposePar")
    ran(case, "mpirun.openmpi", "-np", "2", "icoFoam", "-parallel")
    whole = case.parent / "whole"
    shutil.copytree(case, whole)
    ran(whole, "reconstructPar")
    for piece in pieces(whole):
        shutil.rmtree(piece)
    ran(whole, "postProcess", "-func", "writeCellCentres")
    ran(whole, "postProcess", "-func", "writeCellVolumes")
    return case, whole


def test_centres_and_volumes_are_those_of_openfoam(solved):
    whole = solved[1]
    mesh = read_case_mesh(whole)
    assert mesh.cells == 192
    np.testing.assert_allclose(read_case_field(whole, "0.05", "C").internal, mesh.cell_centres, atol=1e-14)
    np.testing.assert_allclose(read_case_field(whole, "0.05", "V").values(mesh.cells), mesh.cell_volumes, rtol=1e-12)


def test_pieces_are_put_together_as_reconstructpar_does_it(solved):
    case, whole = solved
    assert times(case) == ("0", "0.025", "0.05")
    for time in ("0.025", "0.05"):
        for name in FIELDS:
            ours, theirs = read_case_field(case, time, name), read_case_field(whole, time, name)
            np.testing.assert_array_equal(ours.internal, theirs.internal)
            assert ours.kind == theirs.kind
            assert ours.dimensions == theirs.dimensions
            assert ours.boundary.keys() == theirs.boundary.keys()
    sizes = {patch.name: patch.size for patch in read_case_mesh(whole).patches}
    for name in ("inlet", "outlet", "walls"):
        ours, theirs = (read_case_field(c, "0.05", "phi").patch(name, sizes[name]) for c in solved)
        np.testing.assert_array_equal(ours, theirs)


def test_foamlib_reads_the_same(solved):
    whole = solved[1]
    for name in FIELDS:
        path = next(p for p in (whole / "0.05" / name, whole / "0.05" / f"{name}.gz") if p.exists())
        np.testing.assert_array_equal(read_field(path).internal, np.asarray(FoamFieldFile(path).internal_field))


def test_foamlib_reads_what_we_write(tmp_path):
    values = np.random.default_rng(0).standard_normal((50, 3))
    write_field(tmp_path / "U", Field(values, VELOCITY, {"walls": {"type": "fixedValue", "value": values[:4]}}))
    found = FoamFieldFile(tmp_path / "U")
    np.testing.assert_array_equal(np.asarray(found.internal_field), values)
    np.testing.assert_array_equal(np.asarray(found.boundary_field["walls"]["value"]), values[:4])
    assert list(found.dimensions) == list(VELOCITY)


def test_both_ways_to_a_row(solved):
    """Decomposed or reconstructed, plain or compressed: the same rows."""
    tables = [[source.read(unit) for unit in source.units()] for source in (Fields(str(c)) for c in solved)]
    assert [t["time"][0].as_py() for t in tables[0]] == [0, 0.025, 0.05]
    for ours, theirs in zip(*tables, strict=True):
        assert ours["velocity"].equals(theirs["velocity"])


@pytest.mark.parametrize("binary", [True, False])
def test_checkmesh_finds_nothing_wrong_with_a_mesh_of_ours(channel, tmp_path, binary):
    case = tmp_path / "case"
    shutil.copytree(channel, case)
    mesh = read_case_mesh(case)
    shutil.rmtree(case / "constant" / "polyMesh")
    write_mesh(case / "constant" / "polyMesh", mesh, binary)
    assert "Mesh OK." in ran(case, "checkMesh", "-allTopology", "-allGeometry")


def test_the_solver_starts_from_a_field_of_ours(box, tmp_path):
    """Binary or ascii, with values on the patches: what the solver makes of them is the same, bit for bit."""
    found = []
    rng = np.random.default_rng(0)
    start = rng.standard_normal((256, 3)) * [1, 1, 0]
    for binary in (True, False):
        case = tmp_path / str(binary)
        shutil.copytree(box, case)
        changed(case, endTime=0.01, writeInterval=2)
        write_field(case / "0" / "U", Field(start, VELOCITY, read_field(case / "0" / "U").boundary), binary)
        ran(case, "icoFoam")
        found.append(read_case_field(case, "0.01", "U").internal)
    np.testing.assert_array_equal(*found)
    assert abs(found[0] - start).max() > 0.1


def test_a_solved_case_can_be_drawn(solved, tmp_path):
    """A file for each time, with the mesh and its fields; the cells are hexahedra in blockMesh's order."""
    whole = solved[1]
    mesh = read_case_mesh(whole)
    series = vtk.write_case(tmp_path, whole, ("U", "p"))
    assert [word for word in series.read_text().split('"') if word.endswith(".vtu")] == [
        "0.vtu",
        "0.025.vtu",
        "0.05.vtu",
    ]
    velocity = read_case_field(whole, "0.05", "U").values(mesh.cells)
    found = meshio.read(tmp_path / "0.05.vtu")
    assert found.cells[0].type == "hexahedron"
    np.testing.assert_allclose(found.points[found.cells[0].data].mean(1), mesh.cell_centres, atol=1e-14)
    np.testing.assert_array_equal(found.cell_data["U"][0], velocity)
