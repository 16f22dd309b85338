"""Waiting for jobs: one watcher for each cluster asks for all of them at once, however many wait.

::

    wait(cluster, native_id)     in any number of threads

A watcher asks often while something changes and ever more rarely while nothing does. Where processes are
many, one of them can watch for all: `use` puts another kind of watcher in the place of this one.

Who wants to know how jobs go gives the watcher a function: it is told all that the watcher learns.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from penstock.core.nouns import Cluster, JobState, Status
from penstock.errors import JobError

__all__ = ["Hears", "News", "Tell", "Threads", "Watcher", "queue_of", "tell_of", "telling", "use", "wait"]

_LOG = logging.getLogger("penstock.clusters")
_FIRST_SECONDS = 0.05
_GROWTH = 1.3
_LAST_SECONDS = 5.0


class Watcher(Protocol):
    """Waits for jobs of one cluster."""

    def wait(self, native_id: str, patience_seconds: float) -> Status:
        """The status of a job that has ended. Raises `JobError` when nothing is heard of it for so long."""


_WAITED_FOR = Status(JobState.UNKNOWN)


@dataclass(frozen=True)
class News:
    """What a watcher has learned.

    Attributes:
        cluster: its kind, as pipeline files name it.
        time: seconds since 1970.
        native_id: of a job; empty when the cluster was asked, once for all jobs that are waited for.
        status: how the job stands now; `JobState.UNKNOWN` without a word when the waiting begins.
    """

    cluster: str
    time: float
    native_id: str = ""
    status: Status = _WAITED_FOR


Tell: TypeAlias = Callable[[News], None]
"""Is called in the threads of those who wait."""


@runtime_checkable
class Hears(Protocol):
    """Who wants to know how jobs go; a run's watch may."""

    def job(self, news: News) -> None:
        """A watcher has learned something; in any thread."""


def tell_of(watch: object) -> Tell | None:
    """How *watch* is told of jobs, where it wants to know."""
    return watch.job if isinstance(watch, Hears) else None


def wait(cluster: Cluster, native_id: str, patience_seconds: float = 600.0) -> Status:
    """Wait until a job has ended, and say how.

    Raises:
        JobError: for *patience_seconds* nothing was heard of it.
    """
    return _watcher_of(cluster).wait(native_id, patience_seconds)


def use(factory: Callable[[Cluster], Watcher]) -> Callable[[Cluster], Watcher]:
    """Have watchers made by *factory* from now on, in this process; gives the factory used before."""
    with _lock:
        before, _state["factory"] = _state["factory"], factory
        _watchers.clear()
    return before


@contextmanager
def telling(tell: Tell | None) -> Iterator[None]:
    """Inside, the watchers of this process tell what they learn."""
    if tell is None:
        yield
        return
    before = use(lambda cluster: Threads(cluster, tell))
    try:
        yield
    finally:
        use(before)


def _watcher_of(cluster: Cluster) -> Watcher:
    name = queue_of(cluster)
    with _lock:
        if name not in _watchers:
            _watchers[name] = _state["factory"](cluster)
        return _watchers[name]


def queue_of(cluster: Cluster) -> str:
    """What is the same for all clusters whose jobs one watcher can ask for: its ``queue``, where it has one."""
    return str(getattr(cluster, "queue", "")) or repr(cluster)  # frozen data: equal ones are written alike


@dataclass
class _Waiter:
    """One who waits for a job, and what was heard of it."""

    native_id: str
    heard: float
    status: Status = field(default_factory=lambda: Status(JobState.UNKNOWN))


@dataclass
class Threads:
    """A watcher of this process: whoever waits and finds that it is time asks for all others too.

    Attributes:
        cluster: whose jobs.
        tell: is told what is learned.
    """

    cluster: Cluster
    tell: Tell | None = None
    _waiters: list[_Waiter] = field(default_factory=list)
    _turn: threading.Condition = field(default_factory=threading.Condition)
    _asking: bool = False
    _pause: float = _FIRST_SECONDS
    _due: float = 0.0

    def wait(self, native_id: str, patience_seconds: float) -> Status:
        """See `Watcher`."""
        waiter = _Waiter(native_id, time.monotonic())
        self._news(native_id, waiter.status)
        with self._turn:
            self._waiters.append(waiter)
            self._changed()
        try:
            while not waiter.status.state.final:
                self._step()
                if waiter.status.state is JobState.UNKNOWN and time.monotonic() - waiter.heard > patience_seconds:
                    raise _silence(waiter, patience_seconds)
            return waiter.status
        finally:
            with self._turn:
                self._waiters.remove(waiter)

    def _step(self) -> None:
        """Wait while somebody asks or it is too early; else ask for all."""
        with self._turn:
            left = self._due - time.monotonic()
            if self._asking or left > 0:
                _sleep(self._turn, 1.0 if self._asking else left)
                return
            self._asking = True
            ids = list(dict.fromkeys(waiter.native_id for waiter in self._waiters if not waiter.status.state.final))
        found: Mapping[str, Status] = {}
        try:
            found = self._asked(ids)
        finally:
            with self._turn:
                self._asking = False
                self._tell(found)

    def _asked(self, ids: list[str]) -> Mapping[str, Status]:
        self._news()
        try:
            return self.cluster.poll(ids) if ids else {}
        except (JobError, OSError) as error:
            return dict.fromkeys(ids, Status(JobState.UNKNOWN, str(error)))

    def _tell(self, found: Mapping[str, Status]) -> None:
        """Tell all who wait, and say when to ask again: soon after a change, later and later without one."""
        self._pause = min(self._pause * _GROWTH, self._longest())
        for waiter in self._waiters:
            status = found.get(waiter.native_id, waiter.status)
            if status != waiter.status:
                self._changed()
                _LOG.info("job %s is %s %s", waiter.native_id, status.state.value, status.why)
                self._news(waiter.native_id, status)
            if status.state is not JobState.UNKNOWN:
                waiter.heard = time.monotonic()
            waiter.status = status
        self._due = time.monotonic() + self._pause
        self._turn.notify_all()

    def _news(self, native_id: str = "", status: Status = _WAITED_FOR) -> None:
        if self.tell is not None:
            self.tell(News(type(self.cluster).__name__.lower(), time.time(), native_id, status))

    def _changed(self) -> None:
        self._pause = _FIRST_SECONDS
        self._due = min(self._due, time.monotonic() + self._pause)
        self._turn.notify_all()

    def _longest(self) -> float:
        """Six of the cluster's own intervals, where it has one."""
        return max(_LAST_SECONDS, 6 * float(getattr(self.cluster, "poll_seconds", 0)))


def _sleep(turn: threading.Condition, seconds: float) -> None:
    turn.wait(seconds)


def _silence(waiter: _Waiter, patience_seconds: float) -> JobError:
    why = f" ({waiter.status.why})" if waiter.status.why else ""
    return JobError(
        f"nothing was heard of job {waiter.native_id} for {patience_seconds:g} s{why}; it may still be running. "
        "See that the cluster answers and run again: the job is found again, not started anew"
    )


_lock = threading.Lock()
_state: dict[str, Callable[[Cluster], Watcher]] = {"factory": Threads}
_watchers: dict[str, Watcher] = {}
