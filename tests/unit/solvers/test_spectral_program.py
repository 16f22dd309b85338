import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, laplacian
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from penstock.errors import DatasetError
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.programs import rows, spectral


def ring(n):
    """Each of *n* points with the one before and the one after."""
    return (np.arange(n)[:, None] + [-1, 1]) % n


def islands(count, size):
    """Complete graphs of *size* points that know nothing of each other."""
    at = np.arange(count * size)
    return (at // size * size)[:, None] + (at[:, None] % size + np.arange(1, size)) % size


def weights(neighbour, similarity):
    """The symmetrised matrix, entry by entry."""
    matrix = np.zeros((len(neighbour), len(neighbour)))
    for i, (others, values) in enumerate(zip(neighbour, similarity, strict=True)):
        for j, value in zip(others, values, strict=True):
            matrix[i, j] += max(float(value), 0) / 2
            matrix[j, i] += max(float(value), 0) / 2
    return matrix


@pytest.mark.parametrize(("n", "dense_rows"), [(60, 0), (301, 0), (1500, 0), (60, 10_000), (301, 10_000)])
def test_a_ring_has_the_eigenvalues_of_the_formula(solved, n, dense_rows):
    found = solved(ring(n), dense_rows=dense_rows)
    wanted = np.sort(1 - np.cos(2 * np.pi * np.arange(n) / n))[:6]
    np.testing.assert_allclose(found["eigenvalues"], wanted, atol=1e-8)


@pytest.mark.parametrize("dense_rows", [0, 10_000], ids=["lanczos", "dense"])
def test_eigenvalues_are_those_of_scipy_s_laplacian(solved, blobs, dense_rows):
    neighbour, similarity = Neighbours(k=8).nearest(blobs(300))
    found = solved(neighbour, similarity, dense_rows=dense_rows)
    matrix = laplacian(weights(neighbour, similarity), normed=True)
    np.testing.assert_allclose(found["eigenvalues"], np.linalg.eigvalsh(matrix)[:6], atol=1e-6)
    image = matrix @ found["coordinates"]
    np.testing.assert_allclose(image, found["eigenvalues"] * found["coordinates"], atol=1e-6)
    np.testing.assert_allclose(found["coordinates"].T @ found["coordinates"], np.eye(6), atol=1e-5)


def test_both_ways_to_the_eigenvectors_agree(solved, blobs):
    neighbour, similarity = Neighbours(k=8).nearest(blobs(400))
    one, two = (solved(neighbour, similarity, dense_rows=rows) for rows in (0, 10_000))
    np.testing.assert_allclose(one["eigenvalues"], two["eigenvalues"], atol=1e-7)
    np.testing.assert_array_equal(one["clusters"][:, :3], two["clusters"][:, :3])
    np.testing.assert_allclose(one["coordinates"][:, :4], two["coordinates"][:, :4], atol=1e-5)


@pytest.mark.parametrize("dense_rows", [0, 10_000], ids=["lanczos", "dense"])
def test_blobs_are_found_and_counted(solved, blobs, dense_rows):
    neighbour, similarity = Neighbours(k=10).nearest(blobs(400, dim=32, sigma=1.2))
    found = solved(neighbour, similarity, dense_rows=dense_rows)
    assert connected_components(csr_matrix(weights(neighbour, similarity)))[0] == 1, "else the test is too easy"
    assert found["cluster"].max() + 1 == 4
    assert adjusted_rand_score(np.arange(400) % 4, found["cluster"]) > 0.95
    np.testing.assert_array_equal(found["cluster"], found["clusters"][:, 2])
    np.testing.assert_array_equal(found["cluster"][:4], [0, 1, 2, 3])


def test_clusters_are_those_of_scikit_learn(solved, blobs):
    neighbour, similarity = Neighbours(k=10).nearest(blobs(400, sigma=1.0))
    found = solved(neighbour, similarity, clusters=4)
    other = SpectralClustering(4, affinity="precomputed", random_state=0)
    assert adjusted_rand_score(other.fit_predict(weights(neighbour, similarity)), found["cluster"]) > 0.97


@pytest.mark.parametrize("dense_rows", [0, 10_000], ids=["lanczos", "dense"])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_components_as_there_are_islands(solved, count, dense_rows):
    found = solved(islands(count, 20), dense_rows=dense_rows)
    assert (found["eigenvalues"] < 1e-7).sum() == count
    np.testing.assert_array_equal(found["cluster"], np.arange(count * 20) // 20)


@pytest.mark.parametrize("dense_rows", [0, 10_000], ids=["lanczos", "dense"])
def test_more_islands_than_clusters_are_not_parted(solved, dense_rows):
    found = solved(islands(40, 6), dense_rows=dense_rows)
    assert (found["eigenvalues"] < 1e-7).all()
    assert found["cluster"].max() + 1 == 6
    assert all(len(set(found["cluster"][start : start + 6])) == 1 for start in range(0, 240, 6))


@pytest.mark.parametrize("dense_rows", [0, 10_000], ids=["lanczos", "dense"])
def test_rows_without_any_similarity_are_components_of_their_own(solved, dense_rows):
    neighbour, similarity = islands(2, 15), np.ones((30, 14), np.float32)
    lonely = np.full((1, 14), 3)
    found = solved(
        np.vstack([neighbour, lonely]), np.vstack([similarity, -lonely.astype(np.float32)]), dense_rows=dense_rows
    )
    assert (found["eigenvalues"] < 1e-7).sum() == 3
    np.testing.assert_array_equal(found["cluster"], [0] * 15 + [1] * 15 + [2])


def test_the_number_of_clusters_can_be_given(solved):
    found = solved(islands(4, 12), clusters=2)
    assert found["cluster"].max() + 1 == 2
    np.testing.assert_array_equal(found["cluster"], found["clusters"][:, 0])


def test_the_smallest_graph_that_is_large_enough(solved):
    found = solved(ring(7))
    np.testing.assert_allclose(found["eigenvalues"], np.sort(1 - np.cos(2 * np.pi * np.arange(7) / 7))[:6], atol=1e-8)
    with pytest.raises(ValueError, match="6 rows are too few for 6 clusters; lower max_clusters"):
        solved(ring(6))


def test_eigengap_takes_the_widest_gap_from_two_clusters_on():
    assert spectral.eigengap(np.array([0, 0.5, 0.51, 0.52])) == 2
    assert spectral.eigengap(np.array([0, 0.1, 0.2, 0.9, 1.0])) == 3
    assert spectral.eigengap(np.array([0, 1e-17, 0, 1e-16])) == 3


def test_labels_are_numbered_as_they_appear():
    np.testing.assert_array_equal(spectral.by_appearance(np.array([7, 2, 7, 5, 2, 0])), [0, 1, 0, 2, 1, 3])


def test_a_vector_and_its_negative_become_the_same():
    vectors = np.random.default_rng(0).standard_normal((50, 3))
    np.testing.assert_array_equal(spectral.signed(vectors), spectral.signed(vectors * [-1, 1, -1]))


def test_k_means_puts_each_point_to_its_nearest_center():
    points = np.random.default_rng(1).standard_normal((200, 3))
    labels, spread = spectral.kmeans(points, spectral.farthest(points, 0, 5))
    centers = np.stack([points[labels == c].mean(axis=0) for c in range(5)])
    distance = ((points[:, None] - centers) ** 2).sum(-1)
    np.testing.assert_array_equal(distance.argmin(axis=1), labels)
    assert spread == pytest.approx(distance.min(axis=1).sum())


def test_k_means_of_fewer_points_than_centers():
    points = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    labels, spread = spectral.kmeans(points, spectral.farthest(points, 0, 3))
    assert (len(set(labels)), spread) == (2, 0.0)


@given(
    times=st.lists(st.integers(1, 6), min_size=1, max_size=5), known=st.integers(0, 4), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_values_are_found_as_often_as_they_are_there(times, known, seed):
    """An operator of which every large value is there several times, 1 too; some vectors of 1 may be known."""
    random = np.random.default_rng(seed)
    large = np.repeat(1 - 0.05 * np.arange(len(times)), times)
    values = np.concatenate([large, random.uniform(-1, 0.7, 120)])
    turn = np.linalg.qr(random.standard_normal((len(values), len(values))))[0]
    matrix = (turn * values) @ turn.T
    found, vectors = spectral.leading(lambda v: matrix @ v, turn[:, : min(known, times[0])], 7, seed)
    np.testing.assert_allclose(found, np.sort(values)[::-1][:7], atol=1e-8)
    np.testing.assert_allclose(matrix @ vectors, vectors * found, atol=1e-7)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(7), atol=1e-9)


def test_the_largest_components_have_their_vectors():
    component, root = np.array([0, 1, 1, 3, 1, 5, 5]), np.sqrt([1, 1, 4, 1, 4, 2, 2])
    vectors = spectral.of_components(component, root, 2)
    np.testing.assert_allclose(vectors[:, 0] ** 2, [0, 1 / 9, 4 / 9, 0, 4 / 9, 0, 0])
    np.testing.assert_allclose(vectors[:, 1] ** 2, [0, 0, 0, 0, 0, 0.5, 0.5])


def test_too_close_eigenvalues_are_told_of(solved, monkeypatch):
    monkeypatch.setattr(spectral, "_MAX_ROUNDS", 2)
    with pytest.raises(RuntimeError, match="the eigenvectors did not converge: after 2 rounds a residual is"):
        solved(ring(3000), dense_rows=0)


def test_fill_values_in_place_of_neighbours_are_refused(solved):
    holed = ring(30)
    holed[11] = -1
    with pytest.raises(ValueError, match="have fill values in place of neighbours; a part is missing or damaged"):
        solved(holed)
    gaps = np.ones((30, 2), np.float32)
    gaps[4, 1] = np.nan
    with pytest.raises(ValueError, match="have fill values"):
        solved(ring(30), gaps)


def test_another_number_of_ranks_is_refused(solved):
    with pytest.raises(ValueError, match="3 ranks were expected and there are 1; is mpiexec of the same MPI"):
        solved(ring(30), ranks=3)


def test_a_dataset_that_is_another_by_now_is_refused(solved):
    with pytest.raises(DatasetError, match="version 1 was to be read and version 1 is there now, with other content"):
        solved(ring(30), sha256="def")


def test_slabs_cover_all_rows_once():
    for n in (0, 1, 7, 100):
        for ranks in (1, 2, 3, 8, 13):
            edges = rows.bounds(n, ranks)
            assert edges[0] == 0
            assert edges[-1] == n
            assert [int(edge) for edge in edges] == [n * r // ranks for r in range(ranks + 1)]
