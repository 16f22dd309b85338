"""Under Ray the driver alone tells of a run, of its workers and of the jobs that an actor watches."""

import json
import os
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))
from watched import Counted

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.run import Quiet
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.solvers.job import Program
from penstock.sources.dataset import Dataset
from penstock.telemetry import Settings, observing
from penstock.testing.parts import Numbers, Squares

PROGRAM = """
import json, sys, time, numpy
time.sleep(2)
told = json.load(open(sys.argv[1]))
numpy.savez(told["result"], double=numpy.arange(told["rows"]) * 2)
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What was told of a run with losses, and of one with a job."""
    folder = tmp_path_factory.mktemp("run")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    files = {name: str(folder / name) for name in ("run.prom", "spans.jsonl", "log.jsonl")}
    told = Settings(metrics_file=files["run.prom"], trace=files["spans.jsonl"], log_file=files["log.jsonl"])
    numbers = Numbers(6, 10, broken=(4,))
    out, steps = Parquet(str(folder / "out")), (Step(Squares(bad=(5, 33)), Place("task")),)
    cluster = Counted(str(folder), folder=str(folder / "jobs"))
    solver = Program((sys.executable, "-c", PROGRAM), {"double": "int64"}, "npz", cluster=cluster)
    job = Step(solver, Place("task"))
    scores = Pipeline("scores", Dataset(out.uri, whole=True), Parquet(str(folder / "scores")), (job,))
    ray = Ray(cpus=2, object_store_bytes=200 << 20)
    warned = []
    with ray.session(), observing(told, "ray", warned.append) as around:
        report = ray.run(Pipeline("numbers", numbers, out, steps, max_bad_units=1), around(Quiet()))
        ray.run(scores, around(Quiet()))
    assert warned == []
    return report, {name: Path(file).read_text() for name, file in files.items()}


def test_the_counts_are_those_of_the_report_whoever_did_the_work(seen):
    report, texts = seen
    found = (sample for family in text_string_to_metric_families(texts["run.prom"]) for sample in family.samples)
    values = {(s.name, *sorted(s.labels.values())): s.value for s in found}
    assert values["penstock_run_units_total", "done", "numbers"] == report.units - report.bad_units == 5
    assert values["penstock_run_units_total", "failed", "numbers"] == report.bad_units == 1
    assert values["penstock_run_rows_total", "numbers"] == report.rows
    assert values["penstock_run_bad_rows_total", "numbers"] == report.bad_rows == 2
    assert values["penstock_run_step_seconds_count", "1-squares", "numbers"] == 5
    assert values["penstock_jobs_submitted_total", "counted"] == 1
    assert values["penstock_jobs_ended_total", "counted", "done"] == 1
    assert values["penstock_job_running_seconds_sum", "counted"] > 1
    assert values["penstock_scheduler_polls_total", "counted"] > 1


def test_spans_of_workers_and_of_the_job_are_below_their_run(seen):
    _, texts = seen
    lines = [json.loads(line) for line in texts["spans.jsonl"].splitlines()]
    spans = [s for line in lines for r in line["resourceSpans"] for scope in r["scopeSpans"] for s in scope["spans"]]
    below = {span["spanId"]: [one for one in spans if one.get("parentSpanId") == span["spanId"]] for span in spans}
    [numbers] = [span for span in spans if span["name"] == "run numbers"]
    [scores] = [span for span in spans if span["name"] == "run scores"]
    units = below[numbers["spanId"]]
    assert [unit["name"] for unit in units] == ["unit"] * 6
    assert sorted(len(below[unit["spanId"]]) for unit in units) == [0] + [3] * 5
    assert sorted(span["name"] for span in below[scores["spanId"]]) == ["job", "unit"]
    [job] = [span for span in spans if span["name"] == "job"]
    assert int(job["endTimeUnixNano"]) - int(job["startTimeUnixNano"]) > 1e9
    assert int(scores["startTimeUnixNano"]) <= int(job["startTimeUnixNano"])


def test_the_log_has_the_losses_and_the_job_in_order(seen):
    _, texts = seen
    log = [json.loads(line) for line in texts["log.jsonl"].splitlines()]
    events = [line["event"] for line in log if line["event"] != "progress"]
    assert sorted(events[1:4]) == ["rows_quarantined", "rows_quarantined", "unit_failed"]
    states = [line["state"] for line in log if line["event"] == "job"]
    assert (states[0], states[-1]) == ("unknown", "done")
    assert events[-1] == "end", "what the watcher learned comes before"
