"""What tests of telemetry see of a run: samples of metrics, spans, words of a watcher of jobs."""

from __future__ import annotations

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock.clusters.watch import News
from penstock.core.nouns import JobState, Status
from penstock.telemetry import spans
from penstock.telemetry.metrics import RunMetrics
from penstock.telemetry.spans import Spans

RUN = "0af7651916cd43dd8448eb211c80319c"
WAITED, PENDING, RUNNING = Status(JobState.UNKNOWN), Status(JobState.PENDING, "Priority"), Status(JobState.RUNNING)
STORY = [(100.0, WAITED), (103.0, PENDING), (110.0, RUNNING), (110.5, RUNNING), (150.0, Status(JobState.DONE))]


class Seen:
    """Where spans of a test end."""

    def __init__(self, most: int = 1000):
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(id_generator=spans._ids(RUN))
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.spans = Spans(provider.get_tracer("penstock"), RUN, "inline", most)

    def named(self, *names):
        return [one for one in self.exporter.get_finished_spans() if one.name in names]

    def below(self, parent):
        found = self.exporter.get_finished_spans()
        return [one for one in found if one.parent and one.parent.span_id == parent.context.span_id]


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and by the values of labels in the order of their names; `_created` and buckets left out."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        (s.name, tuple(v for _, v in sorted(s.labels.items()))): s.value
        for s in found
        if not s.name.endswith(("_created", "_bucket"))
    }


def text_of(metrics: RunMetrics) -> str:
    """As Prometheus reads it."""
    return generate_latest(metrics.registry).decode()


def told(hears, native_id="7.ab", story=STORY):
    """A watcher of jobs tells of one."""
    for at, status in story:
        hears.job(News("slurm", at))
        hears.job(News("slurm", at, native_id, status))
