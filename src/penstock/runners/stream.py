"""Ray Core: actors that make rows in order for a solver that runs in the driver's process.

The units on their way are bounded, so the actors wait for the solver. An actor that died is started again and makes
its units once more; the same unit gives the same rows, so the solver does not notice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from penstock.core.nouns import Batch, Place, Stream, Unit
from penstock.core.streaming import making
from penstock.errors import PenstockError, RunError
from penstock.runners.places import live

__all__ = ["flow"]

_RESTARTS = 10
"""How often an actor may die; a unit that kills each actor in turn ends the run."""


def flow(stream: Stream, units: Iterable[Unit]) -> Iterator[Batch]:
    """What comes of each unit, in their order.

    Raises:
        RunError: a row was refused, or actors died again and again.
    """
    import ray

    pool = _pool(stream)
    waiting: deque[Any] = deque()
    try:
        for number, unit in enumerate(units):
            if len(waiting) >= max(stream.ahead, len(pool)):
                yield _taken(stream, waiting.popleft())
            waiting.append(pool[number % len(pool)].make.remote(unit))
        while waiting:
            yield _taken(stream, waiting.popleft())
    finally:
        for actor in pool:
            ray.kill(actor)


def _pool(stream: Stream) -> list[Any]:
    import ray

    place = Place.joint(stream.steps)
    asked = {"num_cpus": place.cpus, "num_gpus": place.gpus, "memory": place.memory_bytes or None}
    kind = ray.remote(max_restarts=_RESTARTS, max_task_retries=_RESTARTS, **asked)(_Maker)
    return [kind.remote(stream) for _ in range(place.replicas[1])]


class _Maker:
    """The steps of a stream, open in an actor."""

    def __init__(self, stream: Stream) -> None:
        self._open = making(stream, live)  # held: its exit would free the models
        self._make = self._open.__enter__()

    def make(self, unit: Unit) -> Batch | PenstockError:
        try:
            return self._make(unit)
        except PenstockError as error:  # no worker is to blame, so Ray need not try again
            return error


def _taken(stream: Stream, coming: Any) -> Batch:
    import ray

    try:
        found = ray.get(coming)
    except ray.exceptions.RayError as error:
        raise RunError(f"{stream.name}: the actors that make its rows died again and again: {error}") from error
    if isinstance(found, PenstockError):
        raise found
    return found
