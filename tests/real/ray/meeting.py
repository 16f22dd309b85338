"""A stage that goes on past a number only when two workers have come to it; workers can import it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from penstock.core.nouns import Batch, Transform

PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Meeting:
    """Leaves the number of its process in *folder*; from *first* on it waits until there are two."""

    folder: str
    first: int
    seconds: float = 0.05

    def schema(self, given: pa.Schema) -> pa.Schema:
        return given

    @contextmanager
    def open(self) -> Iterator[Transform]:
        (Path(self.folder) / str(os.getpid())).touch()
        yield self._met

    def _met(self, batch: Batch) -> Batch:
        end = time.monotonic() + PATIENCE_SECONDS
        while batch["number"][0].as_py() >= self.first and len(list(Path(self.folder).iterdir())) < 2:
            if time.monotonic() > end:
                raise TimeoutError("nobody else has come")
            time.sleep(0.05)
        time.sleep(self.seconds)
        return batch
