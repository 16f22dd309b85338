"""Columns of another dataset beside each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, with_columns
from penstock.core.dataset import Manifest, existing, schema_of
from penstock.core.nouns import Batch, Transform
from penstock.core.reading import read_table
from penstock.core.storage import Uri
from penstock.errors import DatasetError, RowErrors, SchemaError

__all__ = ["Join"]

_INTEGERS = (pa.int64(), pa.int32(), pa.uint64(), pa.uint32())


@dataclass(frozen=True)
class Join:
    """Add columns of a published dataset to the rows that name its rows.

    The columns are read once per worker and held in memory. A row that finds no partner is quarantined.

    Attributes:
        dataset: the root of a dataset that Penstock wrote.
        columns: which of its columns are added; one that is there already is replaced.
        on: the column of the batch that names the partner: ``row`` holds the partner's row number; any other
            is looked up in the dataset's column of the same name and type, whose values must be unique.
    """

    dataset: Uri
    columns: tuple[str, ...]
    on: str = "row"

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns is empty; name the columns of the dataset that are to be added")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns given, then those of the dataset. Raises `DatasetError` when it is not there."""
        there = schema_of(self.dataset)
        key = field_of(given, self.on, "join", *(_INTEGERS if self.on == "row" else ())).type
        if self.on != "row" and field_of(there, self.on, f"join with {self.dataset}").type != key:
            raise SchemaError(f"join: '{self.on}' is {key} here and {there.field(self.on).type} in {self.dataset}")
        added = {name: field_of(there, name, f"join with {self.dataset}").type for name in self.columns}
        return adding(given, added)

    @property
    def _manifest(self) -> Manifest:
        return existing(self.dataset)

    def identity(self) -> Mapping[str, str]:
        """The hash of the dataset's content."""
        return {"dataset": self._manifest.sha256}

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Read the columns."""
        names = self.columns if self.on == "row" else (*self.columns, self.on)
        table = read_table(self.dataset, list(dict.fromkeys(names))).combine_chunks()
        if self.on != "row":
            self._unique(table[self.on])
        yield lambda batch: self._joined(batch, table)

    def _unique(self, keys: pa.ChunkedArray) -> None:
        repeats = len(keys) - pc.count_distinct(keys, mode="all").as_py()
        if repeats:
            raise DatasetError(
                f"{self.dataset}: {repeats} of {len(keys)} values of '{self.on}' repeat others, so a row may have many "
                "partners; clean the dataset with unique, or join on another column"
            )

    def _joined(self, batch: Batch, table: pa.Table) -> Batch:
        places = self._places(batch[self.on], table)
        found = (places >= 0) & (places < table.num_rows)
        good, bad = pick(batch, found)
        partners = table.take(pa.array(places[found]))
        good = with_columns(good, {name: partners[name] for name in self.columns})
        if bad.num_rows:
            raise RowErrors(good, bad, [self._reason(value, table) for value in bad[self.on].to_pylist()])
        return good

    def _places(self, keys: pa.ChunkedArray, table: pa.Table) -> npt.NDArray[np.int64]:
        """The row of the dataset for each key, -1 for none, ``"row"``."""
        if self.on == "row":
            places = keys.cast(pa.int64())
        else:
            places = pc.if_else(keys.is_null(), None, pc.index_in(keys, value_set=table[self.on]))
        return np.asarray(pc.fill_null(places, -1).to_numpy().astype(np.int64))

    def _reason(self, value: object, table: pa.Table) -> str:
        if self.on == "row":
            return f"row {value} is not among the {table.num_rows} rows of {self.dataset}"
        return f"no row of {self.dataset} has {self.on} {value!r}"
