"""Leave columns out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from penstock.core.batch import field_of
from penstock.core.nouns import Transform
from penstock.errors import SchemaError

__all__ = ["Drop"]


@dataclass(frozen=True)
class Drop:
    """Leave out columns that later steps need no more, such as decoded frames behind their embedding.

    Attributes:
        columns: their names.
    """

    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("columns is empty; name the columns that are left out")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The others. Raises `SchemaError` when one is not there, or none remains."""
        for name in self.columns:
            field_of(given, name, "drop")
        others = [field for field in given if field.name not in self.columns]
        if not others:
            raise SchemaError(f"drop leaves no column; there are: {', '.join(given.names)}")
        return pa.schema(others)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing is loaded."""
        yield lambda batch: batch.drop_columns(list(self.columns))
