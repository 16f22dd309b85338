"""Tables held by actors, on a real Ray."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock.core.nouns import Pipeline, Place, Step
from penstock.core.reading import read_table
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.runners.tables import Actors, find, serving
from penstock.sinks.parquet import Parquet
from penstock.sources.parquet import Parquet as ParquetFiles
from penstock.stages.lookup import Lookup
from penstock.tables.client import Hot, Local, open_table
from penstock.tables.layout import Table
from penstock.tables.making import create
from penstock.tables.schemes import Bands, Compositional, Exact, Hashed

KINDS = [
    (Exact(20_000), "float16"),
    (Hashed(20_000, 2), "float32"),
    (Bands(2, 13), "int8"),
    (Compositional((200, 19_800)), "float32"),
    (Compositional((99, 9999), "sum"), "float32"),
]


@pytest.fixture(scope="module", autouse=True)
def _ray_up():
    with Ray(object_store_bytes=200 << 20).session():
        yield


@pytest.fixture
def uri(tmp_path):
    return create(str(tmp_path / "table"), 20_000, 16, shard_bytes=1).uri


def asked(limit, count=30_000, bags=300):
    rng = np.random.default_rng(0)
    offsets = np.sort(np.concatenate([[0, 0], rng.integers(0, count, bags), [count]]))
    return rng.integers(0, limit, count), offsets


@pytest.mark.parametrize(("scheme", "dtype"), KINDS, ids=lambda kind: getattr(kind, "kind", kind))
def test_actors_answer_as_the_local_client_does(tmp_path, scheme, dtype):
    uri = create(str(tmp_path), scheme, 16, dtype, shard_bytes=1).uri
    ids, offsets = asked(scheme.limit)
    with Local(Table.at(uri)) as local, serving(uri, 3) as actors:
        assert isinstance(actors, Actors)
        assert (actors.lookup(ids) == local.lookup(ids)).all(), "bit for bit"
        for mode in ("mean", "sum"):
            found = actors.pooled(ids, offsets, mode)
            np.testing.assert_allclose(found, local.pooled(ids, offsets, mode), rtol=0, atol=3e-4)
            assert (found == actors.pooled(ids, offsets, mode)).all(), "the same bits each time"
        empty = np.empty(0, np.int64)
        assert (actors.lookup(empty).shape, actors.pooled(empty, [0]).shape) == ((0, 16), (0, 16))
        with pytest.raises(IndexError, match="have no row"):
            actors.lookup([-1])
        with Hot(actors, 1000) as hot:
            assert (hot.lookup(ids) == hot.lookup(ids)).all()
            assert hot.found > 0


def test_actors_are_found_by_everybody_and_gone_afterwards(uri):
    with serving(uri, 2):
        assert isinstance(open_table(uri), Actors)
        assert isinstance(find(uri), Actors)
    end = time.monotonic() + 120
    while find(uri) is not None and time.monotonic() < end:  # Ray is told to end them, and comes to that
        time.sleep(0.1)
    assert find(uri) is None
    assert isinstance(open_table(uri), Local)


def test_more_rows_than_one_call_takes(uri):
    ids, offsets = asked(20_000, 300_000, 9)
    with Local(Table.at(uri)) as local, serving(uri, 2) as actors:
        np.testing.assert_allclose(actors.pooled(ids, offsets), local.pooled(ids, offsets), rtol=0, atol=1e-6)
        assert (actors.lookup(ids) == local.lookup(ids)).all()


def test_an_actor_that_is_killed_comes_back_and_lookups_go_on(uri):
    """SIGKILL, again and again, while others ask; every answer is the right one."""
    import ray

    ids, offsets = asked(20_000, 5000, 50)
    stop, answers, errors = threading.Event(), [0], []
    with Local(Table.at(uri)) as local, serving(uri, 2) as actors:
        wanted, pooled = local.lookup(ids), actors.pooled(ids, offsets)

        def ask():
            while not stop.is_set():
                try:
                    assert (actors.lookup(ids) == wanted).all()
                    assert (actors.pooled(ids, offsets) == pooled).all()
                    answers[0] += 1
                except BaseException as error:
                    errors.append(error)
                    return

        asking = threading.Thread(target=ask)
        asking.start()
        killed = set()
        for turn in range(6):
            pid = ray.get(actors._holders[turn % 2].pid.remote())
            assert pid not in killed, "a new process"
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            before, end = answers[0], time.monotonic() + 300
            while answers[0] < before + 3 and not errors and time.monotonic() < end:
                time.sleep(0.05)
            assert answers[0] >= before + 3, f"no answer after kill {turn + 1}: {errors}"
        stop.set()
        asking.join()
    assert not errors
    assert len(killed) == 6


@pytest.mark.parametrize("place", [Place("function"), Place("actor", replicas=(1, 2))], ids=lambda p: p.kind)
def test_the_lookup_stage_asks_the_actors_and_gives_what_inline_gives(uri, tmp_path, place):
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 20_000, rng.integers(1, 200)).tolist() for _ in range(500)]
    lists[7] = [20_000]
    pq.write_table(pa.table({"input_ids": pa.array(lists, pa.list_(pa.int64()))}), tmp_path / "in.parquet")

    def line(out):
        source = ParquetFiles(str(tmp_path / "in.parquet"))
        return Pipeline(out, source, Parquet(str(tmp_path / out)), (Step(Lookup(uri), place),))

    wanted = Inline().run(line("inline"))
    found = Ray(table_actors=2).run(line("actors"))
    assert (found.rows, found.bad_rows) == (wanted.rows, wanted.bad_rows) == (499, 1)
    left, right = (read_table(str(tmp_path / name))["embedding"].combine_chunks() for name in ("inline", "actors"))
    np.testing.assert_allclose(left.to_numpy_ndarray(), right.to_numpy_ndarray(), rtol=0, atol=1e-6)


EXISTING = """
import sys, numpy as np
from penstock.runners.ray import Ray
from penstock.runners.tables import serving
from penstock.tables.client import Local
from penstock.tables.layout import Table
uri, address = sys.argv[1:]
with Ray(address).session(), serving(uri, 2) as actors, Local(Table.at(uri)) as local:
    ids = np.arange(20_000)
    assert (actors.lookup(ids) == local.lookup(ids)).all()
    print("equal")
"""


def test_an_existing_cluster_holds_tables_too(uri):
    import ray

    address = ray.get_runtime_context().gcs_address
    done = subprocess.run([sys.executable, "-c", EXISTING, uri, address], capture_output=True, text=True, timeout=500)
    assert done.stdout.strip() == "equal", done.stderr
