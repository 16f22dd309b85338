"""Training copies, beside a plain array that is trained by loops."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.dataset import versions
from penstock.core.storage import Posix
from penstock.core.verify import verify
from penstock.errors import StorageError
from penstock.tables.client import open_table
from penstock.tables.layout import Table
from penstock.tables.making import create, save
from penstock.tables.schemes import Compositional, Exact, Hashed, places
from penstock.tables.working import Adagrad, Sgd, Working, notes, prune, publish, state_of
from penstock.testing.sinks import Crash, crashing

ROWS, DIM = 9000, 6
SCHEMES = [Exact(ROWS), Hashed(ROWS, 2), Compositional((4000, 5000)), Compositional((4000, 5000), "sum")]


@pytest.fixture
def uri(tmp_path):
    return create(str(tmp_path / "table"), ROWS, DIM, shard_bytes=1).uri


def rows_of(uri, version=0):
    from penstock.tables.client import Local

    with Local(Table.at(uri, version)) as client:
        return client.lookup(np.arange(client.table.layout.rows))


def steps_of(limit, count=3, seed=0, spread=40):
    """Ids, many of them twice, and gradients."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        ids = rng.choice(rng.integers(0, limit, spread), 100)
        yield ids, rng.normal(size=(100, DIM)).astype(np.float32)


def trained(array, rows, gradients, optimizer, state):
    """One step, a row at a time, in float64."""
    for row in np.unique(rows):
        gradient = gradients[rows == row].astype(np.float64).sum(0)
        if isinstance(optimizer, Sgd):
            array[row] -= optimizer.rate * gradient
        else:
            state[row] += (gradient**2).mean()
            array[row] -= optimizer.rate * gradient / (np.sqrt(state[row]) + optimizer.epsilon)


@pytest.mark.parametrize("optimizer", [Sgd(0.1), Adagrad(0.1)])
def test_steps_are_those_of_the_textbook(uri, tmp_path, optimizer):
    array, state = rows_of(uri).astype(np.float64), np.zeros(ROWS)
    with Working(Table.at(uri), tmp_path / "copy", optimizer) as working:
        for ids, gradients in steps_of(ROWS):
            np.testing.assert_allclose(working.lookup(ids), array[ids], atol=1e-5)
            working.add(ids, gradients)
            trained(array, ids, gradients, optimizer, state)
        np.testing.assert_allclose(working.gather(np.arange(ROWS)), array, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: f"{s.kind}-{s.combine}")
def test_gradients_reach_all_rows_of_an_id(tmp_path, scheme):
    """Beside torch's own differentiation of the same look-up."""
    import torch

    uri = save(str(tmp_path / "table"), np.random.default_rng(1).normal(size=(scheme.rows, DIM)), scheme).uri
    weight = torch.from_numpy(rows_of_table(uri)).requires_grad_()
    with Working(Table.at(uri), tmp_path / "copy", Sgd(0.5)) as working:
        for ids, gradients in steps_of(min(scheme.limit, 2**62)):
            parts = weight[torch.from_numpy(places(scheme, ids))]
            vectors = parts.sum(1) if scheme.combine == "sum" else parts.prod(1)
            np.testing.assert_allclose(working.lookup(ids), vectors.detach().numpy(), atol=1e-4)
            vectors.backward(torch.from_numpy(gradients))
            working.add(ids, gradients)
            with torch.no_grad():
                weight -= 0.5 * weight.grad
            weight.grad = None
        np.testing.assert_allclose(working.gather(np.arange(scheme.rows)), weight.detach().numpy(), atol=1e-3)


def rows_of_table(uri):
    return np.concatenate([np.load(shard.path()) for shard in Table.at(uri).shards])


@settings(max_examples=10)
@given(owners=st.integers(1, 4), seed=st.integers(0, 99))
def test_several_owners_do_what_one_does(tmp_path_factory, owners, seed):
    folder = tmp_path_factory.mktemp("owners")
    uri = create(str(folder / "table"), 4 * 4096 + 5, DIM, shard_bytes=1).uri
    table, optimizer = Table.at(uri), Adagrad(0.1)
    one = Working(table, folder / "one", optimizer)
    many = [Working(table, folder / f"{at}", optimizer, table.owned(at, owners)) for at in range(owners)]
    for ids, gradients in steps_of(table.layout.rows, 2, seed):
        one.add(ids, gradients)
        owner = table.owner(ids, owners)
        for at, working in enumerate(many):
            working.scatter(ids[owner == at], gradients[owner == at])
    alone = one.publish(str(folder / "alone"), {"step": 2})
    finished = [working.finished(str(folder / "together")) for working in many]
    together = publish(str(folder / "together"), table, optimizer, itertools.chain(*finished), {"step": 2})
    assert alone.parts()["part_sha256"] == together.parts()["part_sha256"], "bit for bit"
    assert state_of(Table.at(alone.uri)).manifest.sha256 == state_of(Table.at(together.uri)).manifest.sha256


def test_going_on_from_a_version_is_as_if_nobody_had_stopped(uri, tmp_path):
    with Working(Table.at(uri), tmp_path / "straight", Adagrad(0.1)) as working:
        for ids, gradients in steps_of(ROWS, 4):
            working.add(ids, gradients)
        straight = working.publish(str(tmp_path / "straight-table"), {"step": 4})
    for half in (0, 1):
        table = Table.at(uri)
        assert notes(table) == ({"step": 2} if half else {})
        with Working(table, tmp_path / "halves", Adagrad(0.1)) as working:
            for ids, gradients in list(steps_of(ROWS, 4))[2 * half : 2 * half + 2]:
                working.add(ids, gradients)
            working.publish(uri, {"step": 2 * half + 2})
    assert versions(uri) == [1, 2, 3]
    assert (rows_of(uri) == rows_of(straight.uri)).all()


def test_only_shards_that_changed_are_written(uri, tmp_path):
    with Working(Table.at(uri), tmp_path / "copy", Adagrad(0.1)) as working:
        assert not list((tmp_path / "copy").iterdir()), "nothing is copied before it is needed"
        working.add([5000], np.ones((1, DIM), np.float32))
        assert [path.name for path in sorted((tmp_path / "copy").iterdir())] == ["rows-000001.npy", "state-000001.npy"]
        working.publish(uri, {"step": 1})
        first, second = (Table.at(uri, version).shards for version in (1, 2))
        assert [a.part == b.part for a, b in zip(first, second, strict=True)] == [True, False, True]
        working.add([1], np.ones((1, DIM), np.float32))
        working.publish(uri, {"step": 2})
        third = Table.at(uri, 3).shards
        assert [a.part == b.part for a, b in zip(second, third, strict=True)] == [False, True, True]
        assert working.publish(uri, {"step": 2}).version == 3, "nothing is new"
        assert working.publish(uri, {"step": 3}).version == 4, "a note is"
    assert not (tmp_path / "copy").exists()


def test_publishing_to_two_places_keeps_them_apart(uri, tmp_path):
    other = str(tmp_path / "other")
    with Working(Table.at(uri), tmp_path / "copy", Adagrad(0.1)) as working:
        working.add([5000], np.ones((1, DIM), np.float32))
        working.publish(other, {"step": 1})
        working.publish(uri, {"step": 1})
        assert (rows_of(other) == rows_of(uri)).all()
        working.add([5000], np.ones((1, DIM), np.float32))
        working.publish(uri, {"step": 2})
        assert (rows_of(other)[5000] != rows_of(uri)[5000]).all()
        working.publish(other, {"step": 2})
        assert (rows_of(other) == rows_of(uri)).all()
    verify(other)


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_smaller_tables_train_in_float32_and_are_rounded_when_published(tmp_path, dtype):
    uri = create(str(tmp_path / "table"), 100, DIM, dtype).uri
    with Working(Table.at(uri), tmp_path / "copy", Sgd(1e-6)) as working:
        for _ in range(1000):
            working.add([3], np.ones((1, DIM), np.float32))
        row = working.lookup([3])
        working.publish(uri, {})
    assert np.abs(rows_of(uri, 1)[3] - row - 1e-3).max() < 1e-5, "small steps are not lost"
    np.testing.assert_allclose(rows_of(uri)[3:4], row, atol=np.abs(row).max() / 200)


def test_old_versions_are_removed_with_what_they_alone_name(uri, tmp_path):
    with Working(Table.at(uri), tmp_path / "copy", Adagrad(0.1)) as working:
        for step, (ids, gradients) in enumerate(steps_of(ROWS, 4, spread=2), 1):
            working.add(ids, gradients)
            working.publish(uri, {"step": step})
    kept = [rows_of(uri, version) for version in (4, 5)]
    prune(uri, keep=2)
    assert versions(uri) == [4, 5]
    assert all((rows_of(uri, version) == rows).all() for version, rows in zip((4, 5), kept, strict=True))
    for root in (uri, f"{uri}/state"):
        named = {s.part.path for v in versions(root) for s in Table.at(root, v).shards}
        assert {"parts/" + e.uri.rsplit("/", 1)[-1] for e in Posix().below(f"{root}/parts")} == named
        verify(root)
    assert notes(Table.at(uri)) == {"step": 4}
    with pytest.raises(ValueError, match="keep is 0; at least the newest version is kept"):
        prune(uri, keep=0)


def test_a_crash_while_publishing_leaves_the_version_before(uri, tmp_path):
    """Between any two operations on the store: readers see one version or the other, rows and state of one moment."""

    def attempt(root):
        with Working(Table.at(root), tmp_path / "copy", Adagrad(0.1)) as working:
            for ids, gradients in steps_of(ROWS, 2):
                working.add(ids, gradients)
            return working.publish(root, {"step": 2})

    def fresh(name):
        return create(str(tmp_path / name), ROWS, DIM, shard_bytes=1).uri

    wanted, before, counting = rows_of(attempt(fresh("whole")).uri), rows_of(uri), fresh("counted")
    with crashing(1 << 30) as counted:
        attempt(counting)
    assert counted.count > 20
    for fatal in range(1, counted.count + 1):
        root = fresh(str(fatal))
        with crashing(fatal), pytest.raises(Crash):
            attempt(root)
        table = Table.at(root)
        done = table.manifest.version == 2
        assert (rows_of(root) == (wanted if done else before)).all()
        assert (state_of(table) is not None, notes(table)) == ((True, {"step": 2}) if done else (False, {}))
        if not done:
            attempt(root)
            assert (rows_of(root) == wanted).all()


def test_rows_of_others_and_lacking_shards_are_refused(uri, tmp_path):
    table, optimizer = Table.at(uri), Sgd()
    with Working(table, tmp_path / "copy", optimizer, [1]) as working:
        working.gather(np.array([4096, 8191]))
        for row in (0, 8192, -1, ROWS):
            with pytest.raises(IndexError, match=r"this copy has 1 of 3 shards: route rows by Table.owner"):
                working.gather(np.array([row]))
        with pytest.raises(StorageError, match="2 of 3 shards have no record"):
            working.publish(uri, {})
    assert versions(uri) == [1]


def test_a_rate_that_is_too_high_publishes_nothing(uri, tmp_path):
    with Working(Table.at(uri), tmp_path / "copy", Sgd(1e30)) as working, np.errstate(all="ignore"):
        for _ in range(3):
            working.add([0], working.lookup([0]) * 1e9)
        with pytest.raises(ValueError, match=r"rows hold numbers that are not finite; .* lower the rate"):
            working.publish(uri, {})
    assert versions(uri) == [1]
    with open_table(uri) as client:
        assert np.isfinite(client.lookup([0])).all()
