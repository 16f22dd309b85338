"""Where the time of units went, as OpenTelemetry tells it: a trace for each run (https://opentelemetry.io/docs/specs/otel).

::

    run                                  from the listing to the commit
    ├── unit                             from its read to its record
    │   ├── read
    │   ├── 1-encode
    │   └── write
    └── job                              an attempt on a cluster, from its submission to its end

The times are those that the workers wrote down, so the spans are made when a unit has ended, in the driver alone, and
workers need no collector. A unit that failed left no times: its span goes from when the runner took it to when its
failure was heard of, and has no steps.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from penstock.clusters.watch import News
from penstock.core.nouns import Pipeline, Record, Report, Trace, Unit
from penstock.core.run import Outcome
from penstock.core.work import Failure
from penstock.errors import SpecError, StorageError
from penstock.telemetry.jobs import Change, Jobs
from penstock.telemetry.redacting import address, said

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

__all__ = ["Spans", "exporting"]

_MOST_WAITING = 8192
"""Spans that wait to be sent; what comes on top takes the place of the oldest."""
_PATH = "/v1/traces"


class Spans:
    """The spans of one run.

    Args:
        tracer: takes them.
        run: id of the run and of its trace, 32 hexadecimal digits.
        runner: its name.
        most: about how many units have spans, spread evenly over the run by their keys; failed ones always have.
    """

    def __init__(self, tracer: Tracer, run: str, runner: str, most: int) -> None:
        self._tracer = tracer
        self._run, self._runner, self._most = run, runner, most
        self._handed: dict[str, tuple[float, str]] = {}
        """When a unit was taken and where it lies, until it has ended; a runner takes ten thousand ahead at most."""
        self._jobs = Jobs()
        self._job_spans: dict[tuple[str, str], Span] = {}

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """The run's own span begins."""
        from opentelemetry.trace import set_span_in_context

        self._bound = int(min(1.0, self._most / max(units - skipped, 1)) * (1 << 32))
        self._pipeline, self._failed = pipeline.name, 0
        facts: dict[str, Any] = {"source": address(pipeline.source.uri), "sink": address(pipeline.sink.uri)}
        facts |= {"runner": self._runner, "units": units, "skipped": skipped}
        self._root = self._tracer.start_span(f"run {pipeline.name}", attributes=self._named(facts))
        self._inside = set_span_in_context(self._root)

    def handed(self, unit: Unit) -> None:
        """Remember where the unit lies."""
        self._handed[unit.key] = time.time(), address(unit.uri)

    def outcome(self, outcome: Outcome) -> None:
        """A unit's spans, where it is one that has them."""
        if isinstance(outcome, Failure):
            began, uri = self._handed.pop(outcome.unit.key, (time.time(), address(outcome.unit.uri)))
            self._failure(outcome, began, uri)
            return
        _, uri = self._handed.pop(outcome.unit, (0.0, ""))
        if int(outcome.unit[:8], 16) < self._bound:
            self._record(outcome, uri)

    def job(self, news: News) -> None:
        """The span of a job begins, goes on to another state, or ends."""
        change = self._jobs.hear(news) if news.native_id else None
        if change is None:
            return
        at = change.cluster, change.native_id
        if change.before is None:
            facts = self._named({"cluster": change.cluster, "job": change.native_id})
            self._job_spans[at] = self._tracer.start_span(
                "job", self._inside, attributes=facts, start_time=_ns(news.time)
            )
        self._job_spans[at].add_event(change.status.state.value, timestamp=_ns(news.time))
        if change.ended:
            self._job_ended(self._job_spans.pop(at), change)

    def _job_ended(self, span: Span, change: Change) -> None:
        facts = {"attempt": change.status.attempt, "outcome": change.outcome, "why": said(change.status.why)}
        facts |= {"queued_seconds": change.queued_seconds, "running_seconds": change.running_seconds}
        span.set_attributes(self._named(facts))
        if change.outcome in ("failed", "cancelled"):
            span.set_status(_error(said(change.status.why)))
        span.end(_ns(change.time))

    def end(self, report: Report | None) -> None:
        """The run's own span ends, and those of jobs that go on without it."""
        for span in self._job_spans.values():
            span.end()
        if report is None:
            self._root.set_status(_error("the run ended without a dataset"))
        else:
            facts = {"rows": report.rows, "bad_rows": report.bad_rows, "failed": report.bad_units}
            self._root.set_attributes(self._named({**facts, "version": report.manifest.version}))
        self._root.end()

    def _failure(self, failure: Failure, began: float, uri: str) -> None:
        unit, text = failure.unit, said(failure.error)
        facts = {"unit.key": unit.key, "unit.uri": uri, "unit.start": unit.start, "unit.stop": unit.stop}
        span = self._tracer.start_span("unit", self._inside, attributes=self._named(facts), start_time=_ns(began))
        span.set_status(_error(text))
        span.end(_ns(max(time.time(), began)))

    def _record(self, record: Record, uri: str) -> None:
        from opentelemetry.trace import set_span_in_context

        traces = [trace for trace in record.traces if trace.began]
        began = min((trace.began for trace in traces), default=record.finished)
        facts = {"unit.key": record.unit, "unit.uri": uri, "rows": record.part.rows, "bad_rows": record.bad_rows}
        facts |= {"written_bytes": record.part.size_bytes, "worker": record.worker}
        span = self._tracer.start_span("unit", self._inside, attributes=self._named(facts), start_time=_ns(began))
        for trace in traces:
            self._step(trace, record, set_span_in_context(span))
        span.end(_ns(max(record.finished, began)))

    def _step(self, trace: Trace, record: Record, inside: Any) -> None:
        facts = {"unit.key": record.unit, "step": trace.step, "waited_seconds": trace.waited_seconds}
        facts |= {"rows_in": trace.rows_in, "rows_out": trace.rows_out, "rows_bad": trace.rows_bad}
        facts |= {"bytes_out": trace.bytes_out, "worker": trace.worker or record.worker}
        span = self._tracer.start_span(trace.step, inside, attributes=self._named(facts), start_time=_ns(trace.began))
        span.end(_ns(trace.began + trace.seconds))

    def _named(self, facts: dict[str, Any]) -> dict[str, Any]:
        every = {"run": self._run, "pipeline": self._pipeline, **facts}
        return {f"penstock.{name}": value for name, value in every.items()}


def _ns(seconds: float) -> int:
    """Nanoseconds since 1970."""
    return round(seconds * 1e9)


def _error(text: str) -> Any:
    from opentelemetry.trace import Status, StatusCode

    return Status(StatusCode.ERROR, text)


# --- where they go ---------------------------------------------------------------------------------------


@contextmanager
def exporting(where: str, warn: Callable[[str], None]) -> Iterator[Callable[[str], Tracer]]:
    """Spans are sent in the background inside; at the exit the last of them, for 30 s at most.

    Gives what makes the tracer of a run, by the run's id.

    Args:
        where: an OTLP/HTTP collector's address, or a file; empty: as the variables ``OTEL_EXPORTER_OTLP_*`` say.
        warn: is told of the first that cannot be sent.

    Raises:
        SpecError: OpenTelemetry is missing.
        StorageError: the file cannot be written.
    """
    try:
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ModuleNotFoundError as error:
        raise _missing() from error

    with ExitStack() as stack:
        stack.enter_context(_heard(warn))
        processor = BatchSpanProcessor(_exporter(where, stack), max_queue_size=_MOST_WAITING)
        stack.callback(processor.shutdown)
        resource = _resource()

        def tracer(run: str) -> Tracer:
            # The SDK's own sampler is not asked: a trace is a whole run, and of its units some are taken.
            provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False, id_generator=_ids(run))
            provider.add_span_processor(processor)
            return provider.get_tracer("penstock", version("penstock"))

        yield tracer


def _resource() -> Any:
    """Who speaks; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` may say otherwise."""
    from opentelemetry.sdk.resources import Resource

    found = Resource.create({"service.version": version("penstock")})
    unknown = str(found.attributes.get("service.name", "unknown_service")).startswith("unknown_service")
    return found.merge(Resource({"service.name": "penstock"})) if unknown else found


def _missing() -> SpecError:
    return SpecError(
        "spans (--trace, or OTEL_EXPORTER_OTLP_ENDPOINT in the environment) need OpenTelemetry: "
        "pip install 'penstock[telemetry]'; OTEL_SDK_DISABLED=true does without"
    )


def _exporter(where: str, stack: ExitStack) -> SpanExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError as error:
        raise _missing() from error

    if not where:
        return OTLPSpanExporter()
    if where.startswith(("http://", "https://")):
        return OTLPSpanExporter(where if where.endswith(_PATH) else where.rstrip("/") + _PATH)
    try:
        return _lines(stack.enter_context(Path(where).open("a", encoding="utf-8")))
    except OSError as error:
        text = f"spans cannot be written to {where}: {error.strerror}; an address http://HOST:4318 or a file was needed"
        raise StorageError(text) from error


def _ids(run: str) -> Any:
    """Numbers of spans by chance; the number of the trace is the run's."""
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        def generate_trace_id(self) -> int:
            return int(run, 16)

    return Ids()


def _lines(stream: TextIO) -> SpanExporter:
    """OTLP JSON, a batch of spans in each line, as the collector's ``otlp_json_file`` receiver reads them.

    Source: https://opentelemetry.io/docs/specs/otel/protocol/file-exporter and .../otlp/#json-protobuf-encoding, by
    which ids are hexadecimal.
    """
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Lines(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            told = MessageToDict(encode_spans(spans), use_integers_for_enums=True)
            for span in (one for r in told["resourceSpans"] for s in r["scopeSpans"] for one in s["spans"]):
                ids = {"traceId", "spanId", "parentSpanId"} & span.keys()
                span.update({name: base64.b64decode(span[name]).hex() for name in ids})
            stream.write(json.dumps(told, ensure_ascii=False) + "\n")
            stream.flush()
            return SpanExportResult.SUCCESS

    return Lines()


@contextmanager
def _heard(warn: Callable[[str], None]) -> Iterator[None]:
    """What OpenTelemetry complains of goes to *warn*, the first time; the display is left alone."""

    class First(logging.Handler):
        said = False

        def emit(self, record: logging.LogRecord) -> None:
            if not self.said:
                self.said = True
                warn(f"spans: {said(record.getMessage())}; what follows of this kind is not shown")

    logger, handler = logging.getLogger("opentelemetry"), First(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
