"""Datasets in a file format that a sink of another package brings, read by that sink's `read_part`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather

from penstock.core import plugins, reading
from penstock.core.batch import tensor_column
from penstock.core.dataset import Format, Manifest, commit, draft, publish_part
from penstock.core.nouns import Batch, OwnFormat, Part, Record, Records, Unit
from penstock.core.reading import read_arrays, read_rows, take_rows
from penstock.core.verify import verify
from penstock.errors import DatasetError

TABLE = pa.table({"id": range(10), "text": list("abcdefghij"), "vector": tensor_column(np.arange(20.0).reshape(10, 2))})


def save(path, batch):
    feather.write_feather(batch, path)


@dataclass(frozen=True)
class Feather:
    """Arrow's own files."""

    uri: str
    file_bytes: int = 4000

    def schema(self, given: pa.Schema) -> pa.Schema:
        return given

    def write(self, unit: Unit, batch: Batch) -> Part:
        return publish_part(self.uri, ".feather", lambda path: save(path, batch), batch.num_rows)

    def commit(self, records: Records, provenance: Mapping[str, Any]) -> Manifest:
        plan = draft(self.uri, "feather", provenance)
        form = Format.whole(".feather", lambda path: self.read_part(path, plan.schema), save)
        return commit(plan, form, records, self.file_bytes)

    @staticmethod
    def read_part(path, schema):
        return feather.read_table(path, columns=schema.names)


@pytest.fixture
def installed(monkeypatch):
    """As if a package had the sink as an entry point."""
    known, load = dict(plugins.named("sinks")), plugins.load
    monkeypatch.setattr(plugins, "named", lambda kind: {**known, "feather": None} if kind == "sinks" else {})
    monkeypatch.setattr(plugins, "load", lambda kind, name: Feather if name == "feather" else load(kind, name))


@pytest.fixture
def manifest(tmp_path):
    sink = Feather(str(tmp_path / "out"))
    cut = [(Unit.of("x", "e", at, at + 2), TABLE.slice(at, 2)) for at in range(0, 10, 2)]
    found = [(unit, Record(unit.key, sink.write(unit, batch))) for unit, batch in cut]
    return sink.commit(lambda: found, {"fingerprint": "f", "schema": TABLE.schema.serialize().to_pybytes().hex()})


def test_such_a_sink_follows_the_protocol():
    assert isinstance(Feather("x"), OwnFormat)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("check", ["sha256", "size"])
def test_rows_are_read_in_any_slice_and_order_and_as_arrays(manifest, check):
    assert len(set(manifest.parts()["path"].to_pylist())) < 5, "some are packed"
    assert read_rows(manifest, 3, 8, check=check).equals(TABLE.slice(3, 5))
    assert read_rows(manifest, 0, 10, ["text", "id"], check).equals(TABLE.select(["text", "id"]))
    assert take_rows(manifest, np.array([9, 0, 9]), check=check).equals(TABLE.take([9, 0, 9]))
    assert read_arrays(manifest, 1, 4, ["vector"], check)["vector"].tolist() == [[2, 3], [4, 5], [6, 7]]
    verify(manifest.uri)


@pytest.mark.usefixtures("installed")
def test_objects_of_which_only_ranges_are_read_elsewhere_are_copied(manifest, monkeypatch):
    monkeypatch.setattr(reading, "_checked", lambda uri, *_: reading._Far(uri))
    assert read_rows(manifest, 3, 8).equals(TABLE.slice(3, 5))


@pytest.mark.usefixtures("installed")
def test_what_its_reader_raises_is_told_with_the_file(manifest, monkeypatch):
    def broken(path, schema):
        raise RuntimeError("no such block")

    monkeypatch.setattr(Feather, "read_part", broken)
    wanted = r"parts/.*feather: the sink 'feather' cannot read it \(RuntimeError\(.no such block.\)\); the file"
    with pytest.raises(DatasetError, match=wanted):
        read_rows(manifest, 0, 1)


@pytest.mark.usefixtures("installed")
def test_a_reader_that_gives_other_columns_is_refused(manifest, monkeypatch):
    monkeypatch.setattr(Feather, "read_part", lambda path, schema: feather.read_table(path, columns=["id"]))
    with pytest.raises(DatasetError, match=r"2 rows of \[id: int64, text: string.*were promised, 2 of \[id: int64\]"):
        read_rows(manifest, 0, 2)


def test_without_the_package_it_is_said_what_is_needed(manifest):
    wanted = r"known are: parquet, hdf5, zarr; install the package whose sink is called 'feather' and has `read_part`"
    for read in (lambda: read_rows(manifest, 0, 1), lambda: verify(manifest.uri)):
        with pytest.raises(DatasetError, match=wanted):
            read()
