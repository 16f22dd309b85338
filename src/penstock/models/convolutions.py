"""Convolutional networks as data: convolutions with their norms folded in, blocks around them, a classifier.

Both families that Penstock runs, residual networks (He et al. 2016, arXiv:1512.03385) and EfficientNet-Lite (Tan
and Le 2019, arXiv:1905.11946; the Lite variants have no squeeze-and-excitation and ReLU6), are a stem, a chain of
blocks, and for the second a head. Strides, groups and widths are read off the weights' names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from penstock.errors import WeightsError

if TYPE_CHECKING:
    import torch

__all__ = ["Block", "Convolution", "Network", "Pool", "Weights", "efficientnet_lite", "resnet"]

Weights: TypeAlias = "Mapping[str, torch.Tensor]"
Activation: TypeAlias = Literal["none", "relu", "relu6"]
Pool: TypeAlias = Literal["none", "padded", "ceiled"]


@dataclass(frozen=True)
class Convolution:
    """A convolution, with the norm after it folded in, and its activation.

    Attributes:
        weight: ``"out in/groups y x"``.
        bias: ``"out"``.
        stride: of both axes.
        groups: of channels.
        activation: after it.
        same: pad as TensorFlow does, so that the output has ``ceil(input / stride)`` pixels, with the odd one
            after the image; else by half the kernel on both sides.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    stride: int = 1
    groups: int = 1
    activation: Activation = "none"
    same: bool = False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``"row in y x"`` to ``"row out y x"``."""
        from torch.nn import functional

        x, padding = self._padded(x)
        found = functional.conv2d(x, self.weight, self.bias, self.stride, padding, 1, self.groups)
        return _activated(found, self.activation)

    def _padded(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        from torch.nn import functional

        kernel = self.weight.shape[2:]
        if not self.same:
            return x, (kernel[0] // 2, kernel[1] // 2)
        lack = [
            max((math.ceil(size / self.stride) - 1) * self.stride + edge - size, 0)
            for size, edge in zip(x.shape[2:], kernel, strict=True)
        ]
        if all(each % 2 == 0 for each in lack):
            return x, (lack[0] // 2, lack[1] // 2)
        (top, bottom), (left, right) = ((each // 2, each - each // 2) for each in lack)
        return functional.pad(x, (left, right, top, bottom)), (0, 0)


@dataclass(frozen=True)
class Block:
    """Convolutions one after the other, and what is added to their result.

    Attributes:
        chain: the convolutions.
        shortcut: the block's input is added (an empty tuple), or what a convolution makes of it, or nothing is.
        activation: after the sum.
    """

    chain: tuple[Convolution, ...]
    shortcut: tuple[Convolution, ...] | None
    activation: Activation = "none"

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """``"row in y x"`` to ``"row out y x"``."""
        found = x
        for each in self.chain:
            found = each(found)
        if self.shortcut is not None:
            found += self.shortcut[0](x) if self.shortcut else x
        return _activated(found, self.activation)


@dataclass(frozen=True)
class Network:
    """Stem, pool, blocks, head; and the classifier's weight and bias, where there is one."""

    stem: Convolution
    pool: Pool
    blocks: tuple[Block, ...]
    head: tuple[Convolution, ...] = ()
    classifier: tuple[torch.Tensor, torch.Tensor] | None = None

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The last map: ``"row rgb y x"`` to ``"row dim y x"``."""
        x = _pooled(self.stem(x), self.pool)
        for block in self.blocks:
            x = block(x)
        for convolution in self.head:
            x = convolution(x)
        return x

    def logits(self, pooled: torch.Tensor) -> torch.Tensor:
        """``"row dim"`` to ``"row class"``."""
        from torch.nn import functional

        if self.classifier is None:
            raise WeightsError("these weights have no classifier (fc.weight); output = 'pooled' or 'map' needs none")
        return functional.linear(pooled, *self.classifier)

    def at(self, device: str) -> Network:
        """This network on *device*, in the layout in which convolutions are fastest: channels last."""
        return Network(
            _at(self.stem, device),
            self.pool,
            tuple(_block_at(block, device) for block in self.blocks),
            tuple(_at(each, device) for each in self.head),
            None if self.classifier is None else (self.classifier[0].to(device), self.classifier[1].to(device)),
        )

    def for_bgr(self) -> Network:
        """This network, trained on blue, green, red, for red, green, blue."""
        return replace(self, stem=replace(self.stem, weight=self.stem.weight.flip(1)))


def _activated(x: torch.Tensor, activation: Activation) -> torch.Tensor:
    if activation == "none":
        return x
    return x.relu_() if activation == "relu" else x.clamp_(0, 6)


def _pooled(x: torch.Tensor, pool: Pool) -> torch.Tensor:
    from torch.nn import functional

    if pool == "none":
        return x
    return functional.max_pool2d(x, 3, 2, ceil_mode=True) if pool == "ceiled" else functional.max_pool2d(x, 3, 2, 1)


def _at(each: Convolution, device: str) -> Convolution:
    import torch

    weight = each.weight.to(device).contiguous(memory_format=torch.channels_last)
    return replace(each, weight=weight, bias=each.bias.to(device))


def _block_at(block: Block, device: str) -> Block:
    shortcut = None if block.shortcut is None else tuple(_at(each, device) for each in block.shortcut)
    return replace(block, chain=tuple(_at(each, device) for each in block.chain), shortcut=shortcut)


# --- by the weights' names -------------------------------------------------------------------------------


class _Taken:
    """Weights by name, that knows which were asked for."""

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self._weights, self._epsilon, self._asked = weights, epsilon, set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def get(self, name: str) -> torch.Tensor:
        """One weight in float32."""
        if name not in self._weights:
            raise WeightsError(f"there is no weight {name}; the file is incomplete, or of another network")
        self._asked.add(name)
        return self._weights[name].float()

    def convolution(self, name: str, norm: str, taken: int, stride: int, activation: Activation) -> Convolution:
        """The convolution called *name*, which has *taken* channels, with the norm called *norm* folded in."""
        weight = self.get(f"{name}.weight")
        if weight.ndim != 4 or taken % weight.shape[1]:
            raise WeightsError(f"{name}.weight is {tuple(weight.shape)}; a convolution of {taken} channels was needed")
        if f"{norm}.running_var" in self:
            scale = self.get(f"{norm}.weight") * (self.get(f"{norm}.running_var") + self._epsilon).rsqrt()
            weight = weight * scale[:, None, None, None]
            bias = self.get(f"{norm}.bias") - self.get(f"{norm}.running_mean") * scale
        else:
            bias = self.get(f"{name}.bias")
        return Convolution(weight, bias, stride, taken // weight.shape[1], activation)

    def classifier(self, name: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Weight and bias, or None."""
        return (self.get(f"{name}.weight"), self.get(f"{name}.bias")) if f"{name}.weight" in self else None

    def complete(self, what: str) -> None:
        """Raise `WeightsError` when there is more than was asked for."""
        more = sorted(n for n in set(self._weights) - self._asked if not n.endswith("num_batches_tracked"))
        if more:
            raise WeightsError(
                f"{len(more)} weights have no place in {what}, the first is {more[0]}; it is another network, "
                "whose result would be wrong without them"
            )


def resnet(weights: Weights, stride_at: Literal["conv1", "conv2"] = "conv2", pool: Pool = "padded") -> Network:
    """A residual network by the names that torchvision and timm give its weights; any depth, width and groups.

    Args:
        weights: ``conv1.weight``, ``bn1.weight``, ``layer1.0.conv1.weight`` and so on.
        stride_at: the convolution of a bottleneck that halves the image: the second one in torchvision and timm
            (called v1.5), the first one in the paper and in Caffe.
        pool: after the stem: padded all around, or, as Caffe has it, past the lower right edge.

    Raises:
        WeightsError: some are missing, or have no place in such a network.
    """
    taken = _Taken(weights, 1e-5)
    stem = taken.convolution("conv1", "bn1", 3, 2, "relu")
    if stem.weight.shape[2] != 7:
        raise WeightsError(f"conv1.weight is {tuple(stem.weight.shape)}; a first convolution of 7 x 7 was needed")
    blocks = tuple(_residuals(taken, stem.weight.shape[0], stride_at))
    network = Network(stem, pool, blocks, classifier=taken.classifier("fc"))
    taken.complete("a ResNet or ResNeXt")
    return network


def _residuals(taken: _Taken, channels: int, stride_at: str) -> Iterator[Block]:
    for layer in range(1, 5):
        at = 0
        while at == 0 or f"layer{layer}.{at}.conv1.weight" in taken:
            name, stride = f"layer{layer}.{at}", 2 if layer > 1 and at == 0 else 1
            block = _residual(taken, name, channels, stride, stride_at)
            channels, at = block.chain[-1].weight.shape[0], at + 1
            yield block


def _residual(taken: _Taken, name: str, channels: int, stride: int, stride_at: str) -> Block:
    names = [each for each in ("conv1", "conv2", "conv3") if f"{name}.{each}.weight" in taken]
    strided = stride_at if len(names) == 3 else "conv1"
    chain: list[Convolution] = []
    for each in names:
        given = chain[-1].weight.shape[0] if chain else channels
        step, activation = stride if each == strided else 1, _RELU if each != names[-1] else _NONE
        chain.append(taken.convolution(f"{name}.{each}", f"{name}.bn{each[-1]}", given, step, activation))
    shortcut: tuple[Convolution, ...] = ()
    if f"{name}.downsample.0.weight" in taken:
        shortcut = (taken.convolution(f"{name}.downsample.0", f"{name}.downsample.1", channels, stride, "none"),)
    return Block(tuple(chain), shortcut, "relu")


_RELU: Activation = "relu"
_NONE: Activation = "none"
_LITE_STRIDES = (1, 2, 2, 2, 1, 2, 1)


def efficientnet_lite(weights: Weights) -> Network:
    """An EfficientNet-Lite by the names that efficientnet-lite-pytorch gives its weights; Lite0 to Lite4.

    Raises:
        WeightsError: some are missing, or have no place in such a network.
    """
    taken = _Taken(weights, 1e-3)
    stem = replace(taken.convolution("_conv_stem", "_bn0", 3, 2, "relu6"), same=True)
    blocks = tuple(_inverted(taken, stem.weight.shape[0]))
    head = taken.convolution("_conv_head", "_bn1", blocks[-1].chain[-1].weight.shape[0], 1, "relu6")
    network = Network(stem, "none", blocks, (head,), taken.classifier("_fc"))
    taken.complete("an EfficientNet-Lite")
    return network


def _inverted(taken: _Taken, channels: int) -> Iterator[Block]:
    """Inverted bottlenecks; a block that changes the channels begins a new stage, which has its stride."""
    at, stage = 0, -1
    while f"_blocks.{at}._depthwise_conv.weight" in taken:
        name = f"_blocks.{at}"
        out = taken.get(f"{name}._project_conv.weight").shape[0]
        fresh = at == 0 or out != channels
        stage += fresh
        yield _inverse(taken, name, channels, _LITE_STRIDES[stage] if fresh else 1, fresh)
        channels, at = out, at + 1


def _inverse(taken: _Taken, name: str, channels: int, stride: int, fresh: bool) -> Block:
    expand: Sequence[Convolution] = ()
    if f"{name}._expand_conv.weight" in taken:
        expand = (taken.convolution(f"{name}._expand_conv", f"{name}._bn0", channels, 1, "relu6"),)
    inner = expand[0].weight.shape[0] if expand else channels
    depthwise = replace(taken.convolution(f"{name}._depthwise_conv", f"{name}._bn1", inner, stride, "relu6"), same=True)
    project = taken.convolution(f"{name}._project_conv", f"{name}._bn2", inner, 1, "none")
    return Block((*expand, depthwise, project), None if fresh else ())
