"""The divergence that a finite-volume solver sees, and its removal, on the periodic square of side 2 pi.

A solver with values in cells interpolates them to the faces, so the divergence of its fluxes is the central difference

    (D u)(i, j) = (u(i+1, j) - u(i-1, j)) / 2h + (v(i, j+1) - v(i, j-1)) / 2h,

and a field that is free of divergence spectrally is not so here: its divergence is of the order of ``(k h)^2``.
Source: Ferziger, Peric, Street, Computational Methods for Fluid Dynamics, Springer 2020, chapters 4 and 8.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["flux_divergence", "flux_projected"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]


def flux_divergence(flow: Floats, side: float = 2 * np.pi) -> Floats:
    """The net flux out of each cell by its volume, linear interpolation to the faces, ``"... 2 y x -> ... y x"``."""
    u, v = flow[..., 0, :, :], flow[..., 1, :, :]
    east, north = (u + np.roll(u, -1, -1)) / 2, (v + np.roll(v, -1, -2)) / 2
    dx, dy = side / u.shape[-1], side / u.shape[-2]
    return np.asarray((east - np.roll(east, 1, -1)) / dx + (north - np.roll(north, 1, -2)) / dy)


def flux_projected(flow: Floats) -> Floats:
    """The nearest field whose fluxes are balanced in each cell, ``"... 2 y x"``, float64; one discrete Poisson solve.

    The symbol of the central difference is ``i sin(k h) / h``; what lies along it is taken away. What has no such
    symbol (the mean, and what alternates from cell to cell) has no flux divergence and is kept.
    """
    values = np.asarray(flow, np.float64)
    hat = np.fft.rfft2(values)
    ny, nx = values.shape[-2:]
    x = (np.sin(2 * np.pi * np.fft.rfftfreq(nx)) * nx)[None, :]
    y = (np.sin(2 * np.pi * np.fft.fftfreq(ny)) * ny)[:, None]
    x, y = (np.where(abs(rate) < 1e-9 * size, 0.0, rate) for rate, size in ((x, nx), (y, ny)))
    squares = x * x + y * y
    along = (x * hat[..., 0, :, :] + y * hat[..., 1, :, :]) / np.where(squares > 0, squares, 1.0)
    return np.fft.irfft2(hat - np.stack([x * along, y * along], -3), (ny, nx))
