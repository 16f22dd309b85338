"""Numbers about embeddings and clusters, and the two-dimensional map; pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Agreement", "Neighbourhood", "agreement", "cross_table", "layout", "neighbourhood", "purity"]

Labels = Sequence[Any] | npt.NDArray[Any]

_BLOCK = 1024
_PERPLEXITY = 30.0
_PRINCIPAL = 50
_STEPS = 500  # 1000, scikit-learn's own number, take twice as long and keep neighbours no better


@dataclass(frozen=True)
class Agreement:
    """How well clusters agree with known classes.

    Attributes:
        purity: share of rows that are in the commonest class of their cluster; rises with the number of clusters.
        ari: adjusted Rand index, 0 for chance and 1 for the same partition (doi:10.1007/BF01908075).
        nmi: normalised mutual information, arithmetic mean (doi:10.1162/153244303321897735).
    """

    purity: float
    ari: float
    nmi: float


def agreement(truth: Labels, clusters: Labels) -> Agreement:
    """Hold *clusters* against the *truth*, row by row."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    _, known = np.unique(np.asarray(truth), return_inverse=True)
    _, found = np.unique(np.asarray(clusters), return_inverse=True)
    ari, nmi = adjusted_rand_score(known, found), normalized_mutual_info_score(known, found)
    return Agreement(purity(known, found), float(ari), float(nmi))


def purity(truth: Labels, clusters: Labels) -> float:
    """The share of rows that are in the commonest class of their cluster."""
    counts = cross_table(truth, clusters)[2]
    return float(counts.max(axis=1).sum() / counts.sum())


def cross_table(truth: Labels, clusters: Labels) -> tuple[list[Any], list[Any], npt.NDArray[np.int64]]:
    """How many rows of each class (columns) are in each cluster (rows); the names of both, sorted."""
    columns, known = np.unique(np.asarray(truth), return_inverse=True)
    rows, found = np.unique(np.asarray(clusters), return_inverse=True)
    counts = np.zeros((len(rows), len(columns)), np.int64)
    np.add.at(counts, (found, known), 1)
    return rows.tolist(), columns.tolist(), counts


@dataclass(frozen=True)
class Neighbourhood:
    """How often a row's nearest neighbour is of its own class.

    Attributes:
        share: of all rows.
        chance: what a neighbour drawn at random would give.
        classes: for each class its name, number of rows, and share.
    """

    share: float
    chance: float
    classes: tuple[tuple[Any, int, float], ...]


def neighbourhood(vectors: npt.NDArray[np.generic], truth: Labels) -> Neighbourhood:
    """Nearest neighbours by cosine, after the mean was taken off; a row is not its own neighbour.

    Args:
        vectors: float, "row dim"; two rows or more.
        truth: the class of each row.
    """
    names, known = np.unique(np.asarray(truth), return_inverse=True)
    same = known[_nearest(_directions(vectors))] == known
    sizes = np.bincount(known, minlength=len(names))
    chance = (sizes * (sizes - 1)).sum() / (len(known) * (len(known) - 1))
    shares = np.bincount(known, weights=same, minlength=len(names)) / sizes
    classes = tuple(zip(names.tolist(), sizes.tolist(), shares.tolist(), strict=True))
    return Neighbourhood(float(same.mean()), float(chance), classes)


def _directions(vectors: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.where(lengths == 0, 1, lengths))


def _nearest(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """The most similar other row of each, a block of rows at a time."""
    found = np.empty(len(directions), np.intp)
    for first in range(0, len(directions), _BLOCK):
        block = directions[first : first + _BLOCK] @ directions.T
        block[np.arange(len(block)), first + np.arange(len(block))] = -np.inf
        found[first : first + _BLOCK] = block.argmax(axis=1)
    return found


def layout(vectors: npt.NDArray[np.generic]) -> tuple[str, npt.NDArray[np.float64]]:
    """Places in the plane, "row 2", and the name of the method; the same for the same vectors.

    t-SNE (https://jmlr.org/papers/v9/vandermaaten08a.html) on the first 50 principal components, from their
    first two; with fewer than 12 rows, where neighbourhoods mean little, those two alone.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    parts = min(_PRINCIPAL, *vectors.shape)
    reduced = PCA(parts, random_state=0).fit_transform(vectors.astype(np.float64))
    if len(vectors) < 12 or parts < 3:
        return "PCA", _two(reduced)
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    with threadpool_limits(1):  # sums in one order; and threads that wait for each other take ten times as long
        placed = TSNE(2, perplexity=perplexity, init="pca", random_state=0, max_iter=_STEPS).fit_transform(reduced)
    return "t-SNE", np.asarray(placed, np.float64)


def _two(reduced: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.pad(reduced, ((0, 0), (0, max(0, 2 - reduced.shape[1]))))[:, :2]
