"""Who waited for whom in a stream."""

import math

import numpy as np
import pytest

from penstock.solvers.openfoam.exchange import State
from penstock.solvers.openfoam.pace import Pace


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self):
        return self.now


def state(waited, last=False):
    return State(1, 0.1, 0.1, last, np.empty(0), waited)


def test_a_generator_waits_from_a_plane_to_when_the_next_is_wanted():
    clock, asked = Clock(), []
    pace = Pace(clock)

    def given(first):
        asked.append(first)
        for number in range(first, first + 3):
            clock.now += 10  # at work
            yield np.array([number])

    found = []
    for plane in pace.timed(given)(7):
        found.append(int(plane[0]))
        clock.now += 0.5
    assert (asked, found) == ([7], [7, 8, 9])
    assert pace.generator_waited_seconds == pytest.approx(1.5)


def test_a_solver_waits_from_a_state_to_its_plane():
    """What it waits for the first one is the generator's start, and told apart."""
    clock = Clock()
    pace = Pace(clock)
    assert math.isnan(pace.facts()["planes_per_second"])
    for number in range(4):
        pace.add(state((0.0, 7.0, 0.25, 0.25)[number], last=number == 3))
        clock.now += 1
    assert pace.facts() == {
        "planes": 3,
        "planes_per_second": 0.75,
        "generator_waited_seconds": 0.0,
        "first_plane_seconds": 7.0,
        "solver_waited_seconds": 0.5,
    }


def test_what_nobody_sees_is_not_known():
    pace = Pace()
    pace.add(State(0, 0.0, 0.1, False, np.empty(0)))
    assert math.isnan(pace.facts()["solver_waited_seconds"])
