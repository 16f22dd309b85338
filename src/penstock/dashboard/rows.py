"""Rows of a dataset as people look at them: the first few, cells made short, and how long its vectors are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import to_numpy
from penstock.core.dataset import Manifest
from penstock.core.reading import read_rows
from penstock.dashboard.tables import opened

__all__ = ["Column", "Norms", "Sample", "cell", "columns", "first", "kind_of", "norms", "sample"]

SAMPLE_ROWS = 20
_MOST_COLUMNS = 24
_MOST_CHARACTERS = 120
_FIRST_VALUES = 4
_NORM_WINDOWS = 4
_NORM_ROWS = 500  # of each window
_NORM_BYTES = 64 << 20


@dataclass(frozen=True)
class Column:
    """One column: its name, its type in words, and whether it is a tensor."""

    name: str
    kind: str
    tensor: bool


def columns(schema: pa.Schema) -> list[Column]:
    """The columns of a dataset."""
    return [Column(f.name, kind_of(f.type), isinstance(f.type, pa.FixedShapeTensorType)) for f in schema]


def kind_of(kind: pa.DataType) -> str:
    """A type as it is called in pipeline files: ``float32[3 x 4]``."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return f"{_plain(kind.value_type)}[{' x '.join(map(str, kind.shape))}]"
    return _plain(kind)


def _plain(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64", "halffloat": "float16"}.get(str(kind), str(kind))


@dataclass(frozen=True)
class Sample:
    """The first rows, as texts; *hidden* columns are not among them."""

    columns: Sequence[Column]
    lines: Sequence[Sequence[str]]
    hidden: int


def sample(manifest: Manifest) -> Sample:
    """The first rows of a dataset. Raises `DatasetError`."""
    shown = [column.name for column in columns(manifest.schema)[:_MOST_COLUMNS]]
    return _sampled(manifest.schema, read_rows(manifest, 0, min(SAMPLE_ROWS, manifest.rows), shown, check="size"))


def first(uri: str) -> Sample:
    """The first rows of one Parquet file. Raises `StorageError`, or `OSError` where it is none."""
    with opened(uri) as file:
        schema = file.schema_arrow
        shown = [column.name for column in columns(schema)[:_MOST_COLUMNS]]
        batch = next(file.iter_batches(SAMPLE_ROWS, columns=shown), None)
    return _sampled(schema, schema.empty_table() if batch is None else pa.Table.from_batches([batch]))


def _sampled(schema: pa.Schema, table: pa.Table) -> Sample:
    shown = columns(schema)[:_MOST_COLUMNS]
    cells = [[cell(value) for value in table[column.name]] for column in shown]
    return Sample(shown, list(zip(*cells, strict=True)), len(schema) - len(shown))


def cell(value: pa.Scalar) -> str:
    """A value in a few words: of a tensor its shape, its length and its first numbers."""
    if not value.is_valid:
        return "null"
    if isinstance(value, pa.FixedShapeTensorScalar):
        return _tensor(value.to_numpy(), kind_of(value.type))
    plain = value.as_py()
    if isinstance(plain, bytes):
        return f"{len(plain):,} bytes"
    if isinstance(plain, list):
        return f"{len(plain):,} values: {_firsts(plain)}"
    return _cut(f"{plain:.6g}" if isinstance(plain, float) else str(plain))


def _tensor(array: npt.NDArray[Any], kind: str) -> str:
    length = float(np.linalg.norm(array.astype(np.float64).reshape(-1)))
    return f"{kind}, norm {length:.4g}: {_firsts(array.reshape(-1)[: _FIRST_VALUES + 1].tolist())}"


def _firsts(values: Sequence[Any]) -> str:
    first = ", ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in values[:_FIRST_VALUES])
    return _cut(first + (" …" if len(values) > _FIRST_VALUES else ""))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"


@dataclass(frozen=True)
class Norms:
    """Lengths of the vectors of a column, ``"row"``; those that are not finite are counted apart."""

    column: str
    values: npt.NDArray[np.float64]
    endless: int


def norms(manifest: Manifest) -> Norms | None:
    """Of the first tensor column of a dataset, of some rows in four places of it; None without such a column or rows.

    Raises:
        DatasetError: the files are not what the manifest says.
    """
    field = next((f for f in manifest.schema if _is_vector(f.type)), None)
    if field is None or not manifest.rows:
        return None
    parts = list(_windows(manifest, field))
    lengths = np.concatenate(parts) if parts else np.empty(0)
    finite = np.isfinite(lengths)
    return Norms(field.name, lengths[finite], int((~finite).sum())) if len(lengths) else None


def _is_vector(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.FixedShapeTensorType) and pa.types.is_floating(kind.value_type)


def _windows(manifest: Manifest, field: pa.Field) -> Iterator[npt.NDArray[np.float64]]:
    row_bytes = math.prod(field.type.shape) * field.type.value_type.bit_width // 8
    rows = max(1, min(_NORM_ROWS, _NORM_BYTES // _NORM_WINDOWS // max(row_bytes, 1)))
    starts = {at * max(manifest.rows - rows, 0) // (_NORM_WINDOWS - 1) for at in range(_NORM_WINDOWS)}
    stop = 0
    for wanted in sorted(starts):
        start = max(wanted, stop)
        stop = min(start + rows, manifest.rows)
        column = read_rows(manifest, start, stop, [field.name], check="size")[field.name].drop_null()
        if len(column):
            yield np.linalg.norm(to_numpy(column).astype(np.float64).reshape(len(column), -1), axis=1)
