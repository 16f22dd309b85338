"""Reading a published dataset: rows by their place in it, whatever files they lie in.

Readers go by the manifest's parts table; a file is read only after its hash was held against it, once in
each process, or, where the reader asks for that, its size alone.
"""

from __future__ import annotations

import functools
import io
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core import plugins
from penstock.core.batch import column_of, to_numpy
from penstock.core.dataset import Manifest, existing, sha256_of
from penstock.core.nouns import OwnFormat, Unit
from penstock.core.storage import S3, join, local_copy, seekable, store_of
from penstock.core.zipped import Zipped, unzipped
from penstock.errors import DatasetError, SchemaError, StorageError

__all__ = [
    "Check",
    "chosen",
    "holds",
    "part_reader",
    "read_arrays",
    "read_rows",
    "read_sample",
    "read_table",
    "take_rows",
]

_WINDOW_ROWS = 1 << 16

Check: TypeAlias = Literal["sha256", "size"]
"""How a file is held against the manifest before it is read: by all its bytes, or by their number."""


def read_table(uri: str, columns: Sequence[str] = ()) -> pa.Table:
    """All rows of the dataset at *uri*; of its columns those named, or all.

    Raises:
        DatasetError: there is no dataset, or it is not what its manifest says.
        SchemaError: there is no such column.
    """
    manifest = existing(uri)
    return read_rows(manifest, 0, manifest.rows, columns)


def read_rows(
    manifest: Manifest, start: int, stop: int, columns: Sequence[str] = (), check: Check = "sha256"
) -> pa.Table:
    """The rows from *start* up to *stop*, in order; of the columns those named, or all.

    Of an object whose size alone is checked, only the ranges that hold those rows are fetched.

    Raises:
        DatasetError: the dataset is not what its manifest says.
        SchemaError: there is no such column.
    """
    schema = chosen(manifest.uri, manifest.schema, columns)
    form = _format(manifest)
    tables = [schema.empty_table()]
    for piece in _pieces(_lines(manifest), start, stop):
        uri = join(manifest.uri, piece.path)
        file = _checked(uri, piece.sha256, piece.size_bytes, check)
        tables.append(_as_promised(uri, form.read(file, piece.start, piece.stop, schema), schema, piece.rows))
    return pa.concat_tables(tables)


def take_rows(
    manifest: Manifest, rows: npt.NDArray[np.int64], columns: Sequence[str] = (), check: Check = "sha256"
) -> pa.Table:
    """The *rows* with these numbers, in the order asked, also several times; of the columns those named, or all.

    Each file is opened once, and of it only the row groups, chunks or ranges are read that hold such rows.

    Raises:
        DatasetError: the dataset is not what its manifest says.
        SchemaError: there is no such column.
    """
    schema = chosen(manifest.uri, manifest.schema, columns)
    form, tables, places = _format(manifest), [schema.empty_table()], [np.empty(0, np.int64)]
    for uri, file, wanted, place in _sought(manifest, rows, check):
        once, again = np.unique(wanted, return_inverse=True)
        table = _as_promised(uri, form.take(file, once, schema), schema, len(once))
        tables.append(table if len(once) == len(wanted) and (again[1:] > again[:-1]).all() else table.take(again))
        places.append(place)
    order = np.argsort(np.concatenate(places))
    found = pa.concat_tables(tables)
    return found if (order[1:] > order[:-1]).all() else found.take(order)


def _sought(
    manifest: Manifest, rows: npt.NDArray[np.int64], check: Check
) -> Iterator[tuple[str, _File | _Far, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """The files that hold *rows*: address, file, the rows' numbers in it, and their places among those asked for."""
    table = _lines(manifest)
    line = np.searchsorted(table["first_row"].to_numpy(), rows, side="right") - 1
    path = table["path"].combine_chunks()
    codes = path.indices.to_numpy()[line]
    shift = table["offset"].to_numpy() - table["first_row"].to_numpy()
    for code in np.unique(codes):
        place = np.flatnonzero(codes == code)
        found = table.slice(int(line[place[0]]), 1).to_pylist()[0]
        uri = join(manifest.uri, found["path"])
        file = _checked(uri, found["sha256"], found["size_bytes"], check)
        yield uri, file, rows[place] + shift[line[place]], place


def read_sample(manifest: Manifest, columns: Sequence[str], most: int) -> pa.Table:
    """At most *most* rows, drawn at random, the same ones each time; read a window at a time. Raises as `read_rows`."""
    rows = np.arange(manifest.rows)
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
    edges = range(0, max(manifest.rows, 1), _WINDOW_ROWS)
    return pa.concat_tables(
        read_rows(manifest, edge, min(edge + _WINDOW_ROWS, manifest.rows), columns).take(
            pa.array(rows[(rows >= edge) & (rows < edge + _WINDOW_ROWS)] - edge)
        )
        for edge in edges
    )


def read_arrays(
    manifest: Manifest, start: int, stop: int, columns: Sequence[str] = (), check: Check = "sha256"
) -> dict[str, npt.NDArray[Any]]:
    """The same rows as arrays, ``"row ..."``: each column in one piece of memory, into which the files are read.

    Raises:
        DatasetError: the dataset is not what its manifest says.
        SchemaError: there is no such column, or it has no numbers.
    """
    schema = chosen(manifest.uri, manifest.schema, columns)
    read_into = _format(manifest).into
    arrays = {field.name: _space(field, stop - start) for field in schema}
    at = 0
    for piece in _pieces(_lines(manifest), start, stop):
        uri = join(manifest.uri, piece.path)
        file = _checked(uri, piece.sha256, piece.size_bytes, check)
        rows = slice(at, at + piece.stop - piece.start)
        read_into(file, uri, piece, schema, {name: array[rows] for name, array in arrays.items()})
        at = rows.stop
    if at != stop - start:
        raise DatasetError(f"{manifest.uri}: rows {start} to {stop} were asked for; it has {manifest.rows}")
    return arrays


def _space(field: pa.Field, rows: int) -> npt.NDArray[Any]:
    tensor = isinstance(field.type, pa.FixedShapeTensorType)
    kind = field.type.value_type if tensor else field.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise SchemaError(f"column '{field.name}' is {field.type}; numbers or a tensor were needed")
    return np.empty((rows, *(field.type.shape if tensor else ())), kind.to_pandas_dtype())


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


_LINE = ["first_row", "rows", "path", "offset", "sha256", "size_bytes", "part_sha256"]
_KNOWN: dict[tuple[str, str], pa.Table] = {}


def _lines(manifest: Manifest) -> pa.Table:
    """What reading needs of the parts table; the last few tables are kept, packed, in memory."""
    key = (manifest.uri, manifest.parts_sha256)
    found = _KNOWN.get(key)  # several threads may be here, and forget what another one is looking for
    if found is None:
        found = manifest.parts().select(_LINE)
        for name in ("path", "sha256"):
            at = found.schema.get_field_index(name)
            found = found.set_column(at, name, found[name].combine_chunks().dictionary_encode())
        found = found.combine_chunks()
        for old in list(_KNOWN)[:-3]:
            _KNOWN.pop(old, None)
        _KNOWN[key] = found
    return found


@dataclass(frozen=True)
class _Piece:
    """Neighbouring rows of one file."""

    path: str
    sha256: str
    size_bytes: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many they are."""
        return self.stop - self.start


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
        piece = _Piece(line["path"], line["sha256"], line["size_bytes"], begin, end)
    if piece:
        yield piece


def _as_promised(uri: str, table: pa.Table, schema: pa.Schema, rows: int) -> pa.Table:
    if table.num_rows != rows or not table.schema.equals(schema):
        found = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise DatasetError(
            f"{uri}: {rows} rows of [{', '.join(f'{f.name}: {f.type}' for f in schema)}] were "
            f"promised, {table.num_rows} of [{found}] found; run the pipeline that writes it again"
        )
    return table


# --- files -----------------------------------------------------------------------------------------------


class _File:
    """A file of a dataset on this machine; the copy of an object goes when this goes."""

    def __init__(self, uri: str) -> None:
        stack = ExitStack()
        weakref.finalize(self, stack.close)
        self.path = self._opened(stack, uri)

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

    @property
    def source(self) -> Path:
        """What formats open."""
        return self.path


class _Far:
    """An object that stays where it is; ranges of it are fetched."""

    def __init__(self, uri: str) -> None:
        self.path = uri

    @property
    def source(self) -> BinaryIO:
        """What formats open."""
        return seekable(self.path)


def _hashed(uri: str, sha256: str) -> _File:
    file = _File(uri)
    found = sha256_of(file.path)
    if found != sha256:
        raise DatasetError(
            f"{uri}: its sha256 is {found[:16]}..., the parts table says {sha256[:16]}...; "
            "the file is damaged, restore it or run the pipeline again"
        )
    return file


def _sized(uri: str, size_bytes: int) -> _File | _Far:
    far = isinstance(store_of(uri), S3)
    file = _Far(uri) if far else _File(uri)
    entry = store_of(uri).entry(uri)
    if entry is None:
        raise DatasetError(f"{uri}: the manifest names this file, but it is gone; restore it or run the pipeline again")
    if entry.size_bytes != size_bytes:
        raise DatasetError(
            f"{uri}: it has {entry.size_bytes} bytes, the parts table says {size_bytes}; "
            "the file is damaged, restore it or run the pipeline again"
        )
    return file


_seen = functools.lru_cache(maxsize=4096)(_hashed)
_copied = functools.lru_cache(maxsize=4)(_hashed)


def _file(uri: str, sha256: str) -> _File:
    """Kept for this process: that a local file is right, and the copies of a few objects."""
    return (_copied if uri.startswith("s3://") else _seen)(uri, sha256)


def _checked(uri: str, sha256: str, size_bytes: int, check: Check) -> _File | _Far:
    return _file(uri, sha256) if check == "sha256" else _sized(uri, size_bytes)


# --- formats ---------------------------------------------------------------------------------------------


def _parquet(file: _File | _Far, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    with pq.ParquetFile(file.source, pre_buffer=True) as parquet:
        ends = _ends(parquet)
        groups = [i for i in range(len(ends) - 1) if ends[i] < stop and ends[i + 1] > start]
        table = parquet.read_row_groups(groups, columns=schema.names)
    skipped = int(ends[groups[0]]) if groups else 0
    return table.slice(start - skipped, stop - start).select(schema.names).replace_schema_metadata(schema.metadata)


def _parquet_take(file: _File | _Far, rows: npt.NDArray[np.int64], schema: pa.Schema) -> pa.Table:
    """A row group at a time."""
    with pq.ParquetFile(file.source, pre_buffer=True) as parquet:
        ends = _ends(parquet)
        groups = np.searchsorted(ends, rows, side="right") - 1
        tables = [
            parquet.read_row_group(int(group), columns=schema.names).take(rows[groups == group] - ends[group])
            for group in np.unique(groups)
        ]
    return pa.concat_tables(tables).select(schema.names).replace_schema_metadata(schema.metadata)


def _ends(parquet: pq.ParquetFile) -> npt.NDArray[np.int64]:
    """Where row groups begin and end."""
    counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    return np.cumsum([0, *counts], dtype=np.int64)


def _hdf5(file: _File | _Far, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    """One HDF5 dataset at the root for each column: ``"row ..."`` numbers, or UTF-8 of variable length."""
    with _root(file, schema) as root:
        return pa.table([_column(root[field.name], slice(start, stop), field.type) for field in schema], schema)


def _hdf5_take(file: _File | _Far, rows: npt.NDArray[np.int64], schema: pa.Schema) -> pa.Table:
    """Columns in one piece are mapped: HDF5 itself needs a search for each row."""
    with _root(file, schema) as root:
        return pa.table([_column(_mapped(file, root[field.name]), rows, field.type) for field in schema], schema)


@contextmanager
def _root(file: _File | _Far, schema: pa.Schema) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise DatasetError(f"{file.path}: reading HDF5 needs h5py: pip install 'penstock[hdf5]'") from error
    source = file.source
    how = {"locking": False} if isinstance(source, Path) else {}
    with h5py.File(source if isinstance(source, Path) else _buffered(source), "r", **how) as root:
        missing = [name for name in schema.names if name not in root]
        if missing:
            raise DatasetError(f"{file.path}: there is no HDF5 dataset '{missing[0]}'; run the pipeline again")
        yield root


def _buffered(source: BinaryIO) -> BinaryIO:
    return io.BufferedReader(cast("io.RawIOBase", source), 1 << 20)


def _mapped(file: _File | _Far, dataset: Any) -> Any:
    offset = dataset.id.get_offset()
    if isinstance(file, _Far) or offset is None or dataset.dtype.hasobject or not dataset.size:
        return dataset
    return np.memmap(file.path, dataset.dtype, "r", offset, dataset.shape)


def _column(dataset: Any, rows: slice | npt.NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return column_of((dataset.asstr() if text else dataset)[rows], kind)


def _parquet_into(
    file: _File | _Far, uri: str, piece: _Piece, schema: pa.Schema, arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    table = _as_promised(uri, _parquet(file, piece.start, piece.stop, schema), schema, piece.rows)
    for name, array in arrays.items():
        array[...] = to_numpy(table[name])


def _hdf5_into(
    file: _File | _Far, uri: str, piece: _Piece, schema: pa.Schema, arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    try:
        with _root(file, schema) as root:
            for name, array in arrays.items():
                plain = array.view(np.uint8) if array.dtype == np.bool_ else array
                root[name].read_direct(plain, np.s_[piece.start : piece.stop])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{uri}: rows {piece.start} to {piece.stop} of {', '.join(schema.names)} cannot be read ({error}); "
            "the file is damaged, restore it or run the pipeline again"
        ) from error


def _zarr(file: _File | _Far, start: int, stop: int, schema: pa.Schema) -> pa.Table:
    with _unzipped(file) as part:
        return pa.table([column_of(part.rows(field.name, start, stop), field.type) for field in schema], schema)


def _zarr_take(file: _File | _Far, rows: npt.NDArray[np.int64], schema: pa.Schema) -> pa.Table:
    with _unzipped(file) as part:
        return pa.table([column_of(part.take(field.name, rows), field.type) for field in schema], schema)


def _zarr_into(
    file: _File | _Far, uri: str, piece: _Piece, schema: pa.Schema, arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    with _unzipped(file) as part:
        for name, array in arrays.items():
            array[...] = part.rows(name, piece.start, piece.stop)


@contextmanager
def _unzipped(file: _File | _Far) -> Iterator[Zipped]:
    try:
        import zarr  # noqa: F401 (looked for)
    except ImportError as error:
        raise DatasetError(f"{file.path}: reading Zarr needs zarr: pip install 'penstock[zarr]'") from error
    try:
        with unzipped(file.source) as part:
            yield part
    except (DatasetError, ValueError, BadZipFile) as error:
        raise DatasetError(
            f"{file.path}: {error}; the file is damaged, restore it or run the pipeline again"
        ) from error


@dataclass(frozen=True)
class _Form:
    """How files of a format are read: neighbouring rows, the same into arrays, and single rows that rise."""

    read: Callable[[_File | _Far, int, int, pa.Schema], pa.Table]
    into: Callable[[_File | _Far, str, _Piece, pa.Schema, Mapping[str, npt.NDArray[Any]]], None]
    take: Callable[[_File | _Far, npt.NDArray[np.int64], pa.Schema], pa.Table]


_FORMATS: Mapping[str, _Form] = {
    "parquet": _Form(_parquet, _parquet_into, _parquet_take),
    "hdf5": _Form(_hdf5, _hdf5_into, _hdf5_take),
    "zarr": _Form(_zarr, _zarr_into, _zarr_take),
}


def _format(manifest: Manifest) -> _Form:
    return _FORMATS.get(manifest.format) or _whole(manifest)


def _whole(manifest: Manifest) -> _Form:
    """A format of another package, whose files are read whole."""
    read = part_reader(manifest)

    def rows(file: _File | _Far, start: int, stop: int, schema: pa.Schema) -> pa.Table:
        with local_copy(str(file.path)) as path:
            return read(path, schema).slice(start, stop - start)

    def into(
        file: _File | _Far, uri: str, piece: _Piece, schema: pa.Schema, arrays: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        table = _as_promised(uri, rows(file, piece.start, piece.stop, schema), schema, piece.rows)
        for name, array in arrays.items():
            array[...] = to_numpy(table[name])

    def take(file: _File | _Far, wanted: npt.NDArray[np.int64], schema: pa.Schema) -> pa.Table:
        with local_copy(str(file.path)) as path:
            return read(path, schema).take(wanted)

    return _Form(rows, into, take)


def part_reader(manifest: Manifest) -> Callable[[Path, pa.Schema], pa.Table]:
    """What reads a file of another package's format: `read_part` of the sink that is called as the format is.

    Raises:
        DatasetError: no sink is called so, or it has none; from the reader: the file cannot be read.
    """
    name = manifest.format
    sink = plugins.load("sinks", name) if name in plugins.named("sinks") else None
    if not hasattr(sink, "read_part"):
        raise DatasetError(
            f"{manifest.uri}: its format is '{name}'; known are: {', '.join(_FORMATS)}; "
            f"install the package whose sink is called '{name}' and has `read_part`"
        )

    def read(path: Path, schema: pa.Schema) -> pa.Table:
        try:
            return cast("OwnFormat", sink).read_part(path, schema)
        except Exception as error:  # code of others may raise anything
            raise DatasetError(
                f"{path}: the sink '{name}' cannot read it ({error!r}); the file is damaged, or the package is of "
                "another version: restore it or run the pipeline again"
            ) from error

    return read
