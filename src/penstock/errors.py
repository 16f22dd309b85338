"""Every error that Penstock raises on purpose.

::

    PenstockError
    ├── SpecError          a pipeline file or object says something that cannot be understood
    ├── SchemaError        a stage or sink cannot take the columns that it is given
    ├── PlanError          the plan cannot finish: resources, licences, space, permissions
    ├── WeightsError       model weights are missing, damaged or unsafe to load
    ├── StorageError       bytes could not be listed, read or published
    ├── DatasetError       a published dataset is not what its manifest says
    ├── UnitError          one unit could not be read, transformed or written
    ├── RowErrors          some rows of a batch are bad; carries the good ones and the bad ones
    ├── RunError           a run ended without a dataset
    │   ├── TooManyBadRows
    │   └── TooManyBadUnits
    └── JobError           a solver's job failed

A message says what was found, what was needed, and what to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "DatasetError",
    "JobError",
    "PenstockError",
    "PlanError",
    "RowErrors",
    "RunError",
    "SchemaError",
    "SpecError",
    "StorageError",
    "TooManyBadRows",
    "TooManyBadUnits",
    "UnitError",
    "WeightsError",
]


class PenstockError(Exception):
    """The root of the tree: catch this to catch all that Penstock raises on purpose."""


class SpecError(PenstockError, ValueError):
    """A pipeline file or object says something that cannot be understood."""


class SchemaError(PenstockError, TypeError):
    """A stage or sink cannot take the columns that it is given."""


class PlanError(PenstockError):
    """The plan cannot finish: resources, licences, space or permissions are missing."""


class WeightsError(PenstockError):
    """Model weights are missing, damaged or unsafe to load."""


class StorageError(PenstockError, OSError):
    """Bytes could not be listed, read or published."""


class DatasetError(PenstockError):
    """A published dataset is not what its manifest says."""


class UnitError(PenstockError):
    """One unit could not be read, transformed or written."""


class RowErrors(PenstockError):  # noqa: N818  (the plural is the point: one error for each bad row)
    """Some rows of a batch are bad and known; the others are good.

    A source or a stage that can tell the bad rows itself raises this and saves the runner
    from finding them by bisection.

    Args:
        good: the rows that go on.
        bad: the rows that are quarantined, as they were received.
        reasons: one text for each row of *bad*.
    """

    def __init__(self, good: pa.Table, bad: pa.Table, reasons: list[str]) -> None:
        if bad.num_rows != len(reasons):
            raise ValueError(f"{bad.num_rows} bad rows need as many reasons, {len(reasons)} given")
        super().__init__(f"{len(reasons)} bad rows; the first: {reasons[0] if reasons else '-'}")
        self.good, self.bad, self.reasons = good, bad, reasons

    def __reduce__(self) -> tuple[type[RowErrors], tuple[pa.Table, pa.Table, list[str]]]:
        return RowErrors, (self.good, self.bad, self.reasons)


class RunError(PenstockError):
    """A run ended without a dataset; what was finished stays in the ledger for the next run."""


class TooManyBadRows(RunError):  # noqa: N818
    """More rows were quarantined than `max_bad_rows` allows."""


class TooManyBadUnits(RunError):  # noqa: N818
    """More units failed than `max_bad_units` allows."""


class JobError(PenstockError):
    """A solver's job failed: its command, exit status and last lines of output are in the text."""
