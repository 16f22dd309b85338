"""What the tests of all sources share."""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from penstock.errors import RowErrors
from penstock.sources import records


def outcome(source) -> tuple[list[dict], list[tuple[dict, str]]]:
    """Good rows, and bad rows with their reasons, of all units."""
    good, bad = [], []
    for unit in source.units():
        try:
            batch = source.read(unit)
        except RowErrors as errors:
            batch = errors.good
            bad += zip(errors.bad.to_pylist(), errors.reasons, strict=True)
        assert batch.schema.equals(source.schema())
        good += batch.to_pylist()
    return good, bad


@pytest.fixture(scope="session")
def read() -> Callable:
    """Read all units of a source."""
    return outcome


@pytest.fixture(scope="session")
def read_bytes() -> Callable:
    """Read *data* as one file, *blocks* bytes at a time, by a source class with other fields by name."""

    def read_bytes(kind, data: bytes, suffix: str, blocks=records._BLOCK_BYTES, **fields):
        small = {"_BLOCK_BYTES": blocks, "_AHEAD_BYTES": min(blocks, records._AHEAD_BYTES)}
        with mock.patch.multiple(records, **small), tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
            return outcome(kind(str(path), **fields))

    return read_bytes
