"""What is shown while a run goes on: one display on a terminal, one JSON object a line elsewhere.

The JSON lines (`JsonLines`) have stable fields, so that a log collector can read them:

=====================  ==============================================================================
``event``              ``begin``, ``progress`` (at most one in ``every_seconds``) or ``end``
``time``               seconds since 1970
``pipeline``           its name
``units``              how many there are in all
``skipped``            of these, done by an earlier run
``done``, ``failed``   units that this run has finished, and that it could not
``rows``, ``bad_rows``  rows written and quarantined by this run
``seconds``            since the run began
``rows_per_second``    over the last seconds
``seconds_left``       estimate; null while nothing is known
``workers``            how many have finished a unit
``steps``              for each step ``busy_share`` (0 to 1) and ``queue`` (mean number of units that wait)
``last_error``         text of the newest failed unit, or null
``ok``                 only at ``end``: whether a dataset stands
``dataset``            only at ``end``: its address, version and rows, or null
=====================  ==============================================================================

Memory does not grow with the number of units.

A training speaks likewise (`CourseLines`): ``event``, ``time``, ``training`` (its name), ``epochs`` (how many there
will be, or null), ``seconds``, ``seconds_left``, and the newest of what it reports: ``epoch``, ``loss`` and so on.
``ok`` stands only at ``end``. A stream says ``stream`` and ``end_time`` instead, and ``solver_time``.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TextIO, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from penstock.core.nouns import Fit, Pipeline, Report, Stream
from penstock.core.run import Outcome, Watch
from penstock.core.work import Failure

__all__ = [
    "Counts",
    "Course",
    "CourseLines",
    "CourseTerminal",
    "Heard",
    "JsonLines",
    "Terminal",
    "fed_for",
    "heard_for",
    "watch_for",
]

Heard: TypeAlias = Callable[[Mapping[str, float]], None]
"""Takes what a training says of how it goes."""

_WINDOW_SECONDS = 10.0
_FRAMES_PER_SECOND = 4
_ERROR_CHARACTERS = 300


def watch_for(stream: TextIO) -> Watch:
    """A display when *stream* is a terminal, JSON lines when it is a file or a pipe."""
    return Terminal(stream) if stream.isatty() else JsonLines(stream)


@dataclass
class _Load:
    """How long units were worked on by one step, and how long they waited before it."""

    seconds: float = 0.0
    waited_seconds: float = 0.0


@dataclass
class Counts:
    """The counters of one run; *clock* gives seconds that never go back."""

    pipeline: str
    units: int
    skipped: int
    steps: dict[str, _Load]
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    failed: int = 0
    rows: int = 0
    bad_rows: int = 0
    written_bytes: int = 0
    last_error: str | None = None
    workers: set[str] = field(default_factory=set)
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.started = self.clock()
        self._samples.append((self.started, 0))

    @classmethod
    def of(cls, pipeline: Pipeline, units: int, skipped: int, clock: Callable[[], float] = time.monotonic) -> Counts:
        """Counters at zero, with a line for each step of *pipeline*."""
        names = ["read", *(f"{at}-{step.name}" for at, step in enumerate(pipeline.steps, 1)), "write"]
        return cls(pipeline.name, units, skipped, {name: _Load() for name in names}, clock)

    def add(self, outcome: Outcome) -> None:
        """Count one unit; cheap, since it is called for each of a million."""
        if isinstance(outcome, Failure):
            self.failed += 1
            self.last_error = outcome.error[:_ERROR_CHARACTERS]
            return
        self.done += 1
        self.rows += outcome.part.rows
        self.bad_rows += outcome.bad_rows
        self.written_bytes += outcome.part.size_bytes
        self.workers.add(outcome.worker)
        for trace in outcome.traces:
            load = self.steps.setdefault(trace.step, _Load())
            load.seconds += trace.seconds
            load.waited_seconds += trace.waited_seconds
            self.workers.add(trace.worker or outcome.worker)

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return self.clock() - self.started

    @property
    def finished(self) -> int:
        """Units that need no more work: done now or before, or failed."""
        return self.skipped + self.done + self.failed

    def rows_per_second(self) -> float:
        """Over the last ten seconds, or since it was last asked for; takes a sample."""
        now = self.clock()
        while len(self._samples) > 1 and now - self._samples[1][0] >= _WINDOW_SECONDS:
            self._samples.popleft()
        then, rows = self._samples[0]
        self._samples.append((now, self.rows))
        return (self.rows - rows) / (now - then) if now > then else 0.0

    def seconds_left(self) -> float | None:
        """The time that the rest takes at the mean pace so far."""
        paced = self.done + self.failed
        return None if paced == 0 else self.seconds / paced * (self.units - self.finished)

    def busy_share(self, step: str) -> float:
        """Seconds at work over seconds there were: of all workers seen, since the run began."""
        there_were = self.seconds * max(len(self.workers), 1)
        return self.steps[step].seconds / there_were if there_were else 0.0

    def queue(self, step: str) -> float:
        """Mean number of units that wait before *step*, by Little's law (doi:10.1287/opre.9.3.383)."""
        seconds = self.seconds
        return self.steps[step].waited_seconds / seconds if seconds else 0.0


class JsonLines:
    """One JSON object a line; the fields are described at the top of this module."""

    def __init__(self, stream: TextIO, every_seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._every, self._clock = stream, every_seconds, clock

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """Say that the run starts."""
        self._counts = Counts.of(pipeline, units, skipped, self._clock)
        self._said = self._clock()
        self._say("begin", {})

    def outcome(self, outcome: Outcome) -> None:
        """Count; say so when the last line is old enough."""
        self._counts.add(outcome)
        if self._clock() - self._said >= self._every:
            self._said = self._clock()
            self._say("progress", {})

    def end(self, report: Report | None) -> None:
        """Say how the run ended."""
        made = report and {key: getattr(report.manifest, key) for key in ("uri", "version", "rows")}
        self._say("end", {"ok": report is not None, "dataset": made})

    def _say(self, event: str, more: Mapping[str, Any]) -> None:
        self.write({"event": event, "time": round(time.time(), 3), **_fields(self._counts), **more})

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line."""
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()


def _fields(counts: Counts) -> dict[str, Any]:
    plain = ("pipeline", "units", "skipped", "done", "failed", "rows", "bad_rows")
    left = counts.seconds_left()
    return {
        **{key: getattr(counts, key) for key in plain},
        "seconds": round(counts.seconds, 3),
        "rows_per_second": round(counts.rows_per_second(), 3),
        "seconds_left": None if left is None else round(left, 1),
        "workers": len(counts.workers),
        "steps": {
            step: {"busy_share": round(counts.busy_share(step), 4), "queue": round(counts.queue(step), 3)}
            for step in counts.steps
        },
        "last_error": counts.last_error,
    }


class Terminal:
    """One display that is drawn again four times a second, and a summary when the run is over."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._lock = threading.Lock()

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """Start to draw."""
        self._counts = Counts.of(pipeline, units, skipped)
        self._live = Live(
            get_renderable=self._drawn,
            console=self._console,
            refresh_per_second=_FRAMES_PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # what is printed into a file or pipe belongs there
        )
        self._live.start()

    def outcome(self, outcome: Outcome) -> None:
        """Count; the display's own thread draws."""
        with self._lock:
            self._counts.add(outcome)

    def end(self, report: Report | None) -> None:
        """Take the display away and leave a summary."""
        self._live.stop()
        self._console.print(_stopped(self._counts) if report is None else _finished(self._counts, report))

    def _drawn(self) -> RenderableType:
        with self._lock:
            return _display(self._counts)


def _display(counts: Counts) -> RenderableType:
    lines: list[RenderableType] = [_headline(counts), _figures(counts)]
    if counts.last_error is not None:
        lines.append(Text(f"  {counts.last_error}", style="red", no_wrap=True, overflow="ellipsis"))
    return Group(*lines, _steps(counts))


def _headline(counts: Counts) -> RenderableType:
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(counts.pipeline, style="bold"),
        ProgressBar(total=max(counts.units, 1), completed=counts.finished, width=30),
        f"{counts.finished:,} of {counts.units:,} units",
        _left(counts),
    )
    return line


def _left(counts: Counts) -> str:
    left = counts.seconds_left()
    return f"{_clock(counts.seconds)} so far" + ("" if left is None else f", {_clock(left)} left")


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _figures(counts: Counts) -> Text:
    text = Text(f"  {counts.rows:,} rows, {counts.rows_per_second():,.0f} rows/s")
    text.append(f", {counts.bad_rows:,} bad rows", "yellow" if counts.bad_rows else "")
    text.append(f", {counts.failed:,} failed units", "red" if counts.failed else "")
    return text


def _steps(counts: Counts) -> Table:
    table = Table.grid(padding=(0, 2))
    for step in counts.steps:
        share = counts.busy_share(step)
        bar = ProgressBar(total=1.0, completed=min(share, 1.0), width=12)
        table.add_row(f"  {step}", bar, f"{share:4.0%} busy", f"{counts.queue(step):,.1f} waiting")
    return table


def _finished(counts: Counts, report: Report) -> Text:
    pace = counts.rows / report.seconds if report.seconds else 0.0
    text = Text.assemble(
        (f"{counts.pipeline} is done", "bold green"), f": {report.rows:,} rows in {report.manifest.uri}"
    )
    text.append(f" (version {report.manifest.version})\n")
    text.append(f"  {counts.done:,} units in {_clock(report.seconds)}, {pace:,.0f} rows/s")
    text.append(f", {report.skipped:,} done before" if report.skipped else "")
    return _losses(text, report.bad_rows, report.bad_units)


def _stopped(counts: Counts) -> Text:
    kept = counts.skipped + counts.done
    text = Text.assemble((f"{counts.pipeline} has stopped", "bold red"), f" after {_clock(counts.seconds)}\n")
    text.append(f"  {kept:,} of {counts.units:,} units are done and kept for the next run")
    return _losses(text, counts.bad_rows, counts.failed)


def _losses(text: Text, bad_rows: int, failed: int) -> Text:
    text.append(f"\n  {bad_rows:,} bad rows are in quarantine" if bad_rows else "", "yellow")
    text.append(f"\n  {failed:,} units failed" if failed else "", "red")
    return text


# --- trainings -------------------------------------------------------------------------------------------


def heard_for(stream: TextIO, fit: Fit) -> AbstractContextManager[Heard]:
    """Where a training says how it goes: a display when *stream* is a terminal, else JSON lines."""
    return _heard(stream, Course.of(fit))


def fed_for(stream: TextIO, fed: Stream) -> AbstractContextManager[Heard]:
    """Where a stream says how its solver goes, as trainings do: its ``solver_time`` of ``end_time``."""
    return _heard(stream, Course.of(fed))


@contextmanager
def _heard(stream: TextIO, course: Course) -> Iterator[Heard]:
    display = CourseTerminal(stream) if stream.isatty() else CourseLines(stream)
    display.begin(course)
    try:
        yield display.heard
    except BaseException:
        display.end(ok=False)
        raise
    display.end(ok=True)


@dataclass
class Course:
    """How far a training or a fed solver is: what it said last, and at which pace it goes.

    Attributes:
        kind: ``training`` or ``stream``.
        name: what it is called.
        measure: the metric that says how far it is: ``epoch``, or ``solver_time`` in seconds of the flow.
        end: where that will end; None where nobody says.
        ended: what is told of it when it has ended well, and when not.
        clock: gives seconds that never go back.
    """

    kind: Literal["training", "stream"]
    name: str
    measure: str
    end: float | None
    ended: tuple[str, str]
    clock: Callable[[], float] = time.monotonic
    last: dict[str, float | None] = field(default_factory=dict)
    _first: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        self.started = self.clock()

    @classmethod
    def of(cls, line: Fit | Stream, clock: Callable[[], float] = time.monotonic) -> Course:
        """Nothing was said yet."""
        if isinstance(line, Fit):
            ended = "is trained", "has stopped; what was published is kept"
            return cls("training", line.name, "epoch", getattr(line.training, "epochs", None), ended, clock)
        ended = "has ended", "has stopped; the solver's last time is kept"
        return cls("stream", line.name, "solver_time", None, ended, clock)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Keep the newest; JSON knows no numbers that are not finite."""
        self.last |= {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.end = self.last.pop("end_time", None) or self.end
        self._first = self._first or (self.clock(), self.at)

    @property
    def at(self) -> float:
        """How far it is, by its measure."""
        return self.last.get(self.measure) or 0.0

    @property
    def seconds(self) -> float:
        """Since it began."""
        return self.clock() - self.started

    def seconds_left(self) -> float | None:
        """What the rest takes at the pace since the first word: a training that goes on begins in its middle."""
        if self._first is None or self.end is None or self.at <= self._first[1]:
            return None
        return (self.clock() - self._first[0]) / (self.at - self._first[1]) * max(self.end - self.at, 0.0)


class CourseLines:
    """One JSON object for each word; see the top of this module."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, course: Course) -> None:
        """Say that it starts."""
        self._course = course
        self._say("begin", {})

    def heard(self, metrics: Mapping[str, float]) -> None:
        """Say how it goes."""
        self._course.add(metrics)
        self._say("progress", {})

    def end(self, *, ok: bool) -> None:
        """Say how it ended."""
        self._say("end", {"ok": ok})

    def _say(self, event: str, more: Mapping[str, Any]) -> None:
        course, left = self._course, self._course.seconds_left()
        line = {
            "event": event,
            "time": round(time.time(), 3),
            course.kind: course.name,
            "epochs" if course.kind == "training" else "end_time": course.end,
            "seconds": round(course.seconds, 3),
            "seconds_left": None if left is None else round(left, 1),
            **course.last,
            **more,
        }
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()


class CourseTerminal:
    """One display that is drawn again four times a second, and a summary at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._lock = threading.Lock()

    def begin(self, course: Course) -> None:
        """Start to draw."""
        self._course = course
        self._live = Live(
            get_renderable=self._drawn,
            console=self._console,
            refresh_per_second=_FRAMES_PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
        )
        self._live.start()

    def heard(self, metrics: Mapping[str, float]) -> None:
        """Keep it; the display's own thread draws."""
        with self._lock:
            self._course.add(metrics)

    def end(self, *, ok: bool) -> None:
        """Take the display away and leave a summary."""
        self._live.stop()
        course = self._course
        how = (course.ended[0], "bold green") if ok else (course.ended[1], "bold red")
        self._console.print(Text.assemble((f"{course.name} {how[0]}", how[1]), f" in {_clock(course.seconds)}"))
        if course.last:
            self._console.print(_words(course))

    def _drawn(self) -> RenderableType:
        with self._lock:
            return Group(_bar(self._course), _words(self._course))


def _bar(course: Course) -> RenderableType:
    line, left = Table.grid(padding=(0, 2)), course.seconds_left()
    of = "" if course.end is None else f" of {course.end:g}"
    line.add_row(
        Text(course.name, style="bold"),
        ProgressBar(total=course.end, completed=course.at, width=30),
        f"{course.measure} {course.at:.2f}{of}" if course.last else "starting",
        f"{_clock(course.seconds)} so far" + ("" if left is None else f", {_clock(left)} left"),
    )
    return line


def _words(course: Course) -> Text:
    """What was said last, in its own words."""
    rest = ((name, value) for name, value in course.last.items() if name != course.measure)
    return Text("  " + ", ".join(f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in rest))
