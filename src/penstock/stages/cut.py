"""Clips as files of their own: MP4, preview and metadata, each published once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from penstock.core.batch import adding, field_of, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.core.storage import Uri, clear_scratch, join, publish
from penstock.errors import PlanError, RowErrors
from penstock.formats.video import Span, Unplayable, Video, opened, spans

__all__ = ["Cut"]

_ADDED = {
    "clip_uri": pa.string(),
    "clip_sha256": pa.string(),
    "clip_bytes": pa.int64(),
    "clip_copied": pa.bool_(),
    "preview_uri": pa.string(),
    "metadata_uri": pa.string(),
}
_Write: TypeAlias = Callable[[Span], None]
_NOTHING: Mapping[str, Any] = dict.fromkeys(_ADDED)
_MPEG4_TICK = Fraction(1, 60000)
"""MPEG-4 part 2 counts a second in 65535 ticks at most; the usual frame rates are whole numbers of these."""
_NARROW = 1
"""FFmpeg's AVCOL_RANGE_MPEG: luma from 16 to 235, which players expect where a file says nothing."""
_COPIED_FROM = ("mov", "matroska")
_COPIED_VIDEO = ("h264", "hevc", "av1", "mpeg4")
_COPIED_SOUND = ("aac", "mp3", "ac3", "eac3", "alac")


@dataclass(frozen=True)
class Cut:
    """Write the clip of each row as MP4 and add ``clip_uri``, ``clip_sha256``, ``clip_bytes``, ``clip_copied``,
    ``preview_uri`` and ``metadata_uri``.

    The files are ``SHA256.mp4`` below *uri*, with ``.jpg`` (the column ``preview``, if there) and ``.json`` (the
    row's texts and numbers) beside it. The name is the hash of the MP4's bytes, each file appears at once and whole,
    the JSON last. Encoding gives the same bytes each time, so a run that was killed and started again leaves each
    clip there once. Rows whose clips are the same bytes, such as those of a video that is there twice, share the
    files, and the JSON is that of one of them: let `duplicates` go before.

    A clip that begins at a keyframe and ends before one is copied without loss; others are encoded. Frames keep their
    times; sound is copied where MP4 can hold it. A clip that cannot be decoded is quarantined.

    Attributes:
        uri: folder or ``s3://`` prefix that the files are written below; other files there are left alone.
        where: a column of truth values; rows where it is false or null get no file and nulls. Empty takes all rows.
        mode: ``auto`` copies where it can; ``encode`` encodes all, so that all have one codec.
        codec: FFmpeg's name of an encoder for MP4.
        options: its options, such as ``{ crf = "20", preset = "veryfast" }``, FFmpeg's defaults where empty.
        sound: ``copy`` takes it along, ``none`` leaves it out.
        column: address of the video.
    """

    uri: Uri
    where: str = ""
    mode: Literal["auto", "encode"] = "auto"
    codec: str = "libx264"
    options: tuple[tuple[str, str], ...] = (("crf", "20"), ("preset", "veryfast"))
    sound: Literal["copy", "none"] = "copy"
    column: str = "uri"

    NEEDS = ("av",)

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The files' columns. Raises `SchemaError`."""
        field_of(given, self.column, "cut", pa.string())
        for name in ("start_seconds", "stop_seconds"):
            field_of(given, name, "cut", pa.float64())
        if self.where:
            field_of(given, self.where, "cut", pa.bool_())
        return adding(given, _ADDED)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Sweep what killed workers left. Raises `PlanError` when the encoder does not start."""
        self._try_encoder()
        clear_scratch(self.uri)
        yield self._cut

    def _try_encoder(self) -> None:
        """Open it once: what is wrong with its options would else be taken for a fault of each video."""
        import av

        if self.codec not in av.codecs_available:
            raise PlanError(f"cut: this PyAV has no encoder '{self.codec}'; libx264, libopenh264 and mpeg4 are common")
        try:
            context = av.CodecContext.create(self.codec, "w")
            context.width, context.height, context.pix_fmt = 320, 240, "yuv420p"
            context.time_base, context.thread_count = Fraction(1, 25), 1
            context.options = dict(self.options)
            context.open()
        except (av.error.FFmpegError, AttributeError, TypeError, ValueError) as error:
            told = ", ".join(f"{name} = {value}" for name, value in self.options) or "no options"
            raise PlanError(
                f"cut: the encoder '{self.codec}' does not start with {told}: {error}; an encoder of video was needed, "
                "with options and values that it knows"
            ) from error

    def _cut(self, batch: Batch) -> Batch:
        wanted = batch[self.where].to_pylist() if self.where else [True] * batch.num_rows
        facts = batch.select([field.name for field in batch.schema if _plain(field.type)]).to_pylist()
        previews = batch["preview"].to_pylist() if "preview" in batch.schema.names else [None] * batch.num_rows
        files: list[Mapping[str, Any]] = []
        bad: dict[int, str] = {}
        for at, span in enumerate(spans(batch, self.column)):
            try:
                files.append(self._published(span, facts[at], previews[at]) if wanted[at] else _NOTHING)
            except Unplayable as error:
                bad[at] = str(error)
        good = batch.take(pa.array([at for at in range(batch.num_rows) if at not in bad], pa.int64()))
        good = with_columns(good, {name: pa.array([f[name] for f in files], kind) for name, kind in _ADDED.items()})
        if bad:
            raise RowErrors(good, batch.take(pa.array([*bad], pa.int64())), [*bad.values()])
        return good

    def _published(self, span: Span, facts: Mapping[str, Any], preview: bytes | None) -> Mapping[str, Any]:
        with publish(self.uri, ".mp4") as (path, upload):
            copied = self._write(span, path)
            sha256, size = _hash(path), path.stat().st_size
            upload(f"{sha256}.mp4")
        if preview is not None:
            self._publish(f"{sha256}.jpg", preview)
        clip = {"clip_sha256": sha256, "clip_bytes": size, "clip_copied": copied}
        values = {name: _sayable(value) for name, value in facts.items()}
        told = json.dumps({**values, **clip}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self._publish(f"{sha256}.json", told.encode())
        stem = join(self.uri, sha256)
        image = f"{stem}.jpg" if preview is not None else None
        return {**clip, "clip_uri": f"{stem}.mp4", "preview_uri": image, "metadata_uri": f"{stem}.json"}

    def _publish(self, name: str, data: bytes) -> None:
        with publish(self.uri, Path(name).suffix) as (path, upload):
            path.write_bytes(data)
            upload(name)

    def _write(self, span: Span, path: Path) -> bool:
        """Write the clip to *path*; whether it was copied."""
        import av

        with opened(span.uri, span.etag) as video:
            video.facts()
            copied = self.mode == "auto" and _copyable(video, span)
            # No date and no program's version are written, so that the same clip is the same file.
            settings = {"movflags": "+faststart", "fflags": "+bitexact"}
            with av.open(str(path), "w", format="mp4", options=settings) as target:
                writes = [_copy(video, target) if copied else self._encode(video, target)]
                writes += _sound(video, target) if self.sound == "copy" else []  # before anything is written
                for write in writes:
                    write(span)
        return copied

    def _encode(self, video: Video, target: Any) -> _Write:
        source = video.stream
        stream = target.add_stream(self.codec, rate=source.average_rate or 25, options=dict(self.options))
        context = stream.codec_context
        context.width, context.height = _even(source.codec_context.width), _even(source.codec_context.height)
        context.pix_fmt, context.thread_count = "yuv420p", 1
        context.time_base = max(source.time_base, _MPEG4_TICK) if self.codec == "mpeg4" else source.time_base
        context.sample_aspect_ratio = source.sample_aspect_ratio or Fraction(1)
        return partial(_encode, video, target, stream)


def _plain(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(numbers or pa.types.is_string(kind))


def _sayable(value: Any) -> Any:
    """*value*, or null for what JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _even(length: int) -> int:
    return max(2, length - length % 2)


def _encode(video: Video, target: Any, stream: Any, span: Span) -> None:
    context, first = stream.codec_context, None
    for picture in video.between(span.start, span.stop):
        frame, pts = picture.frame, picture.frame.pts
        if first is None:
            first = pts
            if frame.rotation:
                stream.set_display_rotation(frame.rotation)
        # Pixels of the full range, as webcams and phones write them, would else be taken for those of the narrow one.
        shaped = frame.reformat(context.width, context.height, "yuv420p", dst_color_range=_NARROW, threads=1)
        shaped.pts, shaped.time_base, shaped.pict_type = pts - first, video.stream.time_base, 0
        target.mux(stream.encode(shaped))
    if first is None:
        raise Unplayable(f"there is no frame between {span.start:.3f} s and {span.stop:.3f} s")
    target.mux(stream.encode())


# --- without encoding ------------------------------------------------------------------------------------


def _copyable(video: Video, span: Span) -> bool:
    """Whether the packets from *start* to *stop* are just the frames of the clip, and need no others."""
    if not video.container.format.name.startswith(_COPIED_FROM) or video.codec not in _COPIED_VIDEO:
        return False
    packets = _packets(video, video.stream, span.start)
    first = next(packets, None)
    if first is None or first.dts is None or not first.is_keyframe or video.seconds(first.pts) != span.start:
        return False
    for packet in packets:
        at = video.seconds(packet.pts)
        if at < span.start or packet.dts is None:  # an open group of pictures, or an order that nobody wrote down
            return False
        if at >= span.stop:
            return bool(packet.is_keyframe) and not _leading(video, packets, span.stop)
    return True


def _leading(video: Video, packets: Iterable[Any], stop: float) -> bool:
    """Whether frames before *stop* come after the keyframe that stands there."""
    following = (video.seconds(packet.pts) for packet, _ in zip(packets, range(16), strict=False))
    return any(at < stop for at in following)


def _packets(video: Video, stream: Any, start: float) -> Iterator[Any]:
    """The packets of *stream* from the last keyframe at or before *start* on."""
    video.jump(start, stream)
    return (packet for packet in video.container.demux(stream) if packet.pts is not None)


def _copy(video: Video, target: Any) -> _Write:
    stream = target.add_stream_from_template(video.stream)
    return partial(_mux, video, target, stream, video.stream)


def _sound(video: Video, target: Any) -> list[_Write]:
    """What copies the sound, if there is some that MP4 can hold."""
    if not video.container.format.name.startswith(_COPIED_FROM):
        return []
    sources = [each for each in video.container.streams.audio if each.codec_context.name in _COPIED_SOUND][:1]
    return [partial(_mux, video, target, target.add_stream_from_template(source), source) for source in sources]


def _mux(video: Video, target: Any, stream: Any, source: Any, span: Span) -> None:
    base, origin = source.time_base, None
    for packet in _packets(video, source, span.start):
        at = video.seconds(packet.pts, source)
        if at >= span.stop and (source.type == "audio" or packet.is_keyframe):
            return
        if at < span.start:
            continue
        if origin is None:
            origin = packet.pts - (math.floor(Fraction(at - span.start) / base) if source.type == "audio" else 0)
        packet.pts -= origin
        packet.dts = (packet.dts if packet.dts is not None else packet.pts + origin) - origin
        packet.stream = stream
        target.mux(packet)
