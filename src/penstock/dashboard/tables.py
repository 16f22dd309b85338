"""Parquet files of which only some columns are read, on disk or S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.parquet as pq

from penstock.core.storage import seekable

__all__ = ["opened"]


@contextmanager
def opened(uri: str) -> Iterator[pq.ParquetFile]:
    """The file at *uri*, closed at the exit. Raises `StorageError`, or `OSError` where it is no Parquet file."""
    with seekable(uri) as source, pq.ParquetFile(source) as file:
        yield file
