"""Networks for images: where their weights lie, which family they are of, how they are run.

A model is a name of the catalogue, or a file of weights (``.safetensors``, or ``.pth``, ``.pt``, ``.bin`` that torch
reads with ``weights_only=True``), or a folder with one such file and, when it comes from timm, its ``config.json``.
Which network it is, is told by the names and shapes of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from penstock.core.nouns import Licence
from penstock.errors import SchemaError, WeightsError
from penstock.models.catalogue import CATALOGUE, folder_of, hash_of, licence_of, verify
from penstock.models.convolutions import Block, Convolution, Network, Weights, efficientnet_lite, resnet
from penstock.models.device import device_of, sent
from penstock.models.pixels import IMAGENET, Pixels, Recipe

if TYPE_CHECKING:
    import torch

__all__ = [
    "Compute",
    "Live",
    "Output",
    "Shape",
    "licence",
    "load",
    "opened",
    "recipe_of",
    "shape_of",
    "threads",
    "weights_bytes",
    "weights_hashes",
]

Output: TypeAlias = Literal["pooled", "map", "logits"]

Compute: TypeAlias = Literal["auto", "float32", "bfloat16"]

Live: TypeAlias = Callable[[Pixels], "torch.Tensor"]
"""A live network: pixels, uint8 ``"row y x rgb"``, to ``"row dim"``, ``"row dim y x"`` or ``"row class"``."""

# Yahoo's open_nsfw (https://github.com/yahoo/open_nsfw) has the means of Caffe, whose images are blue, green, red.
_CAFFE = Recipe(256, 224, (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), edges="both", order="bgr")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_SHRINK = 32  # pixels of the input for one of the last map, in both families


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of what a network gives.

    Attributes:
        width: channels of the last map, dimensions of the pooled vector.
        side: pixels of the last map along an edge.
        classes: of the classifier; 0 when there is none.
    """

    width: int
    side: int
    classes: int

    def of(self, output: Output) -> tuple[int, ...]:
        """Of one row of *output*. Raises `SchemaError` when these weights cannot give it."""
        if output == "logits" and not self.classes:
            raise SchemaError("vision: these weights have no classifier, so no logits; take 'pooled' or 'map'")
        sizes = {"pooled": (self.width,), "map": (self.width, self.side, self.side), "logits": (self.classes,)}
        return sizes[output]


@dataclass(frozen=True)
class _Known:
    """How a model of the catalogue is made, and what it gives; so that no torch is needed to plan."""

    recipe: Recipe
    classes: int
    make: Callable[[Path], Network]


# --- files -----------------------------------------------------------------------------------------------


def _file_of(model: str) -> Path:
    if model in CATALOGUE:
        if model not in _KNOWN:
            raise WeightsError(f"model '{model}' is none for images; for images there are: {', '.join(_KNOWN)}")
        return folder_of(model) / CATALOGUE[model].weights
    path = Path(model.removeprefix("file://")).expanduser()
    if path.is_file() and path.suffix in _SUFFIXES:
        return path
    found = sorted(each for each in path.glob("*") if each.suffix in _SUFFIXES) if path.is_dir() else []
    if len(found) == 1:
        return found[0]
    there = f"{len(found)} such files" if path.is_dir() else "no such file"
    raise WeightsError(
        f"model '{model}': found {there}; a name ({', '.join(_KNOWN)}), or one file of weights that ends with "
        f"{' or '.join(_SUFFIXES)} was needed, or a folder with one"
    )


def weights_bytes(model: str) -> int:
    """Size of the weights, about as in memory."""
    return _file_of(model).stat().st_size


def licence(model: str) -> Licence:
    """The licence of the weights: the catalogue's, or by the README.md beside the file."""
    return replace(licence_of(model if model in CATALOGUE else str(_file_of(model).parent)), what=model)


def weights_hashes(model: str) -> Mapping[str, str]:
    """sha256 (hex) of the weights, and of timm's config; raises `WeightsError` when they are not the pinned ones."""
    verify(model)
    path = _file_of(model)
    config = _config_of(model, path)
    return {each.name: hash_of(each) for each in ([path, config] if config else [path])}


def _config_of(model: str, path: Path) -> Path | None:
    config = path.with_name("config.json")
    own = model not in CATALOGUE and Path(model.removeprefix("file://")).expanduser().is_dir()
    return config if own and config.is_file() else None


# --- what a model is -------------------------------------------------------------------------------------


def recipe_of(model: str) -> Recipe:
    """How *model* wants its images: the catalogue's word, timm's ``config.json``, else torchvision's.

    An EfficientNet-Lite of one's own is taken by the size of its variant.

    Raises:
        WeightsError: the file is not there, or the config cannot be read.
    """
    path = _file_of(model)
    if model in CATALOGUE:
        return _KNOWN[model].recipe
    config = _config_of(model, path)
    if config:
        return _timm(config)
    return _lite_recipe(_shapes(path)) if _is_lite(_shapes(path)) else IMAGENET


def _timm(path: Path) -> Recipe:
    """The recipe in ``pretrained_cfg``: https://huggingface.co/docs/timm/feature_extraction."""
    try:
        told: Any = json.loads(path.read_bytes())["pretrained_cfg"]
        crop, share = int(told["input_size"][1]), float(told.get("crop_pct", 0.875))
        mean, std = (tuple(255 * float(each) for each in told[name]) for name in ("mean", "std"))
        filters = {"bilinear": "bilinear", "bicubic": "bicubic"}
        given = filters[told.get("interpolation", "bicubic")]
        return Recipe(int(crop / share), crop, mean, std, filter=given)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise WeightsError(
            f"{path}: cannot be understood ({type(error).__name__}: {error}); timm's config with pretrained_cfg "
            "(input_size, mean, std, interpolation bilinear or bicubic) was needed, or no config.json"
        ) from error


def shape_of(model: str) -> Shape:
    """What *model* gives; torch is needed for files of one's own alone.

    Raises:
        WeightsError: they are not there, damaged, or of a network that is not known.
    """
    recipe = recipe_of(model)
    if model in CATALOGUE:
        return Shape(CATALOGUE[model].width, recipe.crop // _SHRINK, _KNOWN[model].classes)
    network = _network(_shapes(_file_of(model)), _file_of(model))
    last = network.head or network.blocks[-1].chain
    classes = 0 if network.classifier is None else network.classifier[0].shape[0]
    return Shape(last[-1].weight.shape[0], -(-recipe.crop // _SHRINK), classes)


# --- weights ---------------------------------------------------------------------------------------------


def load(model: str) -> Network:
    """The network of *model*, for red, green, blue, on the CPU.

    Raises:
        WeightsError: packages or weights are missing, damaged, unsafe, or of a network that is not known.
    """
    verify(model)
    path = _file_of(model)
    network = _KNOWN[model].make(path) if model in CATALOGUE else _network(_read(path), path)
    return network.for_bgr() if recipe_of(model).order == "bgr" else network


def _network(weights: Weights, path: Path) -> Network:
    """By the names of the weights."""
    try:
        if _is_lite(weights):
            return efficientnet_lite(weights)
        if "layer1.0.conv1.weight" in weights:
            return resnet(weights)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    raise WeightsError(
        f"{path}: {len(weights)} weights, the first is {next(iter(weights), 'none')}; a ResNet's "
        "(layer1.0.conv1.weight and so on, as torchvision and timm name them) or an EfficientNet-Lite's were needed"
    )


def _is_lite(weights: Weights) -> bool:
    return "_blocks.0._depthwise_conv.weight" in weights


def _shapes(path: Path) -> Weights:
    """The weights in a file by name, as tensors that have a shape and no values; read once a process."""
    status = path.stat()
    return _empty(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _empty(path: Path, _size: int, _mtime: int) -> Weights:
    return {name: weight.to("meta") for name, weight in _read(path, "meta").items()}


def _read(path: Path, device: str = "cpu") -> Weights:
    """The weights in a file, by name."""
    torch = _torch()
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return _unwrapped(load_file(path))
        return _unwrapped(torch.load(path, map_location=device, weights_only=True))
    except Exception as error:  # whatever a damaged or hostile file provokes
        text = " ".join(str(error).split())
        unsafe = "weights_only" in text or "Unsupported" in text
        cause = "it holds more than weights and could run code; save it as .safetensors" if unsafe else text[:300]
        raise WeightsError(f"{path}: the weights cannot be loaded: {cause}") from error


def threads() -> int:
    """Threads that torch has in this process."""
    return int(_torch().get_num_threads())


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise WeightsError("vision needs torch: pip install 'penstock[images]'") from error
    return torch


def _unwrapped(found: Any) -> Weights:
    """The weights in a checkpoint, without the prefix of a network trained on several GPUs."""
    for name in ("state_dict", "model", "model_state_dict"):
        found = found[name] if isinstance(found.get(name), dict) else found
    return {name.removeprefix("module."): weight for name, weight in found.items()}


def _lite_recipe(weights: Weights) -> Recipe:
    """Variants are told by their depth and the width of their third stage (efficientnet_lite_builder.py)."""
    blocks = sum(name.endswith("_depthwise_conv.weight") for name in weights)
    wide = any(weight.shape[0] == 48 for name, weight in weights.items() if name.endswith("_project_conv.weight"))
    side = {16: 224, 21: 260 if wide else 240, 24: 280, 30: 300}.get(blocks, 224)
    return replace(_LITE, resize=side, crop=side)


def _open_nsfw(path: Path) -> Network:
    """Half as wide a ResNet-50 as usual, from its ONNX file: the norms are folded in already.

    Its strides stand in the first convolutions, and the pool lacks a border, as in Caffe.
    """
    try:
        import onnx
        import torch
        from onnx import numpy_helper
    except ImportError as error:
        raise WeightsError(f"model 'opennsfw-resnet50' needs {error.name}: pip install 'penstock[images]'") from error
    graph = onnx.load(path).graph
    arrays = {each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in graph.initializer}
    weights = {}
    for node in graph.node:
        if node.op_type == "Conv":
            name = _torchvision_name(node.output[0])
            weights[f"{name}.weight"], weights[f"{name}.bias"] = (arrays[each] for each in node.input[1:])
    weights["fc.weight"] = arrays["fc_nsfw/MatMul/ReadVariableOp:0"].T.contiguous()
    weights["fc.bias"] = arrays["fc_nsfw/BiasAdd/ReadVariableOp:0"]
    return resnet(weights, "conv1", "ceiled")


def _torchvision_name(output: str) -> str:
    """Of the convolution whose folded norm is called ``bn_stage0_block1_branch2a/...``: ``layer1.1.conv1``."""
    words = output.partition("/")[0].split("_", 3)
    if len(words) < 4:
        return "conv1"
    branch = {"branch2a": "conv1", "branch2b": "conv2", "branch2c": "conv3", "proj_shortcut": "downsample.0"}
    return f"layer{int(words[1][5:]) + 1}.{words[2][5:]}.{branch[words[3]]}"


# Mean and deviation of the TensorFlow original (efficientnet/lite/efficientnet_lite_builder.py); the whole image is
# made square, as TensorFlow Lite's own example does it (lite/examples/python/label_image.py).
_LITE = Recipe(224, 224, (127.0,) * 3, (128.0,) * 3, edges="both")

_KNOWN: Mapping[str, _Known] = {
    "opennsfw-resnet50": _Known(_CAFFE, 2, _open_nsfw),
    "efficientnet-lite0": _Known(_LITE, 1000, lambda path: efficientnet_lite(_read(path))),
}


# --- running ---------------------------------------------------------------------------------------------


@contextmanager
def opened(
    model: str, output: Output, device: str = "auto", threads: int = 0, compute: Compute = "auto"
) -> Iterator[Live]:
    """The live network of *model*. On a GPU a call comes back before it is computed; whoever reads the result waits.

    Args:
        model: a name of the catalogue, or a file or folder.
        output: the last map, its mean, or what the classifier makes of that (before softmax).
        device: ``auto`` takes a GPU where torch sees one.
        threads: of torch on the CPU, for the whole process while this is open; 0 leaves them.
        compute: number format of the convolutions; ``auto`` is bfloat16 on a GPU, float32 on the CPU. The means over
            a map are taken, and the classifier runs, in float32, where the map is.

    Raises:
        WeightsError: packages or weights are missing, damaged or unsafe.
        PlanError: ``cuda`` was asked for, and torch sees none.
    """
    torch = _torch()
    place = device_of(device, "step")
    bits = torch.bfloat16 if (compute == "auto" and place == "cuda") or compute == "bfloat16" else torch.float32
    recipe, network = recipe_of(model), _in(load(model).at(place), bits)
    mean, std = (torch.tensor(each, device=place)[:, None, None] for each in (recipe.mean, recipe.std))
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)

    def live(pixels: Pixels) -> Any:
        with torch.inference_mode():
            # Pixels lie as "row y x rgb": seen as "row rgb y x" they are channels last without a copy.
            x = sent(pixels, place).permute(0, 3, 1, 2).float().sub_(mean).div_(std)
            return _given(network, network.features(x.to(bits)).float(), output)

    try:
        yield live
    finally:
        torch.set_num_threads(before)
        if place == "cuda":
            torch.cuda.empty_cache()


def _in(network: Network, bits: torch.dtype) -> Network:
    """*network* with convolutions of *bits*; the classifier stays as it is."""

    def cast(each: Convolution) -> Convolution:
        return replace(each, weight=each.weight.to(bits), bias=each.bias.to(bits))

    def block(each: Block) -> Block:
        shortcut = None if each.shortcut is None else tuple(map(cast, each.shortcut))
        return replace(each, chain=tuple(map(cast, each.chain)), shortcut=shortcut)

    blocks, head = tuple(map(block, network.blocks)), tuple(map(cast, network.head))
    return replace(network, stem=cast(network.stem), blocks=blocks, head=head)


def _given(network: Network, found: torch.Tensor, output: Output) -> torch.Tensor:
    if output == "map":
        return found
    pooled = found.mean((2, 3))
    return pooled if output == "pooled" else network.logits(pooled)
