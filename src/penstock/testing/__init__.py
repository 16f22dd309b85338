"""Conformance suites: subclass one in your tests, give the part, and inherit the tests."""

from __future__ import annotations

try:
    import pytest  # noqa: F401 (looked for)
except ImportError as error:
    raise ImportError("the conformance suites need pytest: pip install 'penstock[testing]'") from error

from penstock.testing.clusters import ClusterTests
from penstock.testing.runners import RunnerTests
from penstock.testing.sinks import SinkTests
from penstock.testing.sources import SourceTests
from penstock.testing.stages import StageTests

__all__ = ["ClusterTests", "RunnerTests", "SinkTests", "SourceTests", "StageTests"]
