import igraph
import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from penstock.errors import DatasetError
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.programs import graph


class Alone:
    """The communicator of a single rank, for tests that draw their graphs."""

    rank, size = 0, 1

    def Allgatherv(self, own, whole):
        whole[0][...] = own

    def bcast(self, value):
        return value

    def alltoall(self, values):
        return values

    def allreduce(self, value, operation):
        return value


def made(neighbour, similarity=None, least=0.0):
    weights = np.ones(neighbour.shape, np.float32) if similarity is None else np.asarray(similarity, np.float32)
    return graph.Graph.of(neighbour, weights, least, len(neighbour), Alone())


def pairs(weights):
    """The edges of a symmetric matrix, each once, and their weights."""
    half = csr_matrix(np.triu(weights.toarray()))
    rows, columns = half.nonzero()
    return list(zip(rows.tolist(), columns.tolist(), strict=True)), half.data


@st.composite
def drawn(draw):
    """Neighbours and similarities of a small graph, with islands and ties."""
    rows, k = draw(st.integers(3, 24)), draw(st.integers(1, 2))
    other = st.integers(1, rows - 1)
    steps = draw(st.lists(st.lists(other, min_size=k, max_size=k), min_size=rows, max_size=rows))
    scores = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 0.96, 1.0])
    similarity = draw(st.lists(st.lists(scores, min_size=k, max_size=k), min_size=rows, max_size=rows))
    return (np.arange(rows)[:, None] + np.array(steps)) % rows, np.array(similarity, np.float32)


@given(drawn())
@settings(max_examples=30, deadline=None)
def test_pagerank_is_that_of_networkx(found):
    ours = made(*found)
    theirs = networkx.Graph()
    theirs.add_nodes_from(range(ours.rows))
    theirs.add_weighted_edges_from((a, b, w) for (a, b), w in zip(*pairs(ours.weights), strict=True))
    wanted = networkx.pagerank(theirs, alpha=0.85, tol=1e-13, max_iter=1000, weight="weight")
    np.testing.assert_allclose(graph.pagerank(ours, 0.85), [wanted[row] for row in range(ours.rows)], atol=1e-10)


@given(drawn())
@settings(max_examples=30, deadline=None)
def test_components_are_those_of_scipy_under_their_first_row(found):
    ours = made(*found)
    _, labels = connected_components(ours.weights, directed=False)
    first = {label: int(np.flatnonzero(labels == label)[0]) for label in set(labels.tolist())}
    assert graph.components(ours).tolist() == [first[label] for label in labels.tolist()]


@given(drawn())
@settings(max_examples=30, deadline=None)
def test_colours_differ_between_neighbours(found):
    ours = made(*found)
    colour = graph.colours(ours)
    a, b = ours.edges()
    assert (colour >= 0).all()
    assert (colour[a[a != b]] != colour[b[a != b]]).all()


@given(drawn())
@settings(max_examples=30, deadline=None)
def test_in_the_end_no_row_has_more_similarity_to_another_community(found):
    ours = made(*found)
    label = graph.communities(ours)
    for row, line in enumerate(ours.weights.toarray()):
        votes = {one: line[label == one].sum() for one in set(label.tolist())}
        assert votes[label[row]] >= max(votes.values()) - 1e-6


@given(drawn())
@settings(max_examples=30, deadline=None)
def test_greedy_duplicates_are_those_of_going_through_the_rows(found):
    ours = made(*found, least=0.95)
    stays = []
    for row, line in enumerate(ours.weights.toarray()):
        before = [other for other in np.flatnonzero(line[:row]) if stays[other] == other]
        stays.append(int(before[0]) if before else row)
    assert graph.representatives(ours).tolist() == stays


def blocks(rows=120, k=4, seed=3):
    """Neighbours within each of *k* groups alone, but for one edge from each group to the next."""
    random = np.random.default_rng(seed)
    group = np.arange(rows) % k
    neighbour = np.stack([random.choice(np.flatnonzero(group == group[i]), 6) for i in range(rows)])
    for i in range(k):
        neighbour[i, 0] = (i + 1) % k
    return neighbour, group


def test_planted_communities_are_found():
    neighbour, group = blocks()
    assert graph.by_appearance(graph.communities(made(neighbour))).tolist() == group.tolist()


def test_communities_of_points_are_about_as_good_as_those_of_leiden(blobs):
    ours = made(*Neighbours(k=10).nearest(blobs(400, sigma=0.5)))
    edges, weights = pairs(ours.weights)
    theirs = igraph.Graph(n=ours.rows, edges=edges)
    leiden = theirs.community_leiden("modularity", weights=weights, n_iterations=-1)
    mine = theirs.modularity(graph.by_appearance(graph.communities(ours)).tolist(), weights=weights)
    assert mine > 0.85 * theirs.modularity(leiden, weights=weights)


def test_communities_do_not_cross_components():
    ours = made(*Neighbours(k=3).nearest(np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32)))
    parts, label = graph.components(ours), graph.communities(ours)
    assert (parts[label] == parts).all()


def test_a_long_path_takes_few_rounds_and_one_component():
    rows = 3000
    order = np.random.default_rng(1).permutation(rows)
    neighbour = np.empty((rows, 1), np.int64)
    neighbour[order[:-1], 0], neighbour[order[-1], 0] = order[1:], order[-2]
    rounds = 0

    class Counted(Alone):
        def allreduce(self, value, operation):
            nonlocal rounds
            rounds += 1
            return value

    ones = np.ones((rows, 1), np.float32)
    assert (graph.components(graph.Graph.of(neighbour, ones, 0, rows, Counted())) == 0).all()
    assert rounds < 40


def test_what_is_linked_by_similarities_below_the_threshold_is_apart():
    neighbour, similarity = np.array([[1], [0], [3], [2]]), np.array([[0.9], [0.9], [0.3], [0.3]])
    assert graph.components(made(neighbour, similarity, least=0.5)).tolist() == [0, 0, 2, 3]


def test_a_threshold_takes_in_what_equals_it_in_single_precision():
    neighbour, similarity = np.array([[1], [0]]), np.full((2, 1), 0.95, np.float32)
    assert graph.components(made(neighbour, similarity, least=0.95)).tolist() == [0, 0]


def test_damping_so_high_that_pagerank_does_not_converge_is_said():
    chain = np.array([[1], [2], [3], [4], [3]])
    with pytest.raises(RuntimeError, match=r"PageRank did not converge: after 1000 rounds .* lower damping"):
        graph.pagerank(made(chain), 0.99999)


def test_the_result_of_the_program_is_the_same_whatever_the_order_of_neighbours(blobs):
    neighbour, similarity = Neighbours(k=6).nearest(blobs(150))
    one, other = made(neighbour, similarity), made(neighbour[:, ::-1], similarity[:, ::-1])
    np.testing.assert_array_equal(graph.pagerank(one, 0.85), graph.pagerank(other, 0.85))
    assert adjusted_rand_score(graph.communities(one), graph.communities(other)) == 1.0


@pytest.mark.parametrize(("change", "kind"), [({"tasks": 2}, ValueError), ({"sha": "x"}, DatasetError)])
def test_another_number_of_ranks_and_another_dataset_are_refused(
    published, graph_of, alone, tmp_path, monkeypatch, change, kind
):
    (reference,) = published(graph_of(np.array([[1], [2], [0]]))).to_pylist()
    reference["sha256"] = change.get("sha", reference["sha256"])
    tasks = change.get("tasks", 1)
    config = graph.Config(reference, tasks, 0.85, 0.0, 0.95, "component", str(tmp_path / "r.npz"))
    with pytest.raises(kind, match=r"2 ranks were expected and there are 1|with other content; run again"):
        graph.solve(config, alone)
