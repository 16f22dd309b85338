"""Measures against scikit-learn, loops, and cases whose answer is known."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.manifold import trustworthiness
from sklearn.metrics import confusion_matrix, silhouette_score
from sklearn.neighbors import NearestNeighbors

from penstock.report.measures import agreement, cross_table, layout, neighbourhood, purity

labels = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 4)), min_size=1, max_size=60)


def blobs(classes=4, each=40, dim=20, spread=0.3, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, dim))
    known = np.repeat(np.arange(classes), each)
    return (centres[known] + spread * generator.normal(size=(len(known), dim))).astype("float32"), known


@given(labels)
@settings(max_examples=60, deadline=None)
def test_purity_is_that_of_a_loop(pairs):
    truth, clusters = zip(*pairs, strict=True)
    by_cluster = {name: Counter(t for t, c in pairs if c == name) for name in set(clusters)}
    naive = sum(counts.most_common(1)[0][1] for counts in by_cluster.values()) / len(pairs)
    assert purity(truth, clusters) == pytest.approx(naive)


@given(labels)
@settings(max_examples=40, deadline=None)
def test_the_cross_table_is_scikit_learns_confusion_matrix(pairs):
    truth, clusters = zip(*pairs, strict=True)
    rows, columns, counts = cross_table(truth, clusters)
    names = [str(name) for name in rows] + columns
    whole = confusion_matrix([str(c) for c in clusters], truth, labels=names)
    np.testing.assert_array_equal(counts, whole[: len(rows), len(rows) :])


def test_the_same_partition_agrees_in_full_whatever_the_names():
    found = agreement(["x", "x", "y", "z"], [7, 7, 0, 3])
    assert (found.purity, found.ari, found.nmi) == (1.0, 1.0, 1.0)


def test_a_partition_that_knows_nothing_has_an_index_of_zero():
    generator = np.random.default_rng(1)
    found = agreement(generator.integers(0, 5, 20_000), generator.integers(0, 5, 20_000))
    assert abs(found.ari) < 0.01
    assert abs(found.nmi) < 0.01


def test_singletons_are_pure_and_yet_do_not_agree():
    found = agreement([0, 0, 1, 1], [0, 1, 2, 3])
    assert (found.purity, found.ari) == (1.0, 0.0)


def test_nearest_neighbours_are_those_of_scikit_learn():
    vectors, known = blobs(spread=1.2)
    vectors += 5.0  # a common offset, which cosine alone would be blinded by
    centred = vectors - vectors.mean(0)
    nearest = NearestNeighbors(n_neighbors=2, metric="cosine").fit(centred).kneighbors(centred)[1][:, 1]
    found = neighbourhood(vectors, known)
    assert found.share == pytest.approx((known[nearest] == known).mean())
    assert [rows for _, rows, _ in found.classes] == [40] * 4
    assert np.mean([share for _, _, share in found.classes]) == pytest.approx(found.share)


def test_blocks_of_rows_change_nothing(monkeypatch):
    vectors, known = blobs(spread=1.2)
    whole = neighbourhood(vectors, known)
    monkeypatch.setattr("penstock.report.measures._BLOCK", 7)
    assert neighbourhood(vectors, known) == whole


def test_the_chance_level_is_that_of_random_neighbours():
    generator = np.random.default_rng(2)
    known = np.repeat(["a", "b", "c"], [50, 30, 20])
    draws = [known[generator.permutation(len(known))[:2]] for _ in range(20_000)]
    found = neighbourhood(generator.normal(size=(100, 8)), known)
    assert found.chance == pytest.approx(np.mean([one == other for one, other in draws]), abs=0.015)


def test_rows_of_zeros_do_not_give_nan():
    assert np.isfinite(neighbourhood(np.zeros((4, 3), "float32"), [0, 0, 1, 1]).share)


def test_the_map_keeps_groups_together_and_neighbours_near():
    vectors, known = blobs()
    method, places = layout(vectors)
    assert (method, places.shape) == ("t-SNE", (160, 2))
    assert silhouette_score(places, known) > 0.7
    assert trustworthiness(vectors, places) > 0.9


def test_the_map_is_the_same_each_time():
    vectors, _ = blobs(each=15)
    np.testing.assert_array_equal(layout(vectors)[1], layout(vectors)[1])


@pytest.mark.parametrize("shape", [(2, 1), (2, 5), (11, 40), (50, 2), (50, 1)])
def test_few_rows_or_dimensions_are_laid_out_by_principal_components(shape):
    vectors = np.random.default_rng(0).normal(size=shape)
    method, places = layout(vectors)
    assert (method, places.shape) == ("PCA", (shape[0], 2))
    kept = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(places, axis=0)[: len(kept)], kept, atol=1e-9)
