"""Parquet files as other programs read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.core.batch import tensor_column, tensor_type
from penstock.core.nouns import Record, Unit
from penstock.core.storage import join
from penstock.sinks import parquet
from penstock.sinks.parquet import Parquet


def unit(at: int) -> Unit:
    return Unit.of("u", "1", at, at + 1)


def write(sink: Parquet, batch: pa.Table) -> Path:
    return Path(join(sink.uri, sink.write(unit(0), batch).path))


def test_all_kinds_of_columns_come_back_with_nulls_and_metadata(tmp_path):
    batch = pa.table(
        {
            "list": pa.array([[1, 2], None, []]),
            "struct": pa.array([{"a": 1}, None, {"a": None}]),
            "time": pa.array([1, None, 3], pa.timestamp("us", "UTC")),
            "tensor": tensor_column(np.arange(12, dtype=np.float16).reshape(3, 2, 2)),
        }
    ).replace_schema_metadata({"made": "here"})
    found = pq.read_table(write(Parquet(str(tmp_path)), batch))
    assert found.equals(batch)
    assert found.schema.metadata == batch.schema.metadata


def test_there_is_no_dictionary_since_floats_grow_by_it(tmp_path):
    batch = pa.table({"x": tensor_column(np.random.default_rng(0).normal(size=(2000, 64)).astype(np.float32))})
    path = write(Parquet(str(tmp_path)), batch)
    assert not pq.read_metadata(path).row_group(0).column(0).has_dictionary_page
    assert path.stat().st_size < batch.nbytes * 1.025, "with one it is 1.029 and more"


@pytest.mark.parametrize(("name", "wanted"), [("none", "UNCOMPRESSED"), ("zstd", "ZSTD"), ("snappy", "SNAPPY")])
def test_the_compression_is_the_one_asked_for(tmp_path, name, wanted):
    path = write(Parquet(str(tmp_path), compression=name), pa.table({"x": [1, 2]}))
    assert pq.read_metadata(path).row_group(0).column(0).compression == wanted


def test_row_groups_have_a_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "_ROW_GROUP_BYTES", 1000)
    path = write(Parquet(str(tmp_path)), pa.table({"x": np.arange(1000)}))
    metadata = pq.read_metadata(path)
    assert (metadata.num_row_groups, metadata.row_group(0).num_rows) == (8, 125)


def test_packing_keeps_rows_order_and_schema(tmp_path):
    sink = Parquet(str(tmp_path / "out"))
    kind = tensor_type(np.float32, 2)
    schema = pa.schema([("x", pa.int64()), ("v", kind)], metadata={"a": "b"})
    tables = [
        pa.table([list(range(at, at + n)), tensor_column(np.full((n, 2), at, np.float32))], schema)
        for at, n in [(0, 3), (3, 0), (3, 1)]
    ]
    records = [(unit(i), Record(unit(i).key, sink.write(unit(i), table))) for i, table in enumerate(tables)]
    manifest = sink.commit(
        lambda: records, {"fingerprint": "f", "schema": sink.schema(schema).serialize().to_pybytes().hex()}
    )
    (path,) = set(manifest.parts()["path"].to_pylist())
    found = pq.read_table(join(sink.uri, path))
    assert found.equals(pa.concat_tables(tables), check_metadata=True)
