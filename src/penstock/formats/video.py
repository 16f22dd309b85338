"""Video files: what they say of themselves, their frames in order, and JPEG images; FFmpeg's libraries through PyAV.

Times are seconds since the first frame of the video stream, worked out in one way everywhere, so that they can be
compared for equality. Frames are given one at a time: memory does not grow with a video's length.

See https://pyav.basswood-io.com and https://ffmpeg.org/documentation.html.
"""

from __future__ import annotations

import errno
import heapq
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.storage import Posix, seekable, store_of
from penstock.errors import PenstockError, StorageError

__all__ = [
    "MOST_PIXELS",
    "SUFFIXES",
    "Facts",
    "Picture",
    "Pixels",
    "Scaler",
    "Span",
    "Unplayable",
    "Video",
    "jpeg",
    "opened",
    "spans",
]

Pixels: TypeAlias = npt.NDArray[np.uint8]

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg"),
    *(".ts", ".m2ts", ".mts", ".wmv", ".flv", ".ogv", ".3gp", ".mxf", ".y4m"),
)
_FORMATS = "mov,matroska,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,mxf,yuv4mpegpipe"
"""Others are not tried: a playlist in disguise would have other files and addresses read."""
MOST_PIXELS = 1 << 26
"""Of a frame, width by height: 8192 x 8192."""
_BUFFER_BYTES = 4 << 20
_EVER_SECONDS = 1e6
_EARLIER_SECONDS = 2.0
_REORDERED = 32
"""More packets than a decoder may hold back: H.264 and HEVC allow 16 frames."""
_MEND_TIMES = "its times go back, as of H.264 with B-frames in AVI; convert it to MP4"
_NEAR_SECONDS = 4.0
"""Frames up to so far ahead are decoded on the way; beyond, a jump to a keyframe is cheaper."""


class Unplayable(ValueError):  # noqa: N818  (what the video is)
    """A video, or a piece of it, cannot be read: the text is the reason for which its row is quarantined."""


@dataclass(frozen=True)
class Facts:
    """What a file says of its video stream; None where it says nothing."""

    container: str
    codec: str
    width: int
    height: int
    frame_rate: float | None
    duration_seconds: float | None
    frame_count: int | None


@dataclass(frozen=True)
class Picture:
    """A decoded frame, and the seconds from which and up to which it is shown."""

    seconds: float
    until: float
    frame: Any


@dataclass(frozen=True)
class Span:
    """A piece of a video, in seconds; *stop* is infinite where it goes to the end."""

    uri: str | None
    etag: str | None
    start: float
    stop: float


def spans(batch: pa.Table, column: str) -> list[Span]:
    """The pieces of videos that the rows name: *column*, and ``etag``, ``start_seconds``, ``stop_seconds`` if there."""
    nothing = [None] * batch.num_rows
    names = (column, "etag", "start_seconds", "stop_seconds")
    columns = [batch[name].to_pylist() if name in batch.schema.names else nothing for name in names]
    rows = zip(*columns, strict=True)
    return [Span(uri, etag, start or 0.0, math.inf if stop is None else stop) for uri, etag, start, stop in rows]


@contextmanager
def opened(
    uri: str | None, etag: str | None = None, threads: int = 1, most_pixels: int = MOST_PIXELS
) -> Iterator[Video]:
    """The video at *uri*: a file by its name, an object by ranged reads of a few MiB.

    Args:
        uri: its address.
        etag: refuse when the content is no longer that of *etag*.
        threads: for decoding; each holds some frames.
        most_pixels: larger frames are refused before memory is taken for them.

    Raises:
        Unplayable: it is no video that can be read.
        StorageError: it is not there, or changed.
        PenstockError: PyAV is missing.
    """
    try:
        import av
    except ImportError as error:
        raise PenstockError("videos need PyAV: pip install 'penstock[video]'") from error
    if uri is None:
        raise Unplayable("it has no address")
    size = _size(uri, etag)
    local = isinstance(store_of(uri), Posix)
    with seekable(uri, etag) if local else _buffered(uri, etag) as file:
        try:
            name, options = uri.removeprefix("file://") if local else file, {"format_whitelist": _FORMATS}
            with av.open(name, options=options, metadata_errors="replace") as container:
                video = Video(container, size, threads, most_pixels)
                try:
                    yield video
                finally:
                    video.rest()
        except av.error.FFmpegError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):  # of a clip that is written meanwhile
                raise OSError(error.errno, _words(error)) from error
            raise Unplayable(f"it cannot be read as a video of {size:,} bytes: {_words(error)}") from error


def _buffered(uri: str, etag: str | None) -> Any:
    import io

    return io.BufferedReader(seekable(uri, etag), _BUFFER_BYTES)


def _size(uri: str, etag: str | None) -> int:
    entry = store_of(uri).entry(uri)
    if entry is None:
        raise StorageError(f"cannot read {uri}: it is not there any more; put it back, or list the videos again")
    if etag is not None and entry.etag != etag:
        raise StorageError(f"cannot read {uri}: it changed since it was listed; run the first pipeline again")
    if not entry.size_bytes:
        raise Unplayable("the file is empty")
    return entry.size_bytes


def _words(error: Exception) -> str:
    """FFmpeg's words without Python's number and file name."""
    return str(getattr(error, "strerror", None) or error)


class Video:
    """An open video. Frames are asked for by time; those that follow one another are decoded in one go."""

    def __init__(self, container: Any, size_bytes: int, threads: int, most_pixels: int) -> None:
        self.container, self.size_bytes, self._most_pixels = container, size_bytes, most_pixels
        if not container.streams.video:
            kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise Unplayable(f"there is no video stream in it, only: {kinds}")
        self.stream = container.streams.video[0]
        context = self.stream.codec_context
        if context is None:
            raise Unplayable("its codec is not known to this FFmpeg; convert it to H.264 or AV1")
        context.thread_count = threads
        context.thread_type = "NONE" if threads == 1 else "AUTO"
        self._refuse_large(context.width, context.height)
        self._origin, self._base = self.stream.start_time or 0, self.stream.time_base
        self.rest()

    def rest(self) -> None:
        """Let go of what is being decoded; it holds the decoder, and the video would be a circle that holds itself."""
        self._flow: Iterator[Picture] = iter(())
        self._ahead: Picture | None = None

    def seconds(self, pts: int, stream: Any = None) -> float:
        """The time of a time stamp of *stream*, the video's when there is none."""
        if stream is None or stream is self.stream:
            return float((pts - self._origin) * self._base)
        return float(pts * stream.time_base - self._origin * self._base)

    @property
    def codec(self) -> str:
        """Its name."""
        return str(self.stream.codec_context.name)

    def facts(self) -> Facts:
        """What the file says. Raises `Unplayable` when it says more than it holds."""
        self._refuse_truncated()
        context, rate = self.stream.codec_context, self.stream.average_rate or self.stream.guessed_rate
        known = self._promised() or self._of_container()
        return Facts(
            self.container.format.name.split(",")[0],
            context.name,
            context.width,
            context.height,
            float(rate) if rate else None,
            known,
            self.stream.frames or None,
        )

    def between(self, start: float, stop: float = math.inf) -> Iterator[Picture]:
        """The frames that begin in ``[start, stop)``, in order.

        Raises:
            Unplayable: one is damaged, or the file ends before it said that it would.
        """
        self._wind(start)
        while (picture := self._next()) is not None:
            if picture.seconds >= stop:
                self._ahead = picture
                return
            if picture.seconds >= start:
                yield picture

    def keyframes(self, start: float, stop: float) -> Iterator[Picture]:
        """The keyframes that begin in ``[start, stop)``; no others are decoded."""
        self.jump(start)
        self.stream.codec_context.skip_frame = "NONKEY"
        try:
            for picture in self._decoded(start, whole=False):
                if picture.seconds >= stop:
                    return
                if picture.seconds >= start and picture.frame.key_frame:
                    yield picture
        finally:
            self.stream.codec_context.skip_frame = "DEFAULT"
            self.rest()

    def moments(self, start: float, stop: float) -> Iterator[tuple[float, float]]:
        """From when and up to when the frames that begin in ``[start, stop)`` are shown; none is decoded.

        Raises:
            Unplayable: the file ends before it said that it would.
        """
        self.jump(start - _EARLIER_SECONDS)
        last = -math.inf
        for seconds, until in self._ordered():
            if seconds >= stop:
                return
            if seconds >= start and seconds > last:
                yield seconds, until
            last = seconds
        self._ended(until if last >= 0 else -math.inf)

    def _ordered(self) -> Iterator[tuple[float, float]]:
        """The times of the packets, which come as decoders want them, in the order of the frames."""
        import av

        waiting: list[tuple[float, float]] = []
        try:
            for packet in self.container.demux(self.stream):
                if packet.pts is not None and not packet.is_discard:
                    heapq.heappush(waiting, (self.seconds(packet.pts), self.seconds(packet.pts + self._long(packet))))
                if len(waiting) > _REORDERED:
                    yield heapq.heappop(waiting)
        except av.error.FFmpegError as error:
            raise Unplayable(f"it cannot be read to its end: {_words(error)}") from error
        yield from sorted(waiting)

    def _next(self) -> Picture | None:
        picture, self._ahead = self._ahead, None
        return picture or next(self._flow, None)

    def _wind(self, start: float) -> None:
        """Stand at or before *start*: by going on when it is near, else by a jump to a keyframe."""
        here = self._ahead
        if here is not None and here.seconds <= start < here.seconds + _NEAR_SECONDS:
            return
        for back in (0.0, 10.0, _EVER_SECONDS):  # the index of some formats is rough, and a jump may lead too far
            self.jump(start - back)
            self._flow = self._decoded(start)
            self._ahead = next(self._flow, None)
            if self._ahead is not None and self._ahead.seconds <= start:
                return

    def jump(self, start: float, stream: Any = None) -> None:
        """To the last keyframe of *stream* at or before *start*. Raises `Unplayable`."""
        import av

        stream = stream or self.stream
        self.rest()
        for place in dict.fromkeys((start, max(start, 0.0))):  # some formats begin a little before, others refuse that
            # A hair more, since seconds are rounded and a time just below a keyframe leads to the one before.
            ticks = (Fraction(place) + self._origin * self._base) / stream.time_base + Fraction(1, 1000)
            try:
                self.container.seek(math.floor(ticks), stream=stream, backward=True)
                return
            except av.error.FFmpegError as error:
                failure = _words(error)
        raise Unplayable(f"there is no way to {start:.3f} s in it: {failure}")

    def _decoded(self, start: float, *, whole: bool = True) -> Iterator[Picture]:
        """The frames from the present keyframe on; what is damaged before *start* does not matter.

        When these are *whole*, all frames, they must go to the end that the file promises.
        """
        import av

        last = -math.inf
        try:
            for frame in self.container.decode(self.stream):
                picture = self._picture(frame)
                if picture.seconds < last:  # all that follow would be lost, or none of them stand where they should
                    raise Unplayable(f"the frame after {last:.3f} s says {picture.seconds:.3f} s: {_MEND_TIMES}")
                if picture.seconds == last:
                    continue
                last = picture.seconds
                if frame.is_corrupt and last >= start:
                    raise Unplayable(f"the frame at {last:.3f} s is damaged; copy the file again")
                yield picture
        except av.error.FFmpegError as error:
            at = "the first frame" if last < 0 else f"what follows {last:.3f} s"
            raise Unplayable(f"{at} cannot be decoded ({self.codec}): {_words(error)}") from error
        if whole:
            self._ended(picture.until if last >= 0 else -math.inf)

    def _picture(self, frame: Any) -> Picture:
        self._refuse_large(frame.width, frame.height)
        if frame.pts is None:
            raise Unplayable("its frames carry no times; put it into a container such as MP4")
        return Picture(self.seconds(frame.pts), self.seconds(frame.pts + self._long(frame)), frame)

    def _long(self, piece: Any) -> int:
        """Ticks for which a frame or the frame of a packet is shown."""
        rate = self.stream.average_rate or self.stream.guessed_rate or 25
        return int(piece.duration or max(1, round(1 / (rate * self._base))))

    def _ended(self, at: float) -> None:
        promised = self._promised()
        if at < 0 and self.stream.frames:
            raise Unplayable(f"no frame can be decoded ({self.codec}), {self.stream.frames} are promised")
        if promised is not None and 0 <= at < promised - max(0.5, 0.02 * promised):
            raise Unplayable(f"it ends at {at:.3f} s, {promised:.3f} s are promised: it is truncated; copy it again")

    def _promised(self) -> float | None:
        """How long the video stream is by the file's own words."""
        if self.stream.duration:
            return float(self.stream.duration * self._base)
        if told := re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", self.stream.metadata.get("DURATION", "")):
            return self._since_first(3600 * int(told[1]) + 60 * int(told[2]) + float(told[3]))
        return self._of_container() if len(self.container.streams) == 1 else None

    def _of_container(self) -> float | None:
        return self._since_first(self.container.duration / 1_000_000) if self.container.duration else None

    def _since_first(self, told: float) -> float:
        """Matroska's word for a length is the time of the end, whenever the first frame comes."""
        matroska = self.container.format.name.startswith("matroska")
        return max(0.0, told - float(self._origin * self._base)) if matroska else told

    def _refuse_large(self, width: int, height: int) -> None:
        if width * height > self._most_pixels:
            raise Unplayable(
                f"its frames have {width} x {height} pixels, at most {self._most_pixels:,} are taken: shrink them"
            )

    def _refuse_truncated(self) -> None:
        index = self.stream.index_entries
        if index is None or not len(index):
            return
        stop = index[-1].pos + index[-1].size
        if stop > self.size_bytes:
            raise Unplayable(
                f"its last frame ends at byte {stop:,}, the file at byte {self.size_bytes:,}: it is truncated; "
                "copy it again"
            )


class Scaler:
    """Decoded frames to small RGB images, upright, with square pixels."""

    def __init__(self) -> None:
        from av.video.reformatter import Interpolation as By
        from av.video.reformatter import VideoReformatter

        self._formatter = VideoReformatter()
        # Without the options greys come out two levels too dark, and other processors give other bytes.
        self._exactly = By.AREA | By.FULL_CHR_H_INT | By.ACCURATE_RND | By.BITEXACT
        self._roughly = By.FAST_BILINEAR

    def rgb(self, picture: Picture, height: int, width: int, fit: Literal["crop", "stretch"]) -> Pixels:
        """``"y x rgb"``: ``crop`` keeps the middle, ``stretch`` everything."""
        turned = picture.frame.rotation % 180 == 90
        rows, columns = (width, height) if turned else (height, width)
        tall, wide = (rows, columns) if fit == "stretch" else _covering(picture.frame, rows, columns)
        image = self.scaled(picture, tall, wide)
        top, left = (tall - rows) // 2, (wide - columns) // 2
        return _upright(image[top : top + rows, left : left + columns], picture.frame.rotation)

    def preview(self, picture: Picture, height: int) -> Pixels:
        """The whole frame, *height* high; ``"y x rgb"``."""
        frame = picture.frame
        turned = frame.rotation % 180 == 90
        tall, wide = frame.height, frame.width * _aspect(frame)
        scale = height / (wide if turned else tall)
        image = self.scaled(picture, _even(tall * scale), _even(wide * scale))
        return _upright(image, frame.rotation)

    def scaled(self, picture: Picture, height: int, width: int) -> Pixels:
        """The frame in another size: each pixel is the mean over those that it covers; ``"y x rgb"``."""
        frame = self._formatter.reformat(picture.frame, width, height, "rgb24", interpolation=self._exactly, threads=1)
        return np.asarray(frame.to_ndarray())

    def sampled(self, picture: Picture, height: int, width: int) -> Pixels:
        """Some pixels of the frame, many times faster; luma and chroma, ``"channel y x"``."""
        how = {"interpolation": self._roughly, "threads": 1}
        return np.asarray(self._formatter.reformat(picture.frame, width, height, "yuv444p", **how).to_ndarray())


def _aspect(frame: Any) -> float:
    """Width of a pixel by its height."""
    return float(getattr(frame, "sample_aspect_ratio", None) or 1)


def _covering(frame: Any, rows: int, columns: int) -> tuple[int, int]:
    """Height and width of the whole frame when it just covers *rows* and *columns*."""
    tall, wide = frame.height, frame.width * _aspect(frame)
    scale = max(rows / tall, columns / wide)
    return max(rows, round(tall * scale)), max(columns, round(wide * scale))


def _even(length: float) -> int:
    return max(2, 2 * round(length / 2))


def _upright(image: Pixels, degrees: int) -> Pixels:
    return np.ascontiguousarray(np.rot90(image, round(degrees / 90)))


def jpeg(pixels: Pixels, quantiser: int = 4) -> bytes:
    """An image, ``"y x rgb"``, as JPEG; *quantiser* from 1 (best) to 31."""
    import av

    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    context = av.CodecContext.create("mjpeg", "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, "yuvj420p"
    context.time_base, context.thread_count = Fraction(1, 25), 1
    context.qmin = context.qmax = quantiser
    return b"".join(bytes(packet) for packet in (*context.encode(frame.reformat(format="yuvj420p")), *context.encode()))
