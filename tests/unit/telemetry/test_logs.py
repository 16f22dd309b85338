"""The log of a run."""

import io
import json
from dataclasses import replace

import pytest
from seeing import RUN

from penstock.core.nouns import Pipeline, Step, Unit
from penstock.core.work import Failure
from penstock.errors import RunError, StorageError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet
from penstock.telemetry.logs import Log
from penstock.testing.parts import Numbers, Squares

EVERY = {"time", "level", "run", "pipeline", "event", "unit", "step", "message"}


@pytest.fixture
def pipeline(tmp_path) -> Pipeline:
    source, sink = Numbers(9, 10, broken=(4,)), Parquet(str(tmp_path / "out"))
    return Pipeline("line", source, sink, (Step(Squares(bad=(5, 7, 33))),), max_bad_units=1)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_each_loss_has_a_line_and_every_line_has_the_same_fields(pipeline, tmp_path):
    stream = io.StringIO()
    report = Inline().run(pipeline, Log(stream, RUN))
    found = lines(stream)
    assert all(line.keys() >= EVERY and line["run"] == RUN and line["pipeline"] == "line" for line in found)
    events = ["begin", "rows_quarantined", "rows_quarantined", "unit_failed", "end"]
    assert [line["event"] for line in found] == events
    aside = [line for line in found if line["event"] == "rows_quarantined"]
    assert [(line["step"], line["rows"], line["level"]) for line in aside] == [
        ("1-squares", 2, "warning"),
        ("1-squares", 1, "warning"),
    ]
    assert sum(line["rows"] for line in aside) == report.bad_rows
    assert all((tmp_path / "out" / line["file"]).exists() for line in aside)
    [failed] = [line for line in found if line["event"] == "unit_failed"]
    assert failed["message"] == "unit 4 cannot be read, as the test wants it"
    assert (failed["level"], failed["uri"], failed["start"], failed["stop"]) == ("error", "numbers", 40, 50)
    assert failed["unit"] == Unit.of("numbers", "1", 40, 50).key
    end = found[-1]
    assert (end["level"], end["ok"], end["message"]) == ("info", True, "line has ended: 9 of 9 units")


@pytest.mark.parametrize(
    ("error", "step"),
    [
        ("step 2-encode: ValueError: x", "2-encode"),
        ("reading s3://b/k [0:1]: OSError: x", "read"),
        ("writing s3://b/k: OSError: x", "write"),
        ("something else: x", None),
    ],
)
def test_the_step_is_the_one_that_the_failure_names(pipeline, error, step):
    stream = io.StringIO()
    log = Log(stream, RUN)
    log.begin(pipeline, 1, 0)
    log.outcome(Failure(Unit.of("a", "1", 0, 1), error))
    assert lines(stream)[1]["step"] == step


def test_the_unit_that_ends_the_run_has_a_line_and_the_end_is_an_error(pipeline):
    class Liar(Squares):
        def schema(self, given):
            return given

    stream = io.StringIO()
    with pytest.raises(RunError, match="promised"):
        Inline().run(replace(pipeline, steps=(Step(Liar()),)), Log(stream, RUN))
    found = lines(stream)
    assert [line["event"] for line in found] == ["begin", "unit_failed", "end"]
    assert found[1]["step"] == "1-liar"
    assert (found[2]["level"], found[2]["ok"], found[2]["dataset"]) == ("error", False, None)
    assert found[2]["message"] == "line has stopped: 1 of 9 units"


def test_lines_are_added_to_a_file(tmp_path):
    for _ in range(2):
        with Log.file(str(tmp_path / "log")) as stream:
            stream.write("x\n")
    assert (tmp_path / "log").read_text() == "x\nx\n"


def test_a_file_that_cannot_be_written_is_an_error_at_the_start(tmp_path):
    with pytest.raises(StorageError, match=r"the log file .* cannot be written: .*; choose another place"):
        Log.file(str(tmp_path / "none" / "log")).__enter__()
