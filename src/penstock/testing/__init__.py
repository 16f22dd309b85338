"""Conformance suites: subclass one in your tests, give the part, and inherit the tests."""

from __future__ import annotations

from penstock.testing.clusters import ClusterTests
from penstock.testing.runners import RunnerTests
from penstock.testing.sinks import SinkTests
from penstock.testing.sources import SourceTests
from penstock.testing.stages import StageTests

__all__ = ["ClusterTests", "RunnerTests", "SinkTests", "SourceTests", "StageTests"]
