"""What turbulence is judged by: spectra, correlations, increments, budgets, distances between fields.

Fields are velocities ``"sample 2 y x"`` on the periodic square of side 2 pi; averages are over samples and space.

Sources: Pope, Turbulent Flows, 2000, chapters 3 and 6 (correlations, integral scale); Frisch, Turbulence, 1995,
chapter 8 (increments, flatness); Naeem et al., ICML 2020, arXiv 2002.09797 (coverage); Chandler and Kerswell,
J. Fluid Mech. 722 (2013) 554 (symmetries of Kolmogorov flow).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from penstock.flows import operators
from penstock.flows.kolmogorov import budget
from penstock.flows.operators import Floats, cut, forward, vorticity

__all__ = [
    "Physics",
    "balance",
    "correlation",
    "coverage",
    "density",
    "distances",
    "divergence_ratio",
    "flatness",
    "images",
    "increments",
    "integral_scale",
    "mean_equation",
    "pair_residual",
    "wasserstein2",
]


@dataclass(frozen=True)
class Physics:
    """The flow that fields shall be of: nu, mu, the force's amplitude and wave number."""

    viscosity: float = 0.01
    drag: float = 0.1
    amplitude: float = 1.0
    wavenumber: int = 4


# --- one point, two points -------------------------------------------------------------------------------


def correlation(flow: Floats) -> Floats:
    """The longitudinal two-point correlation at r = 0, 1, ... n/2 grid points, ``"r"``, 1 at r = 0.

    The mean of ``u(x) u(x + r)`` along x and ``v(y) v(y + r)`` along y, by the Wiener-Khinchin theorem.
    """
    n = flow.shape[-1]
    u = abs(np.fft.rfft(flow[..., 0, :, :], axis=-1)) ** 2
    v = abs(np.fft.rfft(flow[..., 1, :, :], axis=-2)) ** 2
    power = u.reshape(-1, n // 2 + 1).mean(0) + np.moveaxis(v, -2, -1).reshape(-1, n // 2 + 1).mean(0)
    found = np.fft.irfft(power, n)[: n // 2 + 1]
    return cast("Floats", found / found[0])


def integral_scale(found: Floats) -> float:
    """The integral of a `correlation` up to its first zero, as a length."""
    spacing = np.pi / (len(found) - 1)
    below = np.flatnonzero(found <= 0)
    if not len(below):
        return float(np.trapezoid(found, dx=spacing))
    last = below[0] - 1
    share = found[last] / (found[last] - found[last + 1])  # of the cell in which it crosses
    return float(spacing * (np.trapezoid(found[: last + 1]) + share * found[last] / 2))


def increments(flow: Floats, points: int) -> Floats:
    """The longitudinal increments over *points* grid points, all of them in one row, float64."""
    u, v = np.asarray(flow[..., 0, :, :], np.float64), np.asarray(flow[..., 1, :, :], np.float64)
    return np.concatenate([(np.roll(u, -points, -1) - u).ravel(), (np.roll(v, -points, -2) - v).ravel()])


def flatness(values: Floats) -> float:
    """The fourth moment by the square of the second; 3 for a Gaussian."""
    return float((values**4).mean() / (values**2).mean() ** 2)


def density(values: Floats, edges: Floats) -> Floats:
    """The probability density of *values* in bins between *edges*; values outside count in the whole."""
    return cast("Floats", np.histogram(values, edges)[0] / (np.size(values) * np.diff(edges)))


def wasserstein2(left: Floats, right: Floats) -> float:
    """The 2-Wasserstein distance of two samples of numbers: the L2 distance of their quantile functions."""
    left, right = np.sort(np.ravel(left)), np.sort(np.ravel(right))
    steps = np.union1d(np.arange(len(left) + 1) / len(left), np.arange(len(right) + 1) / len(right))
    middles = (steps[1:] + steps[:-1]) / 2
    gaps = left[(middles * len(left)).astype(int)] - right[(middles * len(right)).astype(int)]
    return float(np.sqrt((gaps**2 * np.diff(steps)).sum()))


# --- equations -------------------------------------------------------------------------------------------


def divergence_ratio(flow: Floats) -> float:
    """The rms of the divergence by rms of the velocity gradient's entries, spectrally, in float64."""
    flow = np.asarray(flow, np.float64)
    return float(np.sqrt((operators.divergence(flow) ** 2).mean() / (operators.gradient(flow) ** 2).mean()))


def balance(flow: Floats, physics: Physics) -> tuple[float, float]:
    """The energy budget: mean and rms over samples of dE/dt, each by the mean dissipation.

    The mean is zero in a steady state, whatever the samples; the rms is that of the flow's own fluctuations.
    """
    found = budget(flow, physics.viscosity, physics.drag, physics.amplitude, physics.wavenumber)
    rates = found.rate / (found.viscous + found.drag).mean()
    return float(abs(rates.mean())), float(np.sqrt((rates**2).mean()))


def mean_equation(flow: Floats, physics: Physics) -> float:
    """The rms of the averaged u-equation's residual by the force's: 0 in a steady state, 1 or so without order.

    Averages over samples and x: ``0 = a sin(k_f y) - d<uv>/dy + nu d2U/dy2 - mu U``.
    """
    flow = np.asarray(flow, np.float64)
    n = flow.shape[-1]
    k = np.fft.rfftfreq(n, 1 / n)
    mean = np.fft.rfft(flow[..., 0, :, :].mean((0, 2)), norm="forward")
    stress = np.fft.rfft((flow[..., 0, :, :] * flow[..., 1, :, :]).mean((0, 2)), norm="forward")
    rest = -1j * k * stress - (physics.viscosity * k**2 + physics.drag) * mean
    rest[physics.wavenumber] += physics.amplitude / 2j
    return float(np.sqrt((abs(rest[1 : cut(n)]) ** 2).sum() / (physics.amplitude / 2) ** 2))


def pair_residual(flow: Floats, later: Floats, seconds: float, physics: Physics) -> float:
    """The rms of the vorticity equation's residual on pairs *seconds* apart, by that of the terms it balances.

    ``(w' - w) / s - (F(w) + F(w')) / 2`` with all terms of the equation in F; the trapezoidal rule leaves O(s^2).
    Parts beyond the 2/3 rule are left out. 1 means that the fields know nothing of the equation.
    """
    here, there = (np.asarray(each, np.float64) for each in (flow, later))
    change = (vorticity(there) - vorticity(here)) / seconds
    slope = (_tendency(here, physics) + _tendency(there, physics)) / 2
    rest = operators.dealiased(change - slope)
    return float(np.sqrt((rest**2).mean() / ((operators.dealiased(change) ** 2).mean() + (slope**2).mean())))


def _tendency(flow: Floats, physics: Physics) -> Floats:
    """dw/dt by the vorticity equation."""
    whole = vorticity(flow)
    advected = operators.dealiased((flow * operators.gradient(whole)).sum(-3))
    y = np.arange(flow.shape[-1]) * 2 * np.pi / flow.shape[-1]
    force = -physics.amplitude * physics.wavenumber * np.cos(physics.wavenumber * y)[:, None]
    return cast("Floats", physics.viscosity * operators.laplacian(whole) - physics.drag * whole + force - advected)


# --- distances -------------------------------------------------------------------------------------------


def images(flow: Floats, wavenumber: int) -> Floats:
    """The fields that the flow's symmetries make of each, but for shifts along x, ``"image sample 2 y x"``.

    They are the rotation by pi and the powers of the shift-and-reflection (x -> -x, y -> y + pi / k_f): 4 k_f images.

    Raises:
        ValueError: half a wave of the force is no whole number of grid points.
    """
    n = flow.shape[-1]
    if n % (2 * wavenumber):
        raise ValueError(
            f"{n} points hold no whole half waves of k = {wavenumber}; a multiple of {2 * wavenumber} was needed"
        )
    found = [flow]
    for _ in range(2 * wavenumber - 1):
        moved = _mirrored(np.roll(found[-1], -n // (2 * wavenumber), -2), -1)
        found.append(np.stack([-moved[..., 0, :, :], moved[..., 1, :, :]], -3))
    return np.array([*found, *(-_mirrored(_mirrored(each, -1), -2) for each in found)])


def _mirrored(field: Floats, axis: int) -> Floats:
    """Mirror x -> -x on the periodic grid."""
    return np.roll(np.flip(field, axis), 1, axis)


def distances(left: Floats, right: Floats, wavenumber: int) -> Floats:
    """How far each field of *left* is from each of *right*, ``"left right"``, float32.

    rms of the difference of the velocities, the least over all symmetries of the flow: shifts along x by grid points,
    and `images`. A field and a shifted copy of it are at distance 0. Modes that the 2/3 rule drops are left out.
    """
    from scipy.fft import irfft

    mine, theirs = _columns(left), _columns(images(right, wavenumber).reshape(-1, *right.shape[1:]))
    best = np.full((len(left), len(right)), -np.inf, np.float32)
    for rows in _slices(len(left), 32):
        for columns in _slices(theirs.shape[1], len(right)):
            products = mine[:, rows] @ theirs[:, columns].conj().swapaxes(-1, -2)
            shifts = irfft(products, left.shape[-1], axis=0, norm="forward", overwrite_x=True, workers=1)
            best[rows] = np.maximum(best[rows], shifts.max(0))
    squares = _squares(mine)[:, None] + _squares(theirs[:, : len(right)])
    return np.sqrt(np.maximum(squares - 2 * best, 0))


def _columns(flow: Floats) -> Floats:
    """Coefficients along both axes that the 2/3 rule keeps, complex64, ``"kx sample (component ky)"``."""
    n = flow.shape[-1]
    kept = np.abs(np.fft.fftfreq(n, 1 / n)) < cut(n)
    hat = forward(np.asarray(flow, np.float32))[..., kept, : cut(n)]
    return np.ascontiguousarray(np.moveaxis(hat, -1, 0).reshape(cut(n), len(flow), -1))


def _squares(columns: Floats) -> Floats:
    """Mean squares of the fields; all columns but the first stand for two of the whole spectrum."""
    power = (abs(columns) ** 2).sum(-1)
    return cast("Floats", 2 * power.sum(0) - power[0])


def _slices(count: int, width: int) -> list[slice]:
    return [slice(at, at + width) for at in range(0, count, width)]


def coverage(truth: Floats, found: Floats, neighbours: int = 5) -> float:
    """The share of true fields that have a generated one within their k-th true neighbour's distance.

    Args:
        truth: distances among true fields, ``"truth truth"``.
        found: distances from true to generated ones, ``"truth generated"``.
        neighbours: k.
    """
    radius = np.sort(truth, 1)[:, min(neighbours, len(truth) - 1)]  # the nearest one is the field itself
    return float((found.min(1) <= radius).mean())
