"""VTK files, read by meshio and by a naive reader."""

import re
from itertools import pairwise

import meshio
import numpy as np
import pytest

from penstock.errors import UnitError
from penstock.formats import vtk

DTYPES = {"Float64": "<f8", "Float32": "<f4", "Int64": "<i8", "UInt8": "u1"}


def arrays(path):
    """The appended arrays by name, by the words of the format's description."""
    data = path.read_bytes()
    start = data.index(b'<AppendedData encoding="raw">\n_') + len(b'<AppendedData encoding="raw">\n_')
    found = {}
    for tag in re.findall(rb"<DataArray [^>]*>", data[:start]):
        given = dict(re.findall(r'(\w+)="([^"]*)"', tag.decode()))
        at = start + int(given["offset"])
        size = int.from_bytes(data[at : at + 8], "little")
        values = np.frombuffer(data[at + 8 : at + 8 + size], DTYPES[given["type"]])
        found[given["Name"]] = values.reshape(-1, int(given.get("NumberOfComponents", 1)))
    return found


def test_hexahedra_are_what_meshio_reads(tmp_path, cubes):
    pressure, velocity = np.arange(12.0), np.arange(36.0).reshape(12, 3)
    vtk.write_mesh(tmp_path / "a.vtu", cubes, {"p": pressure, "U": velocity})
    found = meshio.read(tmp_path / "a.vtu")
    np.testing.assert_array_equal(found.points, cubes.points)
    assert [block.type for block in found.cells] == ["hexahedron"]
    np.testing.assert_array_equal(found.cell_data["p"][0], pressure)
    np.testing.assert_array_equal(found.cell_data["U"][0], velocity)
    corners = found.points[found.cells[0].data]
    np.testing.assert_allclose(corners.mean(1), cubes.cell_centres)
    edges = corners[:, [1, 3, 4]] - corners[:, :1]  # VTK's order: right-handed from the first corner
    np.testing.assert_allclose(np.linalg.det(edges), 0.125)
    np.testing.assert_allclose(corners[:, 6] - corners[:, 0], edges.sum(1))


def test_other_cells_are_polyhedra_with_their_faces(tmp_path, prisms, tetrahedron):
    vtk.write_mesh(tmp_path / "a.vtu", prisms, {"p": np.array([1.0, 2.0])})
    found = arrays(tmp_path / "a.vtu")
    assert found["types"].tolist() == [[42], [42]]
    offsets = [0, *found["offsets"].reshape(-1).tolist()]
    points = found["connectivity"].reshape(-1).tolist()
    assert [set(points[a:b]) for a, b in pairwise(offsets)] == [
        {0, 1, 2, 4, 5, 6},
        {0, 2, 3, 4, 6, 7},
    ]
    words, at = found["faces"].reshape(-1).tolist(), 0
    for cell, end in enumerate(found["faceoffsets"].reshape(-1).tolist()):
        count, faces = words[at], []
        at += 1
        for _ in range(count):
            faces.append(tuple(words[at + 1 : at + 1 + words[at]]))
            at += 1 + words[at]
        assert at == end
        own = [f for f in range(9) if prisms.owner[f] == cell or (f == 0 and cell == 1)]
        assert set(faces) == {tuple(prisms.faces[f].tolist()) for f in own}
    vtk.write_mesh(tmp_path / "b.vtu", tetrahedron, {})
    assert arrays(tmp_path / "b.vtu")["connectivity"].reshape(-1).tolist() == [0, 1, 2, 3]


def test_a_grid(tmp_path):
    speed = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    vtk.write_grid(tmp_path / "a.vti", {"speed": speed, "u": np.stack([speed] * 3, -1)}, (0.1, 0.2, 1), (1, 0, 0))
    text = (tmp_path / "a.vti").read_bytes().split(b"<AppendedData")[0].decode()
    assert 'WholeExtent="0 4 0 3 0 2" Origin="1.0 0.0 0.0" Spacing="0.1 0.2 1.0"' in text
    found = arrays(tmp_path / "a.vti")
    np.testing.assert_array_equal(found["speed"].reshape(-1), np.arange(24))
    np.testing.assert_array_equal(found["u"], np.repeat(np.arange(24.0)[:, None], 3, 1))


def test_a_series_in_time(tmp_path):
    vtk.write_series(tmp_path / "a.pvd", {0.0: "0.vtu", 0.5: "a & b.vtu"})
    text = (tmp_path / "a.pvd").read_text()
    assert '<DataSet timestep="0.5" part="0" file="a &amp; b.vtu"/>' in text


def test_arrays_that_do_not_fit_are_refused(tmp_path, cubes):
    with pytest.raises(UnitError, match="'p' has 3 values, the mesh 12 cells"):
        vtk.write_mesh(tmp_path / "a.vtu", cubes, {"p": np.ones(3)})
    with pytest.raises(UnitError, match=r"\(z, y, x\) or \(z, y, x, component\) was needed"):
        vtk.write_grid(tmp_path / "a.vti", {"p": np.ones((2, 2))}, (1, 1, 1))
    with pytest.raises(UnitError, match="'p' is complex128; one of f4, f8, i4, i8, u1 was needed"):
        vtk.write_mesh(tmp_path / "a.vtu", cubes, {"p": np.ones(12, complex)})
