"""Rows in order, from any row on, for a solver that runs meanwhile.

How many rows each unit gave is noted beside what the solver leaves. So a stream that goes on after a kill makes
only the units that are needed again, though nobody can tell beforehand how many rows a unit has. How each run went is
noted there as well, for the report.
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

import pyarrow as pa

from penstock.core.ledger import fingerprint_of, identity_of
from penstock.core.nouns import Batch, Step, Stream, Unit
from penstock.core.plan import folded
from penstock.core.storage import join, store_of
from penstock.core.work import Live, entered, here, sift
from penstock.errors import RunError

__all__ = ["Carry", "begin", "fed", "making", "recorded", "rows_made", "runs", "schemas"]

_MOST_RUNS = 20

Carry = Callable[[Iterable[Unit]], Iterator[Batch]]
"""Units to what comes of each after the last step, in the order of units, not all at once."""


def schemas(stream: Stream) -> tuple[pa.Schema, ...]:
    """The columns after the source and after each step.

    Raises:
        SchemaError: a step or the solver cannot take what the step before it gives.
    """
    return folded(stream, "solver", stream.into.schema)


def begin(stream: Stream) -> None:
    """Note whose rows the solver gets; they cannot be others in the middle of a run.

    Raises:
        SchemaError: a step or the solver cannot take what the step before it gives.
        RunError: it was begun on other rows.
    """
    schemas(stream)
    uri, mark = join(stream.into.uri, "stream.json"), fingerprint_of(stream, identity_of("solvers", stream.into))
    store_of(uri).create(uri, json.dumps({"name": stream.name, "fingerprint": mark}).encode())
    if json.loads(store_of(uri).read(uri) or b"{}")["fingerprint"] != mark:
        raise RunError(
            f"{stream.name}: the run in {stream.into.uri} was begun with other settings, or on other rows; "
            "remove that folder, or give this stream another uri"
        )


def fed(stream: Stream, carry: Carry) -> Callable[[int], Iterator[Batch]]:
    """What `penstock.core.nouns.Solver.run` calls for its rows."""

    def rows(first: int) -> Iterator[Batch]:
        counts, start = _counts(stream), 0
        known = 0
        while known < len(counts) and start + counts[known] <= first:
            start += counts[known]
            known += 1
        del counts[known:]
        for batch in carry(islice(stream.source.units(), known, None)):
            counts.append(batch.num_rows)
            _note(stream, counts)
            if start + batch.num_rows > first:
                yield batch.slice(max(0, first - start))
            start += batch.num_rows

    return rows


def _address(uri: str) -> str:
    return join(uri, "rows.json")


def _pairs(uri: str) -> list[tuple[int, int]]:
    return list(json.loads(store_of(uri).read(_address(uri)) or b"[]"))


def _counts(stream: Stream) -> list[int]:
    """The rows of the units that were made before."""
    return [rows for rows, times in _pairs(stream.into.uri) for _ in range(times)]


def rows_made(uri: str) -> tuple[int, int]:
    """How many units were made for the solver at *uri*, and their rows."""
    pairs = _pairs(uri)
    return sum(times for _, times in pairs), sum(rows * times for rows, times in pairs)


def _note(stream: Stream, counts: list[int]) -> None:
    """Equal counts in a row are one pair, so that a million units are a short file."""
    pairs: list[list[int]] = []
    for rows in counts:
        if pairs and pairs[-1][0] == rows:
            pairs[-1][1] += 1
        else:
            pairs.append([rows, 1])
    uri = _address(stream.into.uri)
    store_of(uri).replace(uri, json.dumps(pairs).encode())


@contextmanager
def recorded(
    stream: Stream, runner: str, heard: Callable[[Mapping[str, float]], None]
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Note how this run of the solver went, when it ends, well or not; only a kill leaves nothing of it."""
    last: dict[str, float | None] = {}
    started, ended = time.time(), False

    def told(facts: Mapping[str, float]) -> None:
        last.update({name: value if math.isfinite(value) else None for name, value in facts.items()})
        heard(facts)

    try:
        yield told
        ended = True
    finally:
        about = {"runner": runner, "host": socket.gethostname(), "started": started, "ended": ended}
        _add_run(stream.into.uri, {**about, "seconds": time.time() - started, "told": last})


def _add_run(uri: str, run: Mapping[str, Any]) -> None:
    store_of(uri).replace(join(uri, "runs.json"), json.dumps([run, *runs(uri)][:_MOST_RUNS], indent=1).encode())


def runs(uri: str) -> list[Mapping[str, Any]]:
    """The newest runs of the solver at *uri*, the newest first.

    Each has ``runner``, ``host``, ``started``, ``seconds``, whether it ``ended`` well, and what was ``told`` last.
    """
    return list(json.loads(store_of(uri).read(join(uri, "runs.json")) or b"[]"))


@contextmanager
def making(stream: Stream, live: Live = here) -> Iterator[Callable[[Unit], Batch]]:
    """A function that puts a unit through all steps, which are open inside.

    It raises `RunError` where a row is refused: a time series has no gaps, so none is put aside.
    """
    line = schemas(stream)
    with entered(stream.steps, live) as transforms:

        def make(unit: Unit) -> Batch:
            batch = stream.source.read(unit)
            for step, transform, schema in zip(stream.steps, transforms, line[1:], strict=True):
                batch, bad = sift(transform, batch, schema, batch.num_rows)
                if bad:
                    raise RunError(_refused(stream, step, unit, bad[0][1][0]))
            return batch

        yield make


def _refused(stream: Stream, step: Step, unit: Unit, reason: str) -> str:
    return (
        f"{stream.name}: step {step.name} refused a row of {unit.uri} [{unit.start}:{unit.stop}]: {reason}; "
        "a stream has no gaps, so mend the row or the step, and run again to go on"
    )
