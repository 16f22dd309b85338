"""Mixtures against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from penstock.models import mixture
from penstock.models.mixture import Mixture


@pytest.fixture(scope="module")
def points():
    random = np.random.default_rng(0)
    one = random.multivariate_normal([0, 0, 3], [[1, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 0.5]], 300)
    other = random.multivariate_normal([4, -2, 0], [[0.5, 0, 0], [0, 2, -0.3], [0, -0.3, 1]], 200)
    return np.concatenate([one, other])


@pytest.fixture(scope="module")
def fitted(points):
    return mixture.fit(points, 2, seed=0)


def theirs(found):
    other = GaussianMixture(len(found.weights), covariance_type="full")
    other.weights_, other.means_, other.covariances_ = found.weights, found.means, found.covariances
    other.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(found.covariances))
    return other


def test_it_finds_what_scikit_learn_finds_from_the_same_start(points):
    start = mixture.started(points, 2, 0, 1e-4)
    other = GaussianMixture(
        2,
        tol=1e-4,
        reg_covar=1e-4,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=np.linalg.inv(start.covariances),
    ).fit(points)
    found = mixture.fit(points, 2, seed=0)
    np.testing.assert_allclose(found.weights, other.weights_, atol=2e-3)
    np.testing.assert_allclose(found.means, other.means_, atol=1e-2)
    np.testing.assert_allclose(found.covariances, other.covariances_, atol=2e-2)


def test_densities_are_scikit_learns(points, fitted):
    found = np.logaddexp.reduce(fitted.log_densities(points), 1)
    np.testing.assert_allclose(found, theirs(fitted).score_samples(points), rtol=1e-9)


def test_samples_are_spread_as_scikit_learns(fitted):
    random = np.random.default_rng(1)
    ours = np.array([fitted.sample(random) for _ in range(8000)])
    np.random.seed(0)
    others, _ = theirs(fitted).sample(8000)
    np.testing.assert_allclose(ours.mean(0), others.mean(0), atol=0.12)
    np.testing.assert_allclose(np.cov(ours.T), np.cov(others.T), atol=0.35)
    level = theirs(fitted).score_samples
    assert abs(np.median(level(ours)) - np.median(level(others))) < 0.05


def test_what_is_given_conditions_the_rest(fitted):
    known = np.array([1.0])
    found = fitted.given(known)
    at = np.array([[0.3, -0.2], [4.0, -2.0]])
    joint = np.exp(np.logaddexp.reduce(fitted.log_densities(np.c_[at, [[1.0], [1.0]]]), 1))
    alone = sum(
        weight * multivariate_normal(mean[2], cov[2, 2]).pdf(1.0)
        for weight, mean, cov in zip(fitted.weights, fitted.means, fitted.covariances, strict=True)
    )
    np.testing.assert_allclose(np.exp(np.logaddexp.reduce(found.log_densities(at), 1)), joint / alone, rtol=1e-9)


def test_the_same_seed_gives_the_same(points, fitted):
    again = mixture.fit(points, 2, seed=0)
    np.testing.assert_array_equal(again.means, fitted.means)
    one, other = (fitted.sample(np.random.default_rng(7)) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_component_of_no_weight_is_never_drawn():
    found = Mixture(np.array([0.0, 1.0]), np.array([[9.0], [0.0]]), np.full((2, 1, 1), 1e-6))
    random = np.random.default_rng(0)
    assert max(found.sample(random)[0] for _ in range(500)) < 1
