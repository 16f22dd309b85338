"""Cuts the photographs of photos/ out of the wheel of scikit-image 0.26.0: smaller, as JPEG.

Usage::

    pip download --no-deps scikit-image==0.26.0
    python cut.py scikit_image-0.26.0-*.whl photos
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import av
import numpy as np

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg")
WIDTH = 448


def jpeg(image: av.VideoFrame) -> bytes:
    """*image* as JPEG."""
    target = io.BytesIO()
    with av.open(target, "w", format="image2pipe") as file:
        stream = file.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = image.width, image.height, "yuvj420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 4
        file.mux(stream.encode(image.reformat(format="yuvj420p")))
        file.mux(stream.encode())
    return target.getvalue()


def smaller(data: bytes) -> av.VideoFrame:
    """The photograph, `WIDTH` wide."""
    with av.open(io.BytesIO(data)) as file:
        frame = next(file.decode(video=0))
    height = 2 * round(frame.height * WIDTH / frame.width / 2)
    pixels = frame.reformat(WIDTH, height, "rgb24", interpolation="AREA").to_ndarray()
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")


if __name__ == "__main__":
    wheel, folder = zipfile.ZipFile(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        image = smaller(wheel.read(f"skimage/data/{name}"))
        (folder / Path(name).with_suffix(".jpg").name).write_bytes(jpeg(image))
