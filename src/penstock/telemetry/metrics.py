"""What Prometheus is told of a run (https://prometheus.io/docs/instrumenting/exposition_formats/).

Labels are names that stand in the pipeline file, ``pipeline`` and ``step``, and a few fixed words; never a unit, a
worker or an address. So a million units make no more series than ten.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from penstock.clusters.watch import News
from penstock.core.nouns import Pipeline, Report
from penstock.core.run import Outcome
from penstock.core.work import Failure
from penstock.errors import SpecError, StorageError
from penstock.progress import Counts
from penstock.telemetry.jobs import Change, Jobs

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["RunMetrics", "Textfile", "place_of", "served"]

_SECONDS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_JOB_SECONDS = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_EVERY_SECONDS = 5.0


@dataclass
class RunMetrics:
    """The metrics of the runs of one command and of their jobs, in a registry of their own."""

    registry: CollectorRegistry
    runner: str
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def made(cls, runner: str) -> RunMetrics:
        """With nothing counted. Raises `SpecError` when prometheus-client is missing."""
        try:
            from prometheus_client import CollectorRegistry
        except ModuleNotFoundError as error:
            raise SpecError("metrics need prometheus-client: pip install 'penstock[telemetry]'") from error
        return cls(CollectorRegistry(), runner)

    def __post_init__(self) -> None:
        from prometheus_client import Counter, Gauge, Histogram, Info

        def of(kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
            return kind(
                f"penstock_run{name and '_'}{name}", text, ["pipeline", *labels], registry=self.registry, **more
            )

        self._units = of(
            Counter, "units", "Units by how they ended: done, failed, or skipped as done before.", "outcome"
        )
        self._rows = of(Counter, "rows", "Rows that were written.")
        self._bad_rows = of(Counter, "bad_rows", "Rows that were quarantined.")
        self._written = of(Counter, "written_bytes", "Bytes of the parts that were written.")
        self._seconds = of(Histogram, "step_seconds", "A unit at work in a step.", "step", buckets=_SECONDS)
        self._waited = of(Histogram, "step_waited_seconds", "A unit before a step.", "step", buckets=_SECONDS)
        self._planned = of(Gauge, "planned_units", "Units that there are in all.")
        self._pace = of(Gauge, "rows_per_second", "Rows written, over the last ten seconds or since it was last asked.")
        self._workers = of(Gauge, "workers", "Processes that have finished a unit.")
        self._started = of(Gauge, "start_timestamp_seconds", "When the run began, since 1970.")
        self._ended = of(Gauge, "end_timestamp_seconds", "When the run ended, since 1970.")
        self._success = of(Gauge, "success", "At the end: 1 when a dataset stands, else 0.")
        self._info = of(Info, "", "Which runner and version.")
        self._jobs = JobMetrics(self.registry)

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """A run begins; all series of it stand from here on, so that none is missing while it is 0."""
        name = self._name = pipeline.name
        counts = self._counts = Counts.of(pipeline, units, skipped, self.clock)
        for outcome, count in {"done": 0, "failed": 0, "skipped": skipped}.items():
            self._units.labels(name, outcome).inc(count)
        for counter in (self._rows, self._bad_rows, self._written):
            counter.labels(name).inc(0)
        for step in counts.steps:
            self._seconds.labels(name, step)
            self._waited.labels(name, step)
        self._planned.labels(name).set(units)
        self._pace.labels(name).set_function(_alone(counts.rows_per_second))
        self._workers.labels(name).set_function(lambda: len(counts.workers))
        self._started.labels(name).set(time.time())
        self._info.labels(name).info({"runner": self.runner, "version": version("penstock")})

    def outcome(self, outcome: Outcome) -> None:
        """Count one unit."""
        name, steps = self._name, frozenset(self._counts.steps)
        self._counts.add(outcome)
        if isinstance(outcome, Failure):
            self._units.labels(name, "failed").inc()
            return
        self._units.labels(name, "done").inc()
        self._rows.labels(name).inc(outcome.part.rows)
        self._bad_rows.labels(name).inc(outcome.bad_rows)
        self._written.labels(name).inc(outcome.part.size_bytes)
        for trace in outcome.traces:
            if trace.step in steps:
                self._seconds.labels(name, trace.step).observe(trace.seconds)
                self._waited.labels(name, trace.step).observe(trace.waited_seconds)

    def end(self, report: Report | None) -> None:
        """The run is over."""
        self._ended.labels(self._name).set(time.time())
        self._success.labels(self._name).set(report is not None)

    def job(self, news: News) -> None:
        """See `JobMetrics`."""
        self._jobs.job(news)


class JobMetrics:
    """How the jobs go that runs wait for; the label ``cluster`` is the kind of it, ``slurm`` or ``local``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        def of(kind: Any, name: str, text: str, *labels: str, **more: Any) -> Any:
            return kind(f"penstock_{name}", text, ["cluster", *labels], registry=registry, **more)

        self._known = Jobs()
        self._submitted = of(Counter, "jobs_submitted", "Jobs that were submitted, or found again, and waited for.")
        self._ended = of(
            Counter, "jobs_ended", "Attempts by how they ended: done, failed, cancelled, continued.", "outcome"
        )
        self._retries = of(Counter, "job_retries", "Attempts that were not a job's first.")
        self._now = of(Gauge, "jobs", "Jobs by how they stand: unknown, pending, running.", "state")
        self._queued = of(Histogram, "job_queued_seconds", "From submission until it ran.", buckets=_JOB_SECONDS)
        self._running = of(Histogram, "job_running_seconds", "From then to its end.", buckets=_JOB_SECONDS)
        self._polls = of(Counter, "scheduler_polls", "Times that the scheduler was asked how jobs stand.")

    def job(self, news: News) -> None:
        """Count what a watcher has learned."""
        if not news.native_id:
            self._polls.labels(news.cluster).inc()
        elif change := self._known.hear(news):
            self._changed(change)

    def _changed(self, change: Change) -> None:
        cluster = change.cluster
        if change.before is None:
            self._submitted.labels(cluster).inc()
        else:
            self._now.labels(cluster, change.before.value).dec()
        if not change.ended:
            self._now.labels(cluster, change.status.state.value).inc()
            return
        self._ended.labels(cluster, change.outcome).inc()
        self._retries.labels(cluster).inc(change.status.attempt > 1)
        self._queued.labels(cluster).observe(change.queued_seconds)
        self._running.labels(cluster).observe(change.running_seconds)


def _alone(ask: Callable[[], float]) -> Callable[[], float]:
    """*ask*, by one thread at a time: each who scrapes has one."""
    lock = threading.Lock()

    def asked() -> float:
        with lock:
            return ask()

    return asked


@contextmanager
def served(registry: CollectorRegistry, where: str) -> Iterator[str]:
    """Prometheus may ask at *where* inside; gives the address.

    Raises:
        SpecError: *where* is not ``[HOST:]PORT``.
        StorageError: somebody else has the port.
    """
    from prometheus_client import start_http_server

    host, port = place_of(where)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise StorageError(
            f"metrics cannot be served at {host}:{port}: {error.strerror}; choose another port"
        ) from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def place_of(where: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``. Raises `SpecError`."""
    host, _, port = where.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise SpecError(f"metrics port is {where!r}; a port such as 9100, or HOST:PORT, was needed")
    return host.strip("[]") or "127.0.0.1", int(port)


@dataclass
class Textfile:
    """Writes a registry to a file for node_exporter, whole or not at all, once in five seconds at most."""

    registry: CollectorRegistry
    path: Path
    clock: Callable[[], float] = time.monotonic

    @classmethod
    def made(cls, registry: CollectorRegistry, path: str) -> Textfile:
        """The folder must be there. Raises `SpecError`."""
        found = Path(path)
        if found.suffix != ".prom" or not found.parent.is_dir():
            raise SpecError(f"metrics file is {path!r}; a name that ends in .prom, in a folder that exists, was needed")
        return cls(registry, found)

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """Write that the run begins."""
        self._write()

    def outcome(self, outcome: Outcome) -> None:
        """Write, when the file is old enough."""
        if self.clock() - self._written >= _EVERY_SECONDS:
            self._write()

    def job(self, news: News) -> None:
        """The same when a job stands otherwise, while no unit ends."""
        if self.clock() - self._written >= _EVERY_SECONDS:
            self._write()

    def end(self, report: Report | None) -> None:
        """Write how the run ended."""
        self._write()

    def _write(self) -> None:
        from prometheus_client import write_to_textfile

        self._written = self.clock()
        write_to_textfile(str(self.path), self.registry)
