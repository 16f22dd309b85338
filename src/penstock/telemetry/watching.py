"""Several watches in the place of one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from penstock.clusters.watch import News
from penstock.core.nouns import Pipeline, Report, Unit
from penstock.core.run import Outcome, Watch
from penstock.telemetry.redacting import said

__all__ = ["Several"]


class Several:
    """A display and those who look on beside it; one of these that fails is heard no more, and the run goes on.

    Args:
        display: what there would be without the others.
        others: told first, so that the display has the last word.
        warn: is told once of each that fails.
    """

    def __init__(self, display: Watch, others: Sequence[Watch], warn: Callable[[str], None]) -> None:
        self._display, self._others, self._warn = display, list(others), warn
        self._lock = threading.RLock()

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """See `Watch`."""
        self._tell("begin", pipeline, units, skipped)
        self._display.begin(pipeline, units, skipped)

    def handed(self, unit: Unit) -> None:
        """See `penstock.core.run.Handed`."""
        self._tell("handed", unit)

    def outcome(self, outcome: Outcome) -> None:
        """See `Watch`."""
        self._tell("outcome", outcome)
        self._display.outcome(outcome)

    def end(self, report: Report | None) -> None:
        """See `Watch`."""
        self._tell("end", report)
        with self._lock:
            self._others.clear()  # a watcher of jobs may speak a moment longer
        self._display.end(report)

    def job(self, news: News) -> None:
        """See `penstock.clusters.watch.Hears`; comes from other threads."""
        self._tell("job", news)

    def _tell(self, what: str, *values: Any) -> None:
        with self._lock:
            self._tell_each(what, *values)

    def _tell_each(self, what: str, *values: Any) -> None:
        for watch in tuple(self._others):
            try:
                getattr(watch, what, _nothing)(*values)
            except Exception as error:  # a full disk, a port that is gone: the rows matter more
                self._others.remove(watch)
                name = type(watch).__name__.lower()
                self._warn(f"{name} of this run ended early: {type(error).__name__}: {said(str(error))}")


def _nothing(*values: Any) -> None:
    """What a watch does that does not want to know."""
