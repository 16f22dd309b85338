import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from penstock.core.batch import tensor_column, to_numpy
from penstock.errors import SchemaError, UnitError
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.reference import REFERENCE


def brute_force(points, k, metric, center):
    """All pairs in double precision, one row at a time."""
    points = points.astype(np.float64)
    if center:
        points = points - points.mean(axis=0)
    neighbour, similarity = [], []
    for i, point in enumerate(points):
        if metric == "cosine":
            score = points @ point / (np.linalg.norm(points, axis=1) * np.linalg.norm(point))
        else:
            score = 1 / (1 + np.linalg.norm(points - point, axis=1))
        order = [j for j in np.lexsort((np.arange(len(points)), -score)) if j != i][:k]
        neighbour.append(order)
        similarity.append(score[order])
    return np.array(neighbour), np.array(similarity)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("center", [True, False])
def test_neighbours_are_those_of_all_pairs(blobs, metric, center):
    points = blobs(300) + 1
    neighbour, similarity = Neighbours(k=7, metric=metric, center=center).nearest(points)
    wanted, score = brute_force(points, 7, metric, center)
    np.testing.assert_array_equal(neighbour, wanted)
    np.testing.assert_allclose(similarity, score, atol=2e-6)
    assert neighbour.dtype == np.int64
    assert similarity.dtype == np.float32


def test_neighbours_are_those_of_scikit_learn(blobs):
    points = blobs(500)
    neighbour, similarity = Neighbours(k=5, metric="euclidean").nearest(points)
    distance, wanted = NearestNeighbors(n_neighbors=6, algorithm="kd_tree").fit(points).kneighbors(points)
    np.testing.assert_array_equal(neighbour, wanted[:, 1:])
    np.testing.assert_allclose(1 / similarity - 1, distance[:, 1:], rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_equal_neighbours_stand_by_row_number(data):
    rows, k = data.draw(st.integers(4, 30)), data.draw(st.integers(1, 3))
    values = data.draw(st.lists(st.integers(0, 3), min_size=rows * 2, max_size=rows * 2))
    points = np.array(values, np.float32).reshape(rows, 2)
    neighbour, _ = Neighbours(k=k, metric="euclidean", center=False).nearest(points)
    squares = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(squares, np.inf)
    np.testing.assert_array_equal(neighbour, np.argsort(squares, axis=1, kind="stable")[:, :k])


def test_copies_of_a_row_are_neighbours_of_each_other_and_not_of_themselves():
    points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    neighbour, similarity = Neighbours(k=3, center=False).nearest(points)
    np.testing.assert_array_equal(neighbour[:5], [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [5, 6, 7]])
    assert (similarity == 1).all()


def test_centering_takes_a_common_part_away(blobs):
    points = blobs(400)
    far = points + 30 * np.ones(16, np.float32)
    assert Neighbours(center=False).nearest(far)[1].min() > 0.99
    neighbour, similarity = Neighbours().nearest(far)
    wanted, score = Neighbours().nearest(points)
    np.testing.assert_allclose(similarity, score, atol=1e-5)
    assert (neighbour == wanted).mean() > 0.99


def test_rows_of_zeros_have_no_similarity_and_do_no_harm():
    points = np.vstack([np.zeros((2, 4)), np.eye(4)]).astype(np.float32)
    neighbour, similarity = Neighbours(k=2, center=False).nearest(points)
    assert np.isfinite(similarity).all()
    np.testing.assert_array_equal(neighbour[0], [1, 2])
    np.testing.assert_array_equal(similarity[0], [0, 0])


def test_threads_do_not_change_the_result(blobs):
    points = blobs(1500, dim=33)
    for method in ("exact", "hnsw"):
        one, two = (Neighbours(method=method, threads=n).nearest(points) for n in (1, 2))
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def test_hnsw_finds_nearly_all_and_the_same_each_time(blobs):
    points = blobs(1500, dim=24)
    exact, _ = Neighbours().nearest(points)
    first, second = (Neighbours(method="hnsw").nearest(points)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(first, exact, strict=True)]) > 0.97
    assert not (first == np.arange(1500)[:, None]).any()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_hnsw_falls_back_to_all_pairs_where_it_finds_too_few(metric):
    points = np.repeat(np.eye(2, dtype=np.float32), 50, axis=0)
    neighbour, _ = Neighbours(method="hnsw", k=60, metric=metric, center=False).nearest(points)
    assert (neighbour >= 0).all()
    assert all(len(set(line)) == 60 for line in neighbour.tolist())


def test_too_few_rows_are_refused(blobs):
    with pytest.raises(UnitError, match="10 rows have 9 neighbours each, k = 10 were asked for; set k below 10"):
        Neighbours(k=10).nearest(blobs(10))
    assert Neighbours(k=9).nearest(blobs(10))[0].shape == (10, 9)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="k must be 1 or more, not 0"):
        Neighbours(k=0)


@pytest.mark.parametrize("form", ["hdf5", "parquet"])
def test_the_stage_gives_a_line_for_each_row_of_the_dataset(blobs, published, form):
    points = blobs(120)
    reference = published(pa.table({"embedding": tensor_column(points)}), form=form)
    with Neighbours(k=4).open() as transform:
        table = transform(reference)
    assert table.schema == Neighbours(k=4).schema(REFERENCE)
    assert table["row"].to_pylist() == list(range(120))
    neighbour, similarity = Neighbours(k=4).nearest(points)
    np.testing.assert_array_equal(to_numpy(table["neighbour"]), neighbour)
    np.testing.assert_array_equal(to_numpy(table["similarity"]), similarity)


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


def test_a_missing_column_is_named_with_those_there_are(blobs, published):
    reference = published(pa.table({"vector": tensor_column(blobs(20))}))
    with pytest.raises(SchemaError, match="has no column 'embedding'; there are: vector"):
        solve(Neighbours(), reference)


def test_tensors_that_are_no_vectors_are_refused(published):
    reference = published(pa.table({"embedding": tensor_column(np.zeros((20, 2, 3), np.float32))}))
    with pytest.raises(SchemaError, match="holds tensors of 2 dimensions; vectors were needed, so pool it first"):
        solve(Neighbours(), reference)


def test_values_that_are_not_finite_are_refused_with_their_row(blobs, published):
    points = blobs(20)
    points[[7, 9], 3] = np.nan
    reference = published(pa.table({"embedding": tensor_column(points)}))
    with pytest.raises(UnitError, match="has 2 rows with values that are not finite, the first is row 7"):
        solve(Neighbours(k=3), reference)


def test_half_precision_embeddings_are_taken(blobs, published):
    points = blobs(60).astype(np.float16)
    table = solve(Neighbours(k=3), published(pa.table({"embedding": tensor_column(points)})))
    np.testing.assert_array_equal(to_numpy(table["neighbour"]), Neighbours(k=3).nearest(points.astype(np.float32))[0])
