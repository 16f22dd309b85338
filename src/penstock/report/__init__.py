"""One self-contained page about a dataset: map, clusters, throughput, lineage, quarantine."""

from __future__ import annotations

from penstock.report.page import build

__all__ = ["build"]
