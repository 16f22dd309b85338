"""Makes the videos of this example out of photos/: a camera pans and zooms over photographs.

Usage::

    python make.py videos

Eleven files: three journeys of several shots; one with a dark, a blurred and a still shot; copies of shots, re-encoded,
smaller or brighter; and four that cannot be read. truth.json beside them says where the cuts are and what each shot is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE, HEIGHT, WIDTH = 25, 180, 320
PHOTOS = Path(__file__).parent / "photos"


@dataclass(frozen=True)
class Shot:
    """A piece of a camera's way over a photograph.

    Attributes:
        photo: its name.
        seconds: how long.
        start, stop: left edge, upper edge and width of what is seen, as parts of the photograph's width and height.
        look: ``plain``, ``dark``, ``blurred``, ``bright`` or ``still``.
        like: the shot that this one repeats, as ``file:number``, or nothing.
    """

    photo: str
    seconds: float
    start: tuple[float, float, float]
    stop: tuple[float, float, float]
    look: str = "plain"
    like: str = ""


LEFT, RIGHT = (0.0, 0.2, 0.55), (0.4, 0.2, 0.55)
WIDE, NEAR = (0.0, 0.0, 1.0), (0.3, 0.2, 0.4)
REPEATED = "again/journey.mp4"

FILMS: dict[str, tuple[Shot, ...]] = {
    "journey.mp4": (
        Shot("coffee", 2.0, LEFT, RIGHT),
        Shot("astronaut", 2.0, (0.1, 0.1, 0.8), (0.3, 0.05, 0.4)),
        Shot("rocket", 1.6, RIGHT, LEFT),
    ),
    "animals.mkv": (
        Shot("chelsea", 2.4, WIDE, NEAR),
        Shot("retina", 2.0, (-0.05, 0.1, 1.0), (0.15, 0.2, 0.7)),
        Shot("chelsea", 1.6, RIGHT, LEFT),
    ),
    "space.mov": (
        Shot("hubble_deep_field", 2.0, (0.0, 0.0, 0.5), (0.5, 0.3, 0.5)),
        Shot("rocket", 2.0, (0.3, 0.0, 0.3), (0.2, 0.3, 0.6)),
    ),
    "poor.mp4": (
        Shot("coffee", 1.6, WIDE, NEAR, "dark"),
        Shot("astronaut", 1.6, LEFT, RIGHT, "blurred"),
        Shot("astronaut", 1.6, (0.2, 0.0, 0.7), (0.2, 0.0, 0.7), "still"),
        Shot("astronaut", 2.0, (0.0, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ),
    "again/cat.avi": (Shot("chelsea", 2.4, WIDE, NEAR, like="animals.mkv:0"),),
    "again/coffee.mp4": (Shot("coffee", 2.0, LEFT, RIGHT, "bright", like="journey.mp4:0"),),
}


def photograph(name: str) -> np.ndarray:
    """``float32, "y x rgb"``, 0 to 255."""
    with av.open(str(PHOTOS / f"{name}.jpg")) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24").astype(np.float32)


def seen(photo: np.ndarray, left: float, top: float, width: float) -> np.ndarray:
    """What the camera sees: bilinear between the pixels, ``"y x rgb"``."""
    tall, wide = photo.shape[:2]
    x = np.clip(wide * (left + width * (np.arange(WIDTH) + 0.5) / WIDTH) - 0.5, 0, wide - 1.001)
    y = np.clip(tall * top + wide * width * (np.arange(HEIGHT) + 0.5) / WIDTH - 0.5, 0, tall - 1.001)
    rows, columns = y.astype(int), x.astype(int)
    down, right = (y - rows)[:, None, None], (x - columns)[None, :, None]
    upper, lower = photo[rows], photo[rows + 1]
    above = upper[:, columns] * (1 - right) + upper[:, columns + 1] * right
    below = lower[:, columns] * (1 - right) + lower[:, columns + 1] * right
    return above * (1 - down) + below * down


def blurred(image: np.ndarray, radius: int = 12) -> np.ndarray:
    """The mean over squares, three times."""
    for axis in (0, 1) * 3:
        ends = [(radius + 1, radius) if each == axis else (0, 0) for each in range(3)]
        sums = np.cumsum(np.pad(image, ends, mode="edge"), axis=axis, dtype=np.float64)
        long = image.shape[axis]
        late, early = range(2 * radius + 1, long + 2 * radius + 1), range(long)
        image = (np.take(sums, late, axis) - np.take(sums, early, axis)) / (2 * radius + 1)
    return image


def looked(image: np.ndarray, look: str) -> np.ndarray:
    """*image* as the shot's look wants it, uint8."""
    if look == "dark":
        image = image * 0.06
    if look == "bright":
        image = image * 0.9 + 25
    if look == "blurred":
        image = blurred(image)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def frames(shot: Shot) -> Iterator[np.ndarray]:
    """The frames of a shot, uint8, ``"y x rgb"``."""
    photo, count = photograph(shot.photo), round(shot.seconds * RATE)
    for at in np.linspace(0, 1, count):
        place = [(1 - at) * one + at * other for one, other in zip(shot.start, shot.stop, strict=True)]
        yield looked(seen(photo, *place), shot.look)


def write(path: Path, shots: tuple[Shot, ...], height: int = HEIGHT, width: int = WIDTH, **options: str) -> None:
    """One film: H.264, or MPEG-4 for AVI."""
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    with av.open(str(path), "w", options={"movflags": "+faststart"} if path.suffix == ".mp4" else {}) as target:
        stream = target.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for at, pixels in enumerate(each for shot in shots for each in frames(shot)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(width, height, "yuv420p")
            frame.pts, frame.time_base = at, Fraction(1, RATE)
            target.mux(stream.encode(frame))
        target.mux(stream.encode())


def truth() -> dict[str, list[dict[str, object]]]:
    """The shots of each film with the second at which each begins."""
    told: dict[str, list[dict[str, object]]] = {}
    for name, shots in FILMS.items():
        starts = np.cumsum([0.0, *(shot.seconds for shot in shots[:-1])]).round(3).tolist()
        told[name] = [{**asdict(shot), "begins": at} for shot, at in zip(shots, starts, strict=True)]
    told[REPEATED] = [{**shot, "like": f"journey.mp4:{at}"} for at, shot in enumerate(told["journey.mp4"])]
    return told


def broken(folder: Path) -> None:
    """Four files that are no videos any more."""
    whole = (folder / "journey.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(30000))
    (folder / "empty.mov").write_bytes(b"")
    damaged = bytearray((folder / "space.mov").read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 4000] = np.random.default_rng(1).bytes(4000)
    (folder / "damaged.mov").write_bytes(bytes(damaged))


def make(folder: Path) -> None:
    """All of them, and truth.json."""
    (folder / "again").mkdir(parents=True, exist_ok=True)
    for name, shots in FILMS.items():
        if name == "again/cat.avi":
            write(folder / name, shots, 144, 256, b="300k")
        else:
            write(folder / name, shots, crf="30" if name.startswith("again") else "20", preset="veryfast")
    (folder / REPEATED).write_bytes((folder / "journey.mp4").read_bytes())
    broken(folder)
    (folder / "truth.json").write_text(json.dumps(truth(), indent=1))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
