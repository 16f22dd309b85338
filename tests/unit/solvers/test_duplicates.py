import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from penstock.core.batch import tensor_column
from penstock.core.nouns import Record, Unit
from penstock.errors import SchemaError, UnitError
from penstock.sinks.parquet import Parquet
from penstock.solvers.duplicates import Duplicates
from penstock.solvers.reference import REFERENCE


def solved(stage, root, **columns):
    """The stage's answer on a dataset of *columns*."""
    made = {name: tensor_column(v) if isinstance(v, np.ndarray) and v.ndim > 1 else v for name, v in columns.items()}
    table = pa.table(made)
    sink, unit = Parquet(str(root)), Unit.of("memory", "1", 0, table.num_rows)
    provenance = {"schema": table.schema.serialize().to_pybytes().hex(), "fingerprint": "0" * 64}
    manifest = sink.commit(lambda: [(unit, Record(unit.key, sink.write(unit, table)))], provenance)
    values = [[manifest.uri], [manifest.version], [manifest.rows], [manifest.sha256]]
    with stage.open() as transform:
        return transform(pa.table(values, schema=REFERENCE)).to_pydict()


def directions(points):
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def families(count=12, each=5, noise=0.02, seed=0):
    """Rows of *count* families, in mixed order: the members of one have cosines above 0.98."""
    rng = np.random.default_rng(seed)
    family = rng.permutation(np.repeat(np.arange(count), each))
    return directions(rng.normal(size=(count, 32))[family] + noise * rng.normal(size=(count * each, 32))), family


def star_by_brute_force(points, threshold, order):
    """Each row in turn against all that are kept."""
    kept, instead = [], {}
    for row in order:
        found = [other for other in kept if float(points[row] @ points[other]) >= threshold]
        instead[row] = found[0] if found else row
        kept += [] if found else [row]
    return np.array([instead[row] for row in range(len(points))])


def connected_by_brute_force(points, threshold):
    """Colours that spread until nothing changes; the group's first row."""
    near = points @ points.T >= threshold
    colour = np.arange(len(points))
    while True:
        spread = np.array([colour[row].min() for row in near])
        if np.array_equal(spread, colour):
            return colour
        colour = spread


POINTS = st.integers(0, 2**32 - 1).map(lambda seed: families(6, 4, noise=0.25, seed=seed)[0])


def clear(points, threshold):
    """No pair is so near to the threshold that the order of a sum decides."""
    return np.abs(points @ points.T - threshold).min() > 1e-5


@settings(max_examples=40, deadline=None)
@given(POINTS, st.sampled_from([0.7, 0.85, 0.95]))
def test_stars_are_those_of_brute_force(points, threshold):
    assume(clear(points, threshold))
    _, (instead, _) = Duplicates(threshold=threshold).judged(points)
    assert np.array_equal(instead, star_by_brute_force(points, threshold, range(len(points))))


@settings(max_examples=40, deadline=None)
@given(POINTS, st.sampled_from([0.7, 0.85, 0.95]))
def test_connected_groups_are_those_of_brute_force(points, threshold):
    assume(clear(points, threshold))
    _, (instead, _) = Duplicates(threshold=threshold, groups="connected").judged(points)
    assert np.array_equal(instead, connected_by_brute_force(points, threshold))


@pytest.mark.parametrize("groups", ["star", "connected"])
def test_small_blocks_give_what_one_block_gives(groups, monkeypatch):
    points, _ = families(20, 6, noise=0.2)
    stage = Duplicates(threshold=0.8, groups=groups)
    whole = stage.judged(points)[1][0]
    monkeypatch.setattr("penstock.solvers.duplicates._BLOCK_BYTES", 4 * len(points) * 7)
    assert np.array_equal(stage.judged(points)[1][0], whole)


def test_one_of_each_family_is_kept(tmp_path):
    points, family = families()
    found = solved(Duplicates(threshold=0.9), tmp_path, embedding=points * 3)
    first = [int(np.flatnonzero(family == each)[0]) for each in family]
    assert found["row"] == list(range(60))
    assert found["keep"] == [row == first[row] for row in range(60)]
    assert found["duplicate_of"] == [None if row == first[row] else first[row] for row in range(60)]
    for row, other, similarity in zip(found["row"], found["duplicate_of"], found["similarity"], strict=True):
        if other is not None:
            assert similarity == pytest.approx(float(points[row] @ points[other]), abs=1e-6)


def test_a_chain_is_one_group_only_where_it_is_wanted():
    angles = np.arange(5) * np.arccos(0.96)
    points = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert Duplicates(threshold=0.95).judged(points)[1][0].tolist() == [0, 0, 2, 2, 4]
    assert Duplicates(threshold=0.95, groups="connected").judged(points)[1][0].tolist() == [0] * 5


@pytest.mark.parametrize(("prefer", "best"), [("most", np.argmax), ("least", np.argmin)])
def test_the_better_one_is_kept(tmp_path, prefer, best):
    points, family = families()
    worth = np.random.default_rng(1).permutation(60).astype(np.float64)
    found = solved(Duplicates(threshold=0.9, prefer=prefer, by="worth"), tmp_path, embedding=points, worth=worth)
    rows = [np.flatnonzero(family == each) for each in range(12)]
    assert sorted(np.flatnonzero(found["keep"])) == sorted(int(each[best(worth[each])]) for each in rows)


@pytest.mark.parametrize(("prefer", "best"), [("remote", np.argmin), ("central", np.argmax)])
def test_the_one_far_from_or_near_the_centroid_is_kept(prefer, best):
    points, family = families()
    cluster, (instead, _) = Duplicates(threshold=0.9, prefer=prefer, clusters=3).judged(points)
    for each in range(12):
        rows = np.flatnonzero(family == each)
        assert len(set(cluster[rows])) == 1, "families are tight, so k-means does not cut them"
        assert len(set(instead[rows])) == 1


def test_clusters_lose_only_pairs_between_them():
    points, _ = families(30, 6, noise=0.15, seed=3)
    cluster, (instead, _) = Duplicates(threshold=0.85, clusters=6).judged(points)
    assert 1 < len(set(cluster.tolist())) <= 6
    for each in set(cluster.tolist()):
        rows = np.flatnonzero(cluster == each)
        mine = star_by_brute_force(points[rows], 0.85, range(len(rows)))
        assert np.array_equal(instead[rows], rows[mine])


def test_rows_that_are_left_out_are_neither_kept_nor_duplicates(tmp_path):
    points, family = families()
    among = [row % 2 == 0 for row in range(60)]
    found = solved(Duplicates(threshold=0.9, among="good"), tmp_path, embedding=points, good=among)
    kept, cluster = np.array(found["keep"]), np.array(found["cluster"])
    assert not kept[1::2].any()
    assert (cluster[1::2] == -1).all()
    assert all(other is None for other in found["duplicate_of"][1::2])
    assert sorted(family[kept]) == sorted(set(family[::2]))


def test_nothing_and_one_are_fine(tmp_path):
    points = np.ones((1, 4), np.float32)
    assert solved(Duplicates(), tmp_path / "one", embedding=points)["keep"] == [True]
    found = solved(Duplicates(among="good"), tmp_path / "none", embedding=points, good=[False])
    assert found["keep"] == [False]


def test_what_cannot_be_compared_is_told(tmp_path):
    with pytest.raises(UnitError, match=r"1 rows that are zero or not finite .* the first is row 1"):
        solved(Duplicates(), tmp_path / "a", embedding=np.array([[1, 0], [0, 0]], np.float32))
    with pytest.raises(SchemaError, match="holds tensors of 2 dimensions; vectors were needed"):
        solved(Duplicates(), tmp_path / "b", embedding=np.ones((2, 3, 4), np.float32))
    with pytest.raises(SchemaError, match="needs a column 'worth'"):
        solved(Duplicates(prefer="most", by="worth"), tmp_path / "c", embedding=np.ones((2, 3), np.float32))
    with pytest.raises(SchemaError, match="among needs column 'good' as bool; it is int64"):
        solved(Duplicates(among="good"), tmp_path / "d", embedding=np.ones((2, 3), np.float32), good=[1, 0])


def test_settings_are_looked_at():
    with pytest.raises(ValueError, match=r"threshold is 1\.5; a cosine"):
        Duplicates(threshold=1.5)
    with pytest.raises(ValueError, match="goes with by"):
        Duplicates(prefer="most")
    with pytest.raises(ValueError, match="goes with by"):
        Duplicates(by="sharpness")
