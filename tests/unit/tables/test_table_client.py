"""Looking up, beside a plain array and Python loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.verify import verify
from penstock.errors import DatasetError, StorageError
from penstock.sinks.parquet import Parquet
from penstock.tables.client import Hot, Local, bringing, open_table
from penstock.tables.layout import Layout, Table
from penstock.tables.making import create, save
from penstock.tables.pooling import faster, fused_of, summed
from penstock.tables.schemes import Bands, Compositional, Exact, Hashed, places

ROWS, DIM = 9000, 12
SCHEMES = [
    Exact(ROWS),
    Hashed(ROWS, hashes=2),
    Bands(3, 12),
    Compositional((4000, 5000)),
    Compositional((4000, 5000), "sum"),
]


def array_of(rows=ROWS, dim=DIM, seed=3):
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def vectors(scheme, array, ids):
    """One id after the other."""
    operate = np.sum if scheme.combine == "sum" else np.prod
    return np.array([operate(array[places(scheme, [number])[0]], axis=0) for number in ids]).reshape(-1, array.shape[1])


def ids_of(scheme, count, seed=4):
    return np.random.default_rng(seed).integers(0, scheme.limit, count)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.kind}-{s.combine}")
@pytest.mark.parametrize("shard_bytes", [1, 1 << 30])
def test_any_scheme_over_any_shards_is_the_array(tmp_path, scheme, shard_bytes):
    array = array_of(scheme.rows)
    save(str(tmp_path), array, scheme, shard_bytes=shard_bytes)
    ids = ids_of(scheme, 300)
    offsets = np.array([0, 0, 7, 8, 8, 290, 300, 300])
    wanted = vectors(scheme, array, ids)
    with open_table(str(tmp_path)) as client:
        assert len(client.table.shards) == (3 if shard_bytes == 1 else 1)
        np.testing.assert_allclose(client.lookup(ids), wanted, rtol=1e-6)
        for mode, operate in (("sum", np.sum), ("mean", np.mean)):
            bags = [wanted[a:b] for a, b in itertools.pairwise(offsets)]
            pooled = [operate(bag, axis=0) if len(bag) else np.zeros(DIM) for bag in bags]
            np.testing.assert_allclose(client.pooled(ids, offsets, mode), pooled, rtol=1e-5, atol=1e-5)


@settings(max_examples=40)
@given(
    dim=st.integers(1, 9),
    lengths=st.lists(st.one_of(st.integers(0, 5), st.integers(0, 400)), max_size=40),
    seed=st.integers(0, 99),
)
def test_sums_are_bit_for_bit_those_of_adding_row_after_row(dim, lengths, seed):
    """Whatever stands beside a bag, and wherever a block ends."""
    array = array_of(50, dim, seed)
    ids = np.random.default_rng(seed).integers(0, 50, sum(lengths))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    found = summed(lambda rows, out: array.take(rows, 0, out=out, mode="clip"), ids, offsets, dim)
    for bag, (start, stop) in enumerate(itertools.pairwise(offsets)):
        wanted = np.zeros(dim, np.float32)
        for at in range(start, stop):
            wanted = wanted + array[ids[at]]
        if dim > 1:  # NumPy adds single numbers pairwise
            assert (found[bag] == wanted).all()
        np.testing.assert_allclose(found[bag], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dim", [2, 3, 8, 16, 100, 384, 1000])
def test_sums_are_those_of_torch_bit_for_bit(dim):
    """So it does not matter where torch is installed, and a worker may be either."""
    faster()
    rng = np.random.default_rng(dim)
    array, ids = array_of(1000, dim), rng.integers(0, 1000, 5000)
    array.flags.writeable = False
    offsets = np.concatenate([[0, 0], np.sort(rng.integers(0, 5000, 40)), [5000]])
    found = summed(lambda rows, out: array.take(rows, 0, out=out, mode="clip"), ids, offsets, dim)
    assert (found == fused_of(array)(ids, offsets)).all()


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_numbers_are_as_near_as_they_can_be(tmp_path, dtype):
    array = array_of() * np.logspace(-3, 3, ROWS, dtype=np.float32)[:, None]
    array[5] = 0
    save(str(tmp_path), array, dtype=dtype, shard_bytes=1)
    with open_table(str(tmp_path)) as client:
        found = client.lookup(np.arange(ROWS))
    if dtype == "float16":
        assert (found == array.astype(np.float16)).all()
    else:
        half = np.abs(array).max(axis=1, keepdims=True) / 127 / 2
        assert (np.abs(found - array) <= half * 1.0001).all()
        assert (np.abs(found - array) > half * 0.9).any(), "the bound is a tight one"


@given(st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=1, max_size=8))
def test_int8_is_never_off_by_more_than_half_a_step(numbers):
    layout, row = Layout(Exact(1), len(numbers), "int8"), np.array([numbers], np.float32)
    with np.errstate(over="ignore", under="ignore"):
        stored, found = layout.encode(row), np.empty_like(row)
        layout.decode(stored, found)
        # Below the least normal number a scale has few bits itself.
        bound = np.float64(stored["scale"][0]) * 0.5001 + np.finfo(np.float32).tiny
    assert (np.abs(found.astype(np.float64) - row) <= bound).all()


def test_rows_that_cannot_be_stored_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        Layout(Exact(1), 1).encode(np.array([[np.nan]], np.float32))
    with pytest.raises(ValueError, match="beyond 65504, which float16 cannot"):
        Layout(Exact(1), 1, "float16").encode(np.array([[7e4]], np.float32))


def test_a_shard_is_a_numpy_file(tmp_path):
    array = array_of()
    save(str(tmp_path), array, shard_bytes=1)
    shards = Table.at(str(tmp_path)).shards
    assert (np.concatenate([np.load(shard.path()) for shard in shards]) == array).all()
    assert verify(str(tmp_path)).rows == ROWS


def test_a_hot_cache_gives_the_same_and_asks_less(tmp_path):
    save(str(tmp_path), array_of(), shard_bytes=1)
    rng = np.random.default_rng(0)
    with open_table(str(tmp_path)) as plain, Hot(Local(plain.table), slots=64) as hot:
        for _ in range(30):
            ids = rng.zipf(1.3, 200) % ROWS
            assert (hot.lookup(ids) == plain.lookup(ids)).all()
        assert 0.3 < hot.found / hot.asked < 1
        assert (hot.pooled([1, 2], [0, 2]) == plain.pooled([1, 2], [0, 2])).all()


def test_foreign_ids_and_offsets_are_refused(tmp_path):
    save(str(tmp_path), array_of())
    with open_table(str(tmp_path)) as client:
        with pytest.raises(IndexError, match="1 of 2 ids have no row, the first: 9000"):
            client.lookup([1, ROWS])
        for offsets in ([1, 2], [0, 1], [0, 2, 1, 2], [], [[0, 2]]):
            with pytest.raises(ValueError, match="offsets must rise from 0 to the number of ids, 2"):
                client.pooled([1, 2], np.array(offsets, np.int64))


def test_no_ids_are_no_vectors(tmp_path):
    save(str(tmp_path), array_of())
    with open_table(str(tmp_path)) as client:
        assert client.lookup(np.empty(0, np.int64)).shape == (0, DIM)
        assert client.pooled(np.empty(0, np.int64), [0]).shape == (0, DIM)
        assert (client.pooled(np.empty(0, np.int64), [0, 0]) == np.zeros((1, DIM))).all()


def test_a_shard_that_is_cut_short_is_an_error_and_not_the_end_of_the_process(tmp_path):
    save(str(tmp_path), array_of(), shard_bytes=1)
    path = Table.at(str(tmp_path)).shards[1].path()
    path.write_bytes(path.read_bytes()[:-1])
    with open_table(str(tmp_path)) as client:
        assert client.lookup([0]).shape == (1, DIM)
        with pytest.raises(DatasetError, match=r"found 200703 bytes, 200704 bytes were published; restore it"):
            client.lookup([4096])
    path.unlink()
    with open_table(str(tmp_path)) as client, pytest.raises(DatasetError, match="found no file"):
        client.lookup([4096])


def test_what_is_no_table_is_told(tmp_path):
    import pyarrow as pa

    with pytest.raises(DatasetError, match="there is no manifest"):
        open_table(str(tmp_path / "none"))
    schema = pa.schema([("a", pa.int64())])
    sink = Parquet(str(tmp_path / "rows"))
    sink.commit(list, {"schema": schema.serialize().to_pybytes().hex(), "fingerprint": "0" * 64})
    with pytest.raises(DatasetError, match="is a dataset of format 'parquet'; a table was needed: make one with"):
        open_table(sink.uri)


def test_a_runner_may_bring_its_client(tmp_path):
    save(str(tmp_path), array_of())
    mine = Hot(open_table(str(tmp_path)), 8)
    with bringing(lambda uri: mine if uri == str(tmp_path) else None), bringing(lambda uri: None):
        assert open_table(str(tmp_path)) is mine
    assert isinstance(open_table(str(tmp_path)), Local)


def test_readers_keep_their_version_while_others_publish(tmp_path):
    create(str(tmp_path), 100, 4, seed=1)
    with open_table(str(tmp_path)) as client:
        before = client.lookup([1, 2])
        create(str(tmp_path), 100, 4, seed=2)
        assert (client.lookup([1, 2]) == before).all()
    with open_table(str(tmp_path)) as client:
        assert (client.table.manifest.version, (client.lookup([1, 2]) != before).all()) == (2, True)
    with Local(Table.at(str(tmp_path), 1)) as client:
        assert (client.lookup([1, 2]) == before).all()
    with pytest.raises(DatasetError, match=r"there is no version 7; there are: \[1, 2\]"):
        Table.at(str(tmp_path), 7)


def test_a_machine_with_pages_of_another_size_is_told(tmp_path, monkeypatch):
    save(str(tmp_path), array_of())
    monkeypatch.setattr("penstock.tables.mapping.mmap.PAGESIZE", 65536)
    with pytest.raises(StorageError, match="pages have 65536 bytes; shards are laid out for pages of up to 4096"):
        open_table(str(tmp_path))
