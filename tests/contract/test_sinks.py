"""The shipped suite over every sink of penstock.sinks."""

import pytest

from penstock.core import plugins
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr
from penstock.testing import SinkTests


class TestParquet(SinkTests):
    @pytest.fixture(params=["none", "zstd"])
    def sink(self, root, request):
        return Parquet(root, file_bytes=9000, compression=request.param)


class TestHdf5(SinkTests):
    @pytest.fixture(params=[{}, {"compression": "gzip", "chunk_bytes": 100}], ids=["plain", "gzip"])
    def sink(self, root, request):
        return Hdf5(root, file_bytes=60_000, **request.param)


class TestZarr(SinkTests):
    @pytest.fixture(
        params=[{}, {"compression": "zstd", "chunk_bytes": 300, "shard_bytes": 900}], ids=["plain", "shards"]
    )
    def sink(self, root, request):
        return Zarr(root, file_bytes=60_000, **request.param)


def test_every_sink_has_its_class_here():
    tested = {type(sink) for sink in (Parquet("x"), Hdf5("x"), Zarr("x"))}
    assert {plugins.load("sinks", name) for name in plugins.named("sinks")} == tested
