"""Planes that are made ahead of the solver, a bounded number of them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import JobError

__all__ = ["Plane", "made_ahead"]

Plane = npt.NDArray[np.floating[Any]]
_END = object()


@contextmanager
def made_ahead(planes: Iterator[Plane], first: int, ahead: int) -> Iterator[Iterator[Plane]]:
    """Run *planes* in a thread, at most *ahead* planes before the one that is asked for; 0 makes each when asked.

    Args:
        planes: the generator.
        first: the index of its first plane, for messages.
        ahead: so many wait at most; the generator is asked for the next one when there is room.

    Raises:
        JobError: from the iterator, when the generator raises, or ends.
    """
    if ahead == 0:
        yield _counted(planes, first)
        return
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room, stopped = threading.Semaphore(ahead), threading.Event()

    def make() -> None:
        try:
            for plane in _with_room(planes, room, stopped):
                done.put(plane)
            done.put(_END)
        # It is raised where the planes are taken.
        except BaseException as error:
            done.put(error)

    def taken() -> Iterator[Plane]:
        while (plane := done.get()) is not _END:
            room.release()
            if isinstance(plane, BaseException):
                raise plane
            yield plane

    thread = threading.Thread(target=make, name="planes", daemon=True)
    thread.start()
    try:
        yield _counted(taken(), first)
    finally:
        # A generator that is at work is not waited for: nobody knows how long it takes.
        stopped.set()
        room.release()


def _with_room(planes: Iterator[Plane], room: threading.Semaphore, stopped: threading.Event) -> Iterator[Plane]:
    while True:
        room.acquire()
        if stopped.is_set():
            return
        try:
            plane = next(planes)
        except StopIteration:
            return
        yield plane


def _counted(planes: Iterator[Plane], first: int) -> Iterator[Plane]:
    index = first
    while True:
        try:
            plane = next(planes)
        except StopIteration:
            raise JobError(
                f"the planes ended before plane {index}, and the solver goes on; give a plane for every exchange up to "
                f"endTime, or set endTime sooner"
            ) from None
        except Exception as error:
            raise JobError(f"the generator died at plane {index}: {type(error).__name__}: {error}") from error
        yield plane
        index += 1
