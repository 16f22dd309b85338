"""Profiles, interpolation files and journals, against golden text and there and back."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.errors import UnitError
from penstock.formats.fluent import (
    Cloud,
    Journal,
    Profile,
    Table,
    read_cloud,
    read_csv,
    read_profiles,
    write_cloud,
    write_csv,
    write_journal,
    write_profiles,
)

FINITE = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
KINDS = np.float32, np.float64


@st.composite
def columns(draw, least=1):
    kind = draw(st.sampled_from(KINDS))
    count = draw(st.integers(1, 7))
    names = draw(st.lists(NAMES, min_size=least, max_size=4, unique=True))
    finite = st.floats(allow_nan=False, allow_infinity=False, width=kind().itemsize * 8)
    return {name: draw(hnp.arrays(kind, count, elements=finite)) for name in names}


def same(found, wanted):
    assert list(found) == list(wanted)
    for name, values in wanted.items():
        assert np.array_equal(found[name].astype(values.dtype), values), name


# --- .prof -----------------------------------------------------------------------------------------------

PROF = """\
((inlet point 3)
(x
0.0 0.0 0.0
)
(y
0.0 0.5 1.0
)
(u
1.0 -1.5 1e-05
)
)
((plane mesh 2 2)
(x
0.0 1.0 0.0 1.0
)
(w
0.1 0.2 0.3 0.4
)
)
((flow transient 2 1)
(time
0.0 2.0
)
(u
1.0 3.0
)
)
"""
PROFILES = [
    Profile("inlet", {"x": np.zeros(3), "y": np.array([0, 0.5, 1]), "u": np.array([1, -1.5, 1e-5])}),
    Profile("plane", {"x": np.array([0.0, 1, 0, 1]), "w": np.array([0.1, 0.2, 0.3, 0.4], np.float32)}, "mesh", (2, 2)),
    Profile("flow", {"time": np.array([0.0, 2]), "u": np.array([1.0, 3])}, "transient", periodic=True),
]


def test_profiles_are_written_as_the_manual_has_them(tmp_path):
    write_profiles(tmp_path / "a.prof", PROFILES)
    assert (tmp_path / "a.prof").read_text() == PROF
    assert [path.name for path in tmp_path.iterdir()] == ["a.prof"], "nothing else is left"


def test_profiles_of_the_manual_are_read(tmp_path):
    (tmp_path / "a.prof").write_text(
        " ((sampleprofile transient 3 0)\n (time \n 1\n 2 \n 3\n )\n (u \n 10 \n 20 \n 30\n )\n ) \n"
        "((example transient 3 1)\n(angle \n 0.000000e+00 1.800000e+02 3.600000e+02)\n"
        "(temperature \n3.000000e+02 5.000000e+02 3.000000e+02)\n)"
    )
    first, second = read_profiles(tmp_path / "a.prof")
    assert (first.name, first.kind, first.periodic, second.periodic) == ("sampleprofile", "transient", False, True)
    assert first.fields["u"].tolist() == [10, 20, 30]
    assert second.fields["angle"].tolist() == [0, 180, 360]


@given(columns(), NAMES, st.sampled_from(["point", "line", "radial", "axial"]))
def test_profiles_come_back_bit_for_bit(tmp_path_factory, fields, name, kind):
    path = tmp_path_factory.mktemp("prof") / "a.prof"
    write_profiles(path, [Profile(name, fields, kind), Profile("other", {"x": np.zeros(2)})])
    first, second = read_profiles(path)
    assert (first.name, first.kind, second.name) == (name, kind, "other")
    same(first.fields, fields)


def test_many_values_are_written_in_blocks(tmp_path):
    values = np.random.default_rng(0).standard_normal(200_003)
    write_profiles(tmp_path / "a.prof", [Profile("a", {"u": values})])
    assert np.array_equal(read_profiles(tmp_path / "a.prof")[0].fields["u"], values)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"name": "Inlet"}, "'Inlet' is no name for Fluent: lower-case letters"),
        ({"name": "in let"}, "no name"),
        ({"name": "a" * 64}, "at most 63"),
        ({"fields": {"u)": np.zeros(2)}}, "no name of a field"),
        ({"fields": {}}, "equal size were needed"),
        ({"fields": {"u": np.zeros(2), "v": np.zeros(3)}}, "equal size were needed"),
        ({"fields": {"u": np.array([1, np.nan, np.inf])}}, "2 of 3 values are NaN or infinite, the first is number 1"),
        ({"kind": "cloud"}, "none of point, line"),
        ({"kind": "mesh"}, r"needs a shape \(m, n\)"),
        ({"kind": "mesh", "shape": (2, 3)}, "has not 2 points"),
        ({"kind": "transient"}, "needs a field 'time' or 'angle'"),
        ({"kind": "transient", "fields": {"time": np.array([1.0, 1])}}, "'time' must rise"),
    ],
)
def test_profiles_that_fluent_would_not_read_are_refused(given, text):
    with pytest.raises(ValueError, match=text):
        Profile(**{"name": "inlet", "fields": {"u": np.zeros(2)}} | given)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hello", "line 1: the head of a profile"),
        ("((a point 2)\n(x 1 2)\n", "line 2: a field"),
        ("((a point 2)(x 1 2 3))", "2 numbers were needed, 3 found"),
        ("((a point 2)(x 1 b))", "no number"),
        ("((a mesh 2)(x 1 2))", "name, kind and sizes"),
        ("((a point many)(x 1 2))", "name, kind and sizes"),
        ("((A point 1)(x 1))", "no name for Fluent"),
        ("((a point 1)(x 1)))", "line 1: the head of a profile"),
        ("((\xe9 point 1)(x 1))", "no ASCII text"),
    ],
)
def test_damaged_profiles_say_where(tmp_path, content, text):
    (tmp_path / "a.prof").write_text(content)
    with pytest.raises(UnitError, match=text):
        read_profiles(tmp_path / "a.prof")


def test_nothing_stays_of_a_file_whose_writing_failed(tmp_path):
    def profiles():
        yield PROFILES[0]
        raise RuntimeError("the generator died")

    (tmp_path / "a.prof").write_text("before")
    with pytest.raises(RuntimeError, match="died"):
        write_profiles(tmp_path / "a.prof", profiles())
    assert [path.name for path in tmp_path.iterdir()] == ["a.prof"]
    assert (tmp_path / "a.prof").read_text() == "before"


# --- .csv ------------------------------------------------------------------------------------------------

CSV = """\
[Name]
Plane 2

[Parameters]
Coefficient ABC = 12.8
Parameter123 = 123.5 [K]

[Spatial Fields]
x, y, z

[Data]
x [ m ], y [ m ], z [ m ], u [ m s^-1 ], k
0.0, 0.5, 1.0, 2.5, 0.1
0.0, 0.75, 1.0, -2.0, 0.2
"""
TABLE = Table(
    "Plane 2",
    {
        "x": np.zeros(2),
        "y": np.array([0.5, 0.75]),
        "z": np.ones(2),
        "u": np.array([2.5, -2]),
        "k": np.array([0.1, 0.2]),
    },
    {"x": "m", "y": "m", "z": "m", "u": "m s^-1"},
    parameters={"Coefficient ABC": "12.8", "Parameter123": "123.5 [K]"},
)


def test_csv_profiles_are_written_as_the_manual_has_them(tmp_path):
    write_csv(tmp_path / "a.csv", [TABLE])
    assert (tmp_path / "a.csv").read_text() == CSV


def test_csv_profiles_of_other_programs_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(
        "\ufeff# made elsewhere\n[NAME],\nS1 Blade # one\n\n[Spatial Fields]\nX,Y,Z\n\n[Data]\nX[m],Y[m],Z[m],\n\n"
        "1,2,3,\n4,5,6 # end\n[Name]\nOther\n[spatial fields]\nx\n[Faces]\n0, 1, 2\n[data]\nx [ m ], u\n1, 2\n"
    )
    first, second = read_csv(tmp_path / "a.csv")
    assert (first.name, first.spatial, first.units["X"]) == ("S1 Blade", ("X", "Y", "Z"), "m")
    assert first.fields["Y"].tolist() == [2, 5]
    assert (second.name, second.units) == ("Other", {"x": "m"})


@given(columns(3))
def test_csv_profiles_come_back_bit_for_bit(tmp_path_factory, fields):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    spatial = tuple(fields)[:2]
    write_csv(path, [Table("A place", fields, {spatial[0]: "m"}, spatial), TABLE])
    first, second = read_csv(path)
    assert (first.name, first.spatial, first.units) == ("A place", spatial, {spatial[0]: "m"})
    same(first.fields, fields)
    assert second.parameters == TABLE.parameters


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", r"no section \[Name\]"),
        ("x, y\n1, 2", "before the first section"),
        ("[Name]\na\n", "head and rows"),
        ("[Name]\na\n[Data]\nx, y\n1, 2\n3", "4 numbers were needed, 3 found"),
        ("[Name]\na\n[Data]\n, y\n1, 2", "no head of columns"),
    ],
)
def test_damaged_csv_profiles_say_where(tmp_path, content, text):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UnitError, match=text):
        read_csv(tmp_path / "a.csv")


def test_csv_profiles_that_cannot_be_written_are_refused():
    with pytest.raises(ValueError, match="cannot stand in a CSV profile"):
        Table("a, b", {"x": np.zeros(1)}, spatial=("x",))
    with pytest.raises(ValueError, match="among its fields"):
        Table("a", {"x": np.zeros(1)})


# --- .ip -------------------------------------------------------------------------------------------------

IP_3 = """\
3
2
2
3
pressure
x-velocity
y-velocity
(0.0
1.0
)
(0.5
0.25
)
(101325.0
-2.0
)
(1e-07
3.0
)
(0.0
4.0
)
"""
CLOUD = Cloud(
    np.array([[0, 0.5], [1, 0.25]]),
    {
        "pressure": np.array([101325.0, -2]),
        "x-velocity": np.array([1e-7, 3]),
        "y-velocity": np.array([0, 4], np.float32),
    },
)


def test_interpolation_files_are_written_as_fluent_reads_them(tmp_path):
    write_cloud(tmp_path / "a.ip", CLOUD)
    assert (tmp_path / "a.ip").read_text() == IP_3
    write_cloud(tmp_path / "b.ip", CLOUD, "2")
    assert (tmp_path / "b.ip").read_text() == IP_3.translate({ord(mark): None for mark in "()"}).replace(
        "\n\n", "\n"
    ).replace("3\n", "2\n", 1)


def test_a_binary_interpolation_file_has_doubles_between_the_parentheses(tmp_path):
    write_cloud(tmp_path / "a.ip", CLOUD, "3-binary")
    head = b"3\n2\n2\n3\npressure\nx-velocity\ny-velocity\n"
    lists = [(0.0, 1.0), (0.5, 0.25), (101325.0, -2.0), (1e-7, 3.0), (0.0, 4.0)]
    assert (tmp_path / "a.ip").read_bytes() == head + b"".join(b"(" + struct.pack("<2d", *x) + b")\n" for x in lists)


def test_a_binary_interpolation_file_of_single_precision_is_read(tmp_path):
    lists = b"".join(b"(" + struct.pack("<3f", *values) + b")\n" for values in [(1, 2, 3), (4, 5, 6), (-0.5, 41, 1e9)])
    (tmp_path / "a.ip").write_bytes(b"3\n2\n3\n1\npressure\n" + lists)
    found = read_cloud(tmp_path / "a.ip")
    assert found.points.tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found.fields["pressure"].tolist() == [-0.5, 41, 1e9]


@given(columns(0), st.integers(2, 3), st.sampled_from(["2", "3", "3-binary"]), st.data())
def test_interpolation_files_come_back_bit_for_bit(tmp_path_factory, fields, axes, form, data):
    count = len(next(iter(fields.values()))) if fields else 4
    points = data.draw(hnp.arrays(np.float64, (count, axes), elements=FINITE))
    path = tmp_path_factory.mktemp("ip") / "a.ip"
    write_cloud(path, Cloud(points, fields), form)
    found = read_cloud(path)
    assert np.array_equal(found.points, points)
    same(found.fields, fields)


def test_an_interpolation_file_written_elsewhere_is_read(tmp_path):
    """The layout of a UDF that fills such files for Fluent: ``%f`` a line, no line end behind the last list."""
    (tmp_path / "a.ip").write_text("3\n2\n2\n1\nk\n(9.000000\n1.000000\n)\n(9.0\n2.0\n)\n(0.5\n1.5\n)")
    found = read_cloud(tmp_path / "a.ip")
    assert (found.points.tolist(), found.fields["k"].tolist()) == ([[9, 9], [1, 2]], [0.5, 1.5])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("PK", "one integer was needed"),
        ("4\n2\n1\n1\nk\n", "version 2 or 3"),
        ("3\n2\n2\n1\nk\n(1 2)\n(1 2)\n", "the file ends before it"),
        ("3\n2\n2\n1\nk\n(1 2)\n(1 2)\n(1\n", "closing parenthesis is missing"),
        ("3\n2\n2\n1\nk\n(1 2)\n(1 2)\n(1 2 3)\n", "2 numbers were needed, 3 found"),
        ("2\n2\n2\n1\nk\n1 2 3 4 5", "6 numbers were needed, 5 found"),
        ("2\n2\n1\n1\nk\n1 2 nan", "NaN"),
    ],
)
def test_damaged_interpolation_files_say_where(tmp_path, content, text):
    (tmp_path / "a.ip").write_text(content)
    with pytest.raises(UnitError, match=text):
        read_cloud(tmp_path / "a.ip")


def test_clouds_of_wrong_shape_are_refused():
    with pytest.raises(ValueError, match="2 or 3 axes"):
        Cloud(np.zeros((3, 4)), {})
    with pytest.raises(ValueError, match="3 points need as many"):
        Cloud(np.zeros((3, 2)), {"k": np.zeros(4)})


# --- .jou ------------------------------------------------------------------------------------------------

JOURNAL = """\
/file/set-tui-version "24.1"
/file/read-case "../my channel.cas.h5"
/file/read-profile "inlet.prof"
/file/read-profile "outlet.csv"
/define/models/viscous laminar yes
/file/interpolate/read-data "initial.ip"
/solve/iterate 200
/file/write-data "out.dat.h5"
/exit yes
"""


def test_a_journal_has_its_commands_in_order_and_every_name_quoted(tmp_path):
    journal = Journal(
        "../my channel.cas.h5",
        "out.dat.h5",
        ('/file/set-tui-version "24.1"',),
        ("inlet.prof", "outlet.csv"),
        ("/define/models/viscous laminar yes",),
        "initial.ip",
        200,
    )
    write_journal(tmp_path / "run.jou", journal)
    assert (tmp_path / "run.jou").read_bytes() == JOURNAL.encode()


def test_a_journal_without_initial_values_initialises_and_a_transient_one_steps():
    assert Journal("a.cas.h5", "b.dat.h5", iterations=20, time_steps=7).text().splitlines()[1:3] == [
        "/solve/initialize/initialize-flow",
        "/solve/dual-time-iterate 7 20",
    ]


@pytest.mark.parametrize("name", ['a".cas.h5', "a\nb", "a;b", "a\\b", "ä", "(exit)", " a", "a\0", ""])
def test_names_that_a_journal_cannot_carry_are_refused(name):
    with pytest.raises(ValueError, match="cannot stand in a Fluent journal"):
        Journal(name, "out.dat.h5").text()


@pytest.mark.parametrize("command", ["a\nb", "", " a", "ä"])
def test_commands_of_more_than_one_line_are_refused(command):
    with pytest.raises(ValueError, match="one line of ASCII was needed"):
        Journal("a", "b", commands=(command,))


def test_a_journal_needs_iterations():
    with pytest.raises(ValueError, match="iterations must be 1 or more"):
        Journal("a", "b", iterations=0)
