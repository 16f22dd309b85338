"""Seeds: rows that nothing is read for, from which generators and solvers make theirs."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from penstock.core.nouns import Batch, Unit
from penstock.errors import SpecError

__all__ = ["Seeds"]


@dataclass(frozen=True)
class Seeds:
    """The column ``seed``, int64, from *start* on, and a column, float64, for each condition.

    A row depends on its seed alone: more rows, other units and other sources of the same settings give it the same
    conditions.

    Attributes:
        count: how many rows.
        start: the first seed.
        unit_rows: rows of a unit, which one task makes; 2 s of work or more are a good size.
        choices: conditions by name whose values are taken in turn: seed ``s`` has the ``s``-th, cyclically.
        ranges: conditions by name that are drawn evenly from ``[low, high)`` by a generator of the seed's own.
    """

    count: int
    start: int = 0
    unit_rows: int = 8
    choices: Mapping[str, tuple[float, ...]] = field(default_factory=dict, hash=False)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict, hash=False)

    ASIDE = ("unit_rows",)

    def __post_init__(self) -> None:
        if self.count < 0 or self.start < 0 or self.unit_rows < 1:
            raise ValueError(
                f"count = {self.count}, start = {self.start}, unit_rows = {self.unit_rows}: "
                "0 or more, 0 or more and 1 or more were needed"
            )
        for name, values in self.choices.items():
            if not values:
                raise ValueError(f"choices.{name} is empty; one value or more was needed")
        for name, (low, high) in self.ranges.items():
            if not low < high:
                raise ValueError(f"ranges.{name} goes from {low} to {high}; [low, high] with low < high was needed")

    @property
    def uri(self) -> str:
        """The seeds as a name, such as ``seeds:0-99``; nothing lies there."""
        return f"seeds:{self.start}-{self.start + self.count - 1}"

    def schema(self) -> pa.Schema:
        """``seed`` and the conditions. Raises `SpecError` when a condition is given twice."""
        twice = sorted((set(self.choices) & set(self.ranges)) | ({"seed"} & {*self.choices, *self.ranges}))
        if twice:
            raise SpecError(f"seeds: the column '{twice[0]}' is given twice; give each condition a name of its own")
        names = (*self.choices, *self.ranges)
        return pa.schema([("seed", pa.int64()), *((name, pa.float64()) for name in names)])

    def units(self) -> Iterator[Unit]:
        """Ranges of seeds that begin at multiples of *unit_rows*, so a larger *count* leaves full units as they are."""
        width, stop = 8 * len(self.schema()), self.start + self.count
        for first in range(self.start - self.start % self.unit_rows, stop, self.unit_rows):
            low, high = max(first, self.start), min(first + self.unit_rows, stop)
            yield Unit.of("seeds:", self._etag(), low, high, width * (high - low))

    def _etag(self) -> str:
        """What the rows depend on beside their seeds."""
        return repr((sorted(self.choices.items()), sorted(self.ranges.items())))

    def read(self, unit: Unit) -> Batch:
        """The rows of the seeds in *unit*."""
        seeds = np.arange(unit.start, unit.stop, dtype=np.int64)
        chosen = {name: np.take(values, seeds, mode="wrap") for name, values in self.choices.items()}
        drawn = {name: [_drawn(int(seed), name, *ends) for seed in seeds] for name, ends in self.ranges.items()}
        return pa.table({"seed": seeds, **chosen, **drawn}, self.schema())

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The rows, which cost next to nothing."""
        return self.read(unit), unit.size_bytes


def _drawn(seed: int, name: str, low: float, high: float) -> float:
    return float(np.random.default_rng((seed, zlib.crc32(name.encode()))).uniform(low, high))
