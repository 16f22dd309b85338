"""Which units are done, and what a changed setting does to that."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.dataset import Format, commit, draft
from penstock.core.ledger import Done, Ledger, fingerprint
from penstock.core.nouns import Part, Pipeline, Place, Record, Step, Trace, Unit
from penstock.core.storage import Posix
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares

PIPELINE = Pipeline("a", Numbers(), Parquet("out"), (Step(Squares()), Step(Journal("log"))))


@dataclass(frozen=True)
class Weighed:
    """A stage whose result depends on a file."""

    weights: str = "1"

    ASIDE = ("weights",)
    REVISION = 1

    def identity(self):
        return {"weights": self.weights}

    def schema(self, given):
        return given

    @contextmanager
    def open(self):
        yield lambda batch: batch


@dataclass(frozen=True)
class Revised(Weighed):
    REVISION = 2


# --- the fingerprint -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        replace(PIPELINE, name="b"),
        replace(PIPELINE, max_bad_rows=3, max_bad_units=1, allow_noncommercial=True),
        replace(PIPELINE, read=Place("task", cpus=3)),
        replace(PIPELINE, sink=Parquet("elsewhere", file_bytes=1)),
        replace(PIPELINE, source=Numbers(uri="moved", count=99, broken=(1,))),
        replace(PIPELINE, steps=(Step(Squares(), Place("actor", (2, 3))), Step(Journal("other", seconds=1)))),
    ],
    ids=["name", "limits", "read", "sink", "source", "places"],
)
def test_where_and_how_fast_changes_no_row(other):
    assert fingerprint(other) == fingerprint(PIPELINE)


@pytest.mark.parametrize(
    "other",
    [
        replace(PIPELINE, sink=Parquet("out", compression="zstd")),
        replace(PIPELINE, source=Numbers(rows=21)),
        replace(PIPELINE, steps=PIPELINE.steps[:1]),
        replace(PIPELINE, steps=PIPELINE.steps[::-1]),
        replace(PIPELINE, steps=(Step(Squares(bad=(1,))), PIPELINE.steps[1])),
    ],
    ids=["sink", "source", "fewer", "order", "field"],
)
def test_what_changes_rows_changes_the_fingerprint(other):
    assert fingerprint(other) != fingerprint(PIPELINE)


def test_weights_and_revisions_count_and_names_of_files_do_not():
    def of(stage):
        return fingerprint(replace(PIPELINE, steps=(Step(stage),)))

    assert of(Weighed("1")) == of(Weighed("1"))
    assert of(Weighed("1")) != of(Weighed("2")), "its identity"
    assert of(Weighed("1")) != of(Revised("1")), "its revision"


def test_stages_of_equal_fields_and_other_classes_differ():
    assert fingerprint(replace(PIPELINE, steps=(Step(Squares()),))) != fingerprint(
        replace(PIPELINE, steps=(Step(Journal("log")),))
    )


# --- records ---------------------------------------------------------------------------------------------


def unit(at: int) -> Unit:
    return Unit.of("größe", "1", at, at + 1)


def record(at: int, **more) -> Record:
    return Record(unit(at).key, Part(f"parts/{at}", 3, f"{at:064x}", 10), **more)


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    return Ledger(str(tmp_path / "out"), "f" * 64)


def test_a_record_comes_back_whole(ledger):
    story = record(1, bad=("q/1",), bad_rows=2, traces=(Trace("read", 0.5, 0.0, 3, 3, 0),), worker="h:1", finished=1.5)
    assert ledger.record(story) == story
    assert ledger.find(unit(1).key) == story
    assert ledger.find(unit(2).key) is None


def test_the_first_record_of_a_unit_stands(ledger):
    first, second = record(1, worker="first"), record(1, worker="second")
    assert ledger.record(first) == first
    assert ledger.record(second) == first
    assert ledger.find(unit(1).key) == first


def test_a_record_that_was_swept_between_two_looks_is_ours(ledger, monkeypatch):
    ledger.record(record(1, worker="first"))
    monkeypatch.setattr(Posix, "read", lambda self, uri: None)
    ours = record(1, worker="second")
    assert ledger.record(ours) == ours


def test_records_come_in_the_order_of_units_without_those_that_have_none(ledger):
    for at in (5, 3, 9, 0):
        ledger.record(record(at))
    found = list(ledger.records(unit(at) for at in range(3000)))
    assert [u.start for u, _ in found] == [0, 3, 5, 9]
    assert all(r == record(u.start) for u, r in found)


def test_other_fingerprints_have_other_ledgers(ledger):
    ledger.record(record(1))
    other = Ledger(ledger.root, "e" * 64)
    assert other.find(unit(1).key) is None
    assert unit(1).key not in other.done()
    assert unit(1).key in ledger.done()


def committed(ledger: Ledger, numbers: range) -> None:
    def read():
        return [(unit(at), record(at, bad=("q",), bad_rows=1)) for at in numbers]

    provenance = {"fingerprint": ledger.fingerprint}
    for _, one in read():
        Posix().replace(f"{ledger.root}/{one.part.path}", b"")
    commit(draft(ledger.root, "none", provenance, pa.schema([])), Format("", lambda *_: None), read, 1)


def test_what_the_newest_manifest_holds_is_done_too(ledger):
    committed(ledger, range(4))
    ledger.record(record(7))
    done = ledger.done()
    assert [at for at in range(9) if unit(at).key in done] == [0, 1, 2, 3, 7]
    assert len(done) == 5
    found = {u.start: r for u, r in ledger.records(unit(at) for at in range(9))}
    assert found == {**{at: record(at, bad=("q",), bad_rows=1) for at in range(4)}, 7: record(7)}


def test_a_manifest_of_another_fingerprint_says_nothing_of_ours(ledger):
    committed(Ledger(ledger.root, "e" * 64), range(4))
    assert len(ledger.done()) == 0
    assert list(ledger.records(unit(at) for at in range(4))) == []


def test_a_sweep_takes_the_units_named_and_no_others(ledger):
    for at in range(5):
        ledger.record(record(at))
    ledger.sweep(unit(at) for at in (0, 2, 4, 77))
    assert [u.start for u, _ in ledger.records(unit(at) for at in range(5))] == [1, 3]


# --- the set of done units -------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)))
def test_done_is_a_set(inside, asked):
    done = Done(unit(at).key for at in inside)
    assert len(done) == len(inside)
    assert {at for at in asked if unit(at).key in done} == inside & asked


def test_a_unit_s_key_is_that_of_its_content():
    assert unit(1).key == "29eb64943e66b580b2d64153292e8ae7455ddc6a77b4c6d9ce9f1be12dfb4df7", "ledgers of old runs"
    keys = {Unit.of(*args).key for args in [("a", "b", 1, 2), ("a", "c", 1, 2), ("d", "b", 1, 2), ("a", "b", 0, 2)]}
    assert len(keys) == 4
    assert Unit.of("a", "b", 1, 2, 99).key == Unit.of("a", "b", 1, 2).key, "how much is read is no identity"
