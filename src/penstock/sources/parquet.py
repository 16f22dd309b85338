"""Parquet files of other makers, and the quarantine of Penstock's own datasets.

Format: https://parquet.apache.org/docs/file-format/.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core.dataset import newest
from penstock.core.nouns import Batch, Unit
from penstock.core.storage import Entry, Uri, seekable
from penstock.errors import PenstockError, SchemaError, SpecError, StorageError, UnitError
from penstock.sources.listing import listed

__all__ = ["Parquet"]

_SAMPLE_ROWS = 4096
_QUARANTINE = "/quarantine/"


@dataclass(frozen=True)
class Parquet:
    """Rows of Parquet files. All files have the columns of the first one.

    Of a dataset's quarantine only the files that its newest version names are read.
    A unit is a range of a file's bytes that begins with a row group and holds as many as fit into *unit_bytes*,
    one at least; the footers of smaller files are not looked at beforehand.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.parquet``.
        columns: which columns are read, in this order; none means all.
        unit_bytes: size of a unit in the file.
    """

    uri: Uri
    columns: tuple[str, ...] = ()
    unit_bytes: int = 64 << 20

    ASIDE = ("unit_bytes",)

    def schema(self) -> pa.Schema:
        """The columns of the first file. Raises `SchemaError` or `UnitError`."""
        first = next(self._entries())
        with _opened(first.uri, first.etag) as file:
            found = self._chosen(file.schema_arrow.remove_metadata())
        object.__setattr__(self, "_found", found)  # goes along to the workers, which need not list the files again
        return found

    def units(self) -> Iterator[Unit]:
        """Ranges of row groups."""
        if self.unit_bytes < 1:
            raise SpecError(f"unit_bytes = {self.unit_bytes}: 1 or more was needed; 67108864 is a good size")
        for entry in self._entries():
            for start, stop in self._ranges(entry):
                yield Unit.of(entry.uri, entry.etag, start, stop)

    def read(self, unit: Unit) -> Batch:
        """The row groups that begin in *unit*. Raises `UnitError`."""
        with self._agreed(unit) as (file, schema), _told(unit.uri):
            return self._table(file.read_row_groups(_groups(file, unit), schema.names, use_threads=False), schema)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The first rows, and their share of their row group's bytes."""
        with self._agreed(unit) as (file, schema), _told(unit.uri):
            group = next(iter(_groups(file, unit)), None)
            if group is None:
                return schema.empty_table(), 0
            batch = next(file.iter_batches(_SAMPLE_ROWS, [group], schema.names, use_threads=False), None)
            table = schema.empty_table() if batch is None else self._table(pa.Table.from_batches([batch]), schema)
            about = file.metadata.row_group(group)
            size = sum(about.column(i).total_compressed_size for i in range(about.num_columns))
            return table, size * table.num_rows // max(about.num_rows, 1)

    def _entries(self) -> Iterator[Entry]:
        if newest(self.uri) is not None:
            raise SchemaError(f'{self.uri} is a dataset that Penstock wrote; write use = "dataset" to read it')
        return _current(self.uri, listed(self.uri, (".parquet",)))

    def _ranges(self, entry: Entry) -> Iterator[tuple[int, int]]:
        if entry.size_bytes <= self.unit_bytes:
            yield 0, entry.size_bytes
            return
        with _opened(entry.uri, entry.etag) as file:
            start, last = 0, 0
            for begin in (*_starts(file)[1:], entry.size_bytes):
                if begin - start > self.unit_bytes and last > start:
                    yield start, last
                    start = last
                last = begin
            yield start, entry.size_bytes

    @contextmanager
    def _agreed(self, unit: Unit) -> Iterator[tuple[pq.ParquetFile, pa.Schema]]:
        """The file of *unit*, which has the columns of the first file. Raises `UnitError`."""
        wanted: pa.Schema = getattr(self, "_found", None) or self.schema()
        with _opened(unit.uri, unit.etag) as file:
            difference = _difference(file.schema_arrow, wanted)
            if difference:
                raise UnitError(
                    f"{unit.uri}: {difference} as in the first file of {self.uri}; name the columns that all files "
                    "have by 'columns', or read the files in two pipelines"
                )
            yield file, wanted

    def _chosen(self, found: pa.Schema) -> pa.Schema:
        for name in self.columns:
            if name not in found.names:
                raise SchemaError(f"{self.uri} has no column '{name}'; there are: {', '.join(found.names) or 'none'}")
        return pa.schema([found.field(name) for name in self.columns]) if self.columns else found

    @staticmethod
    def _table(table: pa.Table, schema: pa.Schema) -> pa.Table:
        return table.select(schema.names).replace_schema_metadata(None)


def _current(uri: str, entries: Iterator[Entry]) -> Iterator[Entry]:
    """*entries*; of a dataset's quarantine only those of its newest version, since others may be mended by now.

    Raises:
        StorageError: the newest version has none there.
    """
    root, mark, _ = f"{uri}/".rpartition(_QUARANTINE)
    manifest = newest(root) if mark else None
    if manifest is None:
        yield from entries
        return
    bad = {name for names in manifest.parts()["bad"].to_pylist() for name in names}
    kept = [entry for entry in entries if "quarantine/" + entry.uri.rpartition(_QUARANTINE)[2] in bad]
    if not kept:
        raise StorageError(f"cannot read {uri}: version {manifest.version} of {root} has no quarantined rows there")
    yield from kept


@contextmanager
def _opened(uri: str, etag: str) -> Iterator[pq.ParquetFile]:
    with seekable(uri, etag) as raw, _told(uri), pq.ParquetFile(raw, pre_buffer=True) as file:
        yield file


@contextmanager
def _told(uri: str) -> Iterator[None]:
    try:
        yield
    except PenstockError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise UnitError(
            f"{uri}: this is no Parquet file, or a damaged one ({str(error).strip()}); copy it again"
        ) from error


def _starts(file: pq.ParquetFile) -> list[int]:
    """The first byte of each row group."""
    groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
    return [_start(group.column(0)) if group.num_columns else 0 for group in groups]


def _start(chunk: pq.ColumnChunkMetaData) -> int:
    pages = chunk.dictionary_page_offset, chunk.data_page_offset
    return int(min(page for page in pages if page))


def _groups(file: pq.ParquetFile, unit: Unit) -> list[int]:
    return [i for i, start in enumerate(_starts(file)) if unit.start <= start < unit.stop]


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """How *found* differs from *wanted* in the columns of the latter, or nothing."""
    for field in wanted:
        at = found.get_field_index(field.name)
        if at < 0:
            return f"there is no column '{field.name}: {field.type}'"
        if found.field(at).type != field.type:
            return f"column '{field.name}' is {found.field(at).type} and not {field.type}"
    return ""
