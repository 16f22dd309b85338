"""Clips to a few of their frames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
import pyarrow as pa

from penstock.core.batch import adding, field_of, tensor_column, tensor_type, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.errors import RowErrors
from penstock.formats.video import Picture, Pixels, Scaler, Span, Unplayable, Video, jpeg, opened, spans

__all__ = ["Frames"]


@dataclass(frozen=True)
class _Taken:
    """The frames of a clip, ``"frame y x rgb"``, and the whole middle one as JPEG."""

    frames: Pixels
    preview: bytes


@dataclass(frozen=True)
class Frames:
    """Add ``frames``, uint8 ``"frame y x rgb"``: *count* frames of each clip, in their order, upright.

    A clip is what ``start_seconds`` and ``stop_seconds`` say, else the whole video. It is cut into *count* equal
    pieces, and the frame is taken that is shown in the middle of each. Frames of one clip after the other are decoded
    in one go. A clip that cannot be decoded is quarantined.

    Attributes:
        count: frames a clip.
        height, width: of what comes out, in pixels.
        fit: ``crop`` keeps the proportions and the middle; ``stretch`` keeps everything.
        pick: ``keyframes`` takes of each piece the keyframe next to its middle where a clip has *count* keyframes
            or more, which is many times faster; ``uniform`` looks at all frames.
        preview_height: adds ``preview``, the frame in the middle of the clip as JPEG of this height; 0 adds none.
        column: address of the video.
        threads: for decoding.
    """

    count: int = 8
    height: int = 224
    width: int = 224
    fit: Literal["crop", "stretch"] = "crop"
    pick: Literal["uniform", "keyframes"] = "uniform"
    preview_height: int = 144
    column: str = "uri"
    threads: int = 1

    ASIDE = ("threads",)
    NEEDS = ("av",)

    def __post_init__(self) -> None:
        if min(self.count, self.height, self.width) < 1 or self.preview_height < 0:
            raise ValueError("count, height and width must be 1 or more, preview_height 0 or more")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``frames``, and ``preview`` when asked for. Raises `SchemaError`."""
        field_of(given, self.column, "frames", pa.string())
        preview = {"preview": pa.binary()} if self.preview_height else {}
        return adding(given, {"frames": tensor_type(np.uint8, *self._shape), **preview})

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.count, self.height, self.width, 3

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing is loaded."""
        yield self._add

    def _add(self, batch: Batch) -> Batch:
        bad: dict[int, str] = {}
        frames, previews = np.empty((batch.num_rows, *self._shape), np.uint8), [b""] * batch.num_rows
        for at, found in self._each(spans(batch, self.column)):
            if isinstance(found, Unplayable):
                bad[at] = str(found)
            else:
                frames[at], previews[at] = found.frames, found.preview
        keep = np.array([at not in bad for at in range(batch.num_rows)])
        rows = pa.array(np.flatnonzero(keep))
        columns = {"frames": tensor_column(frames if keep.all() else frames[keep])}
        if self.preview_height:
            columns["preview"] = pa.array(previews, pa.binary()).take(rows)
        good = with_columns(batch if keep.all() else batch.take(rows), columns)
        if bad:
            raise RowErrors(good, batch.take(pa.array([*bad], pa.int64())), [*bad.values()])
        return good

    def _each(self, wanted: list[Span]) -> Iterator[tuple[int, _Taken | Unplayable]]:
        """The frames of each row; rows of one video that stand together share its opening."""
        for (uri, etag), rows in groupby(enumerate(wanted), lambda row: (row[1].uri, row[1].etag)):
            group = list(rows)
            try:
                with opened(uri, etag, self.threads) as video:
                    yield from ((at, self._of(video, span)) for at, span in group)
            except Unplayable as error:
                yield from ((at, error) for at, _ in group)

    def _of(self, video: Video, span: Span) -> _Taken | Unplayable:
        try:
            stop = span.stop if math.isfinite(span.stop) else video.facts().duration_seconds
            if stop is None:
                raise Unplayable("nothing says how long it is; let 'shots' go before")
            return self._taken(self._chosen(video, span.start, stop))
        except Unplayable as error:
            return error

    def _chosen(self, video: Video, start: float, stop: float) -> list[Picture]:
        long = (stop - start) / self.count
        middles = [start + (piece + 0.5) * long for piece in range(self.count)]
        if self.pick == "keyframes" and (keys := _nearest(video.keyframes(start, stop), middles)):
            return keys
        chosen = list(_shown(video.between(start, stop), middles))
        if not chosen:
            raise Unplayable(f"there is no frame between {start:.3f} s and {stop:.3f} s")
        return chosen

    def _taken(self, pictures: list[Picture]) -> _Taken:
        scaler = Scaler()
        frames = np.stack([scaler.rgb(each, self.height, self.width, self.fit) for each in pictures])
        middle = pictures[len(pictures) // 2]
        return _Taken(frames, jpeg(Scaler().preview(middle, self.preview_height)) if self.preview_height else b"")


def _shown(pictures: Iterable[Picture], moments: list[float]) -> Iterator[Picture]:
    """The frame that is on the screen at each of *moments*, which rise; none when there is no frame."""
    held, at = None, 0
    for each in pictures:
        while held is not None and at < len(moments) and each.seconds > moments[at]:
            yield held
            at += 1
        held = each
    if held is not None:
        yield from [held] * (len(moments) - at)


def _nearest(pictures: Iterable[Picture], moments: list[float]) -> list[Picture]:
    """Of *pictures* the one next to each of *moments*; none where there are fewer than these.

    No others are kept: in a video of keyframes alone they would be all that there is.
    """
    found, times = list[Picture](), list[float]()
    for each in pictures:
        times.append(each.seconds)
        held = found or [each] * len(moments)
        closer = (abs(each.seconds - at) < abs(one.seconds - at) for one, at in zip(held, moments, strict=True))
        found = [each if is_closer else one for one, is_closer in zip(held, closer, strict=True)]
    return found if len(times) >= len(moments) else []
