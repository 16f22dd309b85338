"""Fields: round trips, and files as OpenFOAM itself spells them."""

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.errors import UnitError
from penstock.formats.openfoam import VELOCITY, Field, read_field, write_field
from penstock.formats.openfoam.fields import dimensions_of

HEAD = (
    b"/* a banner; with { brackets */\nFoamFile\n{\n version 2.0;\n format %s;\n class %s;\n %sobject U;\n}\n// ***\n"
)
PATCHES = b"boundaryField { walls { type noSlip; } }\n"


def spelt(path, kind, internal, form=b"ascii", arch=b"", boundary=PATCHES):
    path.write_bytes(HEAD % (form, kind, arch) + b"dimensions [0 1 -1 0 0 0 0];\n" + internal + b"\n" + boundary)
    return read_field(path)


@given(
    values=st.sampled_from([(), (3,), (6,), (9,)]).flatmap(
        lambda shape: st.integers(0, 5).flatmap(
            lambda n: arrays(np.float64, (n, *shape), elements=st.floats(width=64, allow_nan=True))
        )
    ),
    binary=st.booleans(),
)
def test_what_is_written_is_read_again(tmp_path_factory, values, binary):
    path = tmp_path_factory.mktemp("case") / "0" / "T"
    names = {1: "Scalar", 3: "Vector", 6: "SymmTensor", 9: "Tensor"}
    kind = f"vol{names[int(np.prod(values.shape[1:]))]}Field"
    boundary = {"a": {"type": "fixedValue", "value": values}, '"(b|c).*"': {"type": "empty"}}
    write_field(path, Field(values, VELOCITY, boundary), binary)
    found = read_field(path)
    assert found.kind == kind
    assert found.dimensions == VELOCITY
    assert found.internal.tobytes() == values.tobytes() or np.array_equal(found.internal, values, equal_nan=True)
    assert found.internal.shape == values.shape
    np.testing.assert_array_equal(found.patch("a", len(values)), values)
    assert found.boundary['"(b|c).*"'] == {"type": "empty"}
    assert [each.name for each in path.parent.iterdir()] == ["T"]


def test_the_bytes_of_a_binary_list_are_those_that_struct_packs(tmp_path):
    write_field(tmp_path / "U", Field(np.array([[1.0, 2.5, -3.0], [4.0, 5.0, 6.0]])))
    data = (tmp_path / "U").read_bytes()
    assert b"nonuniform List<vector> 2\n(" + struct.pack("<6d", 1, 2.5, -3, 4, 5, 6) + b")\n;" in data
    assert b'format      binary;\n    class       volVectorField;\n    arch        "LSB;label=32;scalar=64";' in data


def test_a_text_as_the_solver_writes_it(tmp_path):
    found = spelt(
        tmp_path / "U",
        b"volVectorField",
        b"internalField nonuniform List<vector> \n3\n(\n(1 2 3)\n(4 5 6e-1)\n(-nan 0 0)\n)\n;",
        boundary=b"""boundaryField
{
    inlet { type fixedValue; value uniform (1 0 0); } // a comment; here
    walls { type noSlip; }
    out { type inletOutlet; phi phi; value nonuniform List<vector> 2((1 0 0) (2 0 0)); }
    #includeEtc "caseDicts/setConstraintTypes"
}""",
    )
    np.testing.assert_array_equal(found.internal[:2], [[1, 2, 3], [4, 5, 0.6]])
    assert np.isnan(found.internal[2, 0])
    np.testing.assert_array_equal(found.patch("inlet", 2), [[1, 0, 0]] * 2)
    np.testing.assert_array_equal(found.patch("out", 2), [[1, 0, 0], [2, 0, 0]])
    with pytest.raises(UnitError, match="patch 'walls' stores no values, its type is noSlip"):
        found.patch("walls", 3)
    with pytest.raises(UnitError, match="there is no patch 'lid'; there are: inlet, walls, out"):
        found.patch("lid", 3)


def test_one_element_for_all_cells(tmp_path):
    found = spelt(tmp_path / "U", b"volVectorField", b"internalField uniform (1 0 -2);")
    assert found.uniform
    np.testing.assert_array_equal(found.values(2), [[1, 0, -2]] * 2)
    write_field(tmp_path / "V", found)
    np.testing.assert_array_equal(read_field(tmp_path / "V").values(1), [[1, 0, -2]])
    assert spelt(tmp_path / "p", b"volScalarField", b"internalField uniform 0;").values(3).tolist() == [0, 0, 0]


@pytest.mark.parametrize("form", [b"ascii", b"binary"])
def test_a_list_of_equal_elements_is_given_by_one(tmp_path, form):
    element = struct.pack("<3d", 1, 2, 3) if form == b"binary" else b"(1 2 3)"
    found = spelt(
        tmp_path / "U", b"volVectorField", b"internalField nonuniform List<vector> 4{" + element + b"};", form
    )
    np.testing.assert_array_equal(found.internal, [[1, 2, 3]] * 4)


@pytest.mark.parametrize("arch", [b'arch "LSB;label=32;scalar=32";', b'arch "MSB;label=64;scalar=64";'])
def test_other_widths_and_byte_orders(tmp_path, arch):
    order, letter = (">", "d") if b"MSB" in arch else ("<", "f")
    numbers = b"internalField nonuniform List<scalar> 3\n(" + struct.pack(f"{order}3{letter}", 1, 2, 0.5) + b");"
    found = spelt(tmp_path / "p", b"volScalarField", numbers, b"binary", arch)
    assert found.internal.tolist() == [1, 2, 0.5]
    assert found.internal.dtype == np.float64


def test_fields_without_cells(tmp_path):
    for text in (b"nonuniform 0", b"nonuniform 0()", b"nonuniform List<scalar> 0", b"nonuniform List<scalar> 0()"):
        found = spelt(tmp_path / "p", b"surfaceScalarField", b"internalField " + text + b";")
        assert found.internal.shape == (0,)
        assert found.kind == "surfaceScalarField"


def test_a_compressed_file_stands_for_the_plain_one(tmp_path):
    field = Field(np.arange(6.0), VELOCITY)
    write_field(tmp_path / "p", field)
    (tmp_path / "p.gz").write_bytes(gzip.compress((tmp_path / "p").read_bytes()))
    (tmp_path / "p").unlink()
    for name in ("p", "p.gz"):
        np.testing.assert_array_equal(read_field(tmp_path / name).internal, field.internal)


@pytest.mark.parametrize("binary", [True, False])
def test_a_file_that_is_cut_short_is_refused_wherever_it_is_cut(tmp_path, binary):
    write_field(tmp_path / "U", Field(np.ones((5, 3)), VELOCITY, {"a": {"type": "empty"}}), binary)
    data = (tmp_path / "U").read_bytes()
    for stop in range(1, len(data) - 2, 7):
        (tmp_path / "U").write_bytes(data[:stop])
        with pytest.raises(UnitError, match=r"cut short|still being written|a file without header"):
            read_field(tmp_path / "U")


@pytest.mark.parametrize(
    ("internal", "text"),
    [
        (b"internalField uniform $U0;", "no element of 3 numbers"),
        (b"internalField $U0;", "Macros are not expanded here"),
        (b"internalField nonuniform List<vector> 2((1 0 0));", "a list of 1 elements; 2 was needed"),
        (b"internalField nonuniform List<vector> ((1 0));", "numbers, 3 to an element was needed"),
        (b"internalField nonuniform List<wrench> 1(1);", "a list of 'wrench'"),
        (b"", "internalField and boundaryField were needed"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, internal, text):
    with pytest.raises(UnitError, match=text) as caught:
        spelt(tmp_path / "U", b"volVectorField", internal)
    assert str(tmp_path / "U") in str(caught.value)


def test_other_files_are_no_fields(tmp_path):
    with pytest.raises(UnitError, match="this is dictionary; a vol or surface field was needed"):
        spelt(tmp_path / "x", b"dictionary", b"")
    with pytest.raises(UnitError, match=r"there is no such file, nor none\.gz; check case, time and name"):
        read_field(tmp_path / "none")
    with pytest.raises(UnitError, match=r"elements of the shape \(4,\) were given"):
        write_field(tmp_path / "x", Field(np.ones((2, 4))))


def test_a_field_of_another_mesh_is_refused():
    with pytest.raises(UnitError, match="the field has 4 values, the mesh 5 cells"):
        Field(np.ones(4)).values(5)


@pytest.mark.parametrize(
    ("text", "powers"),
    [
        ("[0 1 -1 0 0 0 0]", VELOCITY),
        ("[0 1 -1 0 0]", VELOCITY),
        ("[m s^-1]", VELOCITY),
        ("[m^2 s^-2]", (0, 2, -2, 0, 0, 0, 0)),
        ("[kg m^-1 s^-2]", (1, -1, -2, 0, 0, 0, 0)),
        ("[]", (0, 0, 0, 0, 0, 0, 0)),
    ],
)
def test_dimensions_are_numbers_or_names(text, powers):
    assert dimensions_of(text) == powers


def test_dimensions_that_are_not_known_are_refused():
    with pytest.raises(UnitError, match=r"\[furlong\] are not understood; write \[0 1 -1 0 0 0 0\]"):
        dimensions_of("[furlong]")
