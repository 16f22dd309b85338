"""The shipped suite of sinks, on a real S3 server."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pytest

import penstock
from penstock.core import storage
from penstock.core.batch import tensor_column
from penstock.core.dataset import versions
from penstock.core.storage import S3
from penstock.sinks.hdf5 import Hdf5, compact
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr, group
from penstock.testing import SinkTests
from penstock.testing.sinks import _committed


class TestParquetOnS3(SinkTests):
    @pytest.fixture
    def root(self, s3_root):
        return s3_root

    @pytest.fixture
    def sink(self, root):
        return Parquet(root, file_bytes=9000)


class TestHdf5OnS3(SinkTests):
    @pytest.fixture
    def root(self, s3_root):
        return s3_root

    @pytest.fixture
    def sink(self, root):
        return Hdf5(root, file_bytes=60_000)

    def test_there_is_no_index_but_one_file_can_be_made(self, sink, batch, tmp_path):
        import h5py

        _committed(sink, [batch.slice(0, 9), batch.slice(9)])
        assert S3().entry(f"{sink.uri}/index.h5") is None
        with h5py.File(compact(sink.uri, str(tmp_path / "all.h5"))) as file:
            assert file["id"][:].tolist() == batch["id"].to_pylist()
        assert versions(sink.uri) == [1]


class TestZarrOnS3(SinkTests):
    @pytest.fixture
    def root(self, s3_root):
        return s3_root

    @pytest.fixture
    def sink(self, root):
        return Zarr(root, file_bytes=60_000)

    def test_the_group_is_read_where_it_is(self, sink, batch):
        """By zarr-python over our store, chunk by chunk of each shard, and by TensorStore's own client of S3."""
        import tensorstore

        sink = dataclasses.replace(sink, chunk_bytes=100, shard_bytes=300)
        _committed(sink, [batch.slice(0, 9), batch.slice(9)])
        vectors = batch["vector"].combine_chunks().to_numpy_ndarray()
        root = penstock.read(sink.uri).zarr()
        assert sorted(root.array_keys()) == sorted([*batch.schema.names, "row"])
        np.testing.assert_array_equal(root["vector"][3:17], vectors[3:17])
        bucket, _, path = f"{group(sink.uri)}/vector/".removeprefix("s3://").partition("/")
        where = {"driver": "s3", "bucket": bucket, "endpoint": os.environ["AWS_ENDPOINT_URL"], "path": path}
        where |= {"aws_region": "us-east-1", "aws_credentials": {"type": "environment"}}
        opened = tensorstore.open({"driver": "zarr3", "kvstore": where}, read=True).result()
        np.testing.assert_array_equal(opened[3:17].read().result(), vectors[3:17])


@pytest.mark.parametrize("kind", [Parquet, Hdf5, Zarr])
def test_of_an_object_only_the_ranges_with_the_rows_are_fetched(s3_root, kind, monkeypatch):
    """Two rows of a part of 8 MB: by the manifest, its footer or index, and what holds them."""
    rows = np.arange(2_000_000, dtype=np.float32).reshape(-1, 100)
    batch = pa.table({"id": np.arange(len(rows)), "x": tensor_column(rows)})
    _committed(kind(s3_root), [batch])
    fetched, read = [], storage._Ranged.readinto

    def counted(self, buffer):
        fetched.append(read(self, buffer))
        return fetched[-1]

    monkeypatch.setattr(storage._Ranged, "readinto", counted)
    monkeypatch.setattr("penstock.core.reading.local_copy", lambda uri: pytest.fail(f"{uri} is fetched whole"))
    column = penstock.read(s3_root)["x"]
    np.testing.assert_array_equal(column[[12_345, 7]], rows[[12_345, 7]])
    np.testing.assert_array_equal(column[500:510], rows[500:510])
    assert 0 < sum(fetched) < (40e6 if kind is Parquet else 16e6)
