"""A run with losses and a job, scraped by HTTP while it runs; its spans received by OTLP; no secret in any of it."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).parent
UNITS, ROWS = 8, 5
FILE = """
[pipeline.lake]
source = { use = "fasta", uri = "chains", unit_bytes = 1000000 }
sink = { use = "parquet", uri = "out" }
max_bad_units = 1

[[pipeline.lake.step]]
use = "function"
function = "lake:fetched"

[pipeline.scores]
source = { use = "dataset", uri = "out", whole = true }
sink = { use = "parquet", uri = "scores" }
max_bad_units = 1

[[pipeline.scores.step]]
use = "job"
command = ["sh", "-c", "echo planted-printed >&2; exit 3", "--password", "planted-command"]
columns = { score = "float32" }
cluster = { use = "local", folder = "jobs", mpiexec = "/opt/planted-cluster/mpiexec" }
"""


class Collector(BaseHTTPRequestHandler):
    """Keeps what is posted."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        self.server.got.append((self.path, dict(self.headers), body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *words):
        """Nothing."""


@contextmanager
def collector() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        server.got = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def scraped(port: int, process: subprocess.Popen) -> dict[str, str]:
    """What was exposed when the run was in its middle, and each text that was seen."""
    seen, end = [], time.monotonic() + 300
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                seen.append(answer.read().decode())
        except (OSError, HTTPException):  # not up yet, or at its end in the middle of an answer
            time.sleep(0.05)
            continue
        time.sleep(0.1)
    going = (text for text in seen if 'end_timestamp_seconds{pipeline="lake"}' not in text)
    middle = [text for text in going if values(text).get(("penstock_run_units_total", "done", "lake"), 0) > 0]
    assert middle, f"it was not seen at its work; {len(seen)} answers"
    return {"middle": middle[0], "last": seen[-1], "all": "\n".join(seen)}


@pytest.fixture(scope="module")
def run(tmp_path_factory, free_ports):
    """One run, seen from outside by all means."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "chains").mkdir()
    for at in range(UNITS):
        rows = "".join(f">n{at * ROWS + row}\nMKT\n" for row in range(ROWS))
        (folder / "chains" / f"{at}.fasta").write_text(rows)
    (folder / "line.toml").write_text(FILE)
    [port] = free_ports(1)
    with collector() as server:
        given = {"LAKE_TOKEN": "planted-environment", "PYTHONPATH": str(HERE), "PENSTOCK_METRICS_PORT": str(port)}
        given |= {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
        given |= {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=planted-header", "NO_PROXY": "127.0.0.1"}
        command = [sys.executable, "-m", "penstock", "run", "line.toml", "--log-file", "log.jsonl"]
        command += ["--metrics-file", "run.prom"]
        with (folder / "err").open("w") as err, (folder / "out.txt").open("w") as out:
            process = subprocess.Popen(command, cwd=folder, env={**os.environ, **given}, stdout=out, stderr=err)
            metrics = scraped(port, process)
            code = process.wait(240)
        assert code == 0, (folder / "err").read_text()
        requests = [ExportTraceServiceRequest.FromString(body) for _, _, body in server.got]
        spans = [span for r in requests for rs in r.resource_spans for ss in rs.scope_spans for span in ss.spans]
        log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        yield SimpleNamespace(folder=folder, metrics=metrics, got=server.got, spans=spans, log=log)


def values(text: str) -> dict[tuple, float]:
    found = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(s.name, *sorted(s.labels.values())): s.value for s in found}


def attributes(span) -> dict:
    return {a.key.removeprefix("penstock."): getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_metrics_are_there_while_it_runs_and_end_as_the_run_did(run):
    middle, last = values(run.metrics["middle"]), values((run.folder / "run.prom").read_text())
    assert middle["penstock_run_planned_units", "lake"] == UNITS
    assert middle["penstock_run_rows_total", "lake"] > 0
    assert ("penstock_run_end_timestamp_seconds", "lake") not in middle
    [end] = [line for line in run.log if line["event"] == "end" and line["pipeline"] == "lake"]
    for name in ("rows", "bad_rows"):
        assert last[f"penstock_run_{name}_total", "lake"] == end[name]
    assert last["penstock_run_units_total", "done", "lake"] == end["done"] == UNITS - 1
    assert last["penstock_run_units_total", "failed", "lake"] == end["failed"] == 1
    assert last["penstock_run_rows_total", "lake"] == end["dataset"]["rows"]
    assert last["penstock_run_step_seconds_sum", "1-function", "lake"] > 0.25 * (UNITS - 1)
    assert last["penstock_run_success", "lake"] == last["penstock_run_success", "scores"] == 1


def test_each_run_is_one_trace_of_which_the_log_knows_the_number(run):
    assert {path for path, _, _ in run.got} == {"/v1/traces"}
    assert {headers["authorization"] for _, headers, _ in run.got} == {"planted-header"}, "as its user wants it"
    roots = {attributes(span)["pipeline"]: span for span in run.spans if not span.parent_span_id}
    assert roots.keys() == {"lake", "scores"}
    assert {line["run"]: line["pipeline"] for line in run.log} == {r.trace_id.hex(): p for p, r in roots.items()}


def test_units_are_children_of_the_run_and_steps_of_units_at_their_times(run):
    [root] = [span for span in run.spans if span.name == "run lake"]
    units = [span for span in run.spans if span.parent_span_id == root.span_id]
    assert len(units) == UNITS
    for unit in units:
        steps = [span for span in run.spans if span.parent_span_id == unit.span_id]
        assert root.start_time_unix_nano <= unit.start_time_unix_nano <= unit.end_time_unix_nano
        assert unit.end_time_unix_nano <= root.end_time_unix_nano
        assert unit.end_time_unix_nano - unit.start_time_unix_nano >= 0.25e9
        if unit.status.code == 2:
            assert not steps
            assert unit.status.message.startswith("step 1-function: 403 at https://lake/x for s3://lake/n12 with ***")
            continue
        assert [step.name for step in steps] == ["read", "1-function", "write"]
        assert [attributes(step)["step"] for step in steps] == ["read", "1-function", "write"]
        for before, after in pairwise(steps):
            assert before.end_time_unix_nano <= after.start_time_unix_nano + 1000
        assert steps[1].end_time_unix_nano - steps[1].start_time_unix_nano >= 0.25e9
        assert attributes(unit)["unit.uri"].endswith(".fasta")
    assert sum(unit.status.code == 2 for unit in units) == 1


def test_the_job_is_told_by_all_three(run):
    last = values((run.folder / "run.prom").read_text())
    assert last["penstock_jobs_submitted_total", "local"] == 1
    assert last["penstock_jobs_ended_total", "failed", "local"] == 1
    assert last["penstock_scheduler_polls_total", "local"] >= 1
    [span] = [span for span in run.spans if span.name == "job"]
    assert (span.status.code, span.status.message) == (2, "exit status 3")
    states = [line["state"] for line in run.log if line["event"] == "job"]
    assert states[0] == "unknown"
    assert states[-1] == "failed"


def test_no_secret_is_in_metrics_spans_or_log(run):
    bodies = "".join(str(ExportTraceServiceRequest.FromString(body)) for _, _, body in run.got)
    said = {"metrics": run.metrics["all"], "file": (run.folder / "run.prom").read_text(), "spans": bodies}
    said["log"] = (run.folder / "log.jsonl").read_text()
    for name, text in said.items():
        assert len(text) > 1000, name
        assert re.findall(r"\S*planted\S*", text) == [], name
    failures = [line for line in run.log if line["event"] == "unit_failed"]
    assert [line["step"] for line in failures] == ["1-function", "1-program"]
    assert failures[1]["message"].endswith("failed: exit status 3")
