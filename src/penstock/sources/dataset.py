"""Datasets that Penstock wrote, by their manifest: the way from one pipeline to the next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from penstock.core.dataset import existing, schema_of
from penstock.core.nouns import Batch, Unit
from penstock.core.reading import chosen, holds, read_rows
from penstock.core.storage import Uri
from penstock.errors import SpecError, UnitError

__all__ = ["Dataset"]

_SAMPLE_ROWS = 1024
_REFERENCE = pa.schema(
    [("dataset", pa.string()), ("version", pa.int64()), ("rows", pa.int64()), ("sha256", pa.string())]
)


@dataclass(frozen=True)
class Dataset:
    """The rows of a dataset, in units as they were written; or a reference to the whole of it, for solvers.

    Attributes:
        uri: the dataset's root, a folder or ``s3://`` prefix.
        columns: which columns are read, in this order; none means all.
        whole: one unit of one row: ``dataset`` (its address), ``version``, ``rows`` and ``sha256``.
    """

    uri: Uri
    columns: tuple[str, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        if self.whole and self.columns:
            raise SpecError("whole = true gives a reference and no columns; leave 'columns' out")

    def schema(self) -> pa.Schema:
        """The columns. Raises `DatasetError` when there is no dataset, `SchemaError` when it lacks one."""
        return _REFERENCE if self.whole else chosen(self.uri, schema_of(self.uri), self.columns)

    def units(self) -> Iterator[Unit]:
        """One for each line of the parts table, or one for all. Raises `DatasetError`."""
        manifest = existing(self.uri)
        parts = manifest.parts().select(["part_sha256", "first_row", "rows", "part_bytes"])
        if self.whole:
            size = sum(parts["part_bytes"].to_pylist())
            yield Unit.of(manifest.uri, manifest.sha256, 0, manifest.rows, size)
            return
        for batch in parts.to_batches(4096):
            for sha256, first, rows, size in zip(*batch.to_pydict().values(), strict=True):
                yield Unit.of(manifest.uri, sha256, first, first + rows, size)

    def read(self, unit: Unit) -> Batch:
        """The rows of *unit*. Raises `DatasetError`, or `UnitError` when the dataset has changed."""
        manifest = existing(self.uri)
        if not (unit.etag == manifest.sha256 if self.whole else holds(manifest, unit)):
            raise UnitError(f"{manifest.uri}: the dataset was written anew while the run was going on; run again")
        if self.whole:
            values = [manifest.uri, manifest.version, manifest.rows, manifest.sha256]
            return pa.table([[value] for value in values], _REFERENCE)
        return read_rows(manifest, unit.start, unit.stop, self.columns)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The first rows, and their share of the part's bytes."""
        if self.whole:
            return self.read(unit), unit.size_bytes
        rows = min(_SAMPLE_ROWS, unit.stop - unit.start)
        table = read_rows(existing(self.uri), unit.start, unit.start + rows, self.columns)
        return table, unit.size_bytes * rows // max(unit.stop - unit.start, 1)
