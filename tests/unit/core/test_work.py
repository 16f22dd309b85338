"""The life of one unit: what is put aside, what stops a run, what is written."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core import work
from penstock.core.nouns import Pipeline, Record, Step, Unit
from penstock.core.storage import join
from penstock.core.work import Assignment, Failure, Parcel, begin, carry, finish, opened, step
from penstock.errors import RowErrors, StorageError, TooManyBadRows, UnitError
from penstock.sinks.parquet import Parquet

SCHEMA = pa.schema([("x", pa.int64())])
UNIT = Unit.of("numbers", "1", 0, 10)


def table(*numbers: int) -> pa.Table:
    return pa.table({"x": list(numbers)}, SCHEMA)


@dataclass(frozen=True)
class Given:
    """A source whose one unit is what a function says."""

    reads: Callable = lambda unit: table(*range(10))
    uri: str = "given"

    def schema(self):
        return SCHEMA

    def units(self):
        return [UNIT]

    def read(self, unit):
        return self.reads(unit)


@dataclass(frozen=True)
class Mapped:
    """A stage that is a function."""

    does: Callable = lambda batch: batch

    def schema(self, given):
        return given

    @contextmanager
    def open(self):
        yield self.does


def assigned(tmp_path: Path, *stages, source=None, sink=None, **limits) -> Assignment:
    pipeline = Pipeline(
        "test",
        source or Given(),
        sink or Parquet(str(tmp_path / "out")),
        tuple(Step(stage) for stage in stages),
        **limits,
    )
    return Assignment(pipeline, "f" * 64, (SCHEMA,) * (len(stages) + 1))


def carried(assignment: Assignment) -> Record | Failure:
    with opened(assignment) as transforms:
        return carry(assignment, UNIT, transforms)


def rows(assignment: Assignment, record: Record) -> list[int]:
    return pq.read_table(join(assignment.pipeline.sink.uri, record.part.path))["x"].to_pylist()


def refused(assignment: Assignment, record: Record) -> list[dict]:
    return [line for name in record.bad for line in pq.read_table(f"{assignment.pipeline.sink.uri}/{name}").to_pylist()]


def failing(bad: set[int]) -> Callable:
    def does(batch):
        if hit := bad & set(batch["x"].to_pylist()):
            raise ValueError(f"cannot take {min(hit)}")
        return batch

    return does


# --- bisection -------------------------------------------------------------------------------------------


@given(st.integers(1, 130).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_exactly_the_bad_rows_are_put_aside(drawn):
    count, bad = drawn
    batch = table(*range(count))
    good, aside = work.sift(failing(bad), batch, SCHEMA, 1000)
    assert good["x"].to_pylist() == [x for x in range(count) if x not in bad]
    found = {x: text for rows, texts in aside for x, text in zip(rows["x"].to_pylist(), texts, strict=True)}
    assert found == {x: f"ValueError: cannot take {x}" for x in bad}


def test_one_in_a_hundred_costs_about_twice_log_two_calls():
    calls = []

    def does(batch):
        calls.append(batch.num_rows)
        return failing({42})(batch)

    good, aside = work.sift(does, table(*range(100)), SCHEMA, 1000)
    assert (good.num_rows, sum(rows.num_rows for rows, _ in aside)) == (99, 1)
    assert len(calls) <= 1 + 2 * np.ceil(np.log2(100))


def test_a_batch_that_fails_only_as_a_whole_loses_no_row():
    """Such as one too large for the memory: its halves pass."""

    def does(batch):
        if batch.num_rows > 30:
            raise MemoryError("too large")
        return batch

    good, aside = work.sift(does, table(*range(100)), SCHEMA, 0)
    assert (good["x"].to_pylist(), aside) == (list(range(100)), [])


def test_it_gives_up_past_the_allowance():
    calls = []

    def does(batch):
        calls.append(1)
        raise ValueError("no row is good")

    with pytest.raises(TooManyBadRows, match="3 rows of one unit failed; the first: ValueError: no row is good"):
        work.sift(does, table(*range(1000)), SCHEMA, 2)
    assert len(calls) < 30, "not a call for each of the thousand"


def test_a_stage_that_knows_its_bad_rows_is_called_once():
    calls = []

    def does(batch):
        calls.append(1)
        raise RowErrors(batch.slice(2), batch.slice(0, 2), ["too short", "too long"])

    good, aside = work.sift(does, table(*range(10)), SCHEMA, 1000)
    assert len(calls) == 1
    assert good["x"].to_pylist() == list(range(2, 10))
    assert [(r["x"].to_pylist(), t) for r, t in aside] == [([0, 1], ("too short", "too long"))]


def test_row_errors_inside_a_bisection_count_too():
    def does(batch):
        numbers = batch["x"].to_pylist()
        if 7 in numbers:
            raise ValueError("cannot take 7")
        if 1 in numbers:
            at = numbers.index(1)
            rest = pa.concat_tables([batch.slice(0, at), batch.slice(at + 1)])
            raise RowErrors(rest, batch.slice(at, 1), ["one"])
        return batch

    good, aside = work.sift(does, table(*range(10)), SCHEMA, 1000)
    assert good["x"].to_pylist() == [0, 2, 3, 4, 5, 6, 8, 9]
    assert [(r["x"].to_pylist(), t) for r, t in aside] == [([1, 7], ("one", "ValueError: cannot take 7"))]


# --- what no row is to blame for -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (pa.table({"y": [1]}), r"gave the columns \[y: int64\], but its schema\(\) promised \[x: int64\]; mend one"),
        (pa.table({"x": [1.5]}), r"gave the columns \[x: double\], but its schema\(\) promised \[x: int64\]"),
        (None, r"the stage gave a NoneType; a pyarrow.Table was needed"),
        ({"x": [1]}, r"the stage gave a dict; a pyarrow.Table was needed"),
    ],
)
def test_a_stage_that_breaks_its_promise_ends_the_run(tmp_path, result, wanted):
    outcome = carried(assigned(tmp_path, Mapped(lambda batch: result)))
    assert isinstance(outcome, Failure)
    assert outcome.fatal
    with pytest.raises(AssertionError, match=r"step 1-mapped: .*" + wanted):
        raise AssertionError(outcome.error)


def test_a_stage_must_refuse_rows_as_it_received_them(tmp_path):
    def does(batch):
        raise RowErrors(batch.slice(1), pa.table({"other": [1]}), ["bad"])

    outcome = carried(assigned(tmp_path, Mapped(does)))
    assert isinstance(outcome, Failure)
    assert outcome.fatal
    assert "refused rows with the columns ['other'], it was given ['x']; refuse rows as they were" in outcome.error


@pytest.mark.parametrize("error", [StorageError("the store is down"), UnitError("the file is cut")])
def test_errors_of_the_whole_unit_are_not_bisected(tmp_path, error):
    calls = []

    def does(batch):
        calls.append(1)
        raise error

    outcome = carried(assigned(tmp_path, Mapped(does)))
    assert outcome == Failure(UNIT, f"step 1-mapped: {error}")
    assert len(calls) == 1


def test_too_many_bad_rows_in_one_unit_end_the_run(tmp_path):
    outcome = carried(assigned(tmp_path, Mapped(failing({1, 2, 3})), max_bad_rows=1))
    assert isinstance(outcome, Failure)
    assert outcome.fatal
    assert outcome.error == "step 1-mapped: 3 rows of one unit failed; the first: ValueError: cannot take 1"


# --- reading ---------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Given:
    def reads(unit):
        raise error

    return Given(reads)


def test_a_unit_that_cannot_be_read_fails_alone(tmp_path):
    outcome = begin(assigned(tmp_path, source=raising(UnitError("a.gz is cut off; copy it again"))), UNIT)
    assert outcome == Failure(UNIT, "a.gz is cut off; copy it again")


def test_an_unexpected_error_of_a_source_says_where(tmp_path):
    outcome = begin(assigned(tmp_path, source=raising(ZeroDivisionError("division by zero"))), UNIT)
    assert outcome == Failure(UNIT, "reading numbers [0:10]: ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (pa.table({"y": [1]}), "the source gave the columns [y: int64], but its schema() promised [x: int64]"),
        (None, "the source gave a NoneType; a pyarrow.Table was needed"),
    ],
)
def test_a_source_that_breaks_its_promise_ends_the_run(tmp_path, result, wanted):
    outcome = begin(assigned(tmp_path, source=Given(lambda unit: result)), UNIT)
    assert isinstance(outcome, Failure)
    assert outcome.fatal
    assert outcome.error.startswith(wanted)


def test_a_source_that_knows_its_bad_rows_goes_on_with_the_good_ones(tmp_path):
    lines = pa.table({"line": ["a;", "b;"]})
    assignment = assigned(tmp_path, source=raising(RowErrors(table(1, 2), lines, ["no number", "no number"])))
    record = carried(assignment)
    assert rows(assignment, record) == [1, 2]
    assert [line["line"] for line in refused(assignment, record)] == ["a;", "b;"]
    assert record.bad_rows == 2
    assert (record.traces[0].rows_in, record.traces[0].rows_out, record.traces[0].rows_bad) == (4, 2, 2)


# --- writing ---------------------------------------------------------------------------------------------


def test_what_a_live_stage_tells_of_itself_stands_in_the_record(tmp_path):
    def does(batch):
        return batch

    does.told = "packed of packed 2, reference 1 tokens/s"
    record = carried(assigned(tmp_path, Mapped(does), Mapped()))
    assert [trace.told for trace in record.traces] == ["", does.told, "", ""]


def test_a_record_tells_the_whole_story(tmp_path):
    assignment = assigned(tmp_path, Mapped(failing({3})), Mapped(failing({5, 6})))
    record = carried(assignment)
    assert rows(assignment, record) == [0, 1, 2, 4, 7, 8, 9]
    told = [(t.step, t.rows_in, t.rows_out, t.rows_bad) for t in record.traces]
    assert told == [("read", 10, 10, 0), ("1-mapped", 10, 9, 1), ("2-mapped", 9, 7, 2), ("write", 7, 7, 0)]
    assert record.worker == f"{socket.gethostname()}:{os.getpid()}"
    assert record.rss_bytes > 1 << 20
    assert record.bad_rows == 3
    assert all(trace.seconds >= 0 and trace.waited_seconds >= 0 for trace in record.traces)


def test_refused_rows_are_kept_with_reason_step_and_unit_and_can_be_fed_back(tmp_path):
    assignment = assigned(tmp_path, Mapped(failing({3, 4})), Mapped(failing({5})))
    record = carried(assignment)
    unit = {"_unit": UNIT.key, "_uri": "numbers"}
    assert refused(assignment, record) == [
        {"x": 3, "_error": "ValueError: cannot take 3", "_step": "1-mapped", **unit},
        {"x": 4, "_error": "ValueError: cannot take 4", "_step": "1-mapped", **unit},
        {"x": 5, "_error": "ValueError: cannot take 5", "_step": "2-mapped", **unit},
    ]
    assert record.bad == tuple(f"quarantine/{s}-mapped/{'f' * 16}-{UNIT.key[:32]}.parquet" for s in (1, 2))
    again = work.Bad("1-mapped", pq.read_table(f"{assignment.pipeline.sink.uri}/{record.bad[0]}"), ("new", "new"))
    name = work._quarantine(assignment, UNIT, again)
    table = pq.read_table(f"{assignment.pipeline.sink.uri}/{name}")
    assert table.schema.names == ["x", "_error", "_step", "_unit", "_uri"], "no column twice"
    assert table["_error"].to_pylist() == ["new", "new"]


@dataclass(frozen=True)
class Picky(Parquet):
    """A sink that cannot hold the number 3."""

    def write(self, unit, batch):
        numbers = batch["x"].to_pylist()
        if 3 in numbers:
            keep = [x != 3 for x in numbers]
            raise RowErrors(batch.filter(keep), batch.filter([not k for k in keep]), ["three"])
        return super().write(unit, batch)


def test_rows_that_the_sink_refuses_are_put_aside_too(tmp_path):
    assignment = assigned(tmp_path, sink=Picky(str(tmp_path / "out")))
    record = carried(assignment)
    assert rows(assignment, record) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [(line["x"], line["_error"], line["_step"]) for line in refused(assignment, record)] == [
        (3, "three", "write")
    ]
    assert (record.traces[-1].rows_in, record.traces[-1].rows_out, record.traces[-1].rows_bad) == (10, 9, 1)


@dataclass(frozen=True)
class Broken(Parquet):
    """A sink that always fails."""

    error: BaseException | None = None

    def write(self, unit, batch):
        raise self.error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (StorageError("the disk is full"), Failure(UNIT, "the disk is full", fatal=True)),
        (UnitError("too wide"), Failure(UNIT, "too wide")),
        (ZeroDivisionError("oh"), Failure(UNIT, "writing numbers: ZeroDivisionError: oh")),
    ],
)
def test_a_full_disk_ends_the_run_and_other_errors_one_unit(tmp_path, error, wanted):
    assert carried(assigned(tmp_path, sink=Broken(str(tmp_path / "out"), error=error))) == wanted


def test_a_unit_without_rows_meets_no_stage(tmp_path):
    def does(batch):
        raise AssertionError("an empty batch came")

    assignment = assigned(tmp_path, Mapped(does), source=Given(lambda unit: table()))
    assert rows(assignment, carried(assignment)) == []


# --- again -----------------------------------------------------------------------------------------------


def test_a_unit_that_is_in_the_ledger_is_not_read_again(tmp_path):
    assignment = assigned(tmp_path)
    first = carried(assignment)
    unreadable = replace(assignment.pipeline, source=raising(AssertionError("it was read again")))
    assert begin(replace(assignment, pipeline=unreadable), UNIT) == first
    with opened(assignment) as transforms:
        assert carry(replace(assignment, pipeline=unreadable), UNIT, transforms) == first


def test_the_second_of_two_attempts_gets_the_record_of_the_first(tmp_path):
    assignment = assigned(tmp_path)
    one, two = begin(assignment, UNIT), begin(assignment, UNIT)
    assert isinstance(one, Parcel)
    assert isinstance(two, Parcel)
    assert finish(assignment, one) == finish(assignment, two)


def test_stages_are_closed_in_reverse_even_after_an_error(tmp_path):
    said = []

    @dataclass(frozen=True)
    class Loud(Mapped):
        name: str = ""

        @contextmanager
        def open(self):
            said.append(f"open {self.name}")
            try:
                yield self.does
            finally:
                said.append(f"close {self.name}")

    assignment = assigned(tmp_path, Loud(name="a"), Loud(name="b"), Loud(name="c"))
    with pytest.raises(ZeroDivisionError), opened(assignment, 1, 3):
        raise ZeroDivisionError
    assert said == ["open b", "open c", "close c", "close b"]


def test_step_counts_the_time_since_the_last_one(tmp_path):
    assignment = assigned(tmp_path, Mapped())
    parcel = begin(assignment, UNIT)
    assert isinstance(parcel, Parcel)
    waited = step(assignment, 0, lambda batch: batch, replace(parcel, since=parcel.since - 5))
    assert isinstance(waited, Parcel)
    assert waited.traces[-1].waited_seconds >= 5
