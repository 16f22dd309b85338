"""A run seen from outside: metrics, spans and a log, each only where it was asked for.

All three look on by the seam that the display has, `penstock.core.run.Watch`, so they work with every runner. What
was not asked for is not imported. What goes wrong here is said once and never ends a run.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from penstock.core.run import Watch
from penstock.telemetry.logs import Log
from penstock.telemetry.metrics import RunMetrics, Textfile, served
from penstock.telemetry.spans import Spans, exporting
from penstock.telemetry.watching import Several

__all__ = ["Around", "Settings", "observing"]

Around: TypeAlias = Callable[[Watch], Watch]
"""Gives a run's watch company; asked once for each run, whose id it makes."""


@dataclass(frozen=True)
class Settings:
    """What is told of runs, and where to; by default nothing.

    Attributes:
        metrics_port: ``[HOST:]PORT`` at which Prometheus may ask, of this machine's loopback where no host is said.
        metrics_file: the same for the textfile collector of node_exporter; its name ends in ``.prom``.
        trace: an OTLP/HTTP collector (``http://HOST:4318``), or a file for lines of OTLP JSON.
        trace_by_environment: ``OTEL_EXPORTER_OTLP_ENDPOINT`` or its like says where the collector is.
        trace_units: about how many units of a run have spans; failed ones always have.
        log_file: is given one JSON object a line.
    """

    metrics_port: str = ""
    metrics_file: str = ""
    trace: str = ""
    trace_by_environment: bool = False
    trace_units: int = 1000
    log_file: str = ""


@contextmanager
def observing(settings: Settings, runner: str, warn: Callable[[str], None]) -> Iterator[Around]:
    """Everything that was asked for is open inside.

    Args:
        settings: what was asked for.
        runner: the runner's name.
        warn: is given a text when something could not be told; the run goes on.

    Raises:
        SpecError: a setting cannot be understood, or needs a package that is missing.
        StorageError: a file or port cannot be had.
    """
    with ExitStack() as stack:
        kinds = _kinds(settings, runner, warn, stack)

        def around(display: Watch) -> Watch:
            run = uuid.uuid4().hex
            return Several(display, [watch for kind in kinds for watch in kind(run)], warn) if kinds else display

        yield around


_Kind: TypeAlias = Callable[[str], list[Watch]]


def _kinds(settings: Settings, runner: str, warn: Callable[[str], None], stack: ExitStack) -> list[_Kind]:
    """For each thing that was asked for, how it is made for one run, of which the id is given."""
    kinds = list[_Kind]()
    if settings.metrics_port or settings.metrics_file:
        counted: list[Watch] = [metrics := RunMetrics.made(runner)]
        if settings.metrics_port:
            stack.enter_context(served(metrics.registry, settings.metrics_port))
        if settings.metrics_file:
            counted.append(Textfile.made(metrics.registry, settings.metrics_file))
        kinds.append(lambda _: counted)
    if settings.trace or settings.trace_by_environment:
        tracer = stack.enter_context(exporting(settings.trace, warn))
        kinds.append(lambda run: [Spans(tracer(run), run, runner, settings.trace_units)])
    if settings.log_file:
        log = stack.enter_context(Log.file(settings.log_file))
        kinds.append(lambda run: [Log(log, run)])
    return kinds
