"""Many solver cases from the rows of a batch, as one job with an item for each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import digest, to_bytes
from penstock.core.nouns import Batch, Cluster
from penstock.errors import UnitError
from penstock.solvers.openfoam.case import Case
from penstock.solvers.work import Work, computed

__all__ = ["Ensemble", "Outcome"]

Outcome: TypeAlias = "dict[str, npt.NDArray[Any]] | str"
"""The arrays of a row, or why there are none."""

_PROGRAM = "penstock.solvers.programs.foam"


@dataclass(frozen=True)
class Ensemble:
    """What is done with each row.

    Attributes:
        case: the template.
        fields: columns and the fields of time 0 that they are.
        gives: columns and, for each, the written field that it is and the grid on which it is wanted, or None.
        settings: columns and the numbers in ``constant`` that they are.
        points: the column with the points of the mesh; empty keeps the template's.
        displacement: the column by which OpenFOAM moves the mesh's boundary; then an outcome has ``points`` as well.
        moving: the patches that this column moves.
        checks: programs that must find nothing wrong before the solver starts.
        times: ``last``, ``all``, or ``none``, which runs the checks alone.
        ranks: MPI ranks of each solver.
    """

    case: Case
    fields: Mapping[str, str] = field(default_factory=dict)
    gives: Mapping[str, tuple[str, tuple[int, ...] | None]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    points: str = ""
    displacement: str = ""
    moving: tuple[str, ...] = ()
    checks: tuple[tuple[str, ...], ...] = ()
    times: str = "last"
    ranks: int = 1

    def outcomes(self, batch: Batch, cluster: Cluster) -> list[Outcome]:
        """What became of each row. Raises `JobError` when the job as a whole failed."""
        rows = batch.select([*self.fields, *self.settings, *filter(None, (self.points, self.displacement))])
        with computed(self._work(rows, cluster), cluster) as folder:
            return [_outcome(folder, item) for item in range(rows.num_rows)]

    def _work(self, rows: Batch, cluster: Cluster) -> Work:
        told: dict[str, Any] = {
            "program": self.case.program,
            "control": dict(self.case.control),
            "fields": dict(self.fields),
            "gives": {name: list(given) for name, given in self.gives.items()},
            "settings": dict(self.settings),
            "points": self.points,
            "displacement": self.displacement,
            "moving": list(self.moving),
            "checks": [list(check) for check in self.checks],
            "times": self.times,
            "ranks": self.ranks,
        }
        files = {"batch.arrow": to_bytes(rows).to_pybytes(), "template.tar": self.case.packed()}
        what = (_PROGRAM, told, self.case.sha256(), digest(rows))
        command = (cluster.python, "-m", _PROGRAM)
        return Work(self.case.program, what, command, told, ("row.{item}.*",), items=rows.num_rows, files=files)


def _outcome(folder: Path, item: int) -> Outcome:
    reason = folder / f"row.{item}.txt"
    if reason.exists():
        return reason.read_text()
    try:
        with np.load(folder / f"row.{item}.npz") as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UnitError(
            f"the job ended well, but the result of row {item} cannot be read ({error}); run again"
        ) from error


def tensor_shape(kind: pa.DataType) -> tuple[int, ...]:
    """Of one value of a column."""
    return tuple(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else ()
