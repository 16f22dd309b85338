"""Reading a published dataset: rows by their place in it, whatever files they lie in.

Readers go by the manifest's parts table; a file is read only after its hash was held against it, once in
each process.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core.batch import tensor_column
from penstock.core.dataset import Manifest, existing, sha256_of
from penstock.core.nouns import Unit
from penstock.core.storage import join, local_copy
from penstock.errors import DatasetError, SchemaError, StorageError

__all__ = ["chosen", "holds", "read_rows", "read_table"]


def read_table(uri: str, columns: Sequence[str] = ()) -> pa.Table:
    """All rows of the dataset at *uri*; of its columns those named, or all.

    Raises:
        DatasetError: there is no dataset, or it is not what its manifest says.
        SchemaError: there is no such column.
    """
    manifest = existing(uri)
    return read_rows(manifest, 0, manifest.rows, columns)


def read_rows(manifest: Manifest, start: int, stop: int, columns: Sequence[str] = ()) -> pa.Table:
    """The rows from *start* up to *stop*, in order; of the columns those named, or all.

    Raises:
        DatasetError: the dataset is not what its manifest says.
        SchemaError: there is no such column.
    """
    schema = chosen(manifest.uri, manifest.schema, columns)
    read = _FORMATS.get(manifest.format)
    if read is None:
        raise DatasetError(f"{manifest.uri}: its format is '{manifest.format}'; known are: {', '.join(_FORMATS)}")
    tables = [schema.empty_table()]
    for piece in _pieces(_lines(manifest), start, stop):
        uri = join(manifest.uri, piece.path)
        tables.append(_as_promised(uri, read(_file(uri, piece.sha256), piece.start, piece.stop, schema), schema, piece))
    return pa.concat_tables(tables)


def chosen(uri: str, schema: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    """The *columns* of a dataset's *schema*, or all.

    Raises:
        SchemaError: there is no such column.
    """
    for name in columns:
        if name not in schema.names:
            raise SchemaError(f"{uri} has no column '{name}'; there are: {', '.join(schema.names) or 'none'}")
    return pa.schema([schema.field(name) for name in columns or schema.names])


def holds(manifest: Manifest, unit: Unit) -> bool:
    """Whether *unit*, a line of a parts table, is one of this dataset's."""
    table = _lines(manifest)
    low, high = (int(np.searchsorted(table["first_row"].to_numpy(), unit.start, side)) for side in ("left", "right"))
    found = table.slice(low, high - low).to_pylist()
    return any((x["part_sha256"], x["first_row"] + x["rows"]) == (unit.etag, unit.stop) for x in found)


_LINE = ["first_row", "rows", "path", "offset", "sha256", "part_sha256"]
_KNOWN: dict[tuple[str, str], pa.Table] = {}


def _lines(manifest: Manifest) -> pa.Table:
    """What reading needs of the parts table; the last few tables are kept, packed, in memory."""
    key = (manifest.uri, manifest.parts_sha256)
    if key not in _KNOWN:
        while len(_KNOWN) >= 4:
            _KNOWN.pop(next(iter(_KNOWN)))
        table = manifest.parts().select(_LINE)
        for name in ("path", "sha256"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, name, table[name].combine_chunks().dictionary_encode())
        _KNOWN[key] = table.combine_chunks()
    return _KNOWN[key]


@dataclass(frozen=True)
class _Piece:
    """Neighbouring rows of one file."""

    path: str
    sha256: str
    start: int
    stop: int


def _pieces(table: pa.Table, start: int, stop: int) -> Iterator[_Piece]:
    """The rows from *start* up to *stop* as pieces; lines that go on where the one before ends are joined."""
    firsts, counts = (table[name].to_numpy() for name in ("first_row", "rows"))
    low = int(np.searchsorted(firsts + counts, start, side="right"))
    high = int(np.searchsorted(firsts, stop, side="left"))
    piece: _Piece | None = None
    for line in table.slice(low, max(high - low, 0)).to_pylist():
        shift = line["offset"] - line["first_row"]
        begin, end = max(start, line["first_row"]) + shift, min(stop, line["first_row"] + line["rows"]) + shift
        if begin >= end:
            continue
        if piece and (piece.path, piece.stop) == (line["path"], begin):
            begin = piece.start
        elif piece:
            yield piece
        piece = _Piece(line["path"], line["sha256"], begin, end)
    if piece:
        yield piece


def _as_promised(uri: str, table: pa.Table, schema: pa.Schema, piece: _Piece) -> pa.Table:
    if table.num_rows != piece.stop - piece.start or not table.schema.equals(schema):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise DatasetError(
            f"{uri}: {piece.stop - piece.start} rows of [{', '.join(f'{f.name}: {f.type}' for f in schema)}] were "
            f"promised, {table.num_rows} of [{found}] found; run the pipeline that writes it again"
        )
    return table


# --- files -----------------------------------------------------------------------------------------------


class _File:
    """A file of a dataset on this machine, its hash verified; the copy of an object goes when this goes."""

    def __init__(self, uri: str, sha256: str) -> None:
        stack = ExitStack()
        weakref.finalize(self, stack.close)
        self.path = self._opened(stack, uri)
        found = sha256_of(self.path)
        if found != sha256:
            raise DatasetError(
                f"{uri}: its sha256 is {found[:16]}..., the parts table says {sha256[:16]}...; "
                "the file is damaged, restore it or run the pipeline again"
            )

    @staticmethod
    def _opened(stack: ExitStack, uri: str) -> Path:
        try:
            path = stack.enter_context(local_copy(uri))
            path.stat()
        except (OSError, StorageError) as error:
            raise DatasetError(
                f"{uri}: the manifest names this file, but it cannot be read ({error}); "
                "restore it or run the pipeline again"
            ) from error
        return path


_seen = functools.lru_cache(maxsize=4096)(_File)
_copied = functools.lru_cache(maxsize=4)(_File)


def _file(uri: str, sha256: str) -> _File:
    """Kept for this process: that a local file is right, and the copies of a few objects."""
    return (_copied if uri.startswith("s3://") else _seen)(uri, sha256)


# --- formats ---------------------------------------------------------------------------------------------


def _parquet(file: _File, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    with pq.ParquetFile(file.path) as parquet:
        counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        ends = np.cumsum([0, *counts])
        groups = [i for i in range(len(counts)) if ends[i] < stop and ends[i + 1] > start]
        table = parquet.read_row_groups(groups, columns=schema.names)
    skipped = int(ends[groups[0]]) if groups else 0
    return table.slice(start - skipped, stop - start).select(schema.names).replace_schema_metadata(schema.metadata)


def _hdf5(file: _File, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    """One HDF5 dataset at the root for each column: ``"row ..."`` numbers, or UTF-8 of variable length."""
    try:
        import h5py
    except ImportError as error:
        raise DatasetError(f"{file.path}: reading HDF5 needs h5py: pip install 'penstock[hdf5]'") from error
    with h5py.File(file.path) as root:
        missing = [name for name in schema.names if name not in root]
        if missing:
            raise DatasetError(f"{file.path}: there is no HDF5 dataset '{missing[0]}'; run the pipeline again")
        return pa.table([_column(root[field.name], start, stop, field.type) for field in schema], schema)


def _column(dataset: Any, start: int, stop: int, kind: pa.DataType) -> pa.Array:
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.array(dataset.asstr()[start:stop], kind)
    column = tensor_column(dataset[start:stop])
    return column if column.type == kind else column.cast(kind)


_Reader = Callable[[_File, int, int, pa.Schema], pa.Table]
_FORMATS: Mapping[str, _Reader] = {"parquet": _parquet, "hdf5": _hdf5}
