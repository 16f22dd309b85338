"""Circular convolutions and what stands between them, as functions of tensors ``"row channel y x"``.

Weights are plain dictionaries of tensors, so what is stored, averaged over a team or over time is a dictionary too.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

__all__ = ["Tensor", "Weights", "conv", "dense", "drawn", "joined", "parted", "wrapped"]

Tensor: TypeAlias = Any
Weights: TypeAlias = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> Weights:
    """Weights of these shapes: normal with the deviation ``1/sqrt(inputs)`` (He et al. 2015), offsets 0."""
    import torch

    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.0 if name.endswith(".offset") else 1 / math.sqrt(math.prod(shape[1:]) or 1)
        weights[name] = torch.randn(shape, generator=random) * scale
    return weights


def wrapped(field: Tensor) -> Tensor:
    """*field* with one point more at each side, from the other side; the order of memory stays, as with no `pad`."""
    import torch

    field = torch.cat([field[:, :, -1:], field, field[:, :, :1]], 2)
    return torch.cat([field[..., -1:], field, field[..., :1]], 3)


def conv(field: Tensor, kernel: Tensor, offset: Tensor | None = None, stride: int = 1) -> Tensor:
    """A circular convolution by a *kernel* of 3 x 3, or one by 1 x 1."""
    import torch

    given = wrapped(field) if kernel.shape[-1] == 3 else field
    return torch.nn.functional.conv2d(given, kernel, offset, stride)


def dense(values: Tensor, weights: Weights, name: str) -> Tensor:
    """An affine map of ``"row dim"``."""
    import torch

    return torch.nn.functional.linear(values, weights[f"{name}.kernel"], weights[f"{name}.offset"])


def parted(field: Tensor) -> Tensor:
    """Squares of 2 x 2 points become channels, ``"row (channel 4) y/2 x/2"``, in the order that convolutions like."""
    import torch

    return torch.nn.functional.pixel_unshuffle(field, 2).contiguous(memory_format=torch.channels_last)


def joined(field: Tensor) -> Tensor:
    """The inverse of `parted`."""
    import torch

    return torch.nn.functional.pixel_shuffle(field, 2)
