"""A dataset that is opened and not read: rows come when they are asked for, and no more of them.

Readers go by the manifest of one version, so what they see does not change under them. Neighbouring rows are read
from the files that hold them; single rows are sorted, read file by file, and given in the order asked. Of objects on S3
only the ranges that hold such rows are fetched. Nothing is kept between two calls but the parts table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core import plugins
from penstock.core.batch import to_numpy
from penstock.core.dataset import Manifest, existing
from penstock.core.reading import Check, chosen, read_arrays, read_rows, take_rows
from penstock.errors import SchemaError

__all__ = ["Column", "Dataset", "Rows", "read"]

Rows: TypeAlias = int | slice | Sequence[int] | Sequence[bool] | npt.NDArray[Any]
"""Which rows: one, a slice, numbers in any order (negative ones count from the end), or one truth value for each."""

_BATCH_ROWS = 1 << 13


def read(uri: str, version: int = 0, *, columns: Sequence[str] = (), check: Check = "size") -> Dataset:
    """Open the dataset at *uri*; of its columns those named, or all.

    Args:
        uri: its root, a folder or ``s3://`` prefix.
        version: which one; 0 is the newest. Versions older than the last two may have lost files.
        columns: which columns are read, in this order.
        check: how a file is held against the manifest before it is read: ``size`` by its number of bytes,
            ``sha256`` by all of them, for which objects are fetched whole.

    Raises:
        DatasetError: there is no dataset, or not that version.
        SchemaError: there is no such column.
    """
    manifest = existing(uri, version)
    return Dataset(manifest, tuple(chosen(uri, manifest.schema, columns).names), check)


@dataclass(frozen=True)
class Dataset:
    """The rows of one version of a dataset; make it by `read`.

    ``dataset["embedding"]`` is a column, ``dataset[10:20]`` and ``dataset[[7, 3]]`` are Arrow tables.

    Attributes:
        manifest: what was published.
        names: the columns that are read.
        check: see `read`.
    """

    manifest: Manifest = field(repr=False)
    names: tuple[str, ...]
    check: Check = "size"

    @property
    def uri(self) -> str:
        """The root."""
        return self.manifest.uri

    @property
    def version(self) -> int:
        """Its number."""
        return self.manifest.version

    @property
    def schema(self) -> pa.Schema:
        """The columns that are read, with their types."""
        return chosen(self.uri, self.manifest.schema, self.names)

    def __len__(self) -> int:
        return self.manifest.rows

    def select(self, *names: str) -> Dataset:
        """The same rows with these columns alone. Raises `SchemaError`."""
        return replace(self, names=tuple(chosen(self.uri, self.schema, names).names))

    def __getitem__(self, what: str | Rows) -> Any:
        if isinstance(what, str):
            return Column(self.select(what))
        if isinstance(what, int | np.integer):
            row = self.arrow([what])
            return {name: _value(row[name][0]) for name in row.column_names}
        return self.arrow(what)

    def __getitems__(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Rows one by one, read together: what PyTorch's ``DataLoader`` asks a dataset for."""
        arrays = {name: _own(array) for name, array in self.numpy(rows).items()}
        return [{name: array[at] for name, array in arrays.items()} for at in range(len(rows))]

    def arrow(self, rows: Rows = slice(None)) -> pa.Table:
        """Rows as an Arrow table. Raises `DatasetError`, `IndexError`."""
        found = _resolved(rows, len(self))
        if isinstance(found, range):
            return read_rows(self.manifest, found.start, found.stop, self.names, self.check)
        return take_rows(self.manifest, found, self.names, self.check)

    def numpy(self, rows: Rows = slice(None)) -> dict[str, npt.NDArray[Any]]:
        """Rows as arrays, ``"row ..."``; text as objects. Raises `DatasetError`, `IndexError`."""
        return {name: self[name][rows] for name in self.names}

    def batches(self, rows: int = _BATCH_ROWS, start: int = 0, stop: int | None = None) -> Iterator[pa.Table]:
        """Neighbouring rows, so many at a time; memory holds one batch."""
        stop = len(self) if stop is None else min(stop, len(self))
        for low in range(start, stop, rows):
            yield self.arrow(slice(low, min(low + rows, stop)))

    def torch(
        self, rows: int = _BATCH_ROWS, *, rank: int | None = None, world: int | None = None, seed: int | None = None
    ) -> Any:
        """A PyTorch ``IterableDataset`` of batches, for ``DataLoader(..., batch_size=None)``; see `torch.stream`.

        As a map-style dataset, for samplers, a `Dataset` serves as it is: ``DataLoader(dataset, batch_size=64)``.
        """
        from penstock.reading.torch import stream

        return stream(self, rows, rank, world, seed)

    def ray(self, rows: int = _BATCH_ROWS) -> Any:
        """A Ray Data dataset, read by its workers, so many rows to a block."""
        return plugins.load("runners", "ray").view(self.manifest, self.names, rows)

    def zarr(self) -> Any:
        """The group of all rows of a Zarr dataset, as zarr-python opens it. Raises `DatasetError`."""
        from penstock.reading.groups import opened

        return opened(plugins.load("sinks", "zarr").group(self.uri, self.version))


@dataclass(frozen=True)
class Column:
    """One column, ``"row ..."``, of which rows are read as they are asked for.

    ``column[10:20]`` is a slab, ``column[[7, 3, 7]]`` reads single rows, ``column[5]`` one; further indices are
    taken of what was read: ``column[10:20, :3]``.
    """

    _dataset: Dataset

    @property
    def name(self) -> str:
        """What it is called."""
        return self._dataset.names[0]

    @property
    def type(self) -> pa.DataType:
        """Its Arrow type."""
        return self._dataset.schema.field(0).type

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, and the shape of each."""
        return (len(self), *(self.type.shape if isinstance(self.type, pa.FixedShapeTensorType) else ()))

    @property
    def dtype(self) -> np.dtype[Any]:
        """As NumPy calls it; ``object`` where a row is no number."""
        kind = self.type.value_type if isinstance(self.type, pa.FixedShapeTensorType) else self.type
        return np.dtype(kind.to_pandas_dtype() if _is_number(kind) else object)

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, key: Rows | tuple[Any, ...]) -> Any:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if isinstance(rows, int | np.integer):
            at = _one(rows, len(self))
            return self._slab(at, at + 1)[(0, *rest)]
        found = _resolved(rows, len(self))
        values = self._slab(found.start, found.stop) if isinstance(found, range) else self._taken(found)
        return values[(slice(None), *rest)] if rest else values

    def __iter__(self) -> Iterator[Any]:
        for batch in self._dataset.batches():
            yield from self._values(batch)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self.numpy().astype(dtype or self.dtype, copy=False)

    def numpy(self, rows: Rows = slice(None)) -> npt.NDArray[Any]:
        """Rows as an array, read into one piece of memory; text as objects."""
        return np.asarray(self[rows])

    def arrow(self, rows: Rows = slice(None)) -> pa.ChunkedArray:
        """Rows as an Arrow column."""
        return self._dataset.arrow(rows)[self.name]

    def torch(self, rows: Rows = slice(None)) -> Any:
        """Rows as a tensor that shares the memory into which they were read. Raises `SchemaError`."""
        import torch

        if self.dtype == object:
            raise SchemaError(f"column '{self.name}' is {self.type}; a tensor needs numbers. Take .arrow() or .numpy()")
        return torch.from_numpy(_own(self.numpy(rows)))

    def _slab(self, start: int, stop: int) -> npt.NDArray[Any]:
        if self.dtype == object or self._dataset.manifest.format not in ("hdf5", "zarr"):
            return self._values(self._dataset.arrow(slice(start, stop)))
        manifest, check = self._dataset.manifest, self._dataset.check
        return read_arrays(manifest, start, stop, [self.name], check)[self.name]

    def _taken(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        return self._values(self._dataset.arrow(rows))

    def _values(self, table: pa.Table) -> npt.NDArray[Any]:
        column = table[self.name]
        if self.dtype == object:
            return np.array([*column.to_pylist(), None], object)[:-1]
        if column.null_count:
            raise SchemaError(
                f"{column.null_count} of {len(column)} rows of column '{self.name}' are null, which {self.dtype} "
                "cannot say; take .arrow(), or fill them in a stage"
            )
        return to_numpy(column)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _value(scalar: pa.Scalar) -> Any:
    """As Python has it; a tensor as an array of its shape."""
    return scalar.to_numpy() if isinstance(scalar, pa.FixedShapeTensorScalar) and scalar.is_valid else scalar.as_py()


def _own(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Arrow's memory must not be written to, and a tensor can be."""
    return array if array.flags.writeable else array.copy()


def _one(row: int | np.integer, length: int) -> int:
    if not -length <= row < length:
        raise IndexError(f"row {row} was asked for; there are {length}, from 0 to {length - 1}")
    return int(row) % length


def _resolved(rows: Rows, length: int) -> range | npt.NDArray[np.int64]:
    """Neighbouring rows as a range, any others as their numbers, none negative."""
    if isinstance(rows, int | np.integer):
        return range(_one(rows, length), _one(rows, length) + 1)
    if isinstance(rows, slice):
        found = range(*rows.indices(length))
        whole = range(found.start, max(found.start, found.stop))
        return whole if found.step == 1 else np.asarray(found, np.int64)
    numbers = np.asarray(rows)
    if numbers.dtype == np.bool_:
        if numbers.shape != (length,):
            raise IndexError(f"a mask of shape {numbers.shape} was given; one truth value for each of {length} rows")
        return np.flatnonzero(numbers)
    return _numbered(numbers, length)


def _numbered(numbers: npt.NDArray[Any], length: int) -> npt.NDArray[np.int64]:
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise IndexError(
            f"rows were asked for by {numbers.dtype} of shape {numbers.shape}; a slice, whole numbers in one "
            "dimension, or a mask was needed"
        )
    numbers = numbers.astype(np.int64)
    wrong = numbers[(numbers < -length) | (numbers >= length)]
    if wrong.size:
        _one(int(wrong[0]), length)
    return np.where(numbers < 0, numbers + length, numbers)
