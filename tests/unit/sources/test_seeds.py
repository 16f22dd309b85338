"""Seeds and their conditions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import SpecError
from penstock.sources.seeds import Seeds


def table(source):
    return {row["seed"]: row for unit in source.units() for row in source.read(unit).to_pylist()}


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 50))
def test_every_seed_comes_once_in_order(count, start, unit_rows):
    source = Seeds(count, start, unit_rows)
    assert list(table(source)) == list(range(start, start + count))
    assert all(unit.stop - unit.start <= unit_rows for unit in source.units())


@given(st.integers(0, 30), st.integers(1, 30), st.integers(1, 9))
def test_a_row_depends_on_its_seed_alone(start, count, unit_rows):
    given_by = {"choices": {"drag": (0.1, 0.2, 0.3)}, "ranges": {"viscosity": (0.01, 0.02)}}
    whole = table(Seeds(100, **given_by))
    assert table(Seeds(count, start, unit_rows, **given_by)) == {s: whole[s] for s in range(start, start + count)}


def test_choices_take_turns_and_ranges_are_filled_evenly():
    found = table(Seeds(3000, choices={"drag": (0.1, 0.2)}, ranges={"a": (1, 3), "b": (1, 3)}))
    assert [found[s]["drag"] for s in range(4)] == [0.1, 0.2, 0.1, 0.2]
    a, b = (np.array([row[name] for row in found.values()]) for name in "ab")
    assert np.histogram(a, 10, (1, 3))[0] == pytest.approx([300] * 10, abs=60)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.06


def test_more_seeds_leave_the_units_that_were_done():
    few, many = list(Seeds(16).units()), list(Seeds(50).units())
    assert many[: len(few)] == few


def test_units_know_the_conditions():
    keys = {next(iter(Seeds(8, choices={"a": (v,)}).units())).key for v in (1.0, 2.0)}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"count": -1}, "count = -1, start = 0, unit_rows = 8: 0 or more"),
        ({"count": 1, "choices": {"a": ()}}, "choices.a is empty; one value or more was needed"),
        ({"count": 1, "ranges": {"a": (2.0, 1.0)}}, r"ranges.a goes from 2.0 to 1.0; \[low, high\]"),
    ],
)
def test_what_cannot_be_is_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        Seeds(**settings)


def test_a_condition_that_is_given_twice_is_refused():
    with pytest.raises(SpecError, match="the column 'a' is given twice; give each condition a name of its own"):
        Seeds(1, choices={"a": (1.0,)}, ranges={"a": (1.0, 2.0)}).schema()
