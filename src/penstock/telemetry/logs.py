"""The log of a run: one JSON object a line, for a collector of logs.

Every line has the fields of the first table; the others depend on ``event``.

================  ====================================================================================
``time``          seconds since 1970
``level``         ``info``, ``warning`` or ``error``
``run``           id of the run, 32 hexadecimal digits; where there are spans, the id of their trace too
``pipeline``      its name
``event``         ``begin``, ``progress``, ``end``, ``unit_failed``, ``rows_quarantined`` or ``job``
``unit``          key of the unit, or null
``step``          ``read``, ``1-encode``, ..., ``write``, or null
``message``       a sentence, without secrets (`penstock.telemetry.redacting`)
================  ====================================================================================

``begin``, ``progress`` and ``end`` have what the lines of the display have (`penstock.progress`) as well. Of
``unit_failed``, ``uri``, ``start`` and ``stop`` say which unit. Of ``rows_quarantined``, ``rows`` is how many, and
``file`` where below the dataset they lie. Of ``job``, ``cluster`` is the kind of its cluster, ``job`` what the
scheduler calls it, ``state`` how it stands (`penstock.core.nouns.JobState`), ``attempt`` which one it is, from 1, and
``why`` what the scheduler or the exit record says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from penstock.clusters.watch import News
from penstock.core.nouns import Record
from penstock.core.run import Outcome
from penstock.core.work import Failure
from penstock.errors import StorageError
from penstock.progress import JsonLines
from penstock.telemetry.jobs import Jobs
from penstock.telemetry.redacting import address, said

__all__ = ["Log"]


class Log(JsonLines):
    """Lines of one run."""

    def __init__(self, stream: TextIO, run: str) -> None:
        super().__init__(stream)
        self._run, self._jobs = run, Jobs()

    @staticmethod
    @contextmanager
    def file(path: str) -> Iterator[TextIO]:
        """The file of that name, to which lines are added. Raises `StorageError`."""
        with ExitStack() as stack:
            try:
                stream = stack.enter_context(Path(path).open("a", encoding="utf-8"))
            except OSError as error:
                text = f"the log file {path} cannot be written: {error.strerror}; choose another place"
                raise StorageError(text) from error
            yield stream

    def outcome(self, outcome: Outcome) -> None:
        """A line for a unit that failed, and for each step that refused rows of one that did not."""
        super().outcome(outcome)
        if isinstance(outcome, Failure):
            self._failed(outcome)
        elif outcome.bad_rows:
            self._quarantined(outcome)

    def job(self, news: News) -> None:
        """A line when a job stands otherwise than before."""
        change = self._jobs.hear(news) if news.native_id else None
        if change is None:
            return
        status, name = change.status, change.native_id
        bad = change.ended and change.outcome in ("failed", "cancelled")
        facts = {"state": status.state.value, "attempt": status.attempt, "why": said(status.why)}
        text = f"job {name} is {'waited for' if change.before is None else change.outcome}"
        self._note("warning" if bad else "info", "job", text, {"cluster": change.cluster, "job": name, **facts})

    def _failed(self, failure: Failure) -> None:
        unit, step = failure.unit, _step_of(failure.error)
        more = {"uri": address(unit.uri), "start": unit.start, "stop": unit.stop}
        self._note("error", "unit_failed", said(failure.error), {"unit": unit.key, "step": step, **more})

    def _quarantined(self, record: Record) -> None:
        files = {name.split("/")[1]: name for name in record.bad}
        for trace in record.traces:
            if trace.rows_bad:
                text = f"{trace.rows_bad} rows were quarantined by {trace.step}"
                more = {"rows": trace.rows_bad, "file": files.get(trace.step)}
                self._note("warning", "rows_quarantined", text, {"unit": record.unit, "step": trace.step, **more})

    def _note(self, level: str, event: str, message: str, more: Mapping[str, Any]) -> None:
        head = {"time": round(time.time(), 3), "level": level, "run": self._run, "pipeline": self._counts.pipeline}
        super().write({**head, "event": event, "unit": None, "step": None, "message": message, **more})

    def write(self, line: Mapping[str, Any]) -> None:
        """A line of the display, with the fields that every line has."""
        ended = line["event"] == "end"
        verb = {"begin": "begins", "progress": "goes on", "end": "has ended" if line.get("ok") else "has stopped"}
        finished = line["skipped"] + line["done"] + line["failed"]
        message = f"{line['pipeline']} {verb[line['event']]}: {finished} of {line['units']} units"
        last = None if line["last_error"] is None else said(line["last_error"])
        level = "error" if ended and not line["ok"] else "info"
        dataset = {"dataset": _plain(line["dataset"])} if ended else {}
        more = {**line, "last_error": last, **dataset}
        super().write({"level": level, "run": self._run, "unit": None, "step": None, "message": message, **more})


def _plain(made: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    return made and {**made, "uri": address(made["uri"])}


def _step_of(error: str) -> str | None:
    """The step that a failure names, as `penstock.core.work` begins its texts."""
    head = error.partition(":")[0]
    if head.startswith("step "):
        return head.removeprefix("step ")
    return {"reading": "read", "writing": "write"}.get(head.partition(" ")[0])
