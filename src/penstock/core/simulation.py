"""What a pipeline would do on other hardware, from what its units cost in a run: a simulation by events.

The model: a line of pools; a unit waits for a hand of a worker, goes through the worker's steps, each of which lets in
as many units as its place says, and waits for the next pool. Costs are those that a run has measured. Reading shares
the storage's bandwidth, and one driver hands out the units. docs/planning.md has the assumptions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.balance import Crew, sizes
from penstock.core.nouns import Pipeline
from penstock.core.plan import Operator, Resources, weighed

__all__ = ["Forecast", "Hardware", "Load", "Profile", "Seconds", "Station", "forecast", "play", "stations"]

Seconds: TypeAlias = npt.NDArray[np.float64]

_MOST_UNITS = 20_000
"""So many are simulated; the rest goes at the pace that these had in the middle."""


@dataclass(frozen=True)
class Hardware:
    """What a pipeline would run on.

    Attributes:
        nodes: how many.
        cpus, gpus, memory_gib: of each node; no memory is said by 0, and then it is not looked at.
        usd_per_hour: price of one node.
        storage_gb_per_second: bandwidth at which all nodes together read; 0 for no limit.
        driver_seconds: for which one unit keeps the driver busy in one pool; the share of it that limits a run of
            many workers and short units.
    """

    nodes: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    memory_gib: float = 0.0
    usd_per_hour: float = 0.0
    storage_gb_per_second: float = 0.0
    driver_seconds: float = 0.01

    def __post_init__(self) -> None:
        if self.nodes < 1 or not all(0 <= value < float("inf") for value in vars(self).values()):
            raise ValueError("nodes must be at least 1, and nothing else negative or without end")

    @property
    def resources(self) -> Resources:
        """Of all nodes together."""
        each, what = int(self.memory_gib * 2**30), f"{self.nodes} nodes"
        total = self.nodes * (each or 1 << 62)
        return Resources(self.nodes * self.cpus, self.nodes * self.gpus, total, what, node_memory_bytes=each)


@dataclass(frozen=True)
class Profile:
    """What units cost in a run.

    Attributes:
        steps: names in the order of the line, ``read`` first, ``write`` last.
        seconds: at work, "unit step".
        size_bytes: of the units, "unit".
        start_seconds: from the run's start until its first unit began: workers, models.
        gap_seconds: that a worker waits for its next unit when there are enough.
        end_seconds: from the last unit's end to the run's end: the commit.
    """

    steps: tuple[str, ...]
    seconds: Seconds
    size_bytes: Seconds
    start_seconds: float = 0.0
    gap_seconds: float = 0.0
    end_seconds: float = 0.0

    def scaled(self, size_bytes: Seconds) -> Seconds:
        """Costs of units of these sizes, "unit step": drawn from those measured, times what the size makes of it."""
        drawn = np.random.default_rng(0).permutation(np.resize(np.arange(len(self.seconds)), len(size_bytes)))
        known, wanted = self._expected(self.size_bytes)[drawn], self._expected(size_bytes)
        ratio = np.divide(wanted, known, out=np.ones_like(wanted), where=known > 0)
        return np.asarray(self.seconds[drawn] * ratio)

    def _expected(self, size_bytes: Seconds) -> Seconds:
        """Mean costs at these sizes, "unit step"."""
        lines = [_affine(self.size_bytes, costs) for costs in self.seconds.T]
        return np.stack([constant + slope * size_bytes for constant, slope in lines], axis=1)


def _affine(size_bytes: Seconds, costs: Seconds) -> tuple[float, float]:
    """Seconds of a unit and of each of its bytes, neither negative; of bytes alone where all units have one size."""
    through_zero = (0.0, float(costs.sum() / max(size_bytes.sum(), 1.0)))
    if not len(costs) or np.ptp(size_bytes) == 0:
        return through_zero
    slope, constant = np.polyfit(size_bytes, costs, 1)
    if slope < 0:
        return float(costs.mean()), 0.0
    return (float(constant), float(slope)) if constant >= 0 else through_zero


@dataclass(frozen=True)
class Station:
    """A pool in the model.

    Attributes:
        name: its steps.
        workers: how many.
        hands: units that a worker may have at once.
        gates: for each step its column among the costs, and how many of a worker's units it lets in at once.
        late: how many of the workers are started only when the others are at work.
    """

    name: str
    workers: int
    hands: int = 1
    gates: tuple[tuple[int, int], ...] = ((0, 1),)
    late: int = 0

    def cycle(self, seconds: Seconds) -> float:
        """Seconds between two units of one worker that never waits, for mean costs "step"."""
        alone = sum(float(seconds[column]) for column, _ in self.gates) / self.hands
        return max([alone, *(float(seconds[column]) / most for column, most in self.gates)])


@dataclass(frozen=True)
class Load:
    """How busy a pool is: the share of its workers' time at the pace of the whole line."""

    name: str
    workers: int
    busy_share: float


@dataclass(frozen=True)
class Forecast:
    """What a run would do.

    Attributes:
        start_seconds, end_seconds: parts of *seconds* in which nothing is done to units.
        units_per_second: once all workers are there.
        node_hours: of all nodes.
        limit: what sets the pace: a pool, ``storage`` or ``driver``.
    """

    units: int
    seconds: float
    start_seconds: float
    end_seconds: float
    units_per_second: float
    node_hours: float
    usd: float
    loads: tuple[Load, ...]
    limit: str


def stations(
    pipeline: Pipeline, costs: Seconds, resources: Resources, parts: Sequence[Operator] = ()
) -> tuple[Station, ...]:
    """The pools of *pipeline*, which are its *parts*, as large as mean *costs*, "step", and *resources* make them."""
    parts = parts or weighed(pipeline)
    bare = [_station(pipeline, part, reads=part is parts[0], writes=part is parts[-1]) for part in parts]
    crews = [_crew(part, station.cycle(costs)) for part, station in zip(parts, bare, strict=True)]
    counts = sizes(crews, resources)
    late = [n - part.place.replicas[0] if part.kind == "actor" else 0 for part, n in zip(parts, counts, strict=True)]
    return tuple(replace(s, workers=n, late=after) for s, n, after in zip(bare, counts, late, strict=True))


def _station(pipeline: Pipeline, part: Operator, *, reads: bool, writes: bool) -> Station:
    gates = [(0, pipeline.read.concurrency)] if reads else []
    gates += [(at + 1, pipeline.steps[at].place.concurrency) for at in range(part.first, part.stop)]
    gates += [(len(pipeline.steps) + 1, part.concurrency)] if writes else []
    steps = [step.name for step in pipeline.steps[part.first : part.stop]]
    names = ["read"] * reads + steps + ["write"] * writes
    return Station("+".join(names), 1, part.concurrency, tuple(gates))


def _crew(part: Operator, seconds: float) -> Crew:
    place = part.place
    if part.kind == "actor":
        return Crew(seconds, *place.replicas, place.cpus, place.gpus, place.memory_bytes)
    cpus = place.cpus or float(not place.gpus)  # tasks that reserve nothing take a core, lest they grow without end
    return Crew(seconds, cpus=cpus, gpus=place.gpus, memory_bytes=place.memory_bytes)


def forecast(pipeline: Pipeline, profile: Profile, size_bytes: Seconds, hardware: Hardware) -> Forecast:
    """What *pipeline* would do with units of these sizes on *hardware*."""
    costs = profile.scaled(size_bytes)
    mean = costs.mean(axis=0) if len(costs) else np.zeros(len(profile.steps))
    line = [_at_most(station, len(costs)) for station in stations(pipeline, mean, hardware.resources)]
    hands = sum(s.workers * s.hands for s in line)
    shown = costs[: max(_MOST_UNITS, 20 * hands)]
    storage = size_bytes[: len(shown)] / (hardware.storage_gb_per_second * 1e9 or np.inf)
    waits = {"driver": hardware.driver_seconds, "gap": profile.gap_seconds, "ramp": profile.start_seconds}
    ends = play(line, shown, storage, **waits)
    pace = _pace(ends)
    work = float(ends[-1]) + (len(costs) - len(shown)) / pace if len(ends) else 0.0
    seconds = profile.start_seconds + work + profile.end_seconds
    hours = seconds * hardware.nodes / 3600
    loads = tuple(Load(s.name, s.workers, min(1.0, pace * s.cycle(mean) / s.workers)) for s in line)
    shares = [(load.busy_share, load.name) for load in loads]  # two pools may have one name
    shares += [(pace * float(storage.mean()) if len(shown) else 0.0, "storage")]
    shares += [(pace * hardware.driver_seconds * len(line), "driver")]
    limit = max(shares, key=lambda share: share[0])[1]
    edges = (profile.start_seconds, profile.end_seconds)
    return Forecast(len(costs), seconds, *edges, pace, hours, hours * hardware.usd_per_hour, loads, limit)


def _at_most(station: Station, units: int) -> Station:
    """Without workers that would never see a unit."""
    surplus = max(0, station.workers - max(units, 1))
    return replace(station, workers=station.workers - surplus, late=max(0, station.late - surplus))


def _pace(ends: Seconds) -> float:
    """Units a second in the middle of the run, when all pools are at work."""
    low, high = len(ends) // 4, 3 * len(ends) // 4
    if high - low < 8 or ends[high - 1] <= ends[low]:
        return len(ends) / float(ends[-1]) if len(ends) and ends[-1] > 0 else float("inf")
    return float(np.polyfit(ends[low:high], np.arange(low, high), 1)[0])


# --- events ----------------------------------------------------------------------------------------------

_Life: TypeAlias = Generator["_Gate | float", Any, None]
"""A unit's: it yields the gate that it wants to go through, or the seconds that it stays; it is sent what it got."""


@dataclass
class _Clock:
    """What happens next."""

    now: float = 0.0
    coming: list[tuple[float, int, _Life, Any]] = field(default_factory=list)
    order: count[int] = field(default_factory=count)
    ends: list[float] = field(default_factory=list)

    def at(self, when: float, life: _Life, got: Any = None) -> None:
        heappush(self.coming, (when, next(self.order), life, got))

    def run(self) -> None:
        while self.coming:
            self.now, _, life, got = heappop(self.coming)
            self._go(life, got)

    def _go(self, life: _Life, got: Any) -> None:
        """Until it has to wait, or is at its end."""
        while (wanted := next(life, None) if got is None else _sent(life, got)) is not None:
            if not isinstance(wanted, _Gate):
                self.at(self.now + wanted, life)
                return
            if not wanted.free:
                wanted.waiting.append(life)
                return
            got = wanted.free.popleft()


def _sent(life: _Life, got: Any) -> _Gate | float | None:
    try:
        return life.send(got)
    except StopIteration:
        return None


@dataclass
class _Gate:
    """Lets in as many as there are passes; the others wait in the order in which they came."""

    clock: _Clock
    free: deque[Any]
    waiting: deque[_Life] = field(default_factory=deque)

    def leave(self, given: Any) -> None:
        """The pass goes to who has waited longest."""
        if self.waiting:
            self.clock.at(self.clock.now, self.waiting.popleft(), given)
        else:
            self.free.append(given)


@dataclass(frozen=True)
class _Worker:
    """A way into each of its steps."""

    gates: tuple[_Gate, ...]


@dataclass(frozen=True)
class _Shop:
    """All that units meet on their way."""

    clock: _Clock
    line: Sequence[Station]
    pools: Sequence[_Gate]
    storage: _Gate
    driver: _Gate
    driver_seconds: float
    gap_seconds: float


def play(
    line: Sequence[Station],
    seconds: Seconds,
    storage: Seconds | None = None,
    *,
    driver: float = 0.0,
    gap: float = 0.0,
    ramp: float = 0.0,
) -> Seconds:
    """When the units end, in order, if all are there at time 0.

    Args:
        line: the pools.
        seconds: costs, "unit step".
        storage: for which each unit has the storage for itself, "unit".
        driver: seconds for which a unit keeps the driver busy before each pool.
        gap: seconds between two units of a worker's hand.
        ramp: when those workers come that are late.
    """
    clock = _Clock()
    pools = [_staffed(clock, station, ramp) for station in line]
    shop = _Shop(clock, line, pools, _Gate(clock, deque([True])), _Gate(clock, deque([True])), driver, gap)
    waits = np.zeros(len(seconds)) if storage is None else storage
    for costs, wait in zip(seconds.tolist(), waits.tolist(), strict=True):
        clock.at(0.0, _life(shop, costs, wait))
    clock.run()
    return np.sort(np.array(clock.ends))


def _staffed(clock: _Clock, station: Station, ramp: float) -> _Gate:
    """The way into a pool; a pass is a worker, once for each of its hands, in turn, so that units spread over them."""
    made = [
        _Worker(tuple(_Gate(clock, deque([True] * most)) for _, most in station.gates)) for _ in range(station.workers)
    ]
    there = len(made) - station.late
    pool = _Gate(clock, deque(made[:there] * station.hands))
    for worker in made[there:] * station.hands:
        clock.at(0.0, _arrival(pool, worker, ramp))
    return pool


def _arrival(pool: _Gate, worker: _Worker, ramp: float) -> _Life:
    yield ramp
    pool.leave(worker)


def _life(shop: _Shop, costs: Sequence[float], storage: float) -> _Life:
    """From pool to pool, through the driver before each, and through the storage into the first."""
    for at, (station, pool) in enumerate(zip(shop.line, shop.pools, strict=True)):
        yield from _held(shop.driver, shop.driver_seconds)
        worker = yield pool
        yield shop.gap_seconds
        if at == 0:
            yield from _held(shop.storage, storage)
        for gate, (column, _) in zip(worker.gates, station.gates, strict=True):
            yield from _held(gate, costs[column])
        pool.leave(worker)
    shop.clock.ends.append(shop.clock.now)


def _held(gate: _Gate, seconds: float) -> _Life:
    if seconds:
        given = yield gate
        yield seconds
        gate.leave(given)
