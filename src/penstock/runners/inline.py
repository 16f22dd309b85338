"""One process, one unit after the other: the reference that every other runner must equal."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

from penstock.clusters.watch import tell_of, telling
from penstock.core.nouns import Batch, Fit, Pipeline, Report, Stream, Unit
from penstock.core.plan import Resources
from penstock.core.run import Outcome, Watch, run
from penstock.core.streaming import begin, fed, making, recorded
from penstock.core.work import Assignment, carry, opened
from penstock.runners.places import live
from penstock.trainings.alone import Alone

__all__ = ["Inline"]


@dataclass(frozen=True)
class Inline:
    """Carries a pipeline out in this process.

    Places are not looked at, but for two: a container is started, and a service that has an address is asked.
    """

    def resources(self) -> Resources:
        """This machine; nothing is reserved, so any place fits."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Resources(float("inf"), float("inf"), memory, "this process")

    def session(self) -> AbstractContextManager[None]:
        """Nothing has to be started."""
        return nullcontext()

    def run(self, pipeline: Pipeline, watch: Watch | None = None) -> Report:
        """Carry *pipeline* out. Raises `RunError`."""
        with telling(tell_of(watch)):
            return run(pipeline, "inline", _carry, watch)

    def train(self, fit: Fit, heard: Callable[[Mapping[str, float]], None]) -> None:
        """Carry *fit* out by one worker, this process."""
        if not fit.training.done():
            fit.training.begin()
            fit.training.train(Alone(heard))

    def stream(self, stream: Stream, heard: Callable[[Mapping[str, float]], None]) -> None:
        """Feed a solver from this process. Raises `RunError`."""
        begin(stream)
        if not stream.into.done():
            with recorded(stream, "inline", heard) as told:
                stream.into.run(fed(stream, partial(_flow, stream)), told)


def _flow(stream: Stream, units: Iterable[Unit]) -> Iterator[Batch]:
    with making(stream, live) as make:
        yield from map(make, units)


def _carry(assignment: Assignment, units: Iterable[Unit]) -> Iterator[Outcome]:
    with opened(assignment, live=live) as transforms:
        for unit in units:
            yield carry(assignment, unit, transforms)
