"""What Prometheus is told (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.serving.batching import Sent

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_COUNTS = tuple(4**power for power in range(10))


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "penstock_requests", "Requests that were answered.", ["path", "status"], registry=registry
        )
        self.seconds = Histogram(
            "penstock_request_seconds", "From a request to its answer.", ["path"], buckets=_SECONDS, registry=registry
        )
        self.rows = Counter("penstock_rows", "Rows that were answered or refused.", ["outcome"], registry=registry)
        self.batch_seconds = Histogram(
            "penstock_batch_seconds", "A batch on its way through the steps.", buckets=_SECONDS, registry=registry
        )
        self.batch = {
            name: Histogram(f"penstock_batch_{name}", f"The {name} of a batch.", buckets=_COUNTS, registry=registry)
            for name in ("requests", "rows", "tokens")
        }
        self.waiting = Gauge("penstock_waiting_rows", "Rows that wait for a worker.", registry=registry)
        self.retries = Counter("penstock_retries", "Batches sent again after a worker was lost.", registry=registry)

    def sent(self, sent: Sent) -> None:
        """A batch has come back."""
        self.batch_seconds.observe(sent.seconds)
        values = {"requests": sent.requests, "rows": sent.size.rows, "tokens": sent.size.tokens}
        for name, value in values.items():
            self.batch[name].observe(value)

    def answered(self, path: str, status: int, seconds: float) -> None:
        """A request has its answer."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def watch_waiting(self, rows: Callable[[], Any]) -> None:
        """Ask *rows* for the rows that wait, whenever somebody looks."""
        self.waiting.set_function(rows)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        from prometheus_client import generate_latest

        return bytes(generate_latest(self.registry))
