"""Spectral calculus on the periodic square of side 2 pi.

A field is an array ``"... y x"`` with grid point ``i`` at ``2 pi i / n``; a velocity is ``"... 2 y x"``, u before v.
Derivatives are exact for every Fourier mode below the Nyquist one, whose derivative on the grid is zero.
Everything keeps the precision of its argument, and works on any number of leading axes.

Source: Canuto, Hussaini, Quarteroni, Zang, Spectral Methods, Springer 2006, chapters 2 and 3.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

__all__ = [
    "Complexes",
    "Floats",
    "backward",
    "cut",
    "dealiased",
    "divergence",
    "enstrophy",
    "forward",
    "gradient",
    "kinetic_energy",
    "laplacian",
    "projected",
    "spectrum",
    "stream_function",
    "velocity",
    "vorticity",
    "wavenumbers",
]

Floats: TypeAlias = npt.NDArray[Any]
"""float32 or float64."""
Complexes: TypeAlias = npt.NDArray[Any]
"""complex64 or complex128."""


@functools.cache
def wavenumbers(n: int) -> tuple[Floats, Floats]:
    """``kx`` (``"1 kx"``, half the axis) and ``ky`` (``"ky 1"``) of `forward`'s coefficients; float64."""
    if n < 4 or n % 2:
        raise ValueError(f"a grid of {n} points a side; an even number of 4 or more was needed")
    return np.arange(n // 2 + 1.0)[None], (np.fft.fftfreq(n, 1 / n))[:, None]


def cut(n: int) -> int:
    """The first wave number that the 2/3 rule drops: products of two fields are then free of aliasing."""
    return -(-n // 3)


def forward(field: npt.ArrayLike) -> Complexes:
    """Fourier coefficients, complex, ``"... y x -> ... ky kx"``; their sizes do not depend on the grid."""
    from scipy.fft import rfft2

    return cast("Complexes", rfft2(field, norm="forward", workers=1))


def backward(coefficients: Complexes) -> Floats:
    """The inverse of `forward`."""
    from scipy.fft import irfft2

    n = coefficients.shape[-2]
    return cast("Floats", irfft2(coefficients, (n, n), norm="forward", workers=1))


@functools.cache
def _rates(n: int) -> tuple[Complexes, Complexes]:
    """``i kx`` and ``i ky``, zero at the Nyquist wave number, whose derivative vanishes on the grid."""
    kx, ky = wavenumbers(n)
    return 1j * np.where(kx < n / 2, kx, 0), 1j * np.where(abs(ky) < n / 2, ky, 0)


def _like(values: Any, coefficients: Complexes) -> Any:
    """*values* in the precision of *coefficients*."""
    single = coefficients.dtype == np.complex64
    return values.astype(np.result_type(values, np.float32) if not single else _SINGLE[values.dtype.kind])


_SINGLE = {"c": np.complex64, "f": np.float32}


@functools.cache
def _inverse_squares(n: int) -> Floats:
    """``1 / k^2``, with 0 for the mean."""
    dx, dy = _rates(n)
    squares = -(dx * dx + dy * dy).real
    return np.asarray(np.divide(1.0, squares, out=np.zeros_like(squares), where=squares > 0))


def gradient(field: Floats) -> Floats:
    """d/dx and d/dy, ``"... y x -> ... 2 y x"``."""
    hat = forward(field)
    dx, dy = _rates(field.shape[-1])
    return backward(np.stack([_like(dx, hat) * hat, _like(dy, hat) * hat], -3))


def laplacian(field: Floats) -> Floats:
    """The sum of the second derivatives, ``"... y x"``."""
    hat = forward(field)
    kx, ky = wavenumbers(field.shape[-1])
    return backward(-_like(kx * kx + ky * ky, hat) * hat)


def velocity(stream: Floats) -> Floats:
    """The curl of a stream function, u = d psi/dy, v = -d psi/dx: free of divergence by construction."""
    slopes = gradient(stream)
    return np.stack([slopes[..., 1, :, :], -slopes[..., 0, :, :]], -3)


def stream_function(flow: Floats) -> Floats:
    """The stream function of mean zero whose curl is the divergence-free part of *flow* without its mean."""
    hat = _vorticity_hat(flow)
    return backward(_like(_inverse_squares(flow.shape[-1]), hat) * hat)


def projected(flow: Floats) -> Floats:
    """The divergence-free part of *flow* (Leray projection); the mean is kept."""
    return np.asarray(velocity(stream_function(flow)) + flow.mean((-2, -1), keepdims=True))


def vorticity(flow: Floats) -> Floats:
    """dv/dx - du/dy, ``"... 2 y x -> ... y x"``."""
    return backward(_vorticity_hat(flow))


def _vorticity_hat(flow: Floats) -> Complexes:
    hat = forward(flow)
    dx, dy = (_like(rate, hat) for rate in _rates(flow.shape[-1]))
    return cast("Complexes", dx * hat[..., 1, :, :] - dy * hat[..., 0, :, :])


def divergence(flow: Floats) -> Floats:
    """du/dx + dv/dy, ``"... 2 y x -> ... y x"``."""
    hat = forward(flow)
    dx, dy = (_like(rate, hat) for rate in _rates(flow.shape[-1]))
    return backward(dx * hat[..., 0, :, :] + dy * hat[..., 1, :, :])


def dealiased(field: Floats) -> Floats:
    """*field* without the modes that the 2/3 rule drops."""
    n = field.shape[-1]
    kx, ky = wavenumbers(n)
    return backward(np.where((kx < cut(n)) & (abs(ky) < cut(n)), forward(field), 0))


def kinetic_energy(flow: Floats) -> Floats:
    """Half the mean square of the velocity, ``"... 2 y x -> ..."``."""
    return cast("Floats", (flow**2).sum(-3).mean((-2, -1)) / 2)


def enstrophy(flow: Floats) -> Floats:
    """Half the mean square of the vorticity, ``"... 2 y x -> ..."``."""
    return cast("Floats", (vorticity(flow) ** 2).mean((-2, -1)) / 2)


@functools.cache
def _shells(n: int) -> npt.NDArray[np.int64]:
    """The shell of each coefficient: its wave number's length, rounded."""
    kx, ky = wavenumbers(n)
    return np.rint(np.hypot(kx, ky)).astype(np.int64)


def spectrum(flow: Floats) -> Floats:
    """E(k), float64, ``"... 2 y x -> ... shell"``: shell k holds the energy of wave numbers from k - 1/2 to k + 1/2.

    The shells go from 0 (the mean) to the corner of the grid; their sum is `kinetic_energy` (Parseval).
    """
    n = flow.shape[-1]
    power = (abs(forward(flow)) ** 2).sum(-3, dtype=np.float64) / 2
    power[..., 1 : n // 2] *= 2  # the other half of the axis, which `forward` leaves out
    rows = power.reshape(-1, _shells(n).size)
    sums = [np.bincount(_shells(n).ravel(), row) for row in rows]
    return np.array(sums).reshape(*power.shape[:-2], _shells(n).max() + 1)
