"""Writes crops of the photographs that scikit-image carries: four JPEG files of each, and one that is no image.

Usage::

    pip install scikit-image==0.26.0
    python photos.py photos
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "retina.jpg")
SHARE = 0.85
CORNERS = {"upper_left": (0.0, 0.0), "upper_right": (1.0, 0.0), "lower_left": (0.0, 1.0), "lower_right": (1.0, 1.0)}


def crops(photo: Image.Image) -> dict[str, Image.Image]:
    """A part in each corner, `SHARE` as wide and high."""
    width, height = int(SHARE * photo.width), int(SHARE * photo.height)
    found = {}
    for name, (right, low) in CORNERS.items():
        left, top = int(right * (photo.width - width)), int(low * (photo.height - height))
        found[name] = photo.crop((left, top, left + width, top + height))
    return found


def main(folder: Path) -> None:
    """Write them below *folder*."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        sys.exit("the photographs come with scikit-image: pip install scikit-image==0.26.0")
    for name in NAMES:
        photo = Image.open(Path(spec.origin).parent / "data" / name).convert("RGB")
        photo.thumbnail((640, 640))
        for corner, crop in crops(photo).items():
            path = folder / Path(name).stem / f"{corner}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            crop.save(path, quality=90)
    (folder / "broken.jpg").write_bytes(b"this is no image")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
