"""The rows of a table while a team trains it: each worker owns some shards and asks the owners for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from penstock.core.nouns import Team
from penstock.models.skipgram import Floats, Ints
from penstock.tables.layout import Table
from penstock.tables.working import Finished, Optimizer, Working

__all__ = ["Asked", "Shared"]


@dataclass(frozen=True)
class Asked:
    """Which rows were asked of whom: of ours, the owner of each; and what every worker asked of us."""

    owner: Ints
    of_us: Sequence[Ints]

    def parted(self, values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        """*values* of the rows that we asked for, ``"row dim"``, by their owners."""
        return [values[self.owner == rank] for rank in range(len(self.of_us))]


class Shared:
    """Our share of a table, and the way to those of the others. All methods but `finished` are collective.

    Args:
        table: what training starts from.
        team: who trains.
        folder: a local folder of this worker alone.
        optimizer: how the owner of a row takes what is pushed.
    """

    def __init__(self, table: Table, team: Team, folder: Path, optimizer: Optimizer) -> None:
        self.table, self._team = table, team
        self._working = Working(table, folder, optimizer, table.owned(team.rank, team.size))

    def pull(self, rows: Ints) -> tuple[Floats, Asked]:
        """The rows of these different numbers, ``"row dim"``, as they are now."""
        owner = self.table.owner(rows, self._team.size)
        of_us = self._team.exchange([rows[owner == rank] for rank in range(self._team.size)])
        came = self._team.exchange([self._working.gather(asked) for asked in of_us])
        values = np.empty((len(rows), self.table.layout.dim), np.float32)
        for rank, part in enumerate(came):
            values[owner == rank] = part
        return values, Asked(owner, of_us)

    def push(self, asked: Asked, gradients: Floats) -> None:
        """One step by the *gradients* of the rows that were pulled; those of several workers in the order of ranks."""
        for rows, part in zip(asked.of_us, self._team.exchange(asked.parted(gradients)), strict=True):
            if len(rows):
                self._working.scatter(rows, part)

    def finished(self) -> list[Finished]:
        """Publish the shards of our own that have changed; see `penstock.tables.working.publish`."""
        return self._working.finished(self.table.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._working.close()
