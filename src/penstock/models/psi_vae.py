"""A variational autoencoder of plane flows whose decoder emits a stream function.

The encoder sees u, v and vorticity; the decoder ends in Poisson's equation, from something like a vorticity to a stream
function, and the field is its curl: there is no divergence, whatever the weights (Mohan et al. 2020,
https://arxiv.org/abs/2002.00021). Beside reconstruction and Kullback-Leibler divergence (Kingma and Welling 2013,
https://arxiv.org/abs/1312.6114) the loss holds the logarithms of the energy in each shell of waves and of the
enstrophy of each band in each part of the box, and the residual of the vorticity equation on two fields that are
decoded from neighbouring times.

What lies far out in the spectrum cannot be reconstructed from a few numbers, and a standard normal prior is not where
the encoder puts data. So after training a mixture is fitted to the latent points, and a gain for each shell, by which
decoded samples get the energy of the training data (see `penstock.models.generator.calibrated`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from penstock.models import stream
from penstock.models.layers import Tensor, Weights, conv, dense, drawn, joined, parted

__all__ = [
    "Shape",
    "coarse",
    "decode",
    "divergence",
    "encode",
    "initial",
    "principal",
    "reconstruction",
    "refined",
    "reparametrised",
    "shapes_of",
    "spectral",
]

_BASE = 4
"""Points along a side of the coarsest maps."""
_COARSE = 16
"""Points along a side of the map that has a straight way to the latent space."""
_SQUEEZED = 24
"""Channels of the coarsest map as it goes into the latent space and comes out."""
_SQUARES = 8
"""Along a side: where local enstrophies are told apart."""


@dataclass(frozen=True)
class Shape:
    """The sizes of the network.

    Attributes:
        size: points along a side of a field: 64, 128 or 256; others are powers of 2 from 32 on.
        width: channels where maps are finest, at half the field's points; each level down has twice as many, at most
            four times.
        latent: dimensions.
    """

    size: int = 64
    width: int = 16
    latent: int = 96

    def __post_init__(self) -> None:
        if self.size < 32 or self.size & (self.size - 1) or self.width % 8 or min(self.width, self.latent) < 1:
            raise ValueError(
                f"size {self.size}, width {self.width}, latent {self.latent}: size must be a power of 2, 32 or more, "
                "and width a multiple of 8"
            )

    @property
    def widths(self) -> list[int]:
        """Channels of each level, the coarsest first."""
        levels = (self.size // 2 // _BASE).bit_length()
        return [self.width * min(1 << level, 4) for level in reversed(range(levels))]


def shapes_of(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The names and shapes of all weights that are learned."""
    found: dict[str, tuple[int, ...]] = {}

    def add(name: str, *kernel: int) -> None:
        found[f"{name}.kernel"], found[f"{name}.offset"] = kernel, (kernel[0],)

    widths, flat = shape.widths, _SQUEEZED * _BASE * _BASE
    add("encode.in", widths[-1], 13, 3, 3)
    add("decode.in", widths[0], _SQUEEZED, 1, 1)
    for level, width in enumerate(widths):
        finer = widths[min(level + 1, len(widths) - 1)]
        add(f"encode.{level}.keep", width, width, 3, 3)
        add(f"decode.{level}.keep", width, width, 3, 3)
        if level + 1 < len(widths):
            add(f"encode.{level}.down", width, finer, 3, 3)
            add(f"decode.{level}.up", finer, width, 3, 3)
    add("encode.out", _SQUEEZED, widths[0], 1, 1)
    add("encode.latent", 2 * shape.latent, flat + 1)
    add("decode.latent", flat, shape.latent + 1)
    add("decode.out", 4, widths[-1], 3, 3)
    add("encode.straight", shape.latent, _COARSE * _COARSE)
    add("decode.straight", _COARSE * _COARSE, shape.latent)
    return found


def initial(shape: Shape, seed: int) -> Weights:
    """New weights; both nets add little at first to the straight way between coarse map and latent space."""
    weights = drawn(shapes_of(shape), seed)
    for name in ("encode.latent", "decode.out"):
        weights[f"{name}.kernel"] *= 0.1
    weights["encode.latent.offset"][shape.latent :] = -4.0
    return weights


def principal(weights: Weights, shape: Shape, vorticity: Tensor) -> Weights:
    """*weights* with principal components as the straight way: the best linear autoencoder of *vorticity*, ``"row y
    x"``.

    A linear variational autoencoder would learn just these (Lucas et al. 2019, https://arxiv.org/abs/1911.02469).
    """
    import torch

    long = coarse(vorticity).flatten(1).double()
    mean = long.mean(0)
    _, sizes, axes = torch.linalg.svd(long - mean, full_matrices=False)
    count = min(shape.latent, len(sizes))
    scales = (sizes[:count] / len(long) ** 0.5).clamp(min=1e-3 * float(sizes[0]) / len(long) ** 0.5)
    taken = {"encode.straight.kernel": torch.zeros(shape.latent, long.shape[1])}
    taken["decode.straight.kernel"] = torch.zeros(long.shape[1], shape.latent)
    taken["encode.straight.kernel"][:count] = (axes[:count] / scales[:, None]).float()
    taken["decode.straight.kernel"][:, :count] = (axes[:count] * scales[:, None]).T.float()
    taken["encode.straight.offset"] = -(taken["encode.straight.kernel"].double() @ mean).float()
    taken["decode.straight.offset"] = mean.float()
    return weights | taken


# --- the network -----------------------------------------------------------------------------------------


def encode(weights: Weights, shape: Shape, flow: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance of the latent point, both ``"row latent"``.

    *flow* is u, v and vorticity, each of about unit size, ``"row 3 y x"``; *condition* ``"row"``.
    """
    import torch

    plane = condition[:, None, None, None].expand(-1, 1, shape.size // 2, shape.size // 2)
    x = torch.cat([parted(flow), plane], 1).contiguous(memory_format=torch.channels_last)
    x = _layer(weights, "encode.in", x)
    for level in reversed(range(len(shape.widths))):
        x = x + _layer(weights, f"encode.{level}.keep", x)
        if level:
            x = _layer(weights, f"encode.{level - 1}.down", x, 2)
    x = _layer(weights, "encode.out", x).flatten(1)
    found = dense(torch.cat([x, condition[:, None]], 1), weights, "encode.latent")
    mean, log_variance = found.chunk(2, 1)
    straight = dense(coarse(flow[:, 2]).flatten(1), weights, "encode.straight")
    return mean + straight, log_variance.clamp(-12, 4)


def decode(weights: Weights, shape: Shape, latent: Tensor, condition: Tensor) -> Tensor:
    """Something like a vorticity of about unit size, ``"row y x"``, of latent points, ``"row latent"``."""
    import torch

    x = dense(torch.cat([latent, condition[:, None]], 1), weights, "decode.latent")
    x = x.unflatten(1, (_SQUEEZED, _BASE, _BASE)).contiguous(memory_format=torch.channels_last)
    x = _layer(weights, "decode.in", x)
    for level in range(len(shape.widths)):
        x = x + _layer(weights, f"decode.{level}.keep", x)
        if level + 1 < len(shape.widths):
            x = _layer(weights, f"decode.{level}.up", x)
            x = torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest")
    fine = joined(conv(x, weights["decode.out.kernel"], weights["decode.out.offset"]))[:, 0]
    straight = dense(latent, weights, "decode.straight").unflatten(1, (_COARSE, _COARSE))
    return fine + refined(straight, shape.size)


def _layer(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """A convolution, normalised over groups of channels, and an activation."""
    import torch

    x = conv(x, weights[f"{name}.kernel"], weights[f"{name}.offset"], stride)
    return torch.nn.functional.silu(torch.nn.functional.group_norm(x, 8))


def coarse(field: Tensor) -> Tensor:
    """The long waves of *field*, ``"row y x"``, on the coarse grid."""
    import torch

    half, n = _COARSE // 2, field.shape[-1]
    spectral = torch.fft.rfft2(field)[..., :half]
    kept = torch.cat([spectral[:, :half], torch.zeros_like(spectral[:, :1]), spectral[:, 1 - half :]], 1)
    kept = torch.cat([kept, torch.zeros_like(kept[..., :1])], -1)
    return torch.fft.irfft2(kept, s=(_COARSE, _COARSE)) * (_COARSE / n) ** 2


def refined(small: Tensor, n: int) -> Tensor:
    """The inverse of `coarse` on an n x n grid."""
    import torch

    half = _COARSE // 2
    spectral = torch.fft.rfft2(small)
    full = torch.zeros(len(small), n, n // 2 + 1, dtype=spectral.dtype, device=small.device)
    full[:, :half, :half] = spectral[:, :half, :half]
    full[:, 1 - half :, :half] = spectral[:, 1 - half :, :half]
    return torch.fft.irfft2(full, s=(n, n)) * (n / _COARSE) ** 2


# --- the loss --------------------------------------------------------------------------------------------


def reconstruction(psi: Tensor, wanted: Tensor, scales: Mapping[str, float]) -> Tensor:
    """The mean squared errors of velocity and of vorticity, each over its own mean square in the data."""
    apart = psi - wanted
    speed = stream.velocity(apart).square().sum(-3).mean() / scales["velocity"] ** 2
    return speed + stream.vorticity(apart).square().mean() / scales["vorticity"] ** 2


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """The Kullback-Leibler divergence of the latent points from the standard normal distribution, in nats a row."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def spectral(psi: Tensor, wanted: Tensor) -> Tensor:
    """The mean square of the logarithm of the ratio of energies in shells, plus that of local enstrophies in bands.

    The energies of shells alone would be easy to give, by one streak of short waves somewhere, whatever the flow; those
    of bands alone by waves of one length.
    """
    shells = _log_ratio(stream.spectrum(psi), stream.spectrum(wanted), 1e-3, 0)
    return shells.square().mean() + _log_ratio(local(psi), local(wanted), 2e-2, (0, 2, 3)).square().mean()


def _log_ratio(found: Tensor, wanted: Tensor, share: float, over: int | tuple[int, ...]) -> Tensor:
    """The logarithm of the ratio; what is far below a *share* of the mean of *wanted* counts as equal."""
    floor = share * wanted.mean(over, keepdim=True)
    return ((found + floor) / (wanted + floor)).log()


def local(psi: Tensor) -> Tensor:
    """The mean squared vorticity of the waves in each band, in each of 8 x 8 squares: ``"row band y x"``."""
    import torch

    w = torch.stack([stream.banded(psi, low, high) for low, high in bands(psi.shape[-1])], 1)
    return torch.nn.functional.avg_pool2d(w.square(), psi.shape[-1] // _SQUARES)


def bands(n: int) -> list[tuple[int, int]]:
    """First and last shell of each band of an n x n field, in steps of about 1.6: 4 to 5, 6 to 9, 10 to 15, ..."""
    last, edges = stream.shells(n), [4]
    while edges[-1] <= last:
        edges.append(round(edges[-1] * 1.6))
    return [(low, min(high - 1, last)) for low, high in pairwise(edges)]


def reparametrised(mean: Tensor, log_variance: Tensor, normal: Any) -> Tensor:
    """Latent points, ``"row latent"``, by *normal* numbers, ``"row latent"``."""
    return mean + (log_variance / 2).exp() * normal
