"""The algebra of schemas and tensor columns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.errors import SchemaError

__all__ = [
    "adding",
    "column_of",
    "digest",
    "field_of",
    "from_bytes",
    "pick",
    "tensor_column",
    "tensor_type",
    "to_bytes",
    "to_numpy",
    "type_named",
    "with_columns",
]


def tensor_type(dtype: npt.DTypeLike, *shape: int) -> pa.FixedShapeTensorType:
    """The Arrow type of a column of tensors, each of *shape*.

    See https://arrow.apache.org/docs/format/CanonicalExtensions.html#fixed-shape-tensor
    """
    return pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), shape)


def tensor_column(rows: npt.NDArray[np.generic]) -> pa.ExtensionArray:
    """A tensor column from an array, ``"row ..."``; float16, float32, float64 and the integers.

    An array of one dimension gives a plain column.
    """
    rows = np.ascontiguousarray(rows)
    if rows.ndim == 1:
        return pa.array(rows)
    kind = tensor_type(rows.dtype, *rows.shape[1:])
    flat = pa.array(rows.reshape(-1))
    return pa.ExtensionArray.from_storage(kind, pa.FixedSizeListArray.from_arrays(flat, kind.storage_type.list_size))


def column_of(rows: npt.NDArray[np.generic], kind: pa.DataType) -> pa.Array:
    """The inverse of `to_numpy`: an array, ``"row ..."``, as a column of exactly this *kind*; text too."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array(rows.tolist(), kind)
    column = tensor_column(rows)
    if isinstance(kind, pa.FixedShapeTensorType):  # names of a tensor's axes are in its kind alone
        return pa.ExtensionArray.from_storage(kind, column.storage.cast(kind.storage_type))
    return column if column.type == kind else column.cast(kind)


def to_numpy(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.generic]:
    """A numeric or tensor column as an array, ``"row ..."``; without a copy when it is one chunk.

    Raises:
        SchemaError: the column is neither numeric nor a tensor.
        ValueError: some values are null; a stage that lets this pass has those rows quarantined.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # zero chunks stay chunked
            column = pa.concat_arrays(column.chunks) if column.num_chunks else _empty(column.type)
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} values are null; numbers were needed")
    if isinstance(column.type, pa.FixedShapeTensorType):
        return np.asarray(_flat(column).reshape(len(column), *column.type.shape))
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise SchemaError(f"a column of type {column.type} is not numeric; numbers or a tensor were needed")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _flat(column: pa.ExtensionArray) -> npt.NDArray[np.generic]:
    return np.asarray(column.storage.flatten().to_numpy(zero_copy_only=True))


def _empty(kind: pa.DataType) -> pa.Array:
    if isinstance(kind, pa.ExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    return pa.array([], kind)


def type_named(name: str) -> pa.DataType:
    """The Arrow type called *name*: ``string``, ``float64``, ``list<int32>``, or a tensor such as ``float32[3, 8]``.

    The simple names are Arrow's: https://arrow.apache.org/docs/python/api/datatypes.html

    Raises:
        SchemaError: no type is called so.
    """
    text = name.strip()
    try:
        if tensor := re.fullmatch(r"(\w+)\s*\[\s*(\d+(?:\s*,\s*\d+)*)\s*\]", text):
            return pa.fixed_shape_tensor(pa.type_for_alias(tensor[1]), [int(size) for size in tensor[2].split(",")])
        if inner := re.fullmatch(r"list\s*<(.*)>", text):
            return pa.list_(type_named(inner[1]))
        return pa.type_for_alias(text)
    except ValueError as error:
        raise SchemaError(
            f"there is no type '{name}'; write an Arrow type such as string, int64 or float32, "
            "list<int32>, or a tensor such as float32[384]"
        ) from error


def field_of(schema: pa.Schema, name: str, wanted: str, *kinds: pa.DataType) -> pa.Field:
    """The field called *name*, whose type must be one of *kinds* (any when none is given).

    Raises:
        SchemaError: there is no such column, or it has another type; *wanted* says for what it is.
    """
    if name not in schema.names:
        raise SchemaError(f"{wanted} needs a column '{name}'; there are: {', '.join(schema.names) or 'none'}")
    field = schema.field(name)
    if kinds and field.type not in kinds:
        needed = " or ".join(str(kind) for kind in kinds)
        raise SchemaError(f"{wanted} needs column '{name}' as {needed}; it is {field.type}")
    return field


def adding(schema: pa.Schema, columns: Mapping[str, pa.DataType]) -> pa.Schema:
    """*schema* with *columns* added at the end, or replaced where a name is there already."""
    for name, kind in columns.items():
        field = pa.field(name, kind)
        at = schema.get_field_index(name)
        schema = schema.append(field) if at < 0 else schema.set(at, field)
    return schema


def with_columns(batch: pa.Table, columns: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """*batch* with *columns* added at the end, or replaced where a name is there already."""
    for name, column in columns.items():
        at = batch.schema.get_field_index(name)
        field = pa.field(name, column.type)
        batch = batch.append_column(field, column) if at < 0 else batch.set_column(at, field, column)
    return batch


def pick(batch: pa.Table, keep: npt.NDArray[np.bool_]) -> tuple[pa.Table, pa.Table]:
    """The rows where *keep* is true, and the others."""
    mask = pa.array(keep)
    return batch.filter(mask), batch.filter(pa.array(~keep))


def to_bytes(batch: pa.Table) -> pa.Buffer:
    """*batch* as an Arrow IPC stream.

    See https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format
    """
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_table(batch.combine_chunks())
    return sink.getvalue()


def from_bytes(data: pa.Buffer | bytes) -> pa.Table:
    """The inverse of `to_bytes`; shares the buffer's memory."""
    return pa.ipc.open_stream(data).read_all()


def digest(batch: pa.Table) -> str:
    """sha256 (hex) of the batch's values and schema, whatever its chunks and offsets."""
    clean = batch.take(pa.array(np.arange(batch.num_rows))) if batch.num_rows else batch.schema.empty_table()
    return hashlib.sha256(to_bytes(clean)).hexdigest()
