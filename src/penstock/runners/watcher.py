"""One actor for each cluster watches the jobs that all of a run's tasks wait for.

So the cluster is asked once per interval, however many tasks wait, and in whatever processes. A task that waits for
an actor gives its CPUs back meanwhile. The actors are the driver's: they end with it. One that was killed is started
again, and who waited waits on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from penstock.clusters.watch import Threads, Watcher, queue_of, use
from penstock.core.nouns import Cluster, Status
from penstock.errors import JobError

__all__ = ["enlist", "on_duty"]

_MOST_WAITING = 2000


@contextmanager
def on_duty(clusters: Iterable[Cluster]) -> Iterator[None]:
    """In the driver: inside, each of *clusters* has its actor; those of one queue share it."""
    actors = [_started(cluster) for cluster in {queue_of(cluster): cluster for cluster in clusters}.values()]
    try:
        yield
    finally:
        for actor in actors:
            _end(actor)


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

    def __init__(self, cluster: Cluster) -> None:
        self._watcher = Threads(cluster)
        self._threads = ThreadPoolExecutor(_MOST_WAITING)

    async def wait(self, native_id: str, patience_seconds: float) -> Status | str:
        """How the job ended, or why that cannot be learned."""
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, self._watcher.wait, native_id, patience_seconds)
        except JobError as error:
            return str(error)


def _name(cluster: Cluster) -> str:
    return f"penstock-watcher-{hashlib.sha256(queue_of(cluster).encode()).hexdigest()[:32]}"


def _started(cluster: Cluster) -> Any:
    """The actor of *cluster*, on the driver's node where it can be: there are the keys and the ssh configuration."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "max_concurrency": _MOST_WAITING}
    actor = ray.remote(_Actor).options(name=_name(cluster), get_if_exists=True, scheduling_strategy=here, **options)
    return actor.remote(cluster)


def _end(actor: Any) -> None:
    import ray

    ray.kill(actor)
