"""Images to embeddings by a convolutional network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, to_numpy, with_columns
from penstock.core.nouns import Batch, Licence, Transform
from penstock.errors import RowErrors, SchemaError
from penstock.models import vision
from penstock.models.catalogue import Model
from penstock.models.pixels import LARGEST, PictureError, Pixels, Recipe, decoded, fitted

if TYPE_CHECKING:
    import torch

__all__ = ["Vision"]

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Make: TypeAlias = Callable[[], Pixels | str]

_AHEAD = 3
"""Batches that are decoded, or being decoded, while the network is at one."""


@dataclass(frozen=True)
class Vision:
    """Add the column ``embedding`` by running images through a network (``map`` or ``logits`` for other outputs).

    Images are encoded bytes (binary), resized, cropped and normalised exactly as the model wants it, or decoded
    frames (a tensor uint8 ``"... y x rgb"``). An image that cannot be used costs its row. Threads decode while the
    network runs.

    Attributes:
        model: a name of the catalogue, such as ``efficientnet-lite0``, or weights of a ResNet or EfficientNet-Lite:
            a file (``.safetensors``, ``.pth``), or a folder with one and timm's ``config.json``.
        column: the images; the step `drop` leaves it out where no sink shall write them again.
        output: ``pooled`` is a vector for each image, ``map`` the last feature map before pooling, ``"dim y x"``,
            ``logits`` what the classifier says, before softmax.
        frames: of a tensor with axes before ``y x rgb``, the mean over them is taken, or none, and all are kept.
        normalize: divide each pooled vector, or the mean over frames, by its Euclidean length.
        decode: ``exact`` decodes all pixels. ``draft`` lets the JPEG decoder halve large photos first; faster, and
            nearly the same.
        most_pixels: larger images are refused before they are decoded.
        batch: images that go through the network together.
        decoders: threads that decode; 0 takes as many as torch has.
        threads: of torch in one worker; 0 leaves them as they are.
        compute: number format of the convolutions; ``auto`` is bfloat16 on a GPU and float32 on the CPU. Means are
            taken in float32.
        dtype: of the output.
        device: ``auto`` takes a GPU where there is one.
    """

    model: Model
    column: str = "image"
    output: vision.Output = "pooled"
    frames: Literal["mean", "none"] = "mean"
    normalize: bool = False
    decode: Literal["exact", "draft"] = "exact"
    most_pixels: int = LARGEST // 2
    batch: int = 16
    decoders: int = 0
    threads: int = 0
    compute: vision.Compute = "auto"
    dtype: Literal["float32", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("batch", "decoders", "threads", "device")
    NEEDS = ("torch", "PIL")

    def __post_init__(self) -> None:
        if self.batch < 1 or self.decoders < 0 or self.threads < 0:
            raise ValueError("batch must be at least 1, decoders and threads must not be negative")
        if not 1 <= self.most_pixels <= LARGEST:
            raise ValueError(f"most_pixels is {self.most_pixels}; 1 to {LARGEST} was needed, Pillow's own limit")
        if self.normalize and self.output != "pooled":
            raise ValueError(f"normalize goes with output = 'pooled', which gives vectors, not with '{self.output}'")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """One more column; for models of the catalogue without torch.

        Raises:
            SchemaError: there are no images, or the weights have no classifier.
            WeightsError: the model is not there.
        """
        frames = self._frames(field_of(given, self.column, "vision").type)
        kept = frames if self.frames == "none" else ()
        sizes = vision.shape_of(self.model).of(self.output)
        return adding(given, {self._into: tensor_type(self.dtype, *kept, *sizes)})

    @property
    def _into(self) -> str:
        return "embedding" if self.output == "pooled" else self.output

    def _frames(self, kind: pa.DataType) -> tuple[int, ...]:
        """The axes before ``y x rgb``; none for encoded images."""
        if kind in (pa.binary(), pa.large_binary()):
            return ()
        if isinstance(kind, pa.FixedShapeTensorType) and kind.value_type == pa.uint8():
            shape = tuple(kind.shape)
            if len(shape) >= 3 and shape[-1] == 3 and 0 not in shape:
                return shape[:-3]
        raise SchemaError(
            f"vision needs column '{self.column}' as binary (encoded images) or as a tensor uint8 of shape "
            f"[..., y, x, 3]; it is {kind}"
        )

    def identity(self) -> Mapping[str, str]:
        """The hashes of the weights."""
        return vision.weights_hashes(self.model)

    def weights_bytes(self) -> int:
        """Size of the weights in memory."""
        return vision.weights_bytes(self.model)

    def licences(self) -> Sequence[Licence]:
        """The licence of the weights."""
        return (vision.licence(self.model),)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the model and start the threads."""
        recipe, shape = vision.recipe_of(self.model), vision.shape_of(self.model).of(self.output)
        with (
            vision.opened(self.model, self.output, self.device, self.threads, self.compute) as network,
            ThreadPoolExecutor(self.decoders or vision.threads(), "penstock-decode") as pool,
        ):
            yield lambda batch: self._seen(batch, _Live(network, recipe, shape, pool))

    def _seen(self, batch: Batch, live: _Live) -> Batch:
        there = np.asarray(pc.is_valid(batch[self.column]).to_numpy())
        reasons = np.full(batch.num_rows, f"{self.column} is null", object)
        found, reasons[there] = self._found(batch[self.column].filter(pa.array(there)), live)
        good, bad = pick(batch, reasons == "")
        good = with_columns(good, {self._into: tensor_column(found)})
        if bad.num_rows:
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _found(self, column: pa.ChunkedArray, live: _Live) -> tuple[Floats, list[str]]:
        """What the network gives for the rows that can be used, and for each row why not."""
        frames = self._frames(column.type)
        if not isinstance(column.type, pa.FixedShapeTensorType):
            makes = (partial(self._pixels, each.as_py(), live.recipe) for each in column)
            found, reasons = self._run(makes, len(column), live)
            return self._finished(found[[not reason for reason in reasons]]), reasons
        pixels = to_numpy(column).reshape(-1, *column.type.shape[-3:])
        found, _ = self._run((partial(fitted, each, live.recipe) for each in pixels), len(pixels), live)
        found = found.reshape(len(column), *frames, *live.shape)
        mean = frames and self.frames == "mean"
        return self._finished(found.mean(tuple(range(1, len(frames) + 1))) if mean else found), [""] * len(column)

    def _pixels(self, data: bytes, recipe: Recipe) -> Pixels | str:
        """Decoded by a thread; a text says why not."""
        try:
            return decoded(data, recipe, self.most_pixels, self.decode == "draft")
        except PictureError as error:
            return f"{self.column} {error}"

    def _run(self, makes: Iterator[Make], count: int, live: _Live) -> tuple[Floats, list[str]]:
        """What the network gives, ``"image ..."``, zeros where there are no pixels, and why there are none."""
        found, reasons = np.zeros((count, *live.shape), np.float32), list[str]()
        waiting: deque[tuple[list[int], torch.Tensor]] = deque()
        for futures in _ahead(live.pool, makes, self.batch):
            made = [future.result() for future in futures]
            pixels = {len(reasons) + at: each for at, each in enumerate(made) if not isinstance(each, str)}
            if pixels:
                waiting.append(([*pixels], live.network(np.stack(list(pixels.values())))))
            if len(waiting) > 1:  # a GPU is at the next batch while the result of this one is fetched
                _fetch(waiting, found)
            reasons += [each if isinstance(each, str) else "" for each in made]
        while waiting:
            _fetch(waiting, found)
        return found, reasons

    def _finished(self, found: Floats) -> Floats:
        if self.normalize:
            found = found / np.maximum(np.linalg.norm(found, axis=-1, keepdims=True), 1e-12)
        return found.astype(self.dtype, copy=False)


@dataclass(frozen=True)
class _Live:
    """An open network, how it wants its images, what it gives for one, and threads that decode."""

    network: vision.Live
    recipe: Recipe
    shape: tuple[int, ...]
    pool: ThreadPoolExecutor


def _fetch(waiting: deque[tuple[list[int], torch.Tensor]], found: Floats) -> None:
    """Take the oldest result over."""
    places, given = waiting.popleft()
    found[places] = given.cpu().numpy()


def _ahead(pool: ThreadPoolExecutor, makes: Iterator[Make], size: int) -> Iterator[list[Future[Pixels | str]]]:
    """Batches of *size*, in order, while the next ones are being made; so few that memory stays bounded."""
    waiting: deque[list[Future[Pixels | str]]] = deque()
    while batch := list(islice(makes, size)):
        waiting.append([pool.submit(make) for make in batch])
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting
