"""Fresh tables: the same rows by whatever way they are made, also when the maker dies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from penstock.core.dataset import existing, versions
from penstock.core.storage import Posix
from penstock.core.verify import verify
from penstock.errors import StorageError
from penstock.tables import making
from penstock.tables.client import open_table
from penstock.tables.layout import Layout, Table
from penstock.tables.making import create, make, random_rows, save
from penstock.tables.schemes import Exact
from penstock.testing.sinks import Crash, crashing


def rows_of(uri):
    with open_table(uri) as client:
        return client.lookup(np.arange(client.table.layout.rows))


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 20), st.integers(1, 50))
def test_any_rows_can_be_made_alone(seed, start, count, dim):
    together = random_rows(seed, start, start + count, dim)
    alone = np.concatenate([random_rows(seed, row, row + 1, dim) for row in range(start, start + count)])
    assert together.shape == (count, dim)
    assert (together == alone).all()


def test_random_rows_are_normal_and_independent():
    found = random_rows(7, 0, 20_000, 24)
    assert stats.kstest(found.reshape(-1), "norm").pvalue > 1e-3
    correlation = np.corrcoef(found.T)
    assert np.abs(correlation - np.eye(24)).max() < 5 / 20_000**0.5
    assert abs(np.corrcoef(found[:-1].reshape(-1), found[1:].reshape(-1))[0, 1]) < 5 / found.size**0.5
    assert not (random_rows(8, 0, 9, 24) == found[:9]).any(), "another seed, other numbers"


def test_random_rows_never_change():
    """These bits are published in tables: a change of them needs a new name for the recipe."""
    assert random_rows(1, 1000, 1001, 3).view(np.uint32).tolist() == GOLDEN


GOLDEN = [[3213456498, 1066757295, 3216169243]]


def test_shards_do_not_change_the_rows(tmp_path):
    small = create(str(tmp_path / "small"), 10_000, 5, seed=3, shard_bytes=1)
    large = create(str(tmp_path / "large"), 10_000, 5, seed=3)
    assert (len(Table.at(small.uri).shards), len(Table.at(large.uri).shards)) == (3, 1)
    assert (rows_of(small.uri) == rows_of(large.uri)).all()
    assert (rows_of(large.uri) == random_rows(3, 0, 10_000, 5) * np.float32(5**-0.5)).all()


def test_zeros_are_one_file(tmp_path):
    manifest = create(str(tmp_path), 3 * 4096, 5, init="zeros", shard_bytes=1)
    assert not rows_of(manifest.uri).any()
    assert len(set(manifest.parts()["path"].to_pylist())) == 1, "equal shards have one name"


def test_making_again_changes_nothing_and_other_settings_make_a_version(tmp_path):
    first = create(str(tmp_path), 5000, 4)
    assert create(str(tmp_path), 5000, 4) == first
    assert create(str(tmp_path), 5000, 4, seed=1).version == 2
    assert save(str(tmp_path), np.ones((3, 2))).version == 3
    assert save(str(tmp_path), np.ones((3, 2))).version == 3
    assert versions(str(tmp_path)) == [1, 2, 3]


def test_an_array_on_disk_need_not_fit_in_memory(tmp_path):
    np.save(tmp_path / "array.npy", random_rows(0, 0, 9000, 3))
    save(str(tmp_path / "table"), np.load(tmp_path / "array.npy", mmap_mode="r"), shard_bytes=1)
    assert (rows_of(str(tmp_path / "table")) == np.load(tmp_path / "array.npy")).all()
    with pytest.raises(ValueError, match="the scheme needs 5 rows, the array has 9000"):
        save(str(tmp_path / "table"), np.load(tmp_path / "array.npy"), Exact(5))


def test_a_crash_at_any_moment_is_mended_by_making_again(tmp_path):
    """Between any two operations on the store; shards that were finished are not made again."""

    def attempt(name):
        return create(str(tmp_path / name), 10_000, 2, shard_bytes=1)

    wanted = attempt("whole")
    with crashing(1 << 30) as counted:
        attempt("counted")
    assert counted.count > 10
    for fatal in range(1, counted.count + 1):
        with crashing(fatal), pytest.raises(Crash):
            attempt(str(fatal))
        found = attempt(str(fatal))
        assert (found.version, found.sha256) == (1, wanted.sha256), f"crash before operation {fatal}"
        verify(found.uri)
        assert not list(Posix().below(f"{found.uri}/ledger"))
        assert len(list(Posix().below(f"{found.uri}/parts"))) == 3
        assert existing(found.uri) == found


def test_finished_shards_are_kept(tmp_path):
    calls = []

    def fill(start, stop):
        calls.append(start)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return np.full((stop - start, 2), start, np.float32)

    layout = Layout(Exact(4 * 4096), 2)
    with pytest.raises(KeyboardInterrupt):
        make(str(tmp_path), layout, fill, {"what": "a test"}, shard_bytes=1)
    make(str(tmp_path), layout, fill, {"what": "a test"}, shard_bytes=1)
    assert calls == [0, 4096, 8192, 8192, 12288]


def test_a_table_that_lacks_a_shard_is_not_published(tmp_path, monkeypatch):
    monkeypatch.setattr(making.Ledger, "record", lambda ledger, record: record)  # as if another run had swept it
    with pytest.raises(StorageError, match="2 of 2 shards have no record; another table was made at the same place"):
        create(str(tmp_path), 5000, 2, shard_bytes=1)
    assert versions(str(tmp_path)) == []
