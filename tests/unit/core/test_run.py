"""A run from beginning to end, by the runner that is one process."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from penstock.core import run as running
from penstock.core import work
from penstock.core.dataset import existing, newest, versions
from penstock.core.ledger import Ledger, fingerprint
from penstock.core.nouns import Pipeline, Record, Step
from penstock.core.reading import read_table
from penstock.core.verify import verify
from penstock.core.work import Failure
from penstock.errors import PenstockError, RunError, SchemaError, StorageError, TooManyBadRows, TooManyBadUnits
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    steps = (Step(Squares(bad=(5, 33))), Step(Journal(str(tmp_path / "journal"))))
    return Pipeline("line", Numbers(9, 10), Parquet(str(tmp_path / "out"), file_bytes=4000), steps)


def batches(pipeline: Pipeline) -> int:
    """How many batches have reached the last step so far."""
    path = Path(pipeline.steps[-1].stage.file)
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_a_run_gives_all_rows_in_order_and_says_what_it_did(pipeline):
    report = Inline().run(pipeline)
    table = read_table(pipeline.sink.uri)
    wanted = [x for x in range(90) if x // 10 != 6 and x not in (5, 33)]
    assert table["number"].to_pylist() == wanted
    assert (report.pipeline, report.runner) == ("line", "inline")
    assert (report.units, report.skipped, report.rows, report.bad_rows, report.bad_units) == (9, 0, 78, 2, 0)
    assert report.manifest == verify(pipeline.sink.uri)
    assert report.seconds > 0


def test_a_second_run_does_nothing_again(pipeline):
    first = Inline().run(pipeline)
    done = batches(pipeline)
    again = Inline().run(pipeline)
    assert batches(pipeline) == done
    assert (again.skipped, again.manifest) == (9, first.manifest)
    assert versions(pipeline.sink.uri) == [1]


def test_a_changed_setting_does_the_work_again_and_a_changed_place_does_not(pipeline):
    Inline().run(pipeline)
    done = batches(pipeline)
    changed = replace(pipeline, steps=(Step(Squares(bad=(5,))), pipeline.steps[1]), name="other")
    report = Inline().run(changed)
    assert (report.skipped, report.rows, report.manifest.version) == (0, 79, 2)
    assert batches(pipeline) == 2 * done
    elsewhere = replace(changed, sink=replace(changed.sink, file_bytes=1))
    assert Inline().run(elsewhere).skipped == 9


def test_more_units_cost_only_themselves(pipeline):
    Inline().run(pipeline)
    done = batches(pipeline)
    report = Inline().run(replace(pipeline, source=Numbers(11, 10)))
    assert (report.units, report.skipped, report.manifest.version) == (11, 9, 2)
    assert batches(pipeline) == done + 2
    assert read_table(pipeline.sink.uri)["number"].to_pylist()[-1] == 109


def test_a_stopped_run_goes_on_where_it_stopped(pipeline):
    stopped = replace(pipeline, source=Numbers(9, 10, broken=(4,)))
    with pytest.raises(TooManyBadUnits, match="unit 4 cannot be read"):
        Inline().run(stopped)
    assert newest(pipeline.sink.uri) is None, "no dataset"
    done = batches(pipeline)
    report = Inline().run(pipeline)
    assert (report.skipped, report.rows) == (8, 78)
    assert batches(pipeline) == done + 1


# --- limits ----------------------------------------------------------------------------------------------


def test_too_many_bad_units_are_listed(pipeline):
    broken = replace(pipeline, source=Numbers(9, 10, broken=(1, 2)), max_bad_units=1)
    wanted = (
        r"line: 2 units failed, max_bad_units allows 1; the others are done and kept. Mend these and run again:\n"
        r"  - unit 1 cannot be read, as the test wants it\n  - unit 2 cannot be read"
    )
    with pytest.raises(TooManyBadUnits, match=wanted):
        Inline().run(broken)
    report = Inline().run(replace(broken, max_bad_units=2))
    assert (report.bad_units, report.rows, report.manifest.provenance["failed_units"]) == (2, 58, 2)


def test_too_many_bad_rows_stop_the_run_and_stay_too_many(pipeline):
    strict = replace(pipeline, max_bad_rows=1)
    wanted = (
        r"line: 2 rows were quarantined, max_bad_rows allows 1; look at .*/out/quarantine, "
        "then mend the input or raise the limit"
    )
    for _ in range(2):  # the second run finds the bad units done, and must not let them through
        with pytest.raises(TooManyBadRows, match=wanted):
            Inline().run(strict)
    assert newest(pipeline.sink.uri) is None
    assert Inline().run(replace(strict, max_bad_rows=2)).rows == 78


def test_a_stage_that_breaks_its_promise_ends_the_run_at_once(pipeline):
    @dataclass(frozen=True)
    class Liar(Squares):
        @contextmanager
        def open(self):
            yield lambda batch: batch

    liar = replace(pipeline, steps=(Step(Liar()), pipeline.steps[1]))
    with pytest.raises(RunError, match=r"line: step 1-liar: the stage gave the columns .* promised .*; mend one"):
        Inline().run(liar)


def test_columns_that_do_not_fit_end_it_before_it_starts(pipeline):
    @dataclass(frozen=True)
    class Choosy(Squares):
        def schema(self, given):
            raise SchemaError("a column 'text' was needed")

    with pytest.raises(SchemaError, match=r"line, step 2 \(choosy\): a column 'text' was needed"):
        Inline().run(replace(pipeline, steps=(pipeline.steps[0], Step(Choosy()))))
    assert batches(pipeline) == 0


# --- rivals ----------------------------------------------------------------------------------------------


def test_rows_are_not_lost_when_another_setting_is_committed_to_the_same_place_meanwhile(pipeline):
    """Our units were done before, by a manifest that is no longer the newest: no empty dataset may come of that."""
    Inline().run(pipeline)
    other = replace(pipeline, steps=(Step(Squares(bad=(7,))),))

    def carry(assignment, units):
        Inline().run(other)
        yield from ()

    with pytest.raises(StorageError, match=r"9 of 9 finished units have no record any more; a run with other settings"):
        running.run(pipeline, "late", carry)
    assert existing(pipeline.sink.uri).fingerprint == fingerprint(other)
    assert Inline().run(pipeline).rows == 78, "running again makes it whole"


def test_two_runs_of_the_same_pipeline_share_the_work(pipeline):
    def carry(assignment, units):
        """While we are at our first unit, somebody else does everything, commits and sweeps."""
        ours = list(units)
        Inline().run(pipeline)
        with work.opened(assignment) as transforms:
            for unit in ours:
                yield work.carry(assignment, unit, transforms)

    report = running.run(pipeline, "late", carry)
    assert (report.manifest.version, report.rows) == (1, 78)
    assert versions(pipeline.sink.uri) == [1]
    assert list(Ledger(pipeline.sink.uri, fingerprint(pipeline))._recorded()) == []
    parts = {f"parts/{p.name}" for p in (Path(pipeline.sink.uri) / "parts").iterdir()}
    assert parts == set(report.manifest.parts()["path"].to_pylist())


# --- what is told ----------------------------------------------------------------------------------------


class Told:
    """A watch that keeps what it hears."""

    def __init__(self):
        self.said = []

    def begin(self, pipeline, units, skipped):
        self.said.append(("begin", pipeline.name, units, skipped))

    def outcome(self, outcome):
        self.said.append(type(outcome))

    def end(self, report):
        self.said.append(("end", report))


def test_a_watch_hears_of_every_unit(pipeline):
    watch = Told()
    report = Inline().run(replace(pipeline, source=Numbers(9, 10, broken=(3,)), max_bad_units=1), watch)
    kinds = [Record] * 3 + [Failure] + [Record] * 5
    assert watch.said == [("begin", "line", 9, 0), *kinds, ("end", report)]


def test_a_watch_hears_of_the_end_after_an_error_too(pipeline):
    watch = Told()
    with pytest.raises(PenstockError):
        Inline().run(replace(pipeline, max_bad_rows=0), watch)
    assert watch.said[-1] == ("end", None)


def test_provenance_names_parts_versions_and_weights_also_of_parts_without_a_name(pipeline):
    @dataclass(frozen=True)
    class Weighed(Squares):
        def identity(self):
            return {"weights": "abc"}

    report = Inline().run(replace(pipeline, steps=(Step(Weighed(bad=(1,))),)))
    told = report.manifest.provenance
    assert told["pipeline"]["sink"] == {"use": "parquet", "uri": pipeline.sink.uri, "file_bytes": 4000}
    assert told["pipeline"]["source"] == {"use": "penstock.testing.parts:Numbers", "count": 9, "rows": 10}
    assert told["pipeline"]["step"][0]["use"].endswith("Weighed")
    assert told["pipeline"]["step"][0]["bad"] == [1]
    assert told["identity"] == {"1-weighed": {"weights": "abc"}}
    assert told["versions"]["pyarrow"]
    assert json.loads(json.dumps(told)) == told


def test_the_story_of_a_run_has_a_line_for_each_unit_and_step(pipeline):
    Inline().run(pipeline)
    Inline().run(pipeline)
    folder = Path(pipeline.sink.uri) / "runs"
    first, *_ = sorted(folder.glob("*.parquet"), key=lambda path: -path.stat().st_size)
    table = pq.read_table(first)
    assert table.num_rows == 9 * 4
    assert set(table["step"].to_pylist()) == {"read", "1-squares", "2-journal", "write"}
    by_step = table.group_by("step").aggregate([("rows_in", "sum"), ("rows_out", "sum"), ("rows_bad", "sum")])
    sums = {
        line["step"]: (line["rows_in_sum"], line["rows_out_sum"], line["rows_bad_sum"]) for line in by_step.to_pylist()
    }
    assert sums == {"read": (80, 80, 0), "1-squares": (80, 78, 2), "2-journal": (78, 78, 0), "write": (78, 78, 0)}
    assert len(list(folder.glob("*.json"))) == 2, "each run has its own"
    facts = json.loads(first.with_suffix(".json").read_text())
    assert (facts["pipeline"], facts["units"], facts["rows"], facts["bad_rows"], facts["manifest"]) == (
        "line",
        9,
        78,
        2,
        1,
    )


def test_an_empty_source_gives_an_empty_dataset(pipeline):
    report = Inline().run(replace(pipeline, source=Numbers(0)))
    assert (report.units, report.rows) == (0, 0)
    assert read_table(pipeline.sink.uri).schema.names == ["number", "name", "powers"]
