"""Small parts with known answers, from which the suites build pipelines; workers can import them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.core.batch import adding, tensor_column, tensor_type, with_columns
from penstock.core.nouns import Batch, Transform, Unit
from penstock.errors import UnitError

__all__ = ["Journal", "Numbers", "Squares"]


@dataclass(frozen=True)
class Numbers:
    """A source of the numbers 0, 1, 2, ... with a name for each.

    Attributes:
        count: how many units.
        rows: how many numbers a unit has; every seventh unit has none.
        broken: units that cannot be read.
        uri: not looked at.
    """

    count: int = 10
    rows: int = 20
    broken: tuple[int, ...] = ()
    uri: str = "numbers"

    ASIDE = ("broken", "count")

    def schema(self) -> pa.Schema:
        """``number`` int64 and ``name`` string."""
        return pa.schema([("number", pa.int64()), ("name", pa.string())])

    def units(self) -> Iterable[Unit]:
        """*count* of them."""
        return (Unit.of(self.uri, "1", at * self.rows, (at + 1) * self.rows) for at in range(self.count))

    def read(self, unit: Unit) -> Batch:
        """The numbers from start to stop."""
        at = unit.start // self.rows
        if at in self.broken:
            raise UnitError(f"unit {at} cannot be read, as the test wants it")
        numbers = range(unit.start, unit.start if at % 7 == 6 else unit.stop)
        return pa.table({"number": list(numbers), "name": [f"n{i}" for i in numbers]}, self.schema())


@dataclass(frozen=True)
class Squares:
    """Adds ``powers``, a tensor float32 ``"row 4"``: the number, its square, its cube, and its fourth power.

    Attributes:
        bad: numbers that make it fail, as a batch and alone.
    """

    bad: tuple[int, ...] = ()

    def schema(self, given: pa.Schema) -> pa.Schema:
        """*given* with ``powers``."""
        return adding(given, {"powers": tensor_type(np.float32, 4)})

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing to load."""

        def transform(batch: Batch) -> Batch:
            numbers = batch["number"].to_numpy()
            if bad := sorted(set(self.bad) & set(numbers.tolist())):
                raise ValueError(f"the number {bad[0]} is bad")
            powers = (numbers[:, None] ** np.arange(1, 5)).astype(np.float32)
            return with_columns(batch, {"powers": tensor_column(powers)})

        yield transform


@dataclass(frozen=True)
class Journal:
    """Passes batches on, and writes a line to a file for each: the first number and the process.

    Attributes:
        file: one line a batch, appended in one write.
        seconds: how long each batch takes.
        deadly: a batch with this number kills its worker.
    """

    file: str
    seconds: float = 0.0
    deadly: int = -1

    ASIDE = ("deadly", "file", "seconds")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The same."""
        return given

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """The file stays open for the life of the worker."""
        with Path(self.file).open("ab", buffering=0) as journal:

            def transform(batch: Batch) -> Batch:
                journal.write(f"{batch['number'][0].as_py()} {os.getpid()}\n".encode())
                if self.deadly in batch["number"].to_pylist():
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(self.seconds)
                return batch

            yield transform
