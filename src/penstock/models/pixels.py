"""Encoded images to the pixels that a network wants: decoded upright, resized and cropped by its recipe.

Decoding and resizing are Pillow's, which lets go of Python's lock meanwhile, so threads help.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["IMAGENET", "LARGEST", "PictureError", "Pixels", "Recipe", "decoded", "fitted", "header"]

Pixels: TypeAlias = npt.NDArray[np.uint8]

LARGEST = 178_956_970
"""Pixels beyond which Pillow refuses an image as a decompression bomb, twice its MAX_IMAGE_PIXELS."""

_ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4
_UNKNOWN_RANGE = ("I", "F")
_ROOM = 2  # a draft keeps at least this many times the pixels along an edge that are left in the end


class PictureError(Exception):
    """One image cannot be used; the text says why, and is a quarantined row's reason."""


@dataclass(frozen=True)
class Recipe:
    """How a network wants its input made.

    Attributes:
        resize: pixels of the shorter edge, or of both.
        edges: ``shorter`` keeps the shape of the image, ``both`` makes it square.
        crop: pixels of the square that is cut from the middle.
        mean: subtracted from pixels of 0 to 255, red, green, blue.
        std: what they are divided by then.
        filter: how Pillow resizes; it widens the filter when it shrinks (antialias).
        order: of the channels that the first convolution sees.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    edges: Literal["shorter", "both"] = "shorter"
    filter: Literal["bilinear", "bicubic"] = "bilinear"
    order: Literal["rgb", "bgr"] = "rgb"

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop; as torchvision's Resize, the longer edge is rounded down."""
        if self.edges == "both":
            return self.resize, self.resize
        short = min(width, height)
        return self.resize * width // short, self.resize * height // short


IMAGENET = Recipe(256, 224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""What torchvision's classifiers were trained and judged with: 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225 of 255.

See https://docs.pytorch.org/vision/stable/models.html
"""


def header(data: bytes) -> tuple[int, int, str]:
    """Width, height and format of an encoded image, by its header alone.

    Raises:
        PictureError: it is none.
    """
    with _opened(data) as image:
        return image.width, image.height, image.format or ""


def decoded(data: bytes, recipe: Recipe, most_pixels: int = LARGEST, draft: bool = False) -> Pixels:
    """The pixels, uint8 ``"y x rgb"``, of an encoded image; of several frames or pages, the first.

    EXIF's orientation is followed. What is transparent lies on white. 16 bit grey is scaled to 8.

    Args:
        data: the encoded bytes.
        recipe: how they are resized and cropped.
        most_pixels: more are refused before they are decoded.
        draft: let the JPEG decoder halve, as often as twice the wanted pixels stay; faster, and not quite the same.

    Raises:
        PictureError: it is damaged, too large, or no image.
    """
    with _opened(data) as image:
        _small_enough(image.size, recipe, most_pixels)
        if draft:
            width, height = recipe.size(*image.size)
            image.draft(None, (_ROOM * width, _ROOM * height))
        try:
            image.load()
            return _fitted(_rgb(_upright(image)), recipe)
        except PictureError:
            raise
        except Exception as error:  # whatever a damaged file provokes in Pillow's decoders
            raise PictureError(f"cannot be decoded: {error}; it is damaged or cut short, copy it again") from error


def fitted(pixels: Pixels, recipe: Recipe) -> Pixels:
    """Decoded pixels, uint8 ``"y x rgb"``, resized and cropped."""
    from PIL import Image

    return _fitted(Image.fromarray(pixels), recipe)


def _opened(data: bytes) -> Image.Image:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise PictureError("has no bytes")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise PictureError(f"is no image that Pillow knows: {len(data):,} bytes, the first are {data[:8]!r}") from error
    except Image.DecompressionBombError as error:
        raise PictureError(f"has more than {LARGEST:,} pixels, which Pillow refuses: cut or shrink it") from error
    except Exception as error:  # whatever a damaged header provokes in Pillow's readers
        raise PictureError(f"cannot be read: {error}; it is damaged or cut short, copy it again") from error
    if image.format == "EPS":
        raise PictureError("is PostScript, a program that Pillow would let Ghostscript run; convert it to PNG")
    return image


def _small_enough(size: tuple[int, int], recipe: Recipe, most_pixels: int) -> None:
    width, height = size
    if not width * height:
        raise PictureError(f"has {width} x {height} pixels")
    if width * height > most_pixels:
        raise PictureError(
            f"has {width:,} x {height:,} pixels, more than most_pixels = {most_pixels:,}; raise that, or shrink it"
        )
    wide, high = recipe.size(width, height)
    if wide * high > most_pixels:
        raise PictureError(
            f"has {width:,} x {height:,} pixels and would have {wide:,} x {high:,} when resized, more than "
            f"most_pixels = {most_pixels:,}; cut it into pieces that are less long"
        )


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    return image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _UNKNOWN_RANGE:
        raise PictureError(f"has 32 bit pixels (mode {image.mode}) of which nobody says what is white; write 8 or 16")
    if image.mode.startswith("I;16"):
        return Image.fromarray(_eight_bit(np.asarray(image))).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def _eight_bit(values: npt.NDArray[Any]) -> Pixels:
    """0 to 65535 as 0 to 255, rounded."""
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _fitted(image: Image.Image, recipe: Recipe) -> Pixels:
    from PIL import Image

    resized = image.resize(recipe.size(*image.size), Image.Resampling[recipe.filter.upper()])
    # Python's rounding of halves to even is torchvision's CenterCrop too.
    left, top = round((resized.width - recipe.crop) / 2), round((resized.height - recipe.crop) / 2)
    return np.asarray(resized.crop((left, top, left + recipe.crop, top + recipe.crop)))
