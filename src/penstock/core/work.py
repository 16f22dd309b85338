"""The life of one unit: read, transform, quarantine, write, record. No runner is needed for it.

A runner decides where each step happens; what happens is here, so every runner gives the same rows.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core.batch import with_columns
from penstock.core.ledger import Ledger
from penstock.core.nouns import Batch, Part, Pipeline, Record, Step, Trace, Transform, Unit
from penstock.core.recording import Recording
from penstock.core.storage import publish
from penstock.errors import (
    DatasetError,
    JobError,
    PenstockError,
    RowErrors,
    RunError,
    SchemaError,
    StorageError,
    TooManyBadRows,
    UnitError,
)

__all__ = [
    "Assignment",
    "Bad",
    "Failure",
    "Live",
    "Parcel",
    "begin",
    "carry",
    "entered",
    "finish",
    "here",
    "opened",
    "sift",
    "step",
]


@dataclass(frozen=True)
class Assignment:
    """What a worker has to know, the same for all units of a run.

    Attributes:
        schemas: the columns after the source and after each step.
        recording: what is kept of one step.
    """

    pipeline: Pipeline
    fingerprint: str
    schemas: tuple[pa.Schema, ...]
    recording: Recording | None = None

    @property
    def ledger(self) -> Ledger:
        """The ledger that this run writes to."""
        return Ledger(self.pipeline.sink.uri, self.fingerprint)


@dataclass(frozen=True)
class Bad:
    """Rows that one step refused: as it received them, with a reason for each."""

    step: str
    rows: pa.Table
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Parcel:
    """A unit on its way: its batch, what was put aside, and the story so far."""

    unit: Unit
    batch: Batch
    bad: tuple[Bad, ...] = ()
    traces: tuple[Trace, ...] = ()
    since: float = 0.0
    """When the last step ended, in seconds since 1970."""


@dataclass(frozen=True)
class Failure:
    """A unit that could not be carried through. ``fatal`` ones would fail every other unit too."""

    unit: Unit
    error: str
    fatal: bool = False


def carry(assignment: Assignment, unit: Unit, transforms: Sequence[Transform]) -> Record | Failure:
    """All of one unit's life in this process."""
    parcel = begin(assignment, unit)
    for index, transform in enumerate(transforms):
        if isinstance(parcel, Parcel):
            parcel = step(assignment, index, transform, parcel)
    return finish(assignment, parcel) if isinstance(parcel, Parcel) else parcel


Live: TypeAlias = Callable[[Step], AbstractContextManager[Transform]]
"""How a step comes alive: a runner says where."""


def here(step: Step) -> AbstractContextManager[Transform]:
    """The live function of *step* in this process, whatever its place says."""
    return step.stage.open()


@contextmanager
def opened(
    assignment: Assignment, first: int = 0, stop: int | None = None, live: Live = here
) -> Iterator[list[Transform]]:
    """The live functions of the steps *first* to *stop*."""
    with entered(assignment.pipeline.steps[first:stop], live) as transforms:
        yield transforms


@contextmanager
def entered(steps: Sequence[Step], live: Live = here) -> Iterator[list[Transform]]:
    """The live functions of *steps*. Raises `RunError`."""
    with ExitStack() as stack:
        yield [_enter(stack, one, live) for one in steps]


def _enter(stack: ExitStack, one: Step, live: Live) -> Transform:
    try:
        return stack.enter_context(live(one))
    except PenstockError:
        raise
    except Exception as error:  # the boundary to other people's stages
        raise RunError(f"step {one.name} cannot be opened: {_text(error)}") from error


def begin(assignment: Assignment, unit: Unit) -> Parcel | Record | Failure:
    """Read *unit*; when it is in the ledger already (a worker died after writing it), its record."""
    started = time.time()
    try:
        known = assignment.ledger.find(unit.key)
        if known is not None:
            return known
        batch, bad = _read(assignment, unit)
    except PenstockError as error:
        return Failure(unit, str(error))
    except Exception as error:  # the boundary to other people's sources
        return Failure(unit, f"reading {unit.uri} [{unit.start}:{unit.stop}]: {_text(error)}")
    if not isinstance(batch, pa.Table):
        return Failure(unit, f"the source gave a {type(batch).__name__}; a pyarrow.Table was needed", fatal=True)
    if not batch.schema.equals(assignment.schemas[0]):
        return Failure(unit, _other_schema("the source", batch.schema, assignment.schemas[0]), fatal=True)
    counts = (batch.num_rows + _count(bad), batch.num_rows, _count(bad))
    trace = Trace("read", time.time() - started, 0.0, *counts, batch.nbytes, started, _worker())
    return Parcel(unit, batch, bad, (trace,), time.time())


def _read(assignment: Assignment, unit: Unit) -> tuple[Batch, tuple[Bad, ...]]:
    try:
        return assignment.pipeline.source.read(unit), ()
    except RowErrors as errors:
        return errors.good, (Bad("read", errors.bad, tuple(errors.reasons)),)


def step(assignment: Assignment, index: int, transform: Transform, parcel: Parcel) -> Parcel | Failure:
    """Put a parcel through step *index*; rows that fail alone are put aside."""
    name = f"{index + 1}-{assignment.pipeline.steps[index].name}"
    schema = assignment.schemas[index + 1]
    started = time.time()
    try:
        good, bad = sift(transform, parcel.batch, schema, assignment.pipeline.max_bad_rows)
        seconds = time.time() - started
        if assignment.recording is not None:
            assignment.recording.keep(index, parcel.unit, (parcel.batch, good), bad, seconds)
    except SchemaError as error:
        return Failure(parcel.unit, f"step {name}: {error}", fatal=True)
    except TooManyBadRows as error:
        return Failure(parcel.unit, f"step {name}: {error}", fatal=True)
    except PenstockError as error:
        return Failure(parcel.unit, f"step {name}: {error}")
    put_aside = tuple(Bad(name, rows, reasons) for rows, reasons in bad if rows.num_rows)
    trace = Trace(
        name,
        seconds,
        max(0.0, started - parcel.since),
        parcel.batch.num_rows,
        good.num_rows,
        _count(put_aside),
        good.nbytes,
        started,
        _worker(),
        str(getattr(transform, "told", "")),
    )
    return replace(parcel, batch=good, bad=parcel.bad + put_aside, traces=(*parcel.traces, trace), since=time.time())


_Sifted = tuple[Batch, list[tuple[pa.Table, tuple[str, ...]]]]


def sift(transform: Transform, batch: Batch, schema: pa.Schema, allowance: int) -> _Sifted:
    """Transform *batch*; on an error halve it until the rows that fail stand alone.

    Costs about ``2 b log2(n)`` calls for *b* bad rows among *n*; gives up past *allowance*.
    """
    if batch.num_rows == 0:
        return schema.empty_table(), []
    try:
        return _checked(transform(batch), schema), []
    except RowErrors as errors:
        if not errors.bad.schema.equals(batch.schema):
            raise SchemaError(
                f"the stage refused rows with the columns {errors.bad.schema.names}, it was given "
                f"{batch.schema.names}; refuse rows as they were received"
            ) from errors
        return _checked(errors.good, schema), [(errors.bad, tuple(errors.reasons))]
    except (SchemaError, StorageError, DatasetError, JobError, UnitError):  # no row is to blame
        raise
    except Exception as error:  # the boundary to other people's stages
        if batch.num_rows == 1:
            return schema.empty_table(), [(batch, (_text(error),))]
    half = batch.num_rows // 2
    left, left_bad = sift(transform, batch.slice(0, half), schema, allowance)
    bad = sum(rows.num_rows for rows, _ in left_bad)
    if bad > allowance:
        raise TooManyBadRows(f"{bad} rows of one unit failed; the first: {left_bad[0][1][0]}")
    right, right_bad = sift(transform, batch.slice(half), schema, allowance)
    return pa.concat_tables([left, right]), _merged(left_bad + right_bad)


def _merged(bad: list[tuple[pa.Table, tuple[str, ...]]]) -> list[tuple[pa.Table, tuple[str, ...]]]:
    if len(bad) < 2:
        return bad
    return [(pa.concat_tables([rows for rows, _ in bad]), tuple(text for _, texts in bad for text in texts))]


def _checked(batch: Batch, schema: pa.Schema) -> Batch:
    if not isinstance(batch, pa.Table):
        raise SchemaError(f"the stage gave a {type(batch).__name__}; a pyarrow.Table was needed")
    if not batch.schema.equals(schema):
        raise SchemaError(_other_schema("the stage", batch.schema, schema))
    return batch


def _other_schema(who: str, found: pa.Schema, wanted: pa.Schema) -> str:
    def show(schema: pa.Schema) -> str:
        return ", ".join(f"{f.name}: {f.type}" for f in schema)

    return f"{who} gave the columns [{show(found)}], but its schema() promised [{show(wanted)}]; mend one of them"


def finish(assignment: Assignment, parcel: Parcel) -> Record | Failure:
    """Quarantine what was put aside, publish the part, and enter the unit in the ledger."""
    try:
        return assignment.ledger.record(_written(assignment, parcel))
    except StorageError as error:
        return Failure(parcel.unit, str(error), fatal=True)
    except PenstockError as error:
        return Failure(parcel.unit, str(error))
    except Exception as error:  # the boundary to other people's sinks
        return Failure(parcel.unit, str(UnitError(f"writing {parcel.unit.uri}: {_text(error)}")))


def _written(assignment: Assignment, parcel: Parcel) -> Record:
    started = time.time()
    part, refused = _publish(assignment, parcel)
    put_aside = (*parcel.bad, *refused)
    bad = tuple(_quarantine(assignment, parcel.unit, item) for item in put_aside)
    seconds, waited = time.time() - started, max(0.0, started - parcel.since)
    counts = (parcel.batch.num_rows, part.rows, _count(refused))
    trace = Trace("write", seconds, waited, *counts, part.size_bytes, started, _worker())
    return Record(
        parcel.unit.key,
        part,
        bad,
        _count(put_aside),
        (*parcel.traces, trace),
        _worker(),
        time.time(),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )


def _publish(assignment: Assignment, parcel: Parcel) -> tuple[Part, tuple[Bad, ...]]:
    """The part, without the rows that the sink refuses."""
    sink = assignment.pipeline.sink
    try:
        return sink.write(parcel.unit, parcel.batch), ()
    except RowErrors as errors:
        return sink.write(parcel.unit, errors.good), (Bad("write", errors.bad, tuple(errors.reasons)),)


def _quarantine(assignment: Assignment, unit: Unit, bad: Bad) -> str:
    """Publish refused rows; the name follows from unit and step, so a repeated write changes nothing."""
    columns = {
        "_error": pa.array(bad.reasons, pa.string()),
        "_step": pa.array([bad.step] * bad.rows.num_rows, pa.string()),
        "_unit": pa.array([unit.key] * bad.rows.num_rows, pa.string()),
        "_uri": pa.array([unit.uri] * bad.rows.num_rows, pa.string()),
    }
    table = with_columns(bad.rows, columns)  # rows that are refused a second time have these already
    with publish(assignment.pipeline.sink.uri, ".parquet") as (path, upload):
        pq.write_table(table.combine_chunks(), path)
        name = f"quarantine/{bad.step}/{assignment.fingerprint[:16]}-{unit.key[:32]}.parquet"
        upload(name)
    return name


def _worker() -> str:
    """This process, as records name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _count(bad: Sequence[Bad]) -> int:
    return sum(item.rows.num_rows for item in bad)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
