"""Smooth random deformations of a mesh: Karhunen-Loeve modes of its boundary, and free-form lattices.

Sources: Le Maitre, Knio, Spectral Methods for Uncertainty Quantification, Springer 2010, chapter 2;
Sederberg, Parry, Free-form deformation of solid geometric models, SIGGRAPH 1986.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import comb
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam import Mesh

__all__ = ["CONSTRAINTS", "FreeForm", "KarhunenLoeve", "in_plane"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_JITTER = 1e-8

CONSTRAINTS = ("empty", "cyclic", "cyclicAMI", "wedge", "symmetryPlane", "symmetry", "processor")
"""Patches whose own kind says how their points may move."""


def in_plane(mesh: Mesh) -> npt.NDArray[np.bool_]:
    """The axes along which points may move, ``"xyz"``: not those that an ``empty`` patch faces."""
    faces = [mesh.face_areas[patch.faces] for patch in mesh.patches if patch.kind == "empty" and patch.size]
    if not faces:
        return np.ones(3, bool)
    areas = np.abs(np.concatenate(faces)).sum(0)
    return np.asarray(areas < 0.5 * areas.max())


def patch_normals(mesh: Mesh, names: tuple[str, ...], points: Ints) -> Floats:
    """The unit normal at each of *points* out of the mesh, over the faces of the patches: ``"point xyz"``."""
    sums = np.zeros_like(mesh.points)
    for name in names:
        faces = mesh.patch(name).faces
        start, stop = mesh.faces.offsets[faces.start], mesh.faces.offsets[faces.stop]
        face = np.repeat(np.arange(faces.start, faces.stop), mesh.faces.sizes[faces])
        np.add.at(sums, mesh.faces.labels[start:stop], mesh.face_areas[face])
    found = sums[points] * in_plane(mesh)
    return np.asarray(found / np.linalg.norm(found, axis=1, keepdims=True).clip(1e-300))


@dataclass(frozen=True, eq=False)
class KarhunenLoeve:
    """A Gaussian random field on patches, along their normals; zero where they meet others; cut after a few modes.

    The covariance is ``amplitude^2 exp(-d^2 / 2 L^2)``, under the condition that other patches stay where they are.
    Points inside follow by a Laplace equation on the mesh's edges.

    Attributes:
        mesh: undeformed.
        patches: which move.
        amplitude: standard deviation far from where the patch is held, a length.
        length: of correlation.
        count: how many modes, the strongest.
    """

    mesh: Mesh
    patches: tuple[str, ...]
    amplitude: float
    length: float
    count: int

    def displaced(self, seed: int) -> Floats:
        """The points for one seed, ``"point xyz"``."""
        return self.mesh.points + self._inside(self.on_boundary(seed))

    def on_boundary(self, seed: int) -> Floats:
        """The displacement of the patches for one seed, ``"point xyz"``, zero for all points that they do not have."""
        weights = np.random.default_rng(seed).standard_normal(self.modes.shape[1])
        found = np.zeros_like(self.mesh.points)
        found[self.moving] = (self.modes @ weights)[:, None] * patch_normals(self.mesh, self.patches, self.moving)
        found[self.held] = 0
        return found

    @cached_property
    def moving(self) -> Ints:
        """The points that the modes move."""
        return np.unique(np.concatenate([self.mesh.patch_points(name) for name in self.patches]))

    @cached_property
    def held(self) -> Ints:
        """Those of other patches, which stay."""
        others = [p.name for p in self.mesh.patches if p.name not in self.patches and p.kind not in CONSTRAINTS]
        return np.unique(np.concatenate([np.empty(0, np.int64), *map(self.mesh.patch_points, others)]))

    @cached_property
    def modes(self) -> Floats:
        """Displacements along the normals, each as long as its standard deviation: ``"moving mode"``."""
        places = self.mesh.points * in_plane(self.mesh)
        moving, held = places[self.moving], _distinct(places[self.held])
        covariance = _kernel(moving, moving, self.length)
        if len(held):
            between = _kernel(held, moving, self.length)
            inner = _kernel(held, held, self.length) + _JITTER * np.eye(len(held))
            covariance -= between.T @ np.linalg.solve(inner, between)
        values, vectors = np.linalg.eigh(covariance)
        strongest = np.argsort(values)[::-1][: self.count]
        vectors, values = vectors[:, strongest], values[strongest].clip(0)
        signs = np.sign(vectors[abs(vectors).argmax(0), np.arange(len(values))])
        return np.asarray(self.amplitude * vectors * signs * np.sqrt(values))

    def _inside(self, boundary: Floats) -> Floats:
        """The displacement of all points, which is harmonic on the edges, weighted by 1 / length^2."""
        from scipy.sparse.linalg import spsolve

        whole = boundary.copy()
        fixed = np.zeros(len(whole), bool)
        fixed[self.moving] = fixed[self.held] = True
        laplacian = _laplacian(self.mesh)
        free = np.flatnonzero(~fixed)
        if len(free):
            right = -(laplacian[free] @ whole)
            whole[free] = np.reshape(spsolve(laplacian[free][:, free].tocsc(), right), (len(free), 3))
        return whole * in_plane(self.mesh)


def _kernel(a: Floats, b: Floats, length: float) -> Floats:
    squares = ((a[:, None] - b[None]) ** 2).sum(-1)
    return np.asarray(np.exp(-squares / (2 * length**2)))


def _distinct(places: Floats) -> Floats:
    """Without those that lie in the same place, such as the two sides of a plane case."""
    return np.unique(places.round(12), axis=0) if len(places) else places


def _laplacian(mesh: Mesh) -> Any:
    """The graph Laplacian of the mesh's edges, sparse."""
    from scipy.sparse import coo_matrix, diags

    labels, offsets = mesh.faces.labels, mesh.faces.offsets
    following = np.arange(len(labels)) + 1
    following[offsets[1:] - 1] = offsets[:-1]
    edges = np.unique(np.sort(np.stack([labels, labels[following]], 1), 1), axis=0)
    a, b = edges.T
    weights = 1 / ((mesh.points[a] - mesh.points[b]) ** 2).sum(1).clip(1e-300)
    count = len(mesh.points)
    graph = coo_matrix((np.tile(weights, 2), (np.r_[a, b], np.r_[b, a])), (count, count)).tocsr()
    return diags(np.asarray(graph.sum(1)).ravel()) - graph


@dataclass(frozen=True, eq=False)
class FreeForm:
    """A lattice of control points about the mesh, moved at random; points follow by Bernstein polynomials.

    The first and the last layer along the longest axis, and their neighbours, stay, so that the ends keep place and
    slope.

    Attributes:
        mesh: undeformed.
        amplitude: standard deviation of a control point, a length.
        lattice: control points along each axis.
        direction: the axis along which they move, 0 for x; none other.
    """

    mesh: Mesh
    amplitude: float
    lattice: tuple[int, int, int]
    direction: int

    def displaced(self, seed: int) -> Floats:
        """The points for one seed, ``"point xyz"``."""
        return self.mesh.points + self.on_boundary(seed)

    def on_boundary(self, seed: int) -> Floats:
        """The displacement for one seed, ``"point xyz"``, which the lattice gives for points inside as well."""
        control = self.amplitude * np.random.default_rng(seed).standard_normal(self.counts)
        control *= self._free
        i, j, k = (self._bernstein(axis) for axis in range(3))
        found = np.zeros_like(self.mesh.points)
        found[:, self.direction] = np.einsum("pi,pj,pk,ijk->p", i, j, k, control)
        return found

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """Control points along each axis: one across a plane case, which stays plane. Raises `UnitError`."""
        plane = in_plane(self.mesh)
        if not plane[self.direction]:
            raise UnitError(f"the case is plane across {'xyz'[self.direction]}; choose another direction")
        return tuple(count if free else 1 for count, free in zip(self.lattice, plane, strict=True))

    @cached_property
    def _free(self) -> Floats:
        """1 for control points that move, 0 for those of the ends, ``"x y z"``."""
        longest = int(np.ptp(self.mesh.points, axis=0).argmax())
        count = self.counts[longest]
        if count < 5:
            raise UnitError(
                f"lattice has {count} points along {'xyz'[longest]}, the longest axis; 5 or more were needed"
            )
        free = np.zeros(count)
        free[2:-2] = 1
        return free.reshape([-1 if axis == longest else 1 for axis in range(3)])

    def _bernstein(self, axis: int) -> Floats:
        """The polynomials at each point, ``"point control"``."""
        low, size = self.mesh.points[:, axis].min(), np.ptp(self.mesh.points[:, axis])
        t = ((self.mesh.points[:, axis] - low) / max(size, 1e-300))[:, None]
        degree = self.counts[axis] - 1
        i = np.arange(degree + 1)
        binomials = np.array([comb(degree, each) for each in i], float)
        return np.asarray(binomials * t**i * (1 - t) ** (degree - i))
