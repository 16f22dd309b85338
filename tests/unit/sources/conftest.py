"""What the tests of all sources share."""

import gzip
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from penstock.errors import RowErrors

settings.register_profile("sources", deadline=None, max_examples=60)
settings.load_profile("sources")


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
    """Read *data* as one file by a source class, with other fields by name."""

    def read_bytes(kind, data: bytes, suffix: str, **fields):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"file{suffix}"
            path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
            return outcome(kind(str(path), **fields))

    return read_bytes
