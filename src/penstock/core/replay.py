"""Replaying a recorded step: the one stage, in this process, on the batches that it was given, beside what came out."""

from __future__ import annotations

import json
import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from penstock.core import plugins
from penstock.core.batch import to_numpy
from penstock.core.nouns import Batch, Stage, Step, Transform
from penstock.core.storage import join, local_copy, store_of
from penstock.core.work import entered, sift
from penstock.errors import DatasetError, SchemaError, SpecError

__all__ = ["Difference", "Played", "compare", "replay", "stage_of"]


@dataclass(frozen=True)
class Difference:
    """How a column is not what it was.

    Attributes:
        column: its name; empty when the difference is not in one column.
        what: in words.
        rows: how many differ.
        first: the first of them.
        most: the largest absolute difference of numbers.
        relative: the largest one over the recorded number.
    """

    column: str
    what: str
    rows: int = 0
    first: int = 0
    most: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class Played:
    """One unit, replayed.

    Attributes:
        uri: where the unit came from.
        rows: how many went in.
        seconds: now, and when it was recorded.
        differences: none when all is equal.
        rss_bytes: peak resident memory of this process so far.
    """

    uri: str
    rows: int
    seconds: tuple[float, float]
    differences: tuple[Difference, ...]
    rss_bytes: int


def replay(folder: str, changes: Mapping[str, str] | None = None, tolerance: float = 0.0) -> Iterator[Played]:
    """Run a recorded stage on its recorded batches, one unit after the other.

    Args:
        folder: where it was recorded.
        changes: fields of the stage that are set otherwise, their values as JSON or as text.
        tolerance: numbers differ when they do by more than this, absolutely and over the recorded number.

    Raises:
        DatasetError: nothing is recorded there.
        SpecError: the stage is not installed, or a change is none that it takes.
        RunError: it cannot be opened.
    """
    about = _told(folder, "recording.json")
    stage = stage_of({**about["stage"], **{key: _plain(value) for key, value in (changes or {}).items()}})
    units = [_told(folder, entry.uri.rsplit("/", 1)[-1], "units") for entry in _units(folder)]
    units.sort(key=lambda told: (told["unit"]["uri"], told["unit"]["start"]))
    schema = stage.schema(_schema(about["given"]))
    with entered((Step(stage),)) as (transform,):
        for unit in units:
            yield _played(folder, unit, transform, schema, tolerance)


def _units(folder: str) -> Sequence[Any]:
    found = list(store_of(folder).below(join(folder, "units")))
    if not found:
        raise DatasetError(
            f"{folder}: no unit is recorded there; run a pipeline with --record STEP that has work to do"
        )
    return found


def _told(folder: str, name: str, *below: str) -> Any:
    data = store_of(folder).read(join(folder, *below, name))
    if data is None:
        raise DatasetError(f"{folder}: there is no recording, since {name} is lacking; give the folder that run named")
    return json.loads(data)


def _plain(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _schema(text: str) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(bytes.fromhex(text)))


_STAGE: TypeAdapter[Any] = TypeAdapter(Annotated[Any, plugins.Plugged("stages")])


def stage_of(plain: Mapping[str, Any]) -> Stage:
    """A stage from plain data, whose ``use`` names an entry point or, as ``module:Class``, one that has none.

    Raises:
        SpecError: it is not installed, or does not take these fields.
    """
    module, _, name = str(plain["use"]).partition(":")
    body = {key: value for key, value in plain.items() if key != "use"}
    try:
        found = plugins.adapter(getattr(import_module(module), name)).validate_python(body) if name else None
        stage: Stage = found or _STAGE.validate_python(dict(plain))
    except (ValidationError, ImportError, AttributeError) as error:
        raise SpecError(f"the stage {plain['use']} cannot be made of these fields: {error}") from error
    return stage


def _played(folder: str, unit: Any, transform: Transform, schema: pa.Schema, tolerance: float) -> Played:
    given, wanted = _batch(folder, unit["given"]), _batch(folder, unit["made"])
    started = time.perf_counter()
    found, refused = sift(transform, given, schema, given.num_rows)
    seconds = time.perf_counter() - started
    reasons = sorted(reason for rows, each in refused for reason in each)
    differences = compare(wanted, found, tolerance) + _refusals(sorted(unit["refused"]), reasons)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Played(unit["unit"]["uri"], given.num_rows, (seconds, unit["seconds"]), differences, peak)


def _batch(folder: str, name: str) -> Batch:
    with local_copy(join(folder, name)) as path:
        if not path.exists():
            raise DatasetError(f"{join(folder, name)} is missing; copy the whole folder of the recording")
        with pa.ipc.open_file(str(path)) as file:
            return file.read_all()


def _refusals(wanted: Sequence[str], found: Sequence[str]) -> tuple[Difference, ...]:
    if wanted == found:
        return ()
    shown = f", the first now: {found[0]}" if found else ""
    return (Difference("", f"{len(found)} rows are refused, {len(wanted)} were{shown}", abs(len(found) - len(wanted))),)


def compare(wanted: Batch, found: Batch, tolerance: float = 0.0) -> tuple[Difference, ...]:
    """How *found* differs from *wanted*: columns, rows, values; NaN equals NaN, and nulls equal nulls."""
    types = [{field.name: field.type for field in table.schema} for table in (wanted, found)]
    columns = tuple(
        Difference(name, f"is {types[1].get(name, 'not there')}, was {types[0].get(name, 'not there')}")
        for name in {**types[0], **types[1]}
        if types[0].get(name) != types[1].get(name)
    )
    if wanted.num_rows != found.num_rows:
        less = abs(found.num_rows - wanted.num_rows)
        return (*columns, Difference("", f"{found.num_rows} rows come out, {wanted.num_rows} did", less))
    same = [name for name in types[0] if types[0][name] == types[1].get(name)]
    each = (_difference(name, wanted[name], found[name], tolerance) for name in same)
    return (*columns, *(one for one in each if one is not None))


def _difference(name: str, wanted: pa.ChunkedArray, found: pa.ChunkedArray, tolerance: float) -> Difference | None:
    try:
        one, other = _wide(wanted), _wide(found)
    except (SchemaError, ValueError):  # text, lists, or nulls among the numbers
        pairs = zip(wanted.to_pylist(), found.to_pylist(), strict=True)
        return _counted(name, "values differ", np.array([not _same(a, b, tolerance) for a, b in pairs], bool))
    with np.errstate(all="ignore"):
        apart = np.abs(other.astype(np.float64) - one)
        equal = (one == other) | (np.isnan(one) & np.isnan(other))
        allowed = tolerance * np.maximum(1.0, np.abs(one.astype(np.float64)))
        # Of whole numbers that differ beyond 2**53, the difference may be rounded to nothing.
        close = equal | (np.isfinite(apart) & (apart <= allowed) & (tolerance > 0))
        apart = np.where(equal, 0.0, apart)
        relative = np.where(equal, 0.0, apart / np.abs(one))
    axes = tuple(range(1, close.ndim))
    return _counted(
        name, "numbers differ", ~close.all(axis=axes), float(apart.max(initial=0)), float(relative.max(initial=0))
    )


def _same(wanted: Any, found: Any, tolerance: float) -> bool:
    """Whether two values are equal, numbers within *tolerance*."""
    if isinstance(wanted, list) and isinstance(found, list):
        return len(wanted) == len(found) and all(_same(a, b, tolerance) for a, b in zip(wanted, found, strict=True))
    if isinstance(wanted, float) and isinstance(found, float):
        near = abs(found - wanted) <= tolerance * max(1.0, abs(wanted)) if math.isfinite(found - wanted) else False
        return near or wanted == found or (math.isnan(wanted) and math.isnan(found))
    return bool(wanted == found)


def _wide(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    array = to_numpy(column)
    return (
        array.astype(np.float64)
        if array.dtype.kind == "f"
        else array.astype(np.int64)
        if array.dtype.kind == "b"
        else array
    )


def _counted(
    name: str, what: str, bad: npt.NDArray[np.bool_], most: float = 0.0, relative: float = 0.0
) -> Difference | None:
    rows = np.flatnonzero(bad)
    return Difference(name, what, len(rows), int(rows[0]), most, relative) if len(rows) else None
