"""What a block of Ray Data holds here: one row, with a unit, a parcel or an outcome.

The batch travels as one Arrow IPC buffer in a cell. So blocks never mix units, a batch without rows is
not lost, schemas may differ from block to block, and Ray Data has nothing to split, merge or unify.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from penstock.core.batch import from_bytes, to_bytes
from penstock.core.nouns import Record, Trace, Unit
from penstock.core.run import Outcome
from penstock.core.work import Bad, Failure, Parcel

__all__ = ["opened", "outcome", "outcomes", "parcel", "unit", "unit_of"]


@dataclass(frozen=True)
class _Head:
    """All of a parcel but its tables."""

    unit: Unit
    traces: tuple[Trace, ...]
    since: float
    steps: tuple[str, ...]
    reasons: tuple[tuple[str, ...], ...]


_UNIT = TypeAdapter(Unit)
_HEAD = TypeAdapter(_Head)
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Record | Failure)


def unit(content: Unit) -> dict[str, str]:
    """The row that stands for a unit which nobody has read yet."""
    return {"unit": _UNIT.dump_json(content).decode()}


def outcome(content: Outcome) -> pa.Table:
    """The block for a unit that is done or has failed."""
    return _block("", _OUTCOME.dump_json(content).decode(), pa.py_buffer(b""), [])


def parcel(content: Parcel) -> pa.Table:
    """The block for a unit on its way."""
    steps, reasons = tuple(bad.step for bad in content.bad), tuple(bad.reasons for bad in content.bad)
    head = _Head(content.unit, content.traces, content.since, steps, reasons)
    aside = [to_bytes(bad.rows).to_pybytes() for bad in content.bad]
    return _block(_HEAD.dump_json(head).decode(), None, to_bytes(content.batch), aside)


def _block(head: str, result: str | None, batch: pa.Buffer, aside: list[bytes]) -> pa.Table:
    """One row; the batch's bytes are not copied."""
    ends = pa.py_buffer(np.array([0, batch.size], np.int64))
    return pa.table(
        {
            "head": pa.array([head], pa.string()),
            "outcome": pa.array([result], pa.string()),
            "batch": pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, batch]),
            "aside": pa.array([aside], pa.list_(pa.large_binary())),
        }
    )


def opened(block: pa.Table) -> Unit | Parcel | Outcome:
    """What the block holds."""
    if "unit" in block.column_names:
        return _UNIT.validate_json(block["unit"][0].as_py())
    if block["outcome"][0].is_valid:
        return _OUTCOME.validate_json(block["outcome"][0].as_py())
    head = _HEAD.validate_json(block["head"][0].as_py())
    tables = [from_bytes(data) for data in block["aside"][0].as_py()]
    bad = tuple(map(Bad, head.steps, tables, head.reasons))
    return Parcel(head.unit, from_bytes(block["batch"][0].as_buffer()), bad, head.traces, head.since)


def unit_of(block: pa.Table) -> Unit:
    """The unit that the block is about, as long as it is not recorded."""
    content = opened(block)
    if isinstance(content, Record):
        raise TypeError(f"unit {content.unit} is recorded; there is nothing left to do for it")
    return content if isinstance(content, Unit) else content.unit


def outcomes(block: pa.Table) -> Iterator[Outcome]:
    """The outcomes in a block of finished units."""
    return (_OUTCOME.validate_json(text) for text in block["outcome"].to_pylist())
