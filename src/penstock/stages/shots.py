"""Videos to clips: cut where the colours or what a network sees change at once, or at a fixed stride."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import adding, field_of, with_columns
from penstock.core.nouns import Batch, Licence, Transform
from penstock.errors import RowErrors
from penstock.formats.video import Picture, Pixels, Scaler, Span, Unplayable, Video, opened, spans
from penstock.models import vision
from penstock.models.catalogue import Model
from penstock.models.pixels import Recipe, fitted

__all__ = ["Shots"]

_HEIGHT, _WIDTH, _BLOCKS = 36, 64, 4
_AROUND = 3
"""Frames on each side by which a change is judged."""

_SIDE = 224
"""Pixels of the square that a network is shown; its own recipe takes it from there."""

Colours: TypeAlias = npt.NDArray[np.int16]
Vector: TypeAlias = npt.NDArray[np.floating[Any]]
Look: TypeAlias = Callable[[Sequence[Pixels]], Vector]
"""Images to vectors of length 1, ``"image dim"``."""


class _Seen(NamedTuple):
    """A frame, and whether a shot begins with it."""

    seconds: float
    until: float
    cut: bool


class _Clip(NamedTuple):
    start: float
    stop: float
    frames: int


@dataclass(frozen=True)
class Shots:
    """A row a video becomes a row a clip: its columns, and ``video`` (its id), ``clip`` (from 0, in each row),
    ``start_seconds``, ``stop_seconds`` and ``clip_frames``; ``id`` becomes ``video@start``. The clips of a video hold
    each of its frames once.

    ``by = "colour"`` cuts where the colours change at once. In each of 4 x 4 blocks of some pixels of the frame the
    values of luma and chroma are sorted; the mean difference of sorted values is the Wasserstein distance of their
    histograms, which motion inside a block does not change. A shot begins where this is at least *threshold* and
    *ratio* times what it is at the frames around, so that fast motion is no cut (as PySceneDetect's adaptive
    detector does, https://www.scenedetect.com/docs/latest/api/detectors.html), and where the frames before and after
    differ too, so that a flash is none. Slow dissolves and fades are not found.

    ``by = "feature"`` cuts where what is seen changes, also when its colours do not: a network looks at a frame every
    *sample_seconds*, and two looks that follow one another are compared by the cosine of their vectors. A shot begins
    between them where 1 less the cosine is at least *feature_threshold* and *ratio* times what it is before and after,
    and where the next look is another one too; at which frame is told by the vectors of all frames between them. Shots
    shorter than two looks are not found. Many times slower than by colour.

    ``by = "stride"`` cuts every *stride_seconds*; no frame is decoded, so damage shows in the step that decodes.

    Else the video is decoded once, a frame at a time. A row whose video is damaged or ends too early is quarantined.

    Attributes:
        by: what is looked for.
        stride_seconds: length of clips by stride.
        threshold: least change, as a part of the range of a value; 0 to 1.
        ratio: least change by the mean change around it.
        model: that looks, as in the stage `vision`.
        sample_seconds: from one look to the next.
        feature_threshold: least change between two looks, 1 less the cosine; 0 to 1.
        minimum_seconds: no clip is shorter, unless its video is; cuts that come earlier are left out, and what
            remains at the end is joined to the clip before.
        maximum_seconds: longer shots are cut into clips of this length.
        column: address of the video.
        threads: for decoding.
        device: of the network; ``auto`` takes a GPU where there is one.
    """

    by: Literal["colour", "feature", "stride"] = "colour"
    stride_seconds: float = 10.0
    threshold: float = 0.06
    ratio: float = 3.0
    minimum_seconds: float = 1.0
    maximum_seconds: float = 60.0
    column: str = "uri"
    threads: int = 1
    model: Model = "efficientnet-lite0"
    sample_seconds: float = 0.4
    feature_threshold: float = 0.3
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("threads", "device")
    NEEDS = ("av",)

    def __post_init__(self) -> None:
        if not 0 <= self.minimum_seconds <= self.maximum_seconds or self.maximum_seconds == 0:
            raise ValueError(
                f"minimum_seconds = {self.minimum_seconds:g} and maximum_seconds = {self.maximum_seconds:g}: "
                "0 <= minimum <= maximum, and a maximum above 0, was needed"
            )
        for name in ("stride_seconds", "sample_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name):g}; more than 0 was needed")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns given, and those of a clip. Raises `SchemaError`."""
        field_of(given, self.column, "shots", pa.string())
        field_of(given, "id", "shots", pa.string())
        more = {"video": pa.string(), "clip": pa.int32(), "start_seconds": pa.float64(), "stop_seconds": pa.float64()}
        return adding(given, {**more, "clip_frames": pa.int64()})

    def identity(self) -> Mapping[str, str]:
        """The hashes of the weights, where a network looks."""
        return vision.weights_hashes(self.model) if self.by == "feature" else {}

    def weights_bytes(self) -> int:
        """Size of the weights in memory."""
        return vision.weights_bytes(self.model) if self.by == "feature" else 0

    def licences(self) -> Sequence[Licence]:
        """The licence of the weights."""
        return (vision.licence(self.model),) if self.by == "feature" else ()

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the network, if there is one that looks."""
        if self.by != "feature":
            yield self._cut
            return
        with vision.opened(self.model, "pooled", self.device) as network:
            yield partial(self._cut, look=partial(_looked, network, vision.recipe_of(self.model)))

    def _cut(self, batch: Batch, look: Look | None = None) -> Batch:
        found: list[tuple[int, int, _Clip]] = []
        bad: dict[int, str] = {}
        for at, span in enumerate(spans(batch, self.column)):
            try:
                found += [(at, number, clip) for number, clip in enumerate(self._clips(span, look))]
            except Unplayable as error:
                bad[at] = str(error)
        good = self._rows(batch, found)
        if bad:
            raise RowErrors(good, batch.take(pa.array([*bad], pa.int64())), [*bad.values()])
        return good

    def _rows(self, batch: Batch, found: list[tuple[int, int, _Clip]]) -> Batch:
        table = batch.take(pa.array([at for at, _, _ in found], pa.int64()))
        names, clips = table["id"].to_pylist(), [clip for _, _, clip in found]
        columns = {
            "id": [f"{name}@{clip.start:.3f}" for name, clip in zip(names, clips, strict=True)],
            "video": names,
            "clip": [number for _, number, _ in found],
            "start_seconds": [clip.start for clip in clips],
            "stop_seconds": [clip.stop for clip in clips],
            "clip_frames": [clip.frames for clip in clips],
        }
        schema = self.schema(batch.schema)
        return with_columns(table, {name: pa.array(v, schema.field(name).type) for name, v in columns.items()})

    def _clips(self, span: Span, look: Look | None) -> list[_Clip]:
        with opened(span.uri, span.etag, self.threads) as video:
            clips = list(self._bounded(self._seen(video, span, look)))
        if not clips and span.start == 0:
            raise Unplayable("there is no frame in its video stream")
        return clips

    def _seen(self, video: Video, span: Span, look: Look | None) -> Iterator[_Seen]:
        if self.by == "stride":
            return (_Seen(*moment, False) for moment in video.moments(span.start, span.stop))
        pictures = video.between(span.start, span.stop)
        if look:
            return turns(pictures, look, self.sample_seconds, self.feature_threshold, self.ratio)
        return changes(pictures, self.threshold, self.ratio)

    def _bounded(self, frames: Iterable[_Seen]) -> Iterator[_Clip]:
        """Clips of the lengths that are allowed."""
        longest = self.stride_seconds if self.by == "stride" else self.maximum_seconds
        held: _Clip | None = None
        start, stop, count = 0.0, 0.0, 0
        for frame in frames:
            long = frame.seconds - start
            if count and (long >= longest or (frame.cut and long >= self.minimum_seconds)):
                if held:
                    yield held
                held, count = _Clip(start, frame.seconds, count), 0
            if not count:
                start = frame.seconds
            stop, count = frame.until, count + 1
        yield from _last(held, _Clip(start, stop, count), self.minimum_seconds)


def _last(held: _Clip | None, rest: _Clip, shortest: float) -> Iterator[_Clip]:
    if held and rest.stop - rest.start < shortest:
        yield _Clip(held.start, rest.stop, held.frames + rest.frames)
        return
    yield from [clip for clip in (held, rest) if clip and clip.frames]


class _Sight(NamedTuple):
    """What is kept of a frame."""

    seconds: float
    until: float
    colours: Colours
    change: float


def changes(pictures: Iterable[Picture], threshold: float, ratio: float) -> Iterator[_Seen]:
    """Each frame, and whether its colours are others than those before; a few frames late."""
    held: deque[_Sight] = deque()
    at = 0  # of the frame that is judged next
    for sight in _sights(pictures):
        held.append(sight)
        if len(held) > at + _AROUND:
            yield _judged(held, at, threshold, ratio)
            at += 1
        if at > _AROUND:
            held.popleft()
            at -= 1
    for late in range(at, len(held)):
        yield _judged(held, late, threshold, ratio)


def _sights(pictures: Iterable[Picture]) -> Iterator[_Sight]:
    scaler, before = Scaler(), None
    for each in pictures:
        colours = _colours(scaler.sampled(each, _HEIGHT, _WIDTH))
        yield _Sight(each.seconds, each.until, colours, 0.0 if before is None else distance(before, colours))
        before = colours


def _colours(image: npt.NDArray[np.uint8]) -> Colours:
    """The sorted values of each block, ``"channel block value"``, of an image, ``"channel y x"``."""
    tall, wide = _HEIGHT // _BLOCKS, _WIDTH // _BLOCKS
    blocks = image.reshape(3, _BLOCKS, tall, _BLOCKS, wide).transpose(0, 1, 3, 2, 4)
    # NumPy sorts 16 bit with vector instructions, six times as fast as 8 bit.
    return np.sort(blocks.reshape(3, _BLOCKS * _BLOCKS, tall * wide).astype(np.int16), axis=-1)


def distance(one: Colours, other: Colours) -> float:
    """Wasserstein distance of the blocks' histograms: their mean, summed over luma and both chroma channels."""
    return float(np.abs(one - other).mean(axis=(1, 2)).sum() / 255)


def _judged(held: deque[_Sight], at: int, threshold: float, ratio: float) -> _Seen:
    sight = held[at]
    before = [held[i] for i in range(max(0, at - _AROUND), at)]
    after = [held[i] for i in range(at + 1, min(len(held), at + 1 + _AROUND))]
    around = [each.change for each in (*before, *after)]
    sudden = sight.change >= max(threshold, ratio * (sum(around) / max(len(around), 1)))
    return _Seen(sight.seconds, sight.until, sudden and not _returns(before, [sight, *after], threshold))


def _returns(before: list[_Sight], after: list[_Sight], threshold: float) -> bool:
    """Whether what was seen before is seen again, as around a flash."""
    return any(distance(one.colours, other.colours) < threshold for one in before for other in after)


# --- by features -----------------------------------------------------------------------------------------


class _Window(NamedTuple):
    """The frames from one look, at the first of them, up to the next: their times, small images, and the look."""

    moments: list[tuple[float, float]]
    images: list[Pixels]
    vector: Vector


def turns(pictures: Iterable[Picture], look: Look, every: float, threshold: float, ratio: float) -> Iterator[_Seen]:
    """Each frame, and whether what *look* sees is another thing than before; two looks late."""
    before, begins = 0.0, False
    for this, following, after in _triples(_windows(pictures, look, every)):
        at, change = None, _change(this, following)
        around = (before + _change(following, after)) / 2 if after else before
        returns = after is not None and _change(this, after) < threshold  # a flash
        if following and change >= max(threshold, ratio * around) and not returns:
            at = _place(this, following, look)
        for number, moment in enumerate(this.moments):
            yield _Seen(*moment, number == at or (number == 0 and begins))
        before, begins = change, at == len(this.moments)


def _change(one: _Window | None, other: _Window | None) -> float:
    return _apart(one.vector, other.vector) if one and other else 0.0


def _windows(pictures: Iterable[Picture], look: Look, every: float) -> Iterator[_Window]:
    scaler, moments, images = Scaler(), list[tuple[float, float]](), list[Pixels]()
    for each in pictures:
        if moments and each.seconds - moments[0][0] >= every:
            yield _Window(moments, images, look(images[:1])[0])
            moments, images = [], []
        moments.append((each.seconds, each.until))
        images.append(scaler.rgb(each, _SIDE, _SIDE, "stretch"))
    if moments:
        yield _Window(moments, images, look(images[:1])[0])


def _triples(windows: Iterable[_Window]) -> Iterator[tuple[_Window, _Window | None, _Window | None]]:
    """Each window with the two after it, None beyond the end."""
    flow: Iterator[_Window | None] = chain(windows, (None, None))
    this, following = next(flow), next(flow)
    for after in flow:
        if this:
            yield this, following, after
        this, following = following, after


def _place(this: _Window, following: _Window, look: Look) -> int:
    """Which frame begins the new shot: one of *this*, or, when all are of the old shot, the one after them."""
    vectors = look([*this.images, following.images[0]])
    return 1 + int(np.argmax([_apart(one, other) for one, other in pairwise(vectors)]))


def _apart(one: Vector, other: Vector) -> float:
    return 1 - float(one @ other)


def _looked(network: vision.Live, recipe: Recipe, images: Sequence[Pixels]) -> Vector:
    found = network(np.stack([fitted(image, recipe) for image in images])).cpu().numpy()
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
