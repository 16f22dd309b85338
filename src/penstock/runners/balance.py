"""The sizes of several actor pools that share a cluster: measured as the run goes, so that the slowest sets the pace.

Ray Data sizes each pool by its own queue. One pool alone needs no more; of several, the first ones take every core
before the slow one has a queue. Here all sizes are reckoned together from what the steps cost (`core.balance`), and
Ray Data is asked for them: through the callback that it offers for each step of its loop, and the pools' own `scale`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock.core.nouns import Pipeline, Record
from penstock.core.plan import Resources, operators
from penstock.core.run import Outcome
from penstock.core.simulation import Station, stations

__all__ = ["Balance", "changes"]

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
        self._resize([pool for op in executor._topology for pool in op.get_autoscaling_actor_pools()])

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing."""

    def _resize(self, pools: Sequence[Any]) -> None:
        parts = operators(self.pipeline)
        costs, resources = np.mean(np.array(self._recent), axis=0), self.resources()
        line = stations(self.pipeline, costs, resources)
        actors = [at for at, part in enumerate(parts) if part.kind == "actor"]
        if len(actors) != len(pools):  # some have finished
            return
        full = [pool.get_pool_util() >= 1 for pool in pools]
        pace = [line[at].cycle(costs) for at in actors]
        wanted = changes([line[at] for at in actors], pace, [pool.current_size() for pool in pools], full)
        for pool, delta in zip(pools, wanted, strict=True):
            if delta:
                pool.scale(_request(delta))


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
    more = [max(0, s.workers - size) if busy else 0 for s, size, busy in zip(line, sizes, full, strict=True)]
    now = max(cycle / max(size, 1) for cycle, size in zip(cycles, sizes, strict=True))
    then = max(cycle / s.workers for cycle, s in zip(cycles, line, strict=True))
    if not any(more) or now < _GAIN * then:
        return [0] * len(sizes)
    return [grow or min(0, s.workers - size) for grow, s, size in zip(more, line, sizes, strict=True)]


def _request(delta: int) -> Any:
    from ray.data._internal.actor_autoscaler import ActorPoolScalingRequest

    kind = ActorPoolScalingRequest.upscale if delta > 0 else ActorPoolScalingRequest.downscale
    return kind(delta=delta, reason="balance")
