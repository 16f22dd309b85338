"""One process, one unit after the other: the reference that every other runner must equal."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from penstock.core.nouns import Pipeline, Report, Unit
from penstock.core.plan import Resources
from penstock.core.run import Outcome, Watch, run
from penstock.core.work import Assignment, carry, opened

__all__ = ["Inline"]


@dataclass(frozen=True)
class Inline:
    """Carries a pipeline out in this process; places are not needed and not looked at."""

    def resources(self) -> Resources:
        """This machine; nothing is reserved, so any place fits."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Resources(float("inf"), float("inf"), memory, "this process")

    def session(self) -> AbstractContextManager[None]:
        """Nothing has to be started."""
        return nullcontext()

    def run(self, pipeline: Pipeline, watch: Watch | None = None) -> Report:
        """Carry *pipeline* out. Raises `RunError`."""
        return run(pipeline, "inline", _carry, watch)


def _carry(assignment: Assignment, units: Iterable[Unit]) -> Iterator[Outcome]:
    with opened(assignment) as transforms:
        for unit in units:
            yield carry(assignment, unit, transforms)
