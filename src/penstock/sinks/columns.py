"""What formats of arrays can hold of a batch: numbers, tensors and text, one shape for all rows, no nulls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import pick, to_numpy
from penstock.core.nouns import Batch
from penstock.errors import RowErrors, SchemaError

__all__ = ["arrays", "fill", "is_text", "note", "refuse", "refuse_nulls", "refuse_type", "row_bytes", "shape_of"]


def refuse_type(field: pa.Field, sink: str) -> None:
    """Raise `SchemaError` for a column that the sink called *sink* cannot hold."""
    if field.name == "row" and field.type != pa.int64():
        raise SchemaError(f"column 'row' is {field.type}; the {sink} sink needs it as int64, or under another name")
    if remedy := _remedy(field.type):
        raise SchemaError(
            f"the {sink} sink cannot hold column '{field.name}' of type {field.type}; {remedy}, "
            "or choose the others by 'columns'"
        )


def _remedy(kind: pa.DataType) -> str | None:
    """What to do about a type that cannot be held; None when it can."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return None if _is_number(kind.value_type) else f"make it a tensor of numbers, not of {kind.value_type}"
    if _is_number(kind) or pa.types.is_boolean(kind) or is_text(kind):
        return None
    return next((remedy for matches, remedy in _REMEDIES if matches(kind)), "cast it to numbers, a tensor or text")


_REMEDIES: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (pa.types.is_nested, "solvers need one shape for all rows: make it a fixed_shape_tensor, pad ragged lists"),
    (pa.types.is_temporal, "cast it to int64, and say in its name from when it counts and in what unit"),
    (pa.types.is_decimal, "cast it to float64"),
    (pa.types.is_dictionary, "cast it to what its dictionary holds"),
    (pa.types.is_fixed_size_binary, "bfloat16 and the like are opaque to solvers: cast it to float32 or float16"),
)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def shape_of(kind: pa.DataType) -> tuple[int, ...]:
    """The shape of one row."""
    return tuple(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) else ()


def row_bytes(kind: npt.DTypeLike, shape: tuple[int, ...]) -> int:
    """The size of one row of an array of this *shape*, ``"row ..."``."""
    return max(1, np.dtype(kind).itemsize * int(np.prod(shape[1:], dtype=np.int64)))


def fill(kind: npt.DTypeLike) -> Any:
    """The value that says "something is missing here": NaN, -1, or the largest unsigned number."""
    exact = np.dtype(kind)
    value = np.iinfo(exact).max if exact.kind == "u" else np.nan if exact.kind == "f" else -1
    return np.array(value, exact)[()]


def arrays(batch: Batch, format_name: str) -> dict[str, npt.NDArray[Any]]:
    """The columns, ``"row ..."``, text as `numpy.str_`. Raises `RowErrors` for rows that cannot be held so."""
    reasons = [""] * batch.num_rows
    refuse_nulls(reasons, batch, format_name)
    texts = [name for name in batch.column_names if is_text(batch[name].type)]
    for name in texts:
        text = f"column '{name}' ends with a NUL, which NumPy drops; take it away in a stage"
        note(reasons, pc.ends_with(batch[name], "\0"), text)
    refuse(batch, reasons)
    return {
        name: np.array(column.to_pylist(), np.str_) if name in texts else to_numpy(column)
        for name, column in zip(batch.column_names, batch.columns, strict=True)
    }


def refuse_nulls(reasons: list[str], chosen: Batch, format_name: str) -> None:
    """Note the rows with nulls, which *format_name* cannot say."""
    for name in chosen.schema.names:
        if chosen[name].null_count:
            text = f"column '{name}' is null, which {format_name} cannot say; fill it in a stage"
            note(reasons, pc.is_null(chosen[name]), text)


def note(reasons: list[str], bad: pa.ChunkedArray, text: str) -> None:
    """Note *text* for the rows where *bad* is true, unless something is noted there."""
    for at in np.flatnonzero(pc.fill_null(bad, False).to_numpy()):
        reasons[at] = reasons[at] or text


def refuse(batch: Batch, reasons: list[str]) -> None:
    """Raise `RowErrors` for the rows that have a reason."""
    keep = np.array([not reason for reason in reasons], bool)
    if not keep.all():
        good, bad = pick(batch, keep)
        raise RowErrors(good, bad, [reason for reason in reasons if reason])
