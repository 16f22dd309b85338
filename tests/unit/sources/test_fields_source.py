"""Times of cases become rows. Cases are written by our own writer here; the solver's own are in tests/real."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_type, to_numpy
from penstock.errors import SchemaError, SpecError, StorageError, UnitError
from penstock.formats.openfoam import VELOCITY, Field, write_dictionary, write_field
from penstock.sources.fields import Fields, on_grid


@pytest.fixture
def cases(tmp_path):
    """Two cases of six cells with times 0, 0.5 and 10; the last lacks p."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_dictionary(tmp_path / name / "system" / "controlDict", {"application": "icoFoam"})
        for time in ("0", "0.5", "10"):
            write_field(tmp_path / name / time / "U", Field(rng.standard_normal((6, 3)), VELOCITY))
            if time != "10":
                write_field(tmp_path / name / time / "p", Field(rng.standard_normal(6)))
    (tmp_path / "notes").mkdir()
    return tmp_path


def rows(source):
    return pa.concat_tables([source.read(unit) for unit in source.units()])


def test_times_become_rows_in_their_order(cases):
    table = rows(Fields(f"{cases}/*"))
    assert table["case"].to_pylist() == [f"{cases}/a"] * 3 + [f"{cases}/b"] * 3
    assert table["time"].to_pylist() == [0, 0.5, 10] * 2
    assert table["velocity"].type == tensor_type(np.float64, 6, 3)


def test_a_time_that_lacks_a_field_is_left_out(cases):
    table = rows(Fields(f"{cases}/a", {"pressure": "p", "velocity": "U"}))
    assert table["time"].to_pylist() == [0, 0.5]
    assert table.schema.names == ["case", "time", "pressure", "velocity"]


@pytest.mark.parametrize(("times", "found"), [("all", [0, 0.5, 10]), ("later", [0.5, 10]), ("last", [10])])
def test_times_are_chosen(cases, times, found):
    assert rows(Fields(f"{cases}/a", times=times))["time"].to_pylist() == found


def test_boxes_become_grids(cases):
    plain, grid = rows(Fields(f"{cases}/a")), rows(Fields(f"{cases}/a", grid=(2, 3), dtype="float32"))
    assert grid["velocity"].type == tensor_type(np.float32, 2, 2, 3)
    values, cells = to_numpy(grid["velocity"]), to_numpy(plain["velocity"])
    for time in range(3):
        for component in range(2):
            for j in range(2):
                for i in range(3):
                    assert values[time, component, j, i] == np.float32(cells[time, i + 3 * j, component])


def test_solid_boxes_keep_three_components():
    values = np.arange(72.0).reshape(24, 3)
    assert on_grid(values, (2, 3, 4)).shape == (3, 2, 3, 4)
    assert on_grid(values[:, 0], (2, 3, 4))[1, 2, 3] == values[23, 0]
    with pytest.raises(SchemaError, match="there are 24 cells; a grid of 5 x 5 has 25"):
        on_grid(values, (5, 5))


def test_a_time_that_is_written_anew_is_another_unit(cases):
    source = Fields(f"{cases}/a")
    before = list(source.units())
    write_field(cases / "a" / "0.5" / "U", Field(np.zeros((6, 3)), VELOCITY))
    after = list(source.units())
    assert [one.key == two.key for one, two in zip(before, after, strict=True)] == [True, False, True]
    with pytest.raises(UnitError, match="written anew while the run was going on"):
        source.read(before[1])


def test_what_cannot_be_read_is_said(cases):
    with pytest.raises(StorageError, match="there is no OpenFOAM case"):
        next(Fields(f"{cases}/notes").units())
    with pytest.raises(StorageError, match="no time has T; has the solver run"):
        next(Fields(f"{cases}/a", {"heat": "T"}).units())
    with pytest.raises(SpecError, match="columns must name fields"):
        Fields(f"{cases}/a", {"time": "T"})
    with pytest.raises(SpecError, match=r"grid = \[4\]"):
        Fields(f"{cases}/a", grid=(4,))
    (cases / "a" / "0.5" / "U").write_text("FoamFile { class volVectorField; }")
    source = Fields(f"{cases}/a", times="later")
    with pytest.raises(UnitError, match=r"a/0\.5: U: .*internalField and boundaryField were needed"):
        source.read(next(source.units()))
