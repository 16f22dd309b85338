"""Spans of a run: whose child each is, when it was, what it says."""

import json
import logging
import time
import tracemalloc
from dataclasses import replace
from itertools import pairwise

import pytest
from opentelemetry.trace import StatusCode
from seeing import RUN, Seen

from penstock.core.nouns import Part, Pipeline, Record, Step, Trace, Unit
from penstock.core.work import Failure
from penstock.errors import RunError, StorageError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.telemetry import spans as spans_module
from penstock.telemetry.spans import Spans, exporting
from penstock.testing.parts import Numbers, Squares


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    source, sink = Numbers(9, 10, broken=(4,), uri="s3://lake/numbers?sig=planted"), Parquet(str(tmp_path / "out"))
    return Pipeline("line", source, sink, (Step(Squares(bad=(5,))),), max_bad_units=1)


def record(at: int) -> Record:
    traces = (
        Trace("read", 1.0, 0.0, 10, 10, 0, 80, 1000.0, "node:1"),
        Trace("1-squares", 2.5, 0.5, 10, 9, 1, 90, 1001.5, "node:2"),
        Trace("write", 0.25, 0.0, 9, 9, 0, 70, 1004.0, "node:2"),
    )
    unit = Unit.of("numbers", "1", at, at + 1)
    return Record(unit.key, Part("p", 9, "s", 700), (), 1, traces, "node:2", 1004.5)


def test_a_run_is_one_trace_with_units_and_their_steps(pipeline):
    seen, before = Seen(), time.time_ns()
    report = Inline().run(pipeline, seen.spans)
    [root] = seen.named("run line")
    assert {one.context.trace_id for one in seen.exporter.get_finished_spans()} == {int(RUN, 16)}
    assert root.parent is None
    assert root.attributes["penstock.rows"] == report.rows
    assert root.attributes["penstock.source"] == "s3://lake/numbers"
    units = seen.below(root)
    assert [one.name for one in units] == ["unit"] * 9
    for unit in units:
        if unit.status.status_code is StatusCode.ERROR:
            continue
        steps = seen.below(unit)
        assert [one.name for one in steps] == ["read", "1-squares", "write"]
        assert before <= root.start_time <= unit.start_time <= unit.end_time <= root.end_time <= time.time_ns()
        assert unit.start_time == steps[0].start_time
        assert all(a.end_time <= b.start_time for a, b in pairwise(steps))
        assert steps[-1].end_time <= unit.end_time
        assert unit.attributes["penstock.unit.uri"] == "s3://lake/numbers"
        assert {one.attributes["penstock.run"] for one in (unit, *steps)} == {RUN}


def test_the_times_are_those_that_the_workers_wrote_down(pipeline):
    seen = Seen()
    seen.spans.begin(pipeline, 1, 0)
    seen.spans.handed(Unit.of("numbers", "1", 0, 1))
    seen.spans.outcome(record(0))
    seen.spans.end(None)
    times = {one.name: (one.start_time / 1e9, one.end_time / 1e9) for one in seen.exporter.get_finished_spans()}
    assert times["read"] == (1000.0, 1001.0)
    assert times["1-squares"] == (1001.5, 1004.0)
    assert times["write"] == (1004.0, 1004.25)
    assert times["unit"] == (1000.0, 1004.5)
    [step] = seen.named("1-squares")
    wanted = {
        "step": "1-squares",
        "rows_in": 10,
        "rows_out": 9,
        "rows_bad": 1,
        "worker": "node:2",
        "waited_seconds": 0.5,
    }
    assert wanted.items() <= {name.removeprefix("penstock."): value for name, value in step.attributes.items()}.items()


def test_a_unit_that_failed_is_an_error_with_its_text_and_its_time(pipeline):
    seen = Seen()
    before = time.time_ns()
    Inline().run(pipeline, seen.spans)
    [failed] = [one for one in seen.named("unit") if one.status.status_code is StatusCode.ERROR]
    assert failed.status.description == "unit 4 cannot be read, as the test wants it"
    assert before <= failed.start_time <= failed.end_time <= time.time_ns()
    assert failed.attributes["penstock.unit.start"] == 40
    assert not seen.below(failed)


def test_a_run_without_a_dataset_is_an_error(pipeline):
    seen = Seen()
    with pytest.raises(RunError):
        Inline().run(replace(pipeline, max_bad_units=0), seen.spans)
    [root] = seen.named("run line")
    assert root.status.status_code is StatusCode.ERROR
    assert root.status.description == "the run ended without a dataset"


def test_of_many_units_some_have_spans_and_all_that_failed(pipeline):
    seen = Seen(most=100)
    seen.spans.begin(pipeline, 20_500, 500)
    for at in range(20_000):
        seen.spans.outcome(record(at))
    kept = len(seen.named("unit"))
    assert 60 < kept < 140
    for at in range(20):
        seen.spans.outcome(Failure(Unit.of("bad", "1", at, at + 1), "broken"))
    assert len(seen.named("unit")) == kept + 20


def test_memory_does_not_grow_with_units(pipeline):
    seen = Seen(most=0)
    seen.spans.begin(pipeline, 1_000_000, 0)
    for at in range(100):
        seen.spans.outcome(record(at))
    tracemalloc.start()
    for at in range(20_000):
        one = record(at)
        seen.spans.handed(Unit(one.unit, "numbers", "1", at, at + 1, 1))
        seen.spans.outcome(one)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000


def test_a_file_has_lines_of_otlp_json_with_hexadecimal_ids(pipeline, tmp_path):
    path = tmp_path / "spans.jsonl"
    with exporting(str(path), print) as tracer:
        Inline().run(pipeline, Spans(tracer(RUN), RUN, "inline", 1000))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = [s for line in lines for r in line["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]
    assert {one["traceId"] for one in found} == {RUN}
    [root] = [one for one in found if "parentSpanId" not in one]
    children = [one for one in found if one.get("parentSpanId") == root["spanId"]]
    assert (len(children), len(found)) == (9, 1 + 9 + 8 * 3)
    resource = {a["key"]: a["value"]["stringValue"] for a in lines[0]["resourceSpans"][0]["resource"]["attributes"]}
    assert resource["service.name"] == "penstock"


def test_the_service_may_have_another_name(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "night-run")
    assert spans_module._resource().attributes["service.name"] == "night-run"


def test_a_file_that_cannot_be_had_is_an_error_at_the_start(tmp_path):
    with pytest.raises(StorageError, match="an address http://HOST:4318 or a file was needed"):
        exporting(str(tmp_path / "none" / "spans"), print).__enter__()


def test_what_opentelemetry_complains_of_is_said_once_and_without_secrets(capfd):
    heard = []
    with spans_module._heard(heard.append):
        for _ in range(3):
            logging.getLogger("opentelemetry.exporter").warning("no answer from http://me:planted@host/x?key=planted")
    assert heard == ["spans: no answer from http://host/x; what follows of this kind is not shown"]
    assert not capfd.readouterr().err
