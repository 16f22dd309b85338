"""Planes made ahead of the solver."""

import threading
import time

import numpy as np
import pytest

from penstock.errors import JobError
from penstock.solvers.openfoam.ahead import made_ahead


class Counted:
    """Planes that know how many of them were made."""

    def __init__(self, count=100):
        self.made, self.count = 0, count

    def __iter__(self):
        return self

    def __next__(self):
        if self.made == self.count:
            raise StopIteration
        self.made += 1
        return np.full(2, self.made - 1.0)


def settled(planes, count):
    deadline = time.monotonic() + 5
    while planes.made < count and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    return planes.made


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_planes_wait_than_there_is_room_for(ahead):
    made = Counted()
    with made_ahead(made, 0, ahead) as planes:
        assert settled(made, ahead) == ahead
        next(planes)
        assert settled(made, ahead + 1) == ahead + 1


def test_without_room_a_plane_is_made_when_it_is_asked_for():
    made = Counted()
    with made_ahead(made, 0, 0) as planes:
        assert made.made == 0
        assert next(planes)[0] == 0
        assert made.made == 1


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_planes_come_in_their_order(ahead):
    with made_ahead(Counted(), 0, ahead) as planes:
        assert [next(planes)[0] for _ in range(50)] == list(range(50))


@pytest.mark.parametrize("ahead", [0, 2])
def test_an_error_of_the_generator_comes_at_its_plane(ahead):
    def broken():
        yield np.zeros(2)
        raise ValueError("no memory")

    with made_ahead(broken(), 7, ahead) as planes:
        next(planes)
        with pytest.raises(JobError, match="the generator died at plane 8: ValueError: no memory"):
            next(planes)


@pytest.mark.parametrize("ahead", [0, 2])
def test_planes_that_end(ahead):
    with made_ahead(Counted(3), 0, ahead) as planes:
        assert [next(planes)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(JobError, match="the planes ended before plane 3, and the solver goes on"):
            next(planes)


def test_the_thread_ends_with_the_block():
    before = threading.active_count()
    with made_ahead(Counted(), 0, 2) as planes:
        next(planes)
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.001)
    assert threading.active_count() == before
