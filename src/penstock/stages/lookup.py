"""Ids to vectors, by an embedding table of any size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, with_columns
from penstock.core.dataset import schema_of
from penstock.core.nouns import Batch, Transform
from penstock.core.storage import Uri
from penstock.errors import RowErrors
from penstock.tables.client import Client, Hot, open_table
from penstock.tables.layout import Table
from penstock.tables.pooling import faster
from penstock.tables.schemes import Ints, known

__all__ = ["Lookup"]

_WHOLE = (pa.int64(), pa.int32(), pa.uint32(), pa.uint16())


@dataclass(frozen=True)
class Lookup:
    """Add a column of vectors: the rows of a table for a column of ids.

    The ids of a row are a list, such as tokens or k-mers, or a single number. A table larger than memory is read by
    the pages that are needed; on Ray the actors that hold it are asked, where there are some.

    A row is quarantined whose ids are null or none, or of which one has no row in the table.

    Attributes:
        table: the table's root; see ``penstock table``.
        column: the ids: list<int64>, list<int32>, or whole numbers.
        into: the column that is added.
        pool: ``mean`` or ``sum`` of a list's vectors; ``none`` keeps them all, as a list of vectors.
        dtype: of the vectors; they are summed in float32.
        hot_rows: each worker keeps the vectors of so many ids in memory, those that were asked for last. Worth it with
            ``pool = "none"`` where actors hold the table and few ids are asked for often; bags are pooled beside the
            rows, and ask nothing of it. The vectors are the same.
    """

    table: Uri
    column: str = "input_ids"
    into: str = "embedding"
    pool: Literal["mean", "sum", "none"] = "mean"
    dtype: Literal["float32", "float16"] = "float32"
    hot_rows: int = 0

    ASIDE = ("hot_rows",)

    def __post_init__(self) -> None:
        if self.hot_rows < 0 or (self.hot_rows and self.pool != "none"):
            raise ValueError(f"hot_rows is {self.hot_rows}; it must not be negative, and goes with pool = 'none' alone")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """One more column.

        Raises:
            SchemaError: there are no ids.
            DatasetError: there is no such table.
        """
        lists = tuple(pa.list_(kind) for kind in _WHOLE)
        kind = field_of(given, self.column, "lookup", *lists, *_WHOLE).type
        (dim,) = schema_of(self.table).field("vector").type.shape
        if pa.types.is_list(kind) and self.pool == "none":
            return adding(given, {self.into: pa.list_(pa.list_(pa.from_numpy_dtype(self.dtype), dim))})
        return adding(given, {self.into: tensor_type(self.dtype, dim)})

    def identity(self) -> Mapping[str, str]:
        """The hash of the table's manifest."""
        return {"table": Table.at(self.table).manifest.sha256}

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Open the table."""
        if self.pool != "none":
            faster()
        with open_table(self.table) as client:
            kept = Hot(client, self.hot_rows) if self.hot_rows else client
            yield lambda batch: self._looked_up(batch, kept)

    def _looked_up(self, batch: Batch, client: Client) -> Batch:
        ids, lengths = _flat(batch[self.column])
        reasons = self._reasons(ids, lengths, client.table)
        keep = np.array([not reason for reason in reasons])
        good, bad = pick(batch, keep)
        ids, lengths = ids[np.repeat(keep, lengths)], lengths[keep]
        good = with_columns(good, {self.into: self._vectors(ids, lengths, client, batch.schema)})
        if bad.num_rows:
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _vectors(self, ids: Ints, lengths: Ints, client: Client, schema: pa.Schema) -> pa.Array:
        ragged = pa.types.is_list(schema.field(self.column).type)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        if ragged and self.pool != "none":
            return tensor_column(client.pooled(ids, offsets, self.pool).astype(self.dtype, copy=False))
        vectors = client.lookup(ids).astype(self.dtype, copy=False)
        return _nested(vectors, offsets) if ragged else tensor_column(vectors)

    def _reasons(self, ids: Ints, lengths: Ints, table: Table) -> list[str]:
        """Why each row is refused; empty when it is not."""
        rows = np.repeat(np.arange(len(lengths)), lengths)
        foreign = ~known(table.layout.scheme, ids)
        found = [""] * len(lengths)
        for row in np.flatnonzero(lengths == 0):
            found[row] = f"{self.column} is null or has no ids"
        at = np.flatnonzero(foreign)
        for row, first in zip(*np.unique(rows[at], return_index=True), strict=True):
            found[row] = (
                f"{self.column} has the id {ids[at[first]]}, the table takes ids from 0 to "
                f"{table.layout.scheme.limit - 1}: it is another vocabulary's"
            )
        return found


def _flat(column: pa.ChunkedArray) -> tuple[Ints, npt.NDArray[np.int64]]:
    """All ids one behind the other, and how many each row has; null is -1, which no table has."""
    if not pa.types.is_list(column.type):
        return _numbers(column), np.ones(len(column), np.int64)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return _numbers(pc.list_flatten(column)), lengths


def _numbers(column: pa.ChunkedArray) -> Ints:
    return np.asarray(pc.fill_null(column.cast(pa.int64()), -1).to_numpy(), np.int64)


def _nested(vectors: npt.NDArray[np.floating], offsets: Ints) -> pa.Array:
    """A column of lists of vectors."""
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat)
