"""Who worked in a run, and what set its pace: told by the times at which each worker began and ended its units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.simulation import Profile
from penstock.errors import PlanError
from penstock.report.story import Run

__all__ = ["Pool", "limit", "pools", "profile"]

_PACED = 0.6
"""A pool that is busy for less than this share does not set the pace."""

Times = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """The workers that carried the same steps.

    Attributes:
        steps: names, in order.
        workers: ``host:pid`` of each.
        hands: most units that one of them had at once.
        busy: seconds at work in each step.
        spans: for each worker when it began its first and ended its last unit, seconds since the run began, "worker 2".
        gap_seconds: median time between two units of a worker.
    """

    steps: tuple[str, ...]
    workers: tuple[str, ...]
    hands: int
    busy: tuple[float, ...]
    spans: Times
    gap_seconds: float

    @property
    def busy_share(self) -> float:
        """Seconds at work over seconds there were, of each worker from its first unit's begin to its last one's end."""
        return self.share(sum(self.busy))

    def share(self, seconds: float) -> float:
        """What *seconds* at work are of those that all hands of all workers had."""
        there_were = float((self.spans[:, 1] - self.spans[:, 0]).sum()) * self.hands
        return seconds / there_were if there_were > 0 else 0.0


def pools(run: Run) -> list[Pool]:
    """The pools of *run* in the order of the line; none when an older Penstock recorded it."""
    if not run.traces.num_rows or "began" not in run.traces.column_names:
        return []
    return [_pool(run, steps) for steps in _together(run.traces)]


def _together(traces: pa.Table) -> list[list[str]]:
    """Neighbouring steps that the same workers carried."""
    found: list[list[str]] = []
    before: set[str] = set()
    for step in dict.fromkeys(traces["step"].to_pylist()):
        workers = set(pc.unique(_of(traces, [step])["worker"]).to_pylist())
        if found and workers & before:
            found[-1].append(step)
        else:
            found.append([step])
        before = workers
    return found


def _of(traces: pa.Table, steps: Sequence[str]) -> pa.Table:
    return traces.filter(pc.is_in(traces["step"], pa.array(steps)))


def _pool(run: Run, steps: Sequence[str]) -> Pool:
    traces = _of(run.traces, steps)
    traces = traces.append_column("ended", pc.add(traces["began"], traces["seconds"]))
    stays = traces.group_by(["worker", "unit"]).aggregate([("began", "min"), ("ended", "max")]).sort_by("began_min")
    workers = tuple(sorted(pc.unique(stays["worker"]).to_pylist()))
    each = [_stays(stays.filter(pc.equal(stays["worker"], worker))) for worker in workers]
    spans = np.array([[one[0].min(), one[1].max()] for one in each]) - run.facts["started"]
    busy = tuple(float(pc.sum(_of(traces, [step])["seconds"]).as_py()) for step in steps)
    gaps = [float(np.median(np.maximum(begins[1:] - ends[:-1], 0))) for begins, ends in each if len(begins) > 1]
    return Pool(tuple(steps), workers, max(_at_once(*one) for one in each), busy, spans, min(gaps, default=0.0))


def _stays(table: pa.Table) -> tuple[Times, Times]:
    return table["began_min"].to_numpy(), table["ended_max"].to_numpy()


def _at_once(begins: Times, ends: Times) -> int:
    """Most of these intervals that overlap; one that ends as the next begins does not."""
    times = np.concatenate([ends, begins])
    steps = np.concatenate([-np.ones(len(ends), int), np.ones(len(begins), int)])
    return int(np.cumsum(steps[np.lexsort((steps, times))]).max())


def limit(run: Run, found: Sequence[Pool]) -> str:
    """In one sentence what set the pace of *run*; empty when nobody knows."""
    if not found:
        return ""
    first, wall = min(float(pool.spans[:, 0].min()) for pool in found), run.facts["seconds"]
    slowest = max(found, key=lambda pool: pool.busy_share)
    if wall and first > wall / 2:
        return f"Starting took {first:.1f} of {wall:.1f} s, more than the work; with more units it would not matter."
    if slowest.busy_share < _PACED:
        return (
            f"No stage sets the pace: the busiest, {_named(slowest)}, was busy {slowest.busy_share:.0%} of its time; "
            "the rest went into handing out units. Larger units would run faster."
        )
    others = "; ".join(f"{_named(pool)} {pool.busy_share:.0%}" for pool in found if pool is not slowest)
    return f"{_pacer(slowest)}{'; ' + others if others else ''}."


def _pacer(pool: Pool) -> str:
    step = pool.steps[int(np.argmax(pool.busy))]
    crew = f"{len(pool.workers)} worker{'s' * (len(pool.workers) > 1)}"
    crew += f" with {pool.hands} units each" if pool.hands > 1 else ""
    inside = ", ".join(f"{name} {pool.share(busy):.0%}" for name, busy in zip(pool.steps, pool.busy, strict=True))
    more = f" ({inside})" if len(pool.steps) > 1 else ""
    return f"{_plain(step)} sets the pace: busy {pool.busy_share:.0%} of {crew}{more}"


def _named(pool: Pool) -> str:
    return "+".join(map(_plain, pool.steps))


def _plain(step: str) -> str:
    return {"read": "reading", "write": "writing"}.get(step, step)


# --- the profile for forecasts ---------------------------------------------------------------------------


def profile(run: Run, size_bytes: dict[str, float]) -> Profile:
    """What the units of *run* cost.

    Args:
        run: of the pipeline in question.
        size_bytes: of units by their keys.

    Raises:
        PlanError: the run tells nothing of these units.
    """
    found = pools(run)
    keys = [key for key in dict.fromkeys(run.traces["unit"].to_pylist()) if key in size_bytes]
    if not found or not keys:
        raise PlanError(
            f"{run.facts['pipeline']}: its last run did not record what these units cost, since the source has changed "
            "or an older Penstock wrote it; run a sample again: penstock run FILE --sample 20"
        )
    steps = [step for pool in found for step in pool.steps]
    at, column = {key: row for row, key in enumerate(keys)}, {step: number for number, step in enumerate(steps)}
    seconds = np.zeros((len(keys), len(steps)))
    for unit, step, cost in _costs(run.traces):
        if unit in at:
            seconds[at[unit], column[step]] = cost
    first = min(float(pool.spans[:, 0].min()) for pool in found)
    end = run.facts["seconds"] - max(float(pool.spans[:, 1].max()) for pool in found)
    sizes = np.array([size_bytes[key] for key in keys])
    gap = max(found, key=lambda pool: pool.busy_share).gap_seconds
    return Profile(tuple(steps), seconds, sizes, max(first, 0.0), gap, max(end, 0.0))


def _costs(traces: pa.Table) -> Iterator[tuple[str, str, float]]:
    columns = (traces[name].to_pylist() for name in ("unit", "step", "seconds"))
    return zip(*columns, strict=True)
