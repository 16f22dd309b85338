"""Mixtures of normal distributions with full covariances: fitted, conditioned on what is known, drawn from.

Dempster, Laird and Rubin (1977); the start by k-means++ (Arthur and Vassilvitskii 2007).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Mixture", "fit", "started"]

Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """Weights, means and covariances, float64, ``"component"``, ``"component dim"``, ``"component dim dim"``."""

    weights: Doubles
    means: Doubles
    covariances: Doubles

    def log_densities(self, points: Doubles) -> Doubles:
        """The logarithm of weight times density of each component at *points*, ``"row dim"``: ``"row component"``."""
        found = [_log_normal(points, mean, cov) for mean, cov in zip(self.means, self.covariances, strict=True)]
        with np.errstate(divide="ignore"):
            return np.stack(found, 1) + np.log(self.weights)

    def given(self, known: Doubles) -> Mixture:
        """What is known of the first dimensions when the last ones are *known*, ``"dim"``."""
        known = np.atleast_1d(known)
        free = self.means.shape[1] - len(known)
        last = Mixture(self.weights, self.means[:, free:], self.covariances[:, free:, free:])
        weights = _shares(last.log_densities(known[None]))[0]
        cross = self.covariances[:, :free, free:]
        slopes = np.linalg.solve(last.covariances, cross.transpose(0, 2, 1)).transpose(0, 2, 1)
        means = self.means[:, :free] + np.einsum("cdk,ck->cd", slopes, known - last.means)
        return Mixture(weights, means, self.covariances[:, :free, :free] - slopes @ cross.transpose(0, 2, 1))

    def sample(self, random: np.random.Generator) -> Doubles:
        """One point, ``"dim"``."""
        at = min(int(np.searchsorted(np.cumsum(self.weights), random.random())), len(self.weights) - 1)
        normal = random.standard_normal(self.means.shape[1])
        return np.asarray(self.means[at] + np.einsum("de,e->d", self._factors[at], normal))

    @functools.cached_property
    def _factors(self) -> Doubles:
        return np.asarray(np.linalg.cholesky(self.covariances))


def fit(points: Doubles, components: int, seed: int, *, ridge: float = 1e-4, rounds: int = 60) -> Mixture:
    """The mixture that is most likely to have given *points*, ``"row dim"``; *ridge* is added to all variances."""
    mixture = started(points, components, seed, ridge)
    before = -np.inf
    for _ in range(rounds):
        logs = mixture.log_densities(points)
        now = float(np.logaddexp.reduce(logs, 1).mean())
        if now - before < 1e-4:
            break
        mixture, before = _moments(points, _shares(logs), ridge), now
    return mixture


def started(points: Doubles, components: int, seed: int, ridge: float) -> Mixture:
    """Where `fit` starts: the points that lie nearest to each of some far apart."""
    random = np.random.default_rng(seed)
    centers = points[random.integers(len(points), size=1)]
    while len(centers) < components:
        far = _squares(points, centers).min(1)
        centers = np.vstack([centers, points[random.choice(len(points), p=far / far.sum())]])
    nearest = _squares(points, centers).argmin(1)
    return _moments(points, np.eye(components)[nearest], ridge)


def _squares(points: Doubles, centers: Doubles) -> Doubles:
    """Squared distances, ``"row center"``."""
    return np.stack([((points - center) ** 2).sum(1) for center in centers], 1)


def _moments(points: Doubles, shares: Doubles, ridge: float) -> Mixture:
    counts = shares.sum(0) + 10 * np.finfo(float).eps
    means = shares.T @ points / counts[:, None]
    covariances = []
    for share, count, mean in zip(shares.T, counts, means, strict=True):
        apart = points - mean
        covariances.append((share[:, None] * apart).T @ apart / count + ridge * np.eye(points.shape[1]))
    return Mixture(counts / counts.sum(), means, np.stack(covariances))


def _shares(logs: Doubles) -> Doubles:
    return np.asarray(np.exp(logs - np.logaddexp.reduce(logs, 1)[:, None]))


def _log_normal(points: Doubles, mean: Doubles, covariance: Doubles) -> Doubles:
    factor = np.linalg.cholesky(covariance)
    apart = np.linalg.solve(factor, (points - mean).T)
    size = 2 * np.log(np.diag(factor)).sum() + len(mean) * np.log(2 * np.pi)
    return np.asarray(-0.5 * ((apart**2).sum(0) + size))
