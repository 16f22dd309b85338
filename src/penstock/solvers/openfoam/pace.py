"""The pace of a stream into a solver: how many planes, how fast, and who waited for whom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from penstock.solvers.openfoam.ahead import Plane
from penstock.solvers.openfoam.exchange import State

__all__ = ["Pace"]

Planes = Callable[[int], Iterator[Plane]]


@dataclass
class Pace:
    """What is counted while planes are made in one thread and states come in another.

    Attributes:
        clock: gives seconds that never go back.
        planes: that the solver was given.
        generator_waited_seconds: between a plane and when the next one was wanted.
        first_plane_seconds: for which the solver waited for its first plane, while the generator started.
        solver_waited_seconds: between a state and its plane, but for the first; NaN where nobody sees that.
    """

    clock: Callable[[], float] = time.monotonic
    planes: int = 0
    generator_waited_seconds: float = 0.0
    first_plane_seconds: float = 0.0
    solver_waited_seconds: float = 0.0
    _first: float | None = None

    def timed(self, given: Planes) -> Planes:
        """The same planes; what passes between them is counted."""

        def planes(first: int) -> Iterator[Plane]:
            for plane in given(first):
                made = self.clock()
                yield plane
                self.generator_waited_seconds += self.clock() - made

        return planes

    def add(self, state: State) -> None:
        """Count a state; the last one gets no plane."""
        self._first = self.clock() if self._first is None else self._first
        if self.planes == 1:
            self.first_plane_seconds = state.waited_seconds
        else:
            self.solver_waited_seconds += state.waited_seconds
        self.planes += not state.last

    def facts(self) -> dict[str, float]:
        """As a solver tells them."""
        seconds = 0.0 if self._first is None else self.clock() - self._first
        return {
            "planes": self.planes,
            "planes_per_second": self.planes / seconds if seconds else math.nan,
            "generator_waited_seconds": self.generator_waited_seconds,
            "first_plane_seconds": self.first_plane_seconds,
            "solver_waited_seconds": self.solver_waited_seconds,
        }
