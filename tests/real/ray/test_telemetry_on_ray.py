"""Under Ray the driver alone tells of a run, of its workers and of the jobs that an actor watches."""

import json
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from waiting import Waits
from watched import Counted

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.run import Quiet
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.telemetry import Settings, observing
from penstock.testing.parts import Numbers, Squares


@pytest.fixture(scope="module")
def seen(importable, tmp_path_factory):
    """What was told of a run with losses and jobs."""
    folder = tmp_path_factory.mktemp("run")
    files = {name: str(folder / name) for name in ("run.prom", "spans.jsonl", "log.jsonl")}
    told = Settings(metrics_file=files["run.prom"], trace=files["spans.jsonl"], log_file=files["log.jsonl"])
    source, sink = Numbers(6, 10, broken=(4,)), Parquet(str(folder / "out"))
    steps = (Step(Waits(Counted(str(folder))), Place("task")), Step(Squares(bad=(5, 33))))
    line, ray, warned = (
        Pipeline("line", source, sink, steps, max_bad_units=1),
        Ray(cpus=2, object_store_bytes=200 << 20),
        [],
    )
    with observing(told, "ray", warned.append) as around:
        report = ray.run(line, around(Quiet()))
    assert warned == []
    return report, {name: Path(file).read_text() for name, file in files.items()}


def test_the_counts_are_those_of_the_report_whoever_did_the_work(seen):
    report, texts = seen
    found = (sample for family in text_string_to_metric_families(texts["run.prom"]) for sample in family.samples)
    values = {(s.name, *sorted(s.labels.values())): s.value for s in found}
    assert values["penstock_run_units_total", "done", "line"] == report.units - report.bad_units == 5
    assert values["penstock_run_units_total", "failed", "line"] == report.bad_units == 1
    assert values["penstock_run_rows_total", "line"] == report.rows
    assert values["penstock_run_bad_rows_total", "line"] == report.bad_rows == 2
    assert values["penstock_run_step_seconds_count", "2-squares", "line"] == 5
    assert values["penstock_jobs_submitted_total", "counted"] == 5
    assert values["penstock_jobs_ended_total", "counted", "done"] == 5
    assert values["penstock_jobs", "counted", "running"] == 0
    assert values["penstock_job_running_seconds_sum", "counted"] > 0
    assert values["penstock_scheduler_polls_total", "counted"] > 1


def test_spans_of_workers_and_of_jobs_are_below_the_run(seen):
    _, texts = seen
    lines = [json.loads(line) for line in texts["spans.jsonl"].splitlines()]
    spans = [s for line in lines for r in line["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]
    below = {span["spanId"]: [one for one in spans if one.get("parentSpanId") == span["spanId"]] for span in spans}
    [run] = [span for span in spans if span["name"] == "run line"]
    units, jobs = ([one for one in below[run["spanId"]] if one["name"] == name] for name in ("unit", "job"))
    assert sorted(len(below[unit["spanId"]]) for unit in units) == [0] + [4] * 5
    assert len(jobs) == 5
    for span in (*units, *jobs):
        assert int(run["startTimeUnixNano"]) <= int(span["startTimeUnixNano"]) <= int(span["endTimeUnixNano"])
        assert int(span["endTimeUnixNano"]) <= int(run["endTimeUnixNano"])


def test_the_log_has_the_losses_and_the_jobs_before_the_end(seen):
    _, texts = seen
    log = [json.loads(line) for line in texts["log.jsonl"].splitlines()]
    events = [line["event"] for line in log if line["event"] not in ("progress", "job")]
    assert events[0] == "begin"
    assert sorted(events[1:-1]) == ["rows_quarantined", "rows_quarantined", "unit_failed"]
    assert log[-1]["event"] == "end", "what the watcher learned comes before"
    states = [line["state"] for line in log if line["event"] == "job"]
    assert states.count("done") == 5
    assert set(states) == {"unknown", "running", "done"}
