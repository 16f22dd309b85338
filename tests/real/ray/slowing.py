"""A stage that changes its speed, and one that makes those behind it wait; workers can import them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
from meeting import Meeting

from penstock.core.nouns import Batch, Transform


@dataclass(frozen=True)
class Slowing(Meeting):
    """Takes *later* seconds from the number *turn* on, and meets a second worker from *first* on."""

    turn: int = 0
    later: float = 0.0

    def _met(self, batch: Batch) -> Batch:
        time.sleep(self.later if batch["number"][0].as_py() >= self.turn else self.seconds)
        return super()._met(batch)


@dataclass(frozen=True)
class Lull:
    """Holds the batch with *number* for so many seconds, and lets the others pass."""

    number: int
    seconds: float

    def schema(self, given: pa.Schema) -> pa.Schema:
        return given

    @contextmanager
    def open(self) -> Iterator[Transform]:
        yield self._held

    def _held(self, batch: Batch) -> Batch:
        time.sleep(self.seconds if self.number in batch["number"].to_pylist() else 0.0)
        return batch
