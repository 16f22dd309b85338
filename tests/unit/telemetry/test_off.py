"""What was not asked for costs nothing, and what goes wrong ends no run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.core.nouns import Pipeline
from penstock.core.run import Quiet
from penstock.errors import SpecError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.telemetry import Settings, observing
from penstock.telemetry.watching import Several
from penstock.testing.parts import Numbers

OFF = """
import json, sys
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("socket.") else None)
from penstock.cli import app
try:
    app(["run", "line.toml"])
except SystemExit as end:
    code = end.code
heavy = {"prometheus_client", "opentelemetry", "google", "requests"} & {name.split(".")[0] for name in sys.modules}
print(json.dumps({"code": code, "sockets": sorted(set(seen)), "heavy": sorted(heavy)}))
"""
PIPELINE = """
source = { use = "fasta", uri = "chains.fasta" }
sink = { use = "parquet", uri = "out" }

[[step]]
use = "clean"
alphabet = "protein"
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "chains.fasta").write_text(">a\nMKT\n>b\nM1T\n>c\nGAV\n")
    (tmp_path / "line.toml").write_text(PIPELINE)
    return tmp_path


def clean() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "PENSTOCK_"))}


def test_without_an_option_no_socket_is_opened_and_nothing_is_imported(folder):
    done = subprocess.run([sys.executable, "-c", OFF], cwd=folder, env=clean(), capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0, done.stderr
    assert set(found["sockets"]) <= {"socket.gethostname"}, "workers are named by their host"
    assert found["heavy"] == []


def test_off_gives_the_display_itself():
    display = Quiet()
    with observing(Settings(), "inline", print) as around:
        assert around(display) is display


def test_each_run_has_an_id_of_its_own(tmp_path):
    log = tmp_path / "log.jsonl"
    with observing(Settings(log_file=str(log)), "inline", print) as around:
        for name in ("one", "two"):
            Inline().run(Pipeline(name, Numbers(2), Parquet(str(tmp_path / name))), around(Quiet()))
    ids = {json.loads(line)["pipeline"]: json.loads(line)["run"] for line in log.read_text().splitlines()}
    assert ids["one"] != ids["two"]
    assert {len(run) for run in ids.values()} == {32}


@pytest.mark.parametrize(
    ("setting", "module", "text"),
    [
        (
            {"metrics_port": "0"},
            "prometheus_client",
            "metrics need prometheus-client: pip install 'penstock[telemetry]'",
        ),
        ({"trace": "x"}, "opentelemetry.sdk.trace", "need OpenTelemetry: pip install 'penstock[telemetry]'"),
        ({"trace": "x"}, "opentelemetry.exporter.otlp.proto.http.trace_exporter", "need OpenTelemetry: pip install"),
    ],
)
def test_a_missing_package_is_said_with_what_to_install(monkeypatch, setting, module, text):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SpecError) as error:
        observing(Settings(**setting), "inline", print).__enter__()
    assert text in str(error.value)


def test_one_that_fails_is_heard_no_more_and_the_run_goes_on(tmp_path):
    class Broken(Quiet):
        def outcome(self, outcome):
            raise OSError("no space left on s3://b/k?sig=planted")

    class Counting(Quiet):
        heard = 0

        def outcome(self, outcome):
            self.heard += 1

    warned, display, other = [], Counting(), Counting()
    line = Pipeline("line", Numbers(5), Parquet(str(tmp_path / "out")))
    report = Inline().run(line, Several(display, [Broken(), other], warned.append))
    assert report.units == display.heard == other.heard == 5
    assert warned == ["broken of this run ended early: OSError: no space left on s3://b/k"]
