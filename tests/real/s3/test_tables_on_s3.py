"""Tables on a real S3 server: made there, fetched shard by shard, once for all workers of a node."""

import subprocess
import sys
import time

import numpy as np
import pytest

from penstock.core.storage import S3, store_of
from penstock.errors import DatasetError
from penstock.tables import cache
from penstock.tables.client import open_table
from penstock.tables.layout import Table
from penstock.tables.making import create, random_rows
from penstock.tables.working import Adagrad, Working, notes

ROWS, DIM = 3 * 4096, 8


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def uri(s3_root):
    return create(s3_root, ROWS, DIM, shard_bytes=1).uri


def cached():
    return sorted(path.name for path in cache.folder().glob("*.npy"))


def test_only_shards_that_are_needed_are_fetched(uri):
    wanted = random_rows(0, 0, ROWS, DIM) * np.float32(DIM**-0.5)
    with open_table(uri) as client:
        assert not cached()
        assert (client.lookup([4096, 4099]) == wanted[[4096, 4099]]).all()
        assert cached() == [f"{client.table.shards[1].part.sha256}.npy"]
        assert (client.lookup(np.arange(ROWS)) == wanted).all()
    assert len(cached()) == 3


WORKER = """
import sys, time
from unittest import mock
from penstock.core.storage import S3
from penstock.tables.client import open_table
uri, start = sys.argv[1], float(sys.argv[2])
opened, real = [], S3.open
def counted(store, name, *more):
    if name.endswith(".npy"):
        opened.append(name)
    return real(store, name, *more)
with mock.patch.object(S3, "open", counted), open_table(uri) as client:
    time.sleep(max(0, start - time.time()))
    client.lookup([0, 4096, 8192])
print(len(opened))
"""


def test_workers_of_a_node_fetch_a_shard_once(uri):
    start = str(time.time() + 5)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, uri, start], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    counts = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    assert sum(counts) == 3
    assert len(cached()) == 3
    assert not list(cache.folder().glob("*.tmp"))


def test_a_damaged_shard_is_not_taken(uri):
    shard = Table.at(uri).shards[0]
    name = f"{uri}/{shard.part.path}"
    good = S3().read(name)
    store_of(name).replace(name, good[:-1] + b"x")
    with open_table(uri) as client:
        with pytest.raises(DatasetError, match="its hash is not that of the manifest; the file is damaged"):
            client.lookup([0])
        assert not cached()
        store_of(name).replace(name, good)
        assert client.lookup([0]).shape == (1, DIM)


def test_a_cut_copy_in_the_cache_is_fetched_again(uri):
    with open_table(uri) as client:
        wanted = client.lookup([0])
    (path,) = cache.folder().glob("*.npy")
    path.write_bytes(path.read_bytes()[:5000])
    with open_table(uri) as client:
        assert (client.lookup([0]) == wanted).all()


def test_training_goes_from_version_to_version(uri, tmp_path):
    with Working(Table.at(uri), tmp_path / "copy", Adagrad(0.1)) as working:
        working.add([1, 9000], np.ones((2, DIM), np.float32))
        working.publish(uri, {"step": 1})
        wanted = working.lookup(np.arange(ROWS))
    assert notes(Table.at(uri)) == {"step": 1}
    with open_table(uri) as client:
        assert (client.lookup(np.arange(ROWS)) == wanted).all()
