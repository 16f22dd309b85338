"""Periodic flows in three dimensions as vector potentials in torch: a head for decoders, without divergence.

The box has the side 2 pi, and point i of n lies at ``2 pi i / n``; a field is ``"... 3 z y x"``, with the component
along x first. The curl of any potential has no divergence, so what a decoder ends in becomes a flow by `velocity`, or,
where it ends in something like a vorticity, by `induced`; both are differentiable, and neither has weights. As in
`penstock.models.stream`, the mean and modes at and above a third of n are left out.

Sources: Batchelor, An Introduction to Fluid Dynamics, 1967, section 2.4 (the potential of a given vorticity);
Mohan et al. 2020, https://arxiv.org/abs/2002.00021 (a curl as the last layer).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from penstock.models.layers import Tensor
from penstock.models.stream import shells

__all__ = ["divergence", "induced", "potential_of", "spectrum", "velocity"]

_AXES = (-3, -2, -1)


@dataclass(frozen=True)
class Waves:
    """Wave numbers of the half spectrum of an n x n x n field.

    Attributes:
        vector: along x, y and z, ``"3 z y x"``; 0 for modes that are left out.
        inverse: 1 / k^2, ``"z y x"``; 0 for modes that are left out.
        shell: the integer nearest to the length, int64, ``"z y x"``.
        weight: 2 for modes that stand for two of the whole spectrum, 1 for others; 0 for those that are left out.
    """

    vector: Tensor
    inverse: Tensor
    shell: Tensor
    weight: Tensor


@functools.lru_cache(maxsize=8)
def _waves(n: int, device: str, dtype: str) -> Waves:
    import torch

    kind = getattr(torch, dtype)
    along = torch.fft.fftfreq(n, 1 / n, dtype=kind, device=device)
    half = torch.arange(n // 2 + 1, dtype=kind, device=device)
    z, y, x = torch.meshgrid(along, along, half, indexing="ij")
    vector = torch.stack([x, y, z])
    square = vector.square().sum(0)
    keep = (vector.abs() < n / 3).all(0) & (square > 0)
    weight = torch.where(x == 0, 1.0, 2.0).to(kind) * keep
    return Waves(vector * keep, keep / square.clamp(min=1), square.sqrt().round().long(), weight)


def _waves_of(field: Tensor) -> Waves:
    return _waves(field.shape[-1], str(field.device), str(field.dtype).removeprefix("torch."))


def _forward(field: Tensor) -> Tensor:
    import torch

    return torch.fft.rfftn(field, dim=_AXES)


def _backward(spectral: Tensor) -> Tensor:
    import torch

    n = spectral.shape[-2]
    return torch.fft.irfftn(spectral, s=(n, n, n), dim=_AXES)


def _curl(spectral: Tensor, waves: Waves) -> Tensor:
    """``i k x a``, ``"... 3 z y x"``."""
    import torch

    along = waves.vector.to(spectral.dtype).expand_as(spectral)
    return 1j * torch.linalg.cross(along, spectral, dim=-4)


def velocity(potential: Tensor) -> Tensor:
    """The curl of a vector potential; taken of a velocity, it is the vorticity."""
    return _backward(_curl(_forward(potential), _waves_of(potential)))


def induced(vorticity: Tensor) -> Tensor:
    """The flow, free of divergence, of a vorticity (Biot and Savart); what is no curl in *vorticity* is lost."""
    waves = _waves_of(vorticity)
    return _backward(_curl(_forward(vorticity), waves) * waves.inverse)


def potential_of(flow: Tensor) -> Tensor:
    """The potential without divergence (Coulomb gauge) of a velocity; what has divergence in *flow* is lost.

    ``curl curl A = -laplace A`` where A has no divergence, so it is what a vorticity *flow* would induce.
    """
    return induced(flow)


def divergence(flow: Tensor) -> Tensor:
    """``"... 3 z y x -> ... z y x"``."""
    waves = _waves_of(flow)
    return _backward((1j * waves.vector * _forward(flow)).sum(-4))


def spectrum(flow: Tensor) -> Tensor:
    """The energy in each shell, 1, 2, ..., of velocities, ``"row 3 z y x -> row shell"``; corners are not in it."""
    import torch

    waves, n = _waves_of(flow), flow.shape[-1]
    energy = 0.5 * waves.weight * _forward(flow).abs().square().sum(-4) / n**6
    shell = waves.shell.flatten().clamp(max=shells(n) + 1)
    sums = torch.zeros(len(flow), shells(n) + 2, dtype=flow.dtype, device=flow.device)
    return sums.index_add(1, shell, energy.flatten(1))[:, 1:-1]
