"""Options of `penstock run` by which it is seen from outside."""

import json

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.commands.observing import settings
from penstock.telemetry import Settings

PIPELINE = """
source = { use = "fasta", uri = "chains.fasta" }
sink = { use = "parquet", uri = "out" }
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "chains.fasta").write_text(">a\nMKT\n")
    path = tmp_path / "line.toml"
    path.write_text(PIPELINE)
    return path


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_nothing_is_told_by_default(file):
    assert settings("", "", "", Settings.trace_units, "") == Settings()


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"])
def test_the_variables_of_opentelemetry_turn_spans_on_and_off(file, monkeypatch, name):
    monkeypatch.setenv(name, "http://127.0.0.1:4318")
    assert settings("", "", "", 1000, "").trace_by_environment
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    assert not settings("", "", "", 1000, "").trace_by_environment


def test_options_are_variables_too(file, tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_LOG_FILE", str(tmp_path / "log.jsonl"))
    monkeypatch.setenv("PENSTOCK_TRACE", str(tmp_path / "spans.jsonl"))
    assert call("run", file, "--metrics-file", tmp_path / "run.prom").exit_code == 0
    [run] = {json.loads(line)["run"] for line in (tmp_path / "log.jsonl").read_text().splitlines()}
    assert f'"traceId": "{run}"' in (tmp_path / "spans.jsonl").read_text()
    assert 'penstock_run_success{pipeline="line"} 1.0' in (tmp_path / "run.prom").read_text()


def test_a_wrong_port_is_said_before_anything_starts(file):
    done = call("run", file, "--metrics-port", "http")
    assert done.exit_code == 2
    assert "metrics port is 'http'; a port such as 9100, or HOST:PORT, was needed" in done.stderr
    assert not (file.parent / "out").exists()


def test_a_collector_that_is_away_is_a_warning_and_the_run_is_done(file, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    done = call("run", file, "--trace", "http://127.0.0.1:9")
    assert done.exit_code == 0
    assert "line: 1 rows" in done.stdout
    assert done.stderr.count("warning: spans: ") == 1
    assert "what follows of this kind is not shown" in done.stderr
