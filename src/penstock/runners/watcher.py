"""One actor for each cluster watches the jobs that all of a run's tasks wait for.

So the cluster is asked once per interval, however many tasks wait, and in whatever processes. A task that waits for
an actor gives its CPUs back meanwhile. The actors are the driver's: they end with it. One that was killed is started
again, and who waited waits on. Where the driver wants to know how jobs go, it asks the actors once a second.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from penstock.clusters.watch import News, Tell, Threads, Watcher, queue_of, use
from penstock.core.nouns import Cluster, Status
from penstock.errors import JobError

__all__ = ["enlist", "on_duty"]

_MOST_WAITING = 2000
_MOST_NEWS = 10_000
_LISTEN_SECONDS = 1.0
_ANSWER_SECONDS = 30.0


@contextmanager
def on_duty(clusters: Iterable[Cluster], tell: Tell | None = None) -> Iterator[Callable[[], None]]:
    """In the driver: inside, each of *clusters* has its actor; those of one queue share it.

    Gives a function that tells what is known now.

    Args:
        clusters: whose jobs are waited for.
        tell: is told how they go, in a thread of its own.
    """
    each = {queue_of(cluster): cluster for cluster in clusters}.values()
    actors = [_started(cluster, keeps=tell is not None) for cluster in each]
    ears = _Ears(actors, tell) if tell else None
    try:
        with _listening(ears if actors else None):
            yield ears or _nothing
    finally:
        for actor in actors:
            _end(actor)


@contextmanager
def _listening(ears: _Ears | None) -> Iterator[None]:
    if ears is None:
        yield
        return
    over = threading.Event()

    def listen() -> None:
        while not over.wait(_LISTEN_SECONDS):
            ears()

    thread = threading.Thread(target=listen, name="penstock-jobs", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        ears()


@dataclass(frozen=True)
class _Ears:
    """Asks the actors what they have learned and tells it; one thread at a time, so that news stay in order."""

    actors: Sequence[Any]
    tell: Tell
    turn: threading.Lock = field(default_factory=threading.Lock)
    asked: dict[int, Any] = field(default_factory=dict)

    def __call__(self) -> None:
        with self.turn:
            for at in range(len(self.actors)):
                for news in self._answer(at):
                    self.tell(news)

    def _answer(self, at: int) -> Sequence[News]:
        """What an actor says within some seconds; what it says later is heard the next time, since it says it once."""
        import ray

        answer = self.asked.pop(at, None) or self.actors[at].news.remote()
        with suppress(ray.exceptions.RayError):  # one that is being started again is asked the next time
            try:
                return list(ray.get(answer, timeout=_ANSWER_SECONDS))
            except ray.exceptions.GetTimeoutError:
                self.asked[at] = answer
        return []


def _nothing() -> None:
    """What there is to tell when nobody wants to know."""


def enlist() -> None:
    """In a worker: wait by the actors of the run from now on."""
    use(_watcher)


def _watcher(cluster: Cluster) -> Watcher:
    """The run's watcher of *cluster*; one of this process where nobody knew that it would be needed."""
    import ray

    try:
        return _ByActor(ray.get_actor(_name(cluster)))
    except ValueError:
        return Threads(cluster)


@dataclass(frozen=True)
class _ByActor:
    actor: Any

    def wait(self, native_id: str, patience_seconds: float) -> Status:
        """See `Watcher`."""
        import ray

        found: Status | str = ray.get(self.actor.wait.remote(native_id, patience_seconds))
        if isinstance(found, str):
            raise JobError(found)
        return found


class _Actor:
    """Lives in a process of its own; each who waits has a thread there, which sleeps."""

    def __init__(self, cluster: Cluster, *, keeps: bool) -> None:
        self._news = deque[News](maxlen=_MOST_NEWS)
        self._watcher = Threads(cluster, self._news.append if keeps else None)
        self._threads = ThreadPoolExecutor(_MOST_WAITING)

    async def wait(self, native_id: str, patience_seconds: float) -> Status | str:
        """How the job ended, or why that cannot be learned."""
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._watcher.wait, native_id, patience_seconds)
        except JobError as error:
            return str(error)

    async def news(self) -> list[News]:
        """What was learned since this was asked last."""
        return [self._news.popleft() for _ in range(len(self._news))]


def _name(cluster: Cluster) -> str:
    return f"penstock-watcher-{hashlib.sha256(queue_of(cluster).encode()).hexdigest()[:32]}"


def _started(cluster: Cluster, *, keeps: bool) -> Any:
    """The actor of *cluster*, on the driver's node where it can be: there are the keys and the ssh configuration.

    One that *keeps* what it learns is asked for it.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": _MOST_WAITING}
    actor = ray.remote(_Actor).options(name=_name(cluster), get_if_exists=True, scheduling_strategy=here, **options)
    return actor.remote(cluster, keeps=keeps)


def _end(actor: Any) -> None:
    import ray

    ray.kill(actor)
