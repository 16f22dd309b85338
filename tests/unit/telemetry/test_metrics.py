"""Prometheus metrics of a run, by the run's own report."""

import socket
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from seeing import samples, text_of

from penstock.core.nouns import Part, Pipeline, Record, Step, Trace, Unit
from penstock.core.work import Failure
from penstock.errors import RunError, SpecError, StorageError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.telemetry import Settings, observing
from penstock.telemetry.metrics import RunMetrics, Textfile, place_of, served
from penstock.testing.parts import Numbers, Squares


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    source, sink = Numbers(9, 10, broken=(4,)), Parquet(str(tmp_path / "out"))
    return Pipeline("line", source, sink, (Step(Squares(bad=(5, 33))),), max_bad_units=1)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(at: int, step: str = "1-squares") -> Record:
    traces = (Trace("read", 1.0, 0.0, 10, 10, 0), Trace(step, 2.0, 0.5, 10, 9, 1), Trace("write", 0.1, 0.0, 9, 9, 0))
    return Record(f"{at:064x}", Part("p", 9, "s", 700), (), 1, traces, "host:1")


def test_the_counts_are_those_of_the_report(pipeline):
    metrics = RunMetrics.made("inline")
    report = Inline().run(pipeline, metrics)
    found = samples(text_of(metrics))
    assert found["penstock_run_units_total", ("done", "line")] == report.units - report.bad_units == 8
    assert found["penstock_run_units_total", ("failed", "line")] == report.bad_units == 1
    assert found["penstock_run_units_total", ("skipped", "line")] == 0
    assert found["penstock_run_rows_total", ("line",)] == report.rows
    assert found["penstock_run_bad_rows_total", ("line",)] == report.bad_rows == 2
    assert found["penstock_run_planned_units", ("line",)] == 9
    assert found["penstock_run_step_seconds_count", ("line", "1-squares")] == 8
    assert found["penstock_run_success", ("line",)] == 1
    assert found["penstock_run_workers", ("line",)] == 1
    began, ended = (found[f"penstock_run_{word}_timestamp_seconds", ("line",)] for word in ("start", "end"))
    assert 0 <= ended - began <= report.seconds + 1
    [info] = [key for key in found if key[0] == "penstock_run_info"]
    assert info[1][:2] == ("line", "inline")


def test_bytes_are_those_of_the_parts(pipeline, tmp_path):
    seen = []

    class Both(RunMetrics):
        def outcome(self, outcome):
            seen.append(outcome)
            super().outcome(outcome)

    metrics = Both.made("inline")
    Inline().run(pipeline, metrics)
    parts = [one.part.size_bytes for one in seen if isinstance(one, Record)]
    assert samples(text_of(metrics))["penstock_run_written_bytes_total", ("line",)] == sum(parts) > 0


def test_a_second_run_skips_and_the_counters_say_so(pipeline):
    Inline().run(pipeline)
    metrics = RunMetrics.made("inline")
    Inline().run(replace(pipeline, source=replace(pipeline.source, broken=())), metrics)
    found = samples(text_of(metrics))
    assert found["penstock_run_units_total", ("skipped", "line")] == 8
    assert found["penstock_run_units_total", ("done", "line")] == 1


def test_a_run_that_fails_has_an_end_without_success(pipeline):
    metrics = RunMetrics.made("inline")
    with pytest.raises(RunError, match="1 units failed, max_bad_units allows 0"):
        Inline().run(replace(pipeline, max_bad_units=0), metrics)
    found = samples(text_of(metrics))
    assert found["penstock_run_success", ("line",)] == 0
    assert ("penstock_run_end_timestamp_seconds", ("line",)) in found


def test_seconds_and_pace_go_by_what_traces_and_clock_say(pipeline):
    clock = Clock()
    metrics = RunMetrics.made("ray")
    metrics.clock = clock
    metrics.begin(pipeline, 4, 1)
    for at in range(2):
        clock.now += 3
        metrics.outcome(record(at))
    found = samples(text_of(metrics))
    assert found["penstock_run_step_seconds_sum", ("line", "1-squares")] == 4.0
    assert found["penstock_run_step_waited_seconds_sum", ("line", "1-squares")] == 1.0
    assert found["penstock_run_rows_per_second", ("line",)] == 18 / 6
    assert ("penstock_run_end_timestamp_seconds", ("line",)) not in found, "it has not ended"


def test_series_do_not_grow_with_units_workers_or_unknown_steps(pipeline):
    metrics = RunMetrics.made("ray")
    metrics.begin(pipeline, 5000, 0)
    metrics.outcome(record(0))
    few = text_of(metrics)
    for at in range(1, 1000):
        metrics.outcome(replace(record(at, f"{at}-other"), worker=f"host:{at + 1}"))
        metrics.outcome(Failure(Unit.of(f"s3://b/{at}", "e", 0, 1), f"error number {at}"))
    many = text_of(metrics)
    assert len(many.splitlines()) == len(few.splitlines())
    assert samples(many)["penstock_run_workers", ("line",)] == 1000
    labels = {key for f in text_string_to_metric_families(many) for s in f.samples for key in s.labels}
    assert labels == {"pipeline", "outcome", "step", "le", "runner", "version"}


def test_they_are_served_on_loopback_until_the_end():
    metrics = RunMetrics.made("inline")
    with served(metrics.registry, "0") as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert answer.headers["content-type"].startswith("text/plain")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


def test_a_port_that_somebody_has_is_an_error_with_the_port():
    metrics = RunMetrics.made("inline")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(StorageError, match=rf"cannot be served at 127.0.0.1:{port}: .*; choose another port"),
            served(metrics.registry, str(port)),
        ):
            raise AssertionError


@pytest.mark.parametrize(
    ("said", "meant"),
    [("9100", ("127.0.0.1", 9100)), ("0.0.0.0:9100", ("0.0.0.0", 9100)), ("[::1]:9100", ("::1", 9100))],
)
def test_a_place_is_a_port_or_a_host_and_a_port(said, meant):
    assert place_of(said) == meant


@pytest.mark.parametrize("said", ["", "x", "host:", "99999", "-1"])
def test_another_place_is_refused(said):
    with pytest.raises(SpecError, match="a port such as 9100, or HOST:PORT, was needed"):
        place_of(said)


def test_the_textfile_is_whole_and_is_not_written_for_every_unit(pipeline, tmp_path):
    metrics, clock = RunMetrics.made("inline"), Clock()
    file = Textfile(metrics.registry, tmp_path / "run.prom", clock)

    def step(outcome, seconds):
        clock.now += seconds
        metrics.outcome(outcome)
        file.outcome(outcome)
        return samples(file.path.read_text())["penstock_run_rows_total", ("line",)]

    metrics.begin(pipeline, 9, 0)
    file.begin(pipeline, 9, 0)
    assert step(record(0), 1) == 0, "not yet"
    assert step(record(1), 5) == 18
    metrics.end(None)
    file.end(None)
    assert samples(file.path.read_text())["penstock_run_success", ("line",)] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run.prom"], "nothing half written beside it"


def test_a_textfile_of_another_name_is_refused(tmp_path):
    wrong = str(tmp_path / "none" / "run.prom")
    with (
        pytest.raises(SpecError, match=r"a name that ends in .prom, in a folder that exists, was needed"),
        observing(Settings(metrics_file=wrong), "inline", print),
    ):
        raise AssertionError
    assert not Path(wrong).exists()
