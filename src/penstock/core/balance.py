"""How many workers each pool should have so that the slowest stage sets the pace. Pure arithmetic.

A line is as fast as its slowest pool. So worker after worker goes to the pool that is the slowest at that moment, until
it cannot grow any more: more workers elsewhere would only wait (max-min fairness, as in water-filling).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from penstock.core.plan import Resources

__all__ = ["Crew", "limiting", "pace", "sizes"]


@dataclass(frozen=True)
class Crew:
    """What is known of a pool of workers.

    Attributes:
        seconds: between two units that one worker finishes, when it never waits for units.
        low: fewest workers.
        high: most workers.
        cpus, gpus, memory_bytes: of each worker.
    """

    seconds: float
    low: int = 1
    high: float = float("inf")
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0


def sizes(crews: Sequence[Crew], have: Resources) -> list[int]:
    """The numbers of workers with which the line is fastest; the fewest of each when there is no room for more.

    Args:
        crews: the pools in any order.
        have: what all of them share.
    """
    counts = [crew.low for crew in crews]
    if not any(crew.seconds > 0 for crew in crews):
        return counts
    while True:
        slowest = limiting(crews, counts)
        if counts[slowest] >= crews[slowest].high or not _room(crews, counts, crews[slowest], have):
            return counts
        counts[slowest] += 1


def limiting(crews: Sequence[Crew], counts: Sequence[int]) -> int:
    """Which pool sets the pace."""
    return max(range(len(crews)), key=lambda at: crews[at].seconds / counts[at])


def pace(crews: Sequence[Crew], counts: Sequence[int]) -> float:
    """Units a second of the whole line."""
    slowest = max(crew.seconds / count for crew, count in zip(crews, counts, strict=True))
    return 1 / slowest if slowest else float("inf")


def _room(crews: Sequence[Crew], counts: Sequence[int], more: Crew, have: Resources) -> bool:
    """Whether one more worker finds room; what nobody asks for is not looked at."""
    return all(
        not getattr(more, name)
        or sum(count * getattr(crew, name) for crew, count in zip(crews, counts, strict=True)) + getattr(more, name)
        <= getattr(have, name) + 1e-9
        for name in ("cpus", "gpus", "memory_bytes")
    )
