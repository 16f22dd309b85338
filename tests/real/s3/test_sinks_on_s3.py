"""The shipped suite of sinks, on a real S3 server."""

import pytest

from penstock.core.dataset import versions
from penstock.core.storage import S3
from penstock.sinks.hdf5 import Hdf5, compact
from penstock.sinks.parquet import Parquet
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
