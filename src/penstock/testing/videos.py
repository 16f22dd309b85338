"""Small videos, made here, for tests of what reads videos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["moving", "write_video"]

Pixels: TypeAlias = npt.NDArray[np.uint8]


def moving(seed: int, frames: int, height: int = 96, width: int = 128, speed: int = 2) -> list[Pixels]:
    """Frames of one shot, each ``"y x rgb"``: a texture of soft colours that moves *speed* pixels a frame."""
    rng = np.random.default_rng(seed)
    tint = rng.uniform(40, 215, 3)
    coarse = rng.normal(0, 45, (height // 8 + 2, (width + speed * frames) // 8 + 2, 3))
    wide = np.kron(coarse, np.ones((8, 8, 1))) + rng.normal(0, 6, (1, 1, 3)) + tint
    picture = np.clip(wide, 0, 255).astype(np.uint8)
    return [picture[:height, speed * at : speed * at + width] for at in range(frames)]


def write_video(
    path: Path,
    frames: Iterable[Pixels],
    rate: int = 25,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    *,
    container: Mapping[str, str] | None = None,
    rotation: int = 0,
    sound_seconds: float = 0.0,
) -> Path:
    """Write *frames*, ``"y x rgb"``, to *path*, whose suffix names the container.

    Args:
        path: the file.
        frames: all of one even size; none gives a head and no frame.
        rate: frames a second.
        codec: FFmpeg's name of an encoder.
        options: the encoder's.
        container: the container's options, such as ``{"movflags": "+faststart"}``.
        rotation: degrees by which players turn the picture counter-clockwise, a multiple of 90.
        sound_seconds: length of a tone beside it; 0 adds none.
    """
    import av

    frames = list(frames)
    with av.open(str(path), "w", options=dict(container or {})) as target:
        stream = target.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = frames[0].shape[:2] if frames else (64, 64)
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        if rotation:
            stream.set_display_rotation(rotation)
        tone = target.add_stream("aac", rate=16000) if sound_seconds else None
        target.start_encoding()
        for at, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, rate)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())
        if tone is not None:
            _play(target, tone, sound_seconds)
    return path


def _play(target: object, tone: object, seconds: float) -> None:
    """A tone of 440 Hz."""
    import av

    for start in range(0, math.ceil(seconds * 16000), 1024):
        wave = np.sin(2 * np.pi * 440 / 16000 * np.arange(start, start + 1024)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(wave[None] * 0.1, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, start, Fraction(1, 16000)
        target.mux(tone.encode(frame))  # type: ignore[attr-defined]
    target.mux(tone.encode())  # type: ignore[attr-defined]
