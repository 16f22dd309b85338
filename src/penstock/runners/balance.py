"""The sizes of several actor pools that share a cluster: measured as the run goes, so that the slowest sets the pace.

Ray Data sizes each pool by its own queue. One pool alone needs no more; of several, the first ones take every core
before the slow one has a queue. Here all sizes are reckoned together from what the steps cost (`core.balance`), and
Ray Data is asked for them: through the callback that it offers for each step of its loop, and the pools' own `scale`.
What is not public of that is in three functions, `lacking`, `_pools` and `_request`, and nowhere else.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from penstock.core.nouns import Pipeline, Place, Record
from penstock.core.plan import Operator, Resources, operators, weighed
from penstock.core.run import Outcome
from penstock.core.simulation import Seconds, Station, stations

__all__ = ["Balance", "changes", "lacking"]

_EVERY_SECONDS = 2.0
_RECENT_UNITS = 64
_FEWEST_UNITS = 8
_GAIN = 1.15
"""A warm worker is given up only when the line becomes faster by this factor."""


@dataclass
class Balance:
    """Looks on at a run and asks for other sizes; Ray Data makes one of it for each execution, by calling it.

    Attributes:
        pipeline: what runs.
        resources: what the cluster has now.
        clock: seconds.
    """

    pipeline: Pipeline
    resources: Callable[[], Resources]
    clock: Callable[[], float] = time.monotonic
    _recent: deque[Sequence[float]] = field(default_factory=lambda: deque(maxlen=_RECENT_UNITS))
    _looked: float = -float("inf")

    @property
    def needed(self) -> bool:
        """Whether there are several pools, of which one may grow."""
        pools = [part.place.replicas for part in operators(self.pipeline) if part.kind == "actor"]
        return len(pools) > 1 and any(low < high for low, high in pools)

    @cached_property
    def parts(self) -> tuple[Operator, ...]:
        """The operators with the memory that a worker of theirs needs."""
        return weighed(self.pipeline)

    def hear(self, outcome: Outcome) -> None:
        """Remember what the steps cost one unit; a unit that was done before says nothing."""
        if isinstance(outcome, Record) and len(outcome.traces) == len(self.pipeline.steps) + 2:
            self._recent.append([trace.seconds for trace in outcome.traces])

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing."""

    def on_execution_step(self, executor: Any) -> None:
        """Ask for other sizes, every two seconds at most."""
        if self.clock() - self._looked < _EVERY_SECONDS or len(self._recent) < _FEWEST_UNITS:
            return
        self._looked = self.clock()
        self._resize(list(_pools(executor)))

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""

    def _resize(self, pools: Sequence[Any]) -> None:
        actors = [at for at, part in enumerate(self.parts) if part.kind == "actor"]
        there = [(at, pool) for at, pool in zip(actors, pools, strict=True) if pool.current_size()]
        costs, parts = self._to_do({*actors} - {at for at, _ in there})
        line = stations(self.pipeline, costs, self.resources(), parts)
        full = [pool.get_pool_util() >= 1 for _, pool in there]
        pace = [line[at].cycle(costs) for at, _ in there]
        wanted = changes([line[at] for at, _ in there], pace, [pool.current_size() for _, pool in there], full)
        for (_, pool), delta in zip(there, wanted, strict=True):
            if delta:
                pool.scale(_request(delta))

    def _to_do(self, ended: set[int]) -> tuple[Seconds, list[Operator]]:
        """Mean costs and operators; those that have *ended*, with no worker left, cost nothing and take nothing."""
        costs, parts = np.mean(np.array(self._recent), axis=0), list(self.parts)
        for at in ended:
            costs[parts[at].first + (at > 0) : parts[at].stop + 1] = 0  # the first operator reads too
            parts[at] = replace(parts[at], place=Place("actor", cpus=0))
        return costs, parts


def changes(line: Sequence[Station], cycles: Sequence[float], sizes: Sequence[int], full: Sequence[bool]) -> list[int]:
    """By how much each pool should grow or shrink.

    Queues first: a pool grows when all its workers have work. Speed second: as far as *line* says. Another one
    gives workers up only then, and only when that makes the line faster by a good deal.

    Args:
        line: the pools at the sizes that would be best.
        cycles: seconds between two units of one worker of each.
        sizes: what they are.
        full: whether all workers of a pool have work.
    """
    if not sizes:
        return []
    more = [max(0, s.workers - size) if busy else 0 for s, size, busy in zip(line, sizes, full, strict=True)]
    now = max(cycle / max(size, 1) for cycle, size in zip(cycles, sizes, strict=True))
    then = max(cycle / s.workers for cycle, s in zip(cycles, line, strict=True))
    if not any(more) or now < _GAIN * then:
        return [0] * len(sizes)
    return [grow or min(0, s.workers - size) for grow, s, size in zip(more, line, sizes, strict=True)]


# --- what is not public of Ray Data ----------------------------------------------------------------------


def lacking() -> str:
    """What this version of Ray Data has no more, by its dotted name; empty when sizes can be asked for."""
    try:
        from ray.data import DataContext
        from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest, AutoscalingActorPool
        from ray.data._internal.execution.interfaces import PhysicalOperator
        from ray.data._internal.execution.streaming_executor import StreamingExecutor
    except ImportError as error:
        return str(error).partition(" (")[0].removeprefix("cannot import name ").removeprefix("No module named ")
    wanted = {
        "DataContext": (DataContext.get_current(), ["custom_execution_callback_classes"]),
        "PhysicalOperator": (PhysicalOperator, ["get_autoscaling_actor_pools"]),
        "AutoscalingActorPool": (AutoscalingActorPool, ["current_size", "get_pool_util", "scale"]),
        "ActorPoolScalingRequest": (ActorPoolScalingRequest, ["upscale", "downscale"]),
    }
    gone = [f"{who}.{name}" for who, (owner, names) in wanted.items() for name in names if not hasattr(owner, name)]
    if "_topology" not in StreamingExecutor.execute.__code__.co_names:  # an execution gets it when it begins
        gone.append("StreamingExecutor._topology")
    return ", ".join(gone)


def _pools(executor: Any) -> Iterator[Any]:
    """The actor pools of an execution, in the order of the line."""
    for operator in executor._topology:
        yield from operator.get_autoscaling_actor_pools()


def _request(delta: int) -> Any:
    from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest

    kind = ActorPoolScalingRequest.upscale if delta > 0 else ActorPoolScalingRequest.downscale
    return kind(delta=delta, reason="balance")
