"""StyleGAN2 (Karras et al. 2020, https://arxiv.org/abs/1912.04958) over plane periodic flows.

The generator emits a stream function: what its maps add up to is taken for a vorticity, of which Poisson's equation
makes one, so that the field has no divergence, whatever the weights. The discriminator sees u, v and vorticity. Of the
paper there are: a mapping network, modulated and demodulated convolutions (circular here), noise after each, outputs of
all levels that are added up, a residual discriminator with the deviation over the batch, equalised learning rates, R1
and path length regularisation now and then, and weights averaged over time. Left out are mixed styles and the
truncation of what is drawn. The finest maps have half the field's points along a side; four channels of the last become
2 x 2 points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.models.layers import Tensor, Weights, conv, joined, parted, wrapped

__all__ = [
    "Shape",
    "discriminate",
    "doubled",
    "generator_shapes",
    "gradient_penalty",
    "initial",
    "judged",
    "mapped",
    "modulated",
    "noise_sizes",
    "path_lengths",
    "synthesise",
    "with_deviation",
]

_BASE = 4
_GROUP = 4
"""So many rows of a batch are compared with each other by the discriminator."""
_MAPPING_RATE = 0.01
"""The mapping network learns slower by this factor."""


@dataclass(frozen=True)
class Shape:
    """The sizes of both networks.

    Attributes:
        size: points along a side of a field: 64, 128 or 256; others are powers of 2 from 32 on.
        width: channels where maps are finest; each level down has twice as many, at most four times.
        latent: dimensions of what is drawn, and of a style.
        layers: of the mapping network.
    """

    size: int = 64
    width: int = 16
    latent: int = 64
    layers: int = 4

    def __post_init__(self) -> None:
        if self.size < 32 or self.size & (self.size - 1) or min(self.width, self.latent, self.layers) < 1:
            raise ValueError(
                f"size {self.size}, width {self.width}, latent {self.latent}, layers {self.layers}: size must be a "
                "power of 2, 32 or more, and the others 1 or more"
            )

    @property
    def widths(self) -> list[int]:
        """Channels of each level, the coarsest first."""
        levels = (self.size // 2 // _BASE).bit_length()
        return [self.width * min(1 << level, 4) for level in reversed(range(levels))]


def noise_sizes(shape: Shape) -> list[int]:
    """Points along a side of each map of noise that a field needs."""
    return [_BASE << level for level in range(len(shape.widths)) for _ in range(1 if level == 0 else 2)]


def initial(shape: Shape, seed: int) -> tuple[Weights, Weights]:
    """New weights of the generator and of the discriminator."""
    import torch

    random = torch.Generator().manual_seed(seed)

    def draw(shapes: dict[str, tuple[int, ...]]) -> Weights:
        return {name: _first(name, kernel, random) for name, kernel in shapes.items()}

    return draw(generator_shapes(shape)), draw(_discriminator_shapes(shape))


def _first(name: str, shape: tuple[int, ...], random: Any) -> Tensor:
    import torch

    if name.endswith(".kernel"):
        return torch.randn(shape, generator=random) * (1 / _MAPPING_RATE if name.startswith("map.") else 1)
    if name == "constant":
        return torch.randn(shape, generator=random)
    return torch.ones(shape) if name.endswith(".style.offset") else torch.zeros(shape)


def generator_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The names and shapes of the generator's weights."""
    widths = shape.widths
    found: dict[str, tuple[int, ...]] = {"constant": (widths[0], _BASE, _BASE)}
    for layer in range(shape.layers):
        _add(found, f"map.{layer}", shape.latent, shape.latent + (layer == 0))

    def styled(name: str, out: int, given: int, side: int) -> None:
        _add(found, name, out, given, side, side)
        _add(found, f"{name}.style", given, shape.latent)

    for level, width in enumerate(widths):
        if level:
            styled(f"{level}.up", width, widths[level - 1], 3)
            found[f"{level}.up.noise"] = ()
        styled(f"{level}.keep", width, width, 3)
        found[f"{level}.keep.noise"] = ()
        styled(f"{level}.out", 4 if level + 1 == len(widths) else 1, width, 1)
    return found


def _discriminator_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    widths, found = shape.widths, dict[str, tuple[int, ...]]()
    _add(found, "in", widths[-1], 13, 3, 3)
    for level in reversed(range(1, len(widths))):
        _add(found, f"{level}.keep", widths[level], widths[level], 3, 3)
        _add(found, f"{level}.down", widths[level - 1], widths[level], 3, 3)
        _add(found, f"{level}.past", widths[level - 1], widths[level], 1, 1)
    _add(found, "last", widths[0], widths[0] + 1, 3, 3)
    _add(found, "flat", widths[0], widths[0] * _BASE * _BASE)
    _add(found, "score", 1, widths[0])
    return found


def _add(found: dict[str, tuple[int, ...]], name: str, *kernel: int) -> None:
    found[f"{name}.kernel"], found[f"{name}.offset"] = kernel, (kernel[0],)


# --- layers ----------------------------------------------------------------------------------------------


def _kernel(weights: Weights, name: str, rate: float = 1.0) -> Tensor:
    """A kernel whose entries have unit size in memory, so that all learn at the same rate (Karras et al. 2018)."""
    kernel = weights[f"{name}.kernel"]
    return kernel * (rate / math.sqrt(math.prod(kernel.shape[1:])))


def _dense(values: Tensor, weights: Weights, name: str, rate: float = 1.0) -> Tensor:
    import torch

    return torch.nn.functional.linear(values, _kernel(weights, name, rate), weights[f"{name}.offset"] * rate)


def _active(x: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.leaky_relu(x, 0.2) * math.sqrt(2)


def modulated(x: Tensor, style: Tensor, weights: Weights, name: str, *, normal: bool = True) -> Tensor:
    """A convolution whose kernel is scaled by *style* for each channel that goes in, and brought to unit size again.

    Scaling what goes in and what comes out is the same as scaling the kernel, and all rows share one convolution.
    """
    kernel, scales = _kernel(weights, name), _dense(style, weights, f"{name}.style")
    x = conv(x * scales[:, :, None, None], kernel)
    if not normal:
        return x
    sizes = (scales.square() @ kernel.square().sum((2, 3)).T + 1e-8).rsqrt()
    return x * sizes[:, :, None, None]


def _styled(x: Tensor, style: Tensor, noise: Tensor, weights: Weights, name: str) -> Tensor:
    x = modulated(x, style, weights, name)
    if x.shape[-1] < noise.shape[-1]:  # a convolution on the coarser map costs a quarter
        x = doubled(x)
    x = x + weights[f"{name}.noise"] * noise[:, None]
    return _active(x + weights[f"{name}.offset"][:, None, None])


def doubled(x: Tensor) -> Tensor:
    """Twice as many points along a side, in between by straight lines, around the edges too."""
    import torch

    twice = torch.nn.functional.interpolate(wrapped(x), scale_factor=2, mode="bilinear", align_corners=False)
    return twice[..., 2:-2, 2:-2]


# --- the generator ---------------------------------------------------------------------------------------


def mapped(weights: Weights, shape: Shape, latent: Tensor, condition: Tensor) -> Tensor:
    """Styles, ``"row latent"``, of *latent* points, ``"row latent"``, and *condition*, ``"row"``."""
    import torch

    x = latent * (latent.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    x = torch.cat([x, condition[:, None]], 1)
    for layer in range(shape.layers):
        x = _active(_dense(x, weights, f"map.{layer}", _MAPPING_RATE))
    return x


def synthesise(weights: Weights, shape: Shape, style: Tensor, noise: Sequence[Tensor]) -> Tensor:
    """Something like a vorticity of about unit size, ``"row y x"``.

    *style* is what `mapped` gives, *noise* normal numbers, ``"row y x"``, of the sizes that `noise_sizes` says.
    """
    import torch

    left = iter(noise)
    x = weights["constant"][None].expand(len(style), -1, -1, -1).contiguous(memory_format=torch.channels_last)
    found = None
    for level in range(len(shape.widths)):
        if level:
            x = _styled(x, style, next(left), weights, f"{level}.up")
        x = _styled(x, style, next(left), weights, f"{level}.keep")
        out = modulated(x, style, weights, f"{level}.out", normal=False) + weights[f"{level}.out.offset"][:, None, None]
        if level + 1 == len(shape.widths):
            return (joined(out) + doubled(doubled(found)))[:, 0]
        found = out if found is None else doubled(found) + out
    raise AssertionError("the last level returns")


# --- the discriminator -----------------------------------------------------------------------------------


def discriminate(weights: Weights, shape: Shape, flow: Tensor, condition: Tensor) -> Tensor:
    """How real each flow looks, ``"row"``.

    *flow* is u, v and vorticity, each of about unit size, ``"row 3 y x"``; *condition* ``"row"``.
    """
    import torch

    half = shape.size // 2
    plane = condition[:, None, None, None].expand(-1, 1, half, half)
    x = torch.cat([parted(flow), plane], 1).contiguous(memory_format=torch.channels_last)
    x = _plain(x, weights, "in")
    for level in reversed(range(1, len(shape.widths))):
        past = conv(_halved(x), _kernel(weights, f"{level}.past"))
        x = _plain(_plain(x, weights, f"{level}.keep"), weights, f"{level}.down", 2)
        x = (x + past) / math.sqrt(2)
    x = _plain(with_deviation(x), weights, "last")
    return _dense(_active(_dense(x.flatten(1), weights, "flat")), weights, "score")[:, 0]


def _plain(x: Tensor, weights: Weights, name: str, stride: int = 1) -> Tensor:
    return _active(conv(x, _kernel(weights, name), weights[f"{name}.offset"], stride))


def _halved(x: Tensor) -> Tensor:
    import torch

    return torch.nn.functional.avg_pool2d(x, 2)


def with_deviation(x: Tensor) -> Tensor:
    """*x* with one channel more: how much rows of a group differ, so that samples that are all alike are seen to be."""
    import torch

    group = math.gcd(_GROUP, len(x))
    apart = x.reshape(group, -1, *x.shape[1:])
    deviation = (apart.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    plane = deviation.repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    return torch.cat([x, plane], 1).contiguous(memory_format=torch.channels_last)


# --- losses ----------------------------------------------------------------------------------------------


def judged(score: Tensor, *, real: bool) -> Tensor:
    """The logistic loss, in nats, of a judge for whom these are *real*, or are not (Goodfellow et al. 2014)."""
    import torch

    return torch.nn.functional.softplus(-score if real else score).mean()


def gradient_penalty(score: Tensor, flow: Tensor) -> Tensor:
    """R1: the mean squared length of the gradient of *score*, ``"row"``, at real flows (Mescheder et al. 2018)."""
    import torch

    (slope,) = torch.autograd.grad(score.sum(), flow, create_graph=True)
    return slope.square().flatten(1).sum(1).mean()


def path_lengths(field: Tensor, style: Tensor, normal: Tensor) -> Tensor:
    """How far fields, ``"row y x"``, go for a step of their styles, in a direction of *normal* numbers: ``"row"``."""
    import torch

    (slope,) = torch.autograd.grad((field * normal).sum() / field.shape[-1], style, create_graph=True)
    return slope.square().sum(1).sqrt()
