"""Plane periodic flows as stream functions in torch: velocity, vorticity, spectra, residuals and symmetries.

The box has the side 2 pi, and point i of n lies at ``2 pi i / n``. A stream function psi gives ``u = d psi / dy``,
``v = -d psi / dx`` and the vorticity ``w = dv/dx - du/dy = -laplace psi``, so a field made of one has no divergence.
Modes at and above a third of n, which the 2/3 rule (Orszag 1971) takes from a solver too, are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Move",
    "Waves",
    "aligned",
    "banded",
    "bounded",
    "filtered",
    "images",
    "inverted",
    "moved",
    "residual",
    "shells",
    "spectrum",
    "stream_of",
    "template_of",
    "velocity",
    "vorticity",
]

Floats: TypeAlias = npt.NDArray[np.float32]
Tensor: TypeAlias = Any

_PROCRUSTES = 6
"""So often a template is made anew of the fields that were aligned to it."""


@dataclass(frozen=True)
class Waves:
    """Wave numbers of the half spectrum of an n x n field, each float, ``"y x"``.

    Attributes:
        x: along x, from 0 to n/2.
        y: along y.
        square: ``x^2 + y^2``.
        inverse: of *square*; 0 for the mean and for modes that are left out.
        shell: the integer nearest to the length; int64.
        weight: 2 for modes that stand for two of the whole spectrum, 1 for others; 0 for those that are left out.
    """

    x: Tensor
    y: Tensor
    square: Tensor
    inverse: Tensor
    shell: Tensor
    weight: Tensor


def shells(n: int) -> int:
    """How many shells of wave numbers an n x n field has: 1, 2, ... up to the last mode that is kept."""
    return (n - 1) // 3


@functools.lru_cache(maxsize=32)
def _waves(n: int, device: str, dtype: str) -> Waves:
    import torch

    kind = getattr(torch, dtype)
    along = torch.fft.fftfreq(n, 1 / n, dtype=kind, device=device)
    y, x = torch.meshgrid(along, torch.arange(n // 2 + 1, dtype=kind, device=device), indexing="ij")
    square = x * x + y * y
    keep = (x.abs() < n / 3) & (y.abs() < n / 3) & (square > 0)
    inverse = torch.where(keep, 1 / square.clamp(min=1), 0)
    weight = torch.where(x == 0, 1.0, 2.0).to(kind) * keep
    return Waves(x, y, square, inverse, square.sqrt().round().long(), weight)


def _waves_of(field: Tensor) -> Waves:
    return _waves(field.shape[-1], str(field.device), str(field.dtype).removeprefix("torch."))


def _transformed(field: Tensor, factor: Callable[[Waves], Tensor]) -> Tensor:
    """*field*, ``"... y x"``, with each mode multiplied by *factor*."""
    import torch

    spectral = torch.fft.rfft2(field) * factor(_waves_of(field))
    return torch.fft.irfft2(spectral, s=tuple(field.shape[-2:]))


def bounded(field: Tensor) -> Tensor:
    """*field*, ``"... y x"``, without its mean and the modes that are left out."""
    return _transformed(field, lambda waves: waves.weight.clamp(max=1))


def inverted(vorticity: Tensor) -> Tensor:
    """The stream function, ``"... y x"``, of a *vorticity*: Poisson's equation."""
    return _transformed(vorticity, lambda waves: waves.inverse)


def vorticity(psi: Tensor) -> Tensor:
    """``"... y x"``."""
    return _transformed(psi, lambda waves: waves.square * waves.weight.clamp(max=1))


def banded(psi: Tensor, low: int, high: int) -> Tensor:
    """The vorticity, ``"... y x"``, of the shells from *low* to *high*, both included."""
    return _transformed(
        psi, lambda waves: waves.square * (waves.weight > 0) * (low <= waves.shell) * (waves.shell <= high)
    )


def velocity(psi: Tensor) -> Tensor:
    """U and v, ``"... 2 y x"``, the curl of *psi*."""
    import torch

    u = _transformed(psi, lambda waves: 1j * waves.y * waves.weight.clamp(max=1))
    v = _transformed(psi, lambda waves: -1j * waves.x * waves.weight.clamp(max=1))
    return torch.stack([u, v], -3)


def stream_of(velocity: Tensor) -> Tensor:
    """The stream function, ``"... y x"``, of u and v, ``"... 2 y x"``; what has divergence is lost."""
    import torch

    waves = _waves_of(velocity)
    u, v = torch.fft.rfft2(velocity).unbind(-3)
    spectral = (1j * waves.x * v - 1j * waves.y * u) * waves.inverse
    return torch.fft.irfft2(spectral, s=tuple(velocity.shape[-2:]))


def spectrum(psi: Tensor) -> Tensor:
    """The energy in each shell, ``"row shell"``, of stream functions, ``"row y x"``; their sum is the mean of u.u/2."""
    import torch

    waves, n = _waves_of(psi), psi.shape[-1]
    energy = 0.5 * waves.square * waves.weight * torch.fft.rfft2(psi).abs().square() / n**4
    shell = waves.shell.flatten().clamp(max=shells(n) + 1)
    sums = torch.zeros(len(psi), shells(n) + 2, dtype=psi.dtype, device=psi.device)
    return sums.index_add(1, shell, energy.flatten(1))[:, 1:-1]


def filtered(psi: Tensor, gains: Tensor) -> Tensor:
    """*psi*, ``"row y x"``, with each shell multiplied by its own of *gains*, ``"row shell"``; corners by the last."""
    import torch

    waves, n = _waves_of(psi), psi.shape[-1]
    factor = gains[:, (waves.shell - 1).clamp(0, shells(n) - 1)]
    return torch.fft.irfft2(torch.fft.rfft2(psi) * factor, s=(n, n))


def residual(psi: Tensor, later: Tensor, seconds: float, *, viscosity: Tensor, drag: float, wavenumber: int) -> Tensor:
    """By how much two stream functions, ``"row y x"``, *seconds* apart miss the vorticity equation at mid-time.

    ``dw/dt + u.grad w - nu laplace w + mu w + k cos(k y)``, of second order in *seconds*; the forcing
    ``f_x = sin(k y)`` is absent where *wavenumber*, k, is 0.

    Args:
        psi: the earlier one.
        later: the later one.
        seconds: between them.
        viscosity: nu, ``"row"``.
        drag: mu.
        wavenumber: of the forcing.
    """
    middle = (psi + later) / 2
    change = (vorticity(later) - vorticity(psi)) / seconds
    return change - tendency(middle, viscosity, drag, wavenumber)


def tendency(psi: Tensor, viscosity: Tensor, drag: float, wavenumber: int) -> Tensor:
    """``dw/dt``, ``"row y x"``, as the vorticity equation has it, from stream functions, ``"row y x"``."""
    import torch

    n = psi.shape[-1]
    waves, w, (u, v) = _waves_of(psi), vorticity(psi), velocity(psi).unbind(-3)
    slope_x = _transformed(w, lambda waves: 1j * waves.x * waves.weight.clamp(max=1))
    slope_y = _transformed(w, lambda waves: 1j * waves.y * waves.weight.clamp(max=1))
    loss = torch.fft.irfft2((viscosity[:, None, None] * waves.square + drag) * torch.fft.rfft2(w), s=(n, n))
    y = torch.arange(n, dtype=psi.dtype, device=psi.device) * (2 * torch.pi / n)
    forcing = -wavenumber * torch.cos(wavenumber * y)[:, None] * (wavenumber > 0)
    return forcing - loss - bounded(u * slope_x + v * slope_y)


# --- symmetries ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A symmetry of Kolmogorov flow: what it makes of a solution is a solution.

    Attributes:
        shift: along x, in grid points.
        steps: so often up by half a period of the forcing, mirrored in x: ``(x, y) -> (-x, y + pi/k)``, ``psi ->
            -psi``.
        turned: rotated by half a turn first: ``(x, y) -> (-x, -y)``.
    """

    shift: int = 0
    steps: int = 0
    turned: bool = False

    @classmethod
    def drawn(cls, random: np.random.Generator, n: int, wavenumber: int) -> Move:
        """One of all, each as likely."""
        return cls(int(random.integers(n)), int(random.integers(2 * wavenumber)), bool(random.integers(2)))


def moved(psi: Tensor, move: Move, wavenumber: int) -> Tensor:
    """*psi*, ``"... y x"``, after *move*."""
    n = psi.shape[-1]
    if move.turned:
        psi = psi.flip(-1, -2).roll((1, 1), (-1, -2))
    if move.steps % 2:
        psi = -psi.flip(-1).roll(1, -1)
    return psi.roll((move.shift, move.steps * (n // (2 * wavenumber)) if move.steps else 0), (-1, -2))


def images(psi: Tensor, wavenumber: int) -> Tensor:
    """All that `Move` makes of *psi*, ``"row y x"``, but for shifts along x, ``"row image y x"``."""
    import torch

    moves = [Move(0, steps, turned) for turned in (False, True) for steps in range(2 * wavenumber)]
    return torch.stack([moved(psi, move, wavenumber) for move in moves], 1)


def aligned(psi: Tensor, template: Tensor, wavenumber: int) -> list[Move]:
    """For each of *psi*, ``"row y x"``, the move after which its velocity is most like *template*'s, ``"y x"``."""
    import torch

    n = psi.shape[-1]
    wanted = torch.fft.rfft(vorticity(template))
    likeness = torch.fft.irfft((torch.fft.rfft(images(psi, wavenumber)).conj() * wanted).sum(-2), n)
    best = likeness.flatten(1).argmax(1).tolist()
    return [Move(at % n, at // n % (2 * wavenumber), at // n >= 2 * wavenumber) for at in best]


def template_of(psi: Tensor, wavenumber: int) -> Tensor:
    """The mean of *psi*, ``"row y x"``, each aligned to it: generalised Procrustes analysis (Gower 1975)."""
    import torch

    template = psi[0]
    for _ in range(_PROCRUSTES):
        found = zip(psi, aligned(psi, template, wavenumber), strict=True)
        template = torch.stack([moved(one, move, wavenumber) for one, move in found]).mean(0)
    return template
