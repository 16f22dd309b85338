"""The display on a terminal and the JSON lines, from one set of counters."""

import io
import json
import sys
import threading
import time
import tracemalloc
from dataclasses import dataclass
from types import SimpleNamespace

import pyarrow as pa
import pytest

from penstock.core.dataset import Manifest
from penstock.core.nouns import Part, Pipeline, Record, Report, Step, Trace, Unit
from penstock.core.work import Failure
from penstock.progress import Counts, JsonLines, Terminal, watch_for

UNIT = Unit.of("a.txt", "e", 0, 10)


class Clock:
    """A clock that is moved by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@dataclass(frozen=True)
class Shout:
    """A stage by name only."""


def pipeline():
    return Pipeline("letters", SimpleNamespace(uri="in"), SimpleNamespace(uri="out"), (Step(Shout()),))


def record(rows=10, bad_rows=0, worker="host:1", seconds=1.0, waited=0.5):
    traces = (
        Trace("read", seconds, 0.0, rows, rows, 0),
        Trace("1-shout", 2 * seconds, waited, rows, rows, bad_rows),
        Trace("write", seconds, 0.0, rows, rows, 0),
    )
    return Record("k" * 64, Part("p", rows, "s", 1), (), bad_rows, traces, worker, 0.0, 0)


def report(rows=30):
    manifest = Manifest("/data/out", 3, "parquet", pa.schema([]), rows, 0, "f", "s")
    return Report("letters", "inline", manifest, 5, 1, rows, 2, 1, 10.0)


def counts(units=10, skipped=0):
    clock = Clock()
    return Counts.of(pipeline(), units, skipped, clock), clock


def test_a_step_is_listed_before_anything_has_happened():
    found, _ = counts()
    assert list(found.steps) == ["read", "1-shout", "write"]
    assert found.seconds_left() is None
    assert found.busy_share("read") == found.queue("read") == found.rows_per_second() == 0.0


def test_busy_share_is_seconds_at_work_over_wall_times_workers():
    found, clock = counts()
    for worker in ("a:1", "b:2"):
        for _ in range(2):
            found.add(record(worker=worker, seconds=1.0))
    clock.now += 5
    assert found.busy_share("1-shout") == pytest.approx(4 * 2.0 / (5 * 2))
    assert found.busy_share("write") == pytest.approx(4 * 1.0 / (5 * 2))


def test_queue_length_obeys_littles_law_in_a_replayed_queue():
    """Ten units wait together and are served one a second: 9+8+...+0 unit-seconds of waiting in ten seconds."""
    found, clock = counts()
    for at in range(10):
        clock.now += 1
        found.add(record(waited=float(at)))
    mean_waiting = sum(10 - second - 1 for second in range(10)) / 10
    assert found.queue("1-shout") == pytest.approx(mean_waiting)


def test_rows_per_second_forgets_what_is_long_ago():
    found, clock = counts()
    for rows in [1000] * 50 + [10] * 50:
        clock.now += 1
        found.add(record(rows=rows))
        pace = found.rows_per_second()
    assert pace == pytest.approx(10)


def test_time_left_leaves_out_the_units_that_were_skipped():
    found, clock = counts(units=10, skipped=4)
    found.add(record())
    found.add(Failure(UNIT, "no"))
    clock.now += 4
    assert found.finished == 6
    assert found.seconds_left() == pytest.approx(2.0 * 4)


def test_json_lines_come_at_the_start_now_and_then_and_at_the_end():
    stream, clock = io.StringIO(), Clock()
    watch = JsonLines(stream, every_seconds=5.0, clock=clock)
    watch.begin(pipeline(), 5, 1)
    for _ in range(3):
        clock.now += 3
        watch.outcome(record(bad_rows=1))
    watch.outcome(Failure(UNIT, "broken zip"))
    watch.end(report())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["begin", "progress", "end"]
    begin, progress, end = lines
    assert (begin["pipeline"], begin["units"], begin["skipped"], begin["done"]) == ("letters", 5, 1, 0)
    assert begin["seconds_left"] is None
    assert (progress["done"], progress["rows"], progress["bad_rows"], progress["seconds"]) == (2, 20, 2, 6.0)
    assert (end["done"], end["failed"], end["last_error"], end["ok"]) == (3, 1, "broken zip", True)
    assert end["dataset"] == {"uri": "/data/out", "version": 3, "rows": 30}
    assert set(end["steps"]) == {"read", "1-shout", "write"}
    assert end["steps"]["1-shout"] == {
        "busy_share": pytest.approx(6 / 9, abs=1e-3),
        "queue": pytest.approx(1.5 / 9, abs=1e-3),
    }


def test_every_field_of_the_json_lines_is_documented():
    stream = io.StringIO()
    watch = JsonLines(stream)
    watch.begin(pipeline(), 1, 0)
    watch.end(None)
    line = json.loads(stream.getvalue().splitlines()[-1])
    assert (line["ok"], line["dataset"]) == (False, None)
    import penstock.progress

    assert all(f"``{name}``" in penstock.progress.__doc__ for name in line)


def test_the_watch_follows_the_stream():
    assert isinstance(watch_for(Screen()), Terminal)
    assert isinstance(watch_for(io.StringIO()), JsonLines)


def shown(end, monkeypatch, *outcomes):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    screen = Screen()
    watch = Terminal(screen)
    watch.begin(pipeline(), 5, 1)
    for outcome in outcomes:
        watch.outcome(outcome)
    time.sleep(0.4)
    watch.end(end)
    return screen.getvalue()


def test_the_terminal_shows_units_rows_steps_and_the_newest_error(monkeypatch):
    text = shown(report(), monkeypatch, record(), record(bad_rows=2), Failure(UNIT, "broken zip"))
    for words in (
        "4 of 5 units",
        "20 rows",
        "2 bad rows",
        "1 failed units",
        "1-shout",
        "waiting",
        "busy",
        "broken zip",
    ):
        assert words in text
    assert "letters is done" in text
    assert "30 rows in /data/out (version 3)" in text
    assert "2 bad rows are in quarantine" in text


def test_the_terminal_says_what_is_kept_when_a_run_stops(monkeypatch):
    text = shown(None, monkeypatch, record(), record())
    assert "letters has stopped" in text
    assert "3 of 5 units are done and kept for the next run" in text


def test_the_terminal_leaves_no_thread_behind(monkeypatch):
    before = set(threading.enumerate())
    shown(report(), monkeypatch, record())
    for thread in set(threading.enumerate()) - before:
        thread.join(1)
        assert not thread.is_alive()


def test_what_is_printed_into_a_pipe_stays_there(monkeypatch, capsys):
    watch = Terminal(Screen())
    watch.begin(pipeline(), 1, 0)
    sys.stdout.write("a result\n")
    watch.end(report())
    assert capsys.readouterr().out == "a result\n"


def test_a_name_with_markup_is_shown_as_it_is(monkeypatch):
    assert "[bold]x[/nope]" in shown(report(), monkeypatch, Failure(UNIT, "[bold]x[/nope]"))


def test_memory_does_not_grow_with_the_number_of_units():
    stream = io.StringIO()
    watch = JsonLines(stream)
    watch.begin(pipeline(), 200_000, 0)
    outcomes = [record(worker=f"host:{at}") for at in range(8)] + [Failure(UNIT, "e" * 10_000)]
    for outcome in outcomes * 10:
        watch.outcome(outcome)
    tracemalloc.start()
    for at in range(20_000):
        watch.outcome(outcomes[at % len(outcomes)])
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 20_000
