"""Requests and answers as JSON and as Arrow IPC streams.

JSON: ``{"rows": [{"column": value, ...}, ...]}``; a tensor is nested lists. JSON has no NaN and no infinity; they
are sent as null, so who needs every bit takes Arrow. What is wrong with one value costs one row.
"""

from __future__ import annotations

import base64
import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from penstock.core.batch import from_bytes, to_bytes, to_numpy
from penstock.serving.chain import MARK, Refused, marked
from penstock.serving.request import RequestError

__all__ = ["ARROW", "JSON", "Answer", "from_arrow", "from_json", "row_schema", "to_arrow", "to_json"]

JSON = "application/json"
ARROW = "application/vnd.apache.arrow.stream"
"""https://www.iana.org/assignments/media-types/application/vnd.apache.arrow.stream"""


@dataclass(frozen=True)
class Answer:
    """What is sent back.

    Attributes:
        rows: without marks.
        positions: the row of the request that each row of the answer came from, from 0.
        errors: the rows of the request that were refused, by their positions.
    """

    rows: pa.Table
    positions: tuple[int, ...]
    errors: tuple[Refused, ...]


# --- Arrow -----------------------------------------------------------------------------------------------


def from_arrow(body: bytes, given: pa.Schema, most_rows: int = 0) -> pa.Table:
    """The marked rows of a request.

    Args:
        body: an Arrow IPC stream, not compressed.
        given: the columns that there may be.
        most_rows: more than this are refused before they are looked at; 0 sets no limit.

    Raises:
        RequestError: it is no such stream, is damaged, or has other columns.
    """
    try:
        _refuse_compressed(body)
        table = from_bytes(body)
        rows = table.num_rows
        if not 0 < most_rows < rows:
            table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        raise RequestError(422, f"the body is not an Arrow IPC stream that can be read: {error}") from error
    if 0 < most_rows < rows:
        raise RequestError(413, f"the request has {rows:,} rows, at most {most_rows:,} are taken; send it in parts")
    _known(table.schema.names, given)
    columns = {name: _fitting(table[name], given.field(name)) for name in given.names if name in table.schema.names}
    if not columns:
        raise RequestError(422, f"the request has no columns; there may be: {', '.join(given.names)}")
    schema = pa.schema([given.field(name) for name in columns])
    return marked(pa.table(list(columns.values()), schema), np.arange(rows))


def _fitting(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """A column of the type that was asked for; only casts whose result is about as large are done."""
    if column.type == field.type:
        return column
    inner = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    if _width(column.type) != _width(inner):
        raise RequestError(422, f"column '{field.name}' is {column.type}; {field.type} was needed")
    try:
        return column.cast(inner).cast(field.type) if inner is not field.type else column.cast(inner)
    except (pa.ArrowException, ValueError) as error:
        raise RequestError(422, f"column '{field.name}' cannot be taken as {field.type}: {error}") from error


def _width(kind: pa.DataType) -> object:
    """A type's family: inside it casts are safe and keep the size in bounds."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_fixed_size_list(kind):
        return "list", kind.list_size, _width(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return "list", _width(kind.value_type)
    return kind


def _refuse_compressed(body: bytes) -> None:
    """Compressed buffers may unfold to any size, so they are refused before they are.

    A record batch's header is a flatbuffer; its fourth field tells the compression. See
    https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format and
    https://github.com/apache/arrow/blob/main/format/Message.fbs
    """
    for message in pa.ipc.MessageReader.open_stream(body):
        if message.type in ("record batch", "dictionary") and _Header(message.metadata.to_pybytes()).compressed:
            raise RequestError(422, "the Arrow stream is compressed; write it without (pyarrow's default)")


@dataclass(frozen=True)
class _Header:
    """The few fields of a flatbuffer that are asked for; https://flatbuffers.dev/internals/."""

    data: bytes

    @property
    def compressed(self) -> bool:
        """Whether the record batch, or that inside a dictionary batch, names a compression."""
        header = self._table(self._root, 2)
        if self._kind == 2:  # DictionaryBatch: id, data, isDelta
            header = self._table(header, 1)
        return bool(header and self._at(header, 3))

    @property
    def _root(self) -> int:
        return self._number(0, 4)

    @property
    def _kind(self) -> int:
        at = self._at(self._root, 1)
        return self._number(at, 1) if at else 0

    def _table(self, table: int, slot: int) -> int:
        at = self._at(table, slot) if table else 0
        return at + self._number(at, 4) if at else 0

    def _at(self, table: int, slot: int) -> int:
        """Where field *slot* of a table is; 0 when it is left out."""
        layout = table - int.from_bytes(self.data[table : table + 4], "little", signed=True)
        if 4 + 2 * slot >= self._number(layout, 2):
            return 0
        offset = self._number(layout + 4 + 2 * slot, 2)
        return table + offset if offset else 0

    def _number(self, at: int, size: int) -> int:
        return int.from_bytes(self.data[at : at + size], "little")


def to_arrow(answer: Answer) -> bytes:
    """An Arrow IPC stream; positions and errors are JSON in the schema's metadata."""
    told = {"penstock.positions": json.dumps(answer.positions), "penstock.errors": json.dumps(_errors(answer))}
    metadata = {**(answer.rows.schema.metadata or {}), **{k.encode(): v.encode() for k, v in told.items()}}
    return bytes(to_bytes(answer.rows.replace_schema_metadata(metadata)))


# --- JSON ------------------------------------------------------------------------------------------------


def from_json(body: bytes, given: pa.Schema, most_rows: int = 0) -> tuple[pa.Table, tuple[Refused, ...]]:
    """The marked rows of a request, and those that have a value of another type than their column.

    Raises:
        RequestError: it is not JSON of that form, or has other columns.
    """
    rows = _rows(body)
    if 0 < most_rows < len(rows):
        raise RequestError(
            413, f"the request has {len(rows):,} rows, at most {most_rows:,} are taken; send it in parts"
        )
    names = {name for row in rows for name in row}
    _known(sorted(names), given)
    fields = [field for field in given if field.name in names]
    if not fields:
        raise RequestError(422, f"the rows have no columns; there may be: {', '.join(given.names)}")
    reasons: dict[int, str] = {}
    columns = [_column([row.get(field.name) for row in rows], field, reasons) for field in fields]
    table = marked(pa.table(columns, pa.schema(fields)), np.arange(len(rows)))
    bad = tuple(Refused(at, "request", reasons[at]) for at in sorted(reasons))
    return table.filter(pa.array([at not in reasons for at in range(len(rows))], pa.bool_())) if bad else table, bad


def _rows(body: bytes) -> list[dict[str, Any]]:
    try:
        data = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(422, f"the body is not JSON: {error}") from error
    rows = data.get("rows") if isinstance(data, dict) else None
    if not isinstance(rows, list) or set(data) != {"rows"}:
        raise RequestError(422, 'the body must be {"rows": [{"column": value, ...}, ...]}')
    for at, row in enumerate(rows):
        if not isinstance(row, dict):
            raise RequestError(422, f'row {at} is {_short(row)}; an object was needed: {{"column": value, ...}}')
    return rows


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _known(names: Sequence[str], given: pa.Schema) -> None:
    for name in names:
        if names.count(name) > 1:
            raise RequestError(422, f"column '{name}' is given twice")
        if name not in given.names:
            near = difflib.get_close_matches(name[:100], given.names, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there may be: {', '.join(given.names)}"
            raise RequestError(422, f"there is no column '{name[:100]}'; {hint}")


_WRONG = (pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError)


def _column(values: list[Any], field: pa.Field, reasons: dict[int, str]) -> pa.Array:
    """A column; where a value does not fit it is null, and *reasons* tells why."""
    try:
        return _array(values, field.type)
    except _WRONG:
        pass  # then one after the other, to find which
    for at, value in enumerate(values):
        try:
            _array([value], field.type)
        except _WRONG:
            reasons.setdefault(at, f"{field.name} is {_short(value)}; {field.type} was needed")
    return _array([None if at in reasons else value for at, value in enumerate(values)], field.type)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.FixedShapeTensorType):
        flat = [None if value is None else _flat(value, tuple(kind.shape)) for value in values]
        return pa.ExtensionArray.from_storage(kind, pa.array(flat, kind.storage_type))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return pa.array([None if value is None else base64.b64decode(value, validate=True) for value in values], kind)
    return pa.array(values, kind)


def _flat(value: Any, shape: tuple[int, ...]) -> list[Any]:
    """The numbers of nested lists, when these have that *shape*."""
    if not isinstance(value, list) or len(value) != shape[0]:
        raise ValueError("another shape")
    return value if len(shape) == 1 else [number for inner in value for number in _flat(inner, shape[1:])]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def to_json(answer: Answer) -> bytes:
    """``{"rows": [...], "positions": [...], "errors": [...]}``."""
    columns = [_plain(answer.rows[name]) for name in answer.rows.column_names]
    rows = [dict(zip(answer.rows.column_names, row, strict=True)) for row in zip(*columns, strict=True)]
    data = {"rows": rows, "positions": answer.positions, "errors": _errors(answer)}
    try:
        return json.dumps(data, allow_nan=False, default=_told).encode()
    except ValueError:
        return json.dumps(_finite(data), default=_told).encode()


def _errors(answer: Answer) -> list[Mapping[str, Any]]:
    return [{"row": one.row, "step": one.step, "reason": one.reason} for one in answer.errors]


def _plain(column: pa.ChunkedArray) -> list[Any]:
    if isinstance(column.type, pa.FixedShapeTensorType) and not column.null_count:
        found: list[Any] = to_numpy(column).tolist()
        return found
    if isinstance(column.type, pa.FixedShapeTensorType):
        return [None if not one.is_valid else one.to_numpy().tolist() for one in column]
    values: list[Any] = column.to_pylist()
    return values


def _told(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    """*value* with null for each number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


# --- JSON Schema -----------------------------------------------------------------------------------------


def row_schema(schema: pa.Schema, needed: Sequence[str] = ()) -> dict[str, Any]:
    """JSON Schema of one row."""
    columns = {field.name: _kind(field.type) for field in schema if field.name != MARK}
    return {"type": "object", "properties": columns, "required": list(needed)}


def _kind(kind: pa.DataType) -> dict[str, Any]:
    if isinstance(kind, pa.FixedShapeTensorType):
        found = _kind(kind.value_type)
        for size in reversed(kind.shape):
            found = {"type": "array", "items": found, "minItems": size, "maxItems": size}
        return found
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return {"type": "array", "items": _kind(kind.value_type)}
    for name, holds in _NAMES.items():
        if holds(kind):
            return {"type": name}
    return {"type": "string", "description": str(kind)}


_NAMES = {"integer": pa.types.is_integer, "number": pa.types.is_floating, "boolean": pa.types.is_boolean}
