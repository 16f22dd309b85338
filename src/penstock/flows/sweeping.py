"""Plane fields swept through an inlet: Taylor's frozen turbulence.

Taylor (1938), https://doi.org/10.1098/rspa.1938.0032: where the mean speed is much larger than the fluctuations, what
passes a fixed point is a pattern that is carried along. So a periodic field is moved through the inlet by the mean
speed, and after one length of it the next field follows. Over the last part of its length a field is blended with the
next, with the cosine and the sine of an angle, so that the variance of independent fields stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Fields", "Sweep"]

Fields = Callable[[int], Iterator[npt.NDArray[np.floating]]]
"""The fields from number *first* on, each ``"component y x"``: u and v in a periodic square."""


Heights = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Sweep:
    """How fields become velocities at an inlet, which lies across the x axis.

    Attributes:
        speed: mean of the inflow, in m/s; with it fields are carried along x.
        box: side of the square that a field fills, in m.
        scale: of the fluctuations: m/s for a 1 of the field.
        bottom: where the inlet begins along y, in m.
        height: of the inlet, from its lowest to its highest wall, in m.
        wall: distance from a wall, in m, over which fluctuations grow to their full size; 0 leaves them.
        profile: of the mean over the height: the same everywhere, or a parabola, which vanishes at the walls.
        blend: share of a field's length over which it is blended with the next one.
    """

    speed: float
    box: float = 2 * math.pi
    scale: float = 1.0
    bottom: float = 0.0
    height: float = 1.0
    wall: float = 0.0
    profile: Literal["plug", "parabola"] = "plug"
    blend: float = 0.2

    def __post_init__(self) -> None:
        if min(self.speed, self.box, self.height) <= 0 or min(self.scale, self.wall) < 0:
            raise ValueError("speed, box and height must be above 0, scale and wall must not be negative")
        if not 0 <= self.blend <= 1:
            raise ValueError(f"blend is {self.blend}; it is a share of a field's length, from 0 to 1")

    def field_at(self, seconds: float) -> int:
        """The number of the field that is in the inlet then."""
        return int(seconds * self.speed // self.box)

    def planes(
        self, fields: Fields, first: int, plane_seconds: float, heights: Heights
    ) -> Iterator[npt.NDArray[np.float64]]:
        """The velocities, in m/s, ``"face 3"``, of plane *first* and those that follow.

        The same plane has the same bits, whichever was the first.

        Args:
            fields: of which the inflow is made.
            first: number of a plane.
            plane_seconds: from one plane to the next.
            heights: where the faces have their centres along y, above *bottom*, in m, ``"face"``.
        """
        start, plane = self.field_at(first * plane_seconds), first
        waves = (_waves_at(field, heights, self.box) for field in fields(start))
        for number, (here, coming) in enumerate(pairwise(waves), start):
            while self.field_at(plane * plane_seconds) == number:
                yield self._plane(here, coming, plane * plane_seconds * self.speed - number * self.box, heights)
                plane += 1

    def _plane(
        self,
        here: npt.NDArray[np.complex128],
        coming: npt.NDArray[np.complex128],
        way: float,
        heights: Heights,
    ) -> npt.NDArray[np.float64]:
        share = max(0.0, way / self.box - (1 - self.blend)) / self.blend if self.blend else 0.0
        angle = math.pi / 2 * min(share, 1.0)
        mixed = math.cos(angle) * self._at(here, way)
        if share > 0:
            mixed += math.sin(angle) * self._at(coming, way - self.box)
        found = np.zeros((len(heights), 3))
        found[:, :2] = mixed.T * (self.scale * self._damped(heights))[:, None]
        found[:, 0] += self._mean(heights)
        return found

    def _at(self, waves: npt.NDArray[np.complex128], way: float) -> npt.NDArray[np.float64]:
        """What is at the inlet when a field was carried so far: the later, the more upstream it lay."""
        phase = np.exp(-2j * math.pi * way / self.box * _numbers(waves.shape[-1]))
        return np.asarray((waves @ phase).real)

    def _damped(self, heights: Heights) -> npt.NDArray[np.float64]:
        if not self.wall:
            return np.ones(len(heights))
        near = np.clip(np.minimum(heights, self.height - heights) / self.wall, 0, 1)
        return np.asarray(near**2 * (3 - 2 * near))

    def _mean(self, heights: Heights) -> npt.NDArray[np.float64]:
        if self.profile == "plug":
            return np.full(len(heights), self.speed)
        across = heights / self.height
        return np.asarray(6 * self.speed * across * (1 - across))


def _numbers(n: int) -> npt.NDArray[np.float64]:
    return np.asarray(np.fft.fftfreq(n, 1 / n), np.float64)


def _waves_at(field: npt.NDArray[np.floating], heights: Heights, box: float) -> npt.NDArray[np.complex128]:
    """A field as waves along x at the heights of the faces, ``"component face wave"``.

    The shortest wave of an even grid is left out: between grid points nobody knows its phase.
    """
    n = field.shape[-1]
    waves = np.fft.fft2(np.asarray(field, np.float64)) / n**2
    if n % 2 == 0:
        waves[..., n // 2, :] = waves[..., :, n // 2] = 0
    up = np.exp(2j * math.pi / box * np.outer(heights, _numbers(n)))
    return np.asarray(np.einsum("fy,cyx->cfx", up, waves))
