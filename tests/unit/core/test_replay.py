import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.batch import tensor_column
from penstock.core.nouns import Pipeline, Step
from penstock.core.replay import compare, replay, stage_of
from penstock.errors import DatasetError, SpecError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Numbers, Squares


def line(root, **more):
    steps = (Step(Squares(bad=(5,))), Step(Squares()))
    return Pipeline("line", Numbers(8, 10), Parquet(str(root), file_bytes=2000), steps, **more)


def bytes_of(root):
    """The dataset: what `recorded/` and the story of the run do not belong to."""
    kept = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(root)): data
        for path, data in kept.items()
        if path.relative_to(root).parts[0] not in ("recorded", "runs")
    }


@pytest.fixture
def folder(tmp_path):
    Inline().run(line(tmp_path / "out", record="1", record_units=2))
    (found,) = (tmp_path / "out" / "recorded").iterdir()
    return found


def test_a_recording_changes_no_byte_of_the_dataset(tmp_path):
    plain = Inline().run(line(tmp_path / "plain")).manifest
    kept = Inline().run(line(tmp_path / "kept", record="1-squares")).manifest
    assert kept.fingerprint == plain.fingerprint
    assert [kept.sha256, kept.dump()] == [
        plain.sha256,
        plain.dump().replace(str(tmp_path / "plain").encode(), str(tmp_path / "kept").encode()),
    ]
    ours, theirs = bytes_of(tmp_path / "kept"), bytes_of(tmp_path / "plain")
    assert {name for name in ours if not name.startswith("manifest")} == {
        name for name in theirs if not name.startswith("manifest")
    }


def test_the_first_units_are_kept_with_what_they_need(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["batches", "recording.json", "units"]
    about = json.loads((folder / "recording.json").read_text())
    assert about["stage"] == {"use": "penstock.testing.parts:Squares", "bad": [5]}
    assert about["columns"] == {"number": "int64", "name": "string"}
    assert about["versions"]["pyarrow"] == pa.__version__
    units = [json.loads(path.read_text()) for path in (folder / "units").iterdir()]
    assert sorted(unit["unit"]["start"] for unit in units) == [0, 10]
    assert [unit["refused"] for unit in sorted(units, key=lambda unit: unit["unit"]["start"])] == [
        ["ValueError: the number 5 is bad"],
        [],
    ]


def test_a_stage_that_is_as_it_was_is_equal(folder):
    played = list(replay(str(folder)))
    assert [(unit.rows, unit.differences) for unit in played] == [(10, ()), (10, ())]
    assert all(now > 0 and then > 0 for now, then in (unit.seconds for unit in played))


def test_a_copied_recording_needs_nothing_beside_it(folder, tmp_path):
    folder.rename(tmp_path / "elsewhere")
    assert all(not unit.differences for unit in replay(str(tmp_path / "elsewhere")))


def test_a_stage_that_changed_is_seen(folder, monkeypatch):
    monkeypatch.setattr(np, "arange", lambda *span: np.array([1, 2, 3.01, 4]))
    (powers,) = next(replay(str(folder))).differences
    assert (powers.column, powers.what, powers.rows, powers.first) == ("powers", "numbers differ", 7, 2)
    assert powers.most == pytest.approx(9**3.01 - 9**3, rel=1e-4)
    assert powers.relative == pytest.approx(9**0.01 - 1, rel=1e-4)
    assert next(replay(str(folder), tolerance=0.03)).differences == ()


def test_a_field_can_be_changed(folder):
    first = next(replay(str(folder), {"bad": "[]"})).differences
    assert [one.what for one in first] == ["10 rows come out, 9 did", "0 rows are refused, 1 were"]
    with pytest.raises(SpecError, match=r"the stage .*Squares cannot be made of these fields"):
        next(replay(str(folder), {"bad": "many"}))


def test_nothing_is_recorded_where_all_was_done(tmp_path):
    Inline().run(line(tmp_path))
    Inline().run(line(tmp_path, record="1"))
    assert not (tmp_path / "recorded").exists()
    with pytest.raises(DatasetError, match=r"there is no recording, since recording.json is lacking"):
        next(replay(str(tmp_path / "recorded")))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("squares", "2 steps are called 'squares', so it cannot be recorded; name one of: 1-squares, 2-squares"),
        ("cubes", "there is no step 'cubes', so it cannot be recorded; name one of: 1-squares, 2-squares"),
    ],
)
def test_a_step_that_is_not_one_is_refused_before_anything_is_read(tmp_path, name, text):
    with pytest.raises(SpecError, match=text):
        Inline().run(line(tmp_path / "out", record=name))
    assert not (tmp_path / "out").exists()


def test_stages_by_entry_point_and_by_class():
    assert stage_of({"use": "clean", "alphabet": "protein"}).alphabet == "protein"
    assert stage_of({"use": "penstock.testing.parts:Squares", "bad": [1]}) == Squares((1,))
    with pytest.raises(SpecError, match=r"the stage no.such:Thing cannot be made of these fields: No module"):
        stage_of({"use": "no.such:Thing"})


# --- comparing -------------------------------------------------------------------------------------------

floats = st.lists(st.floats(width=32), min_size=1, max_size=8)


@given(values=floats)
def test_everything_equals_itself(values):
    table = pa.table(
        {"x": values, "t": [str(v) for v in values], "v": tensor_column(np.array([[v, 1] for v in values]))}
    )
    assert compare(table, table) == ()


@given(values=floats, others=floats, tolerance=st.sampled_from([0.0, 1e-3, 1.0]))
def test_numbers_differ_when_a_naive_loop_says_so(values, others, tolerance):
    size = min(len(values), len(others))
    values, others = values[:size], others[:size]
    bad = [at for at in range(size) if not alike(values[at], others[at], tolerance)]
    found = compare(pa.table({"x": values}), pa.table({"x": others}), tolerance)
    assert [(one.rows, one.first) for one in found] == ([(len(bad), bad[0])] if bad else [])


def alike(was, now, tolerance):
    if was == now or (math.isnan(was) and math.isnan(now)):
        return True
    apart = abs(was - now)
    return apart <= tolerance or (math.isfinite(apart) and apart <= tolerance * abs(was))


def test_other_columns_types_texts_and_nulls():
    was = pa.table({"a": [1, 2], "b": ["x", "y"], "c": [1.0, 2.0], "d": [1, None]})
    now = pa.table({"a": [1, 2], "b": ["x", "z"], "c": pa.array([1, 2], pa.float32()), "d": [1, 3], "e": [0, 0]})
    told = {one.column: (one.what, one.rows, one.first) for one in compare(was, now)}
    assert told == {
        "b": ("values differ", 1, 1),
        "c": ("is float, was double", 0, 0),
        "d": ("values differ", 1, 1),
        "e": ("is int64, was not there", 0, 0),
    }


def test_whole_numbers_that_no_float_tells_apart_differ():
    was, now = (pa.table({"id": pa.array([number], pa.int64())}) for number in (2**53, 2**53 + 1))
    (found,) = compare(was, now)
    assert (found.column, found.rows) == ("id", 1)
    assert compare(was, now, 1e-9) == ()


@pytest.mark.parametrize(
    "values", [[1.0, None, math.nan], [[1.0, math.nan], None, [], [2.0]]], ids=["nulls among numbers", "lists"]
)
def test_nan_equals_nan_also_beside_nulls_and_in_lists(values):
    assert compare(pa.table({"x": values}), pa.table({"x": values})) == ()


def test_the_tolerance_is_also_for_numbers_beside_nulls_and_in_lists():
    was = pa.table({"score": [100.0, None], "many": [[1.0, 2.0], [3.0]]})
    now = pa.table({"score": [100.0 + 1e-7, None], "many": [[1.0, 2.0 + 1e-9], [3.0]]})
    assert [found.column for found in compare(was, now)] == ["score", "many"]
    assert compare(was, now, 1e-8) == ()
    assert [found.rows for found in compare(was, now.slice(1).take([0, 0]), 1e-8)] == [1, 1]
