"""Stages and sources whose cost is known: they wait. What is lost beside them is the engine's."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from penstock.core.nouns import Batch, Transform, Unit


@dataclass(frozen=True)
class Items:
    """*count* units of one row, its number; reading one takes *seconds*."""

    count: int
    seconds: float = 0.0
    uri: str = "items"

    def schema(self) -> pa.Schema:
        return pa.schema([("number", pa.int64())])

    def units(self) -> Iterable[Unit]:
        return (Unit.of(self.uri, "1", at, at + 1) for at in range(self.count))

    def read(self, unit: Unit) -> Batch:
        time.sleep(self.seconds)
        return pa.table({"number": [unit.start]}, self.schema())


@dataclass(frozen=True)
class Pause:
    """Waits for each item as long as *costs* says, which are taken in turn; opening takes *load* seconds.

    From item *turn* on it waits *later* instead.
    """

    name: str
    costs: tuple[float, ...]
    load: float = 0.0
    turn: int = 1 << 60
    later: float = 0.0

    def schema(self, given: pa.Schema) -> pa.Schema:
        return given

    def cost(self, number: int) -> float:
        return self.costs[number % len(self.costs)] if number < self.turn else self.later

    @contextmanager
    def open(self) -> Iterator[Transform]:
        time.sleep(self.load)
        yield self._wait

    def _wait(self, batch: Batch) -> Batch:
        time.sleep(sum(map(self.cost, batch["number"].to_pylist())))
        return batch
