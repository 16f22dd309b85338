"""Sources read objects as they read files; real servers are asked in tests/real/s3."""

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto import mock_aws

from penstock.core import storage
from penstock.core.nouns import Pipeline
from penstock.errors import StorageError
from penstock.runners.inline import Inline
from penstock.sinks.parquet import Parquet as ParquetSink
from penstock.sources.dataset import Dataset
from penstock.sources.fasta import Fasta
from penstock.sources.parquet import Parquet
from penstock.sources.text import Csv


@pytest.fixture
def bucket(monkeypatch):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    storage._client.cache_clear()
    with mock_aws():
        storage._client().create_bucket(Bucket="lake")
        yield lambda key, data: storage._client().put_object(Bucket="lake", Key=key, Body=data)
    storage._client.cache_clear()


def test_sources_read_objects(bucket, read, tmp_path):
    records = [(f"r{i}", "ACGT" * (i % 7 + 1)) for i in range(50)]
    bucket("raw/a.fa", "".join(f">{name}\n{sequence}\n" for name, sequence in records[:40]).encode())
    bucket("raw/b.fa.gz", gzip.compress("".join(f">{name}\n{sequence}\n" for name, sequence in records[40:]).encode()))
    fasta = Fasta("s3://lake/raw", unit_bytes=100)
    assert [(row["id"], row["sequence"]) for row in read(fasta)[0]] == records

    bucket("t.csv", b"id,name\n1,a\n2,b\n3,c\n")
    assert read(Csv("s3://lake/t.csv", {"id": "int64"}, unit_bytes=5)) == ([{"id": 1}, {"id": 2}, {"id": 3}], [])

    file = io.BytesIO()
    pq.write_table(pa.table({"x": range(1000)}), file, row_group_size=100)
    bucket("p/a.parquet", file.getvalue())
    source = Parquet("s3://lake/p/*.parquet", unit_bytes=1000)
    assert len(list(source.units())) > 2
    assert [row["x"] for row in read(source)[0]] == list(range(1000))

    Inline().run(Pipeline("p", fasta, ParquetSink("s3://lake/out")))
    assert [row["id"] for row in read(Dataset("s3://lake/out", ("id",)))[0]] == [name for name, _ in records]

    (unit, *_) = source.units()
    bucket("p/a.parquet", file.getvalue() + b"!")
    with pytest.raises(StorageError, match=r"s3://lake/p/a\.parquet: it changed while the run was going on"):
        source.read(unit)
