import io
import struct

import numpy as np
import pytest
from PIL import Image

from penstock.models.pixels import IMAGENET, PictureError, Recipe, decoded, fitted, header

SMALL = Recipe(20, 16, (0.0,) * 3, (1.0,) * 3)
SQUARE = Recipe(20, 20, (0.0,) * 3, (1.0,) * 3, edges="both")


def smooth(width, height, seed=0):
    """A photo-like image: random colours at few points, and between them."""
    few = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image, form="PNG", **options):
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def weights_1d(given, wanted):
    """A triangle filter as wide as the scale, "wanted given", in plain loops."""
    scale = max(given / wanted, 1.0)
    found = np.zeros((wanted, given))
    for out in range(wanted):
        centre = (out + 0.5) * given / wanted
        for at in range(given):
            found[out, at] = max(0.0, 1 - abs((at + 0.5 - centre) / scale))
    return found / found.sum(1, keepdims=True)


@pytest.mark.parametrize(("width", "height"), [(61, 47), (47, 61), (40, 40), (13, 11)])
def test_resized_and_cropped_as_a_plain_computation_says(width, height):
    pixels = np.asarray(smooth(width, height))
    wide, high = SMALL.size(width, height)
    assert min(wide, high) == 20
    resized = np.einsum("yj,jik,xi->yxk", weights_1d(height, high), pixels.astype(float), weights_1d(width, wide))
    top, left = round((high - 16) / 2), round((wide - 16) / 2)
    expected = resized[top : top + 16, left : left + 16]
    assert np.abs(fitted(pixels, SMALL) - expected).max() <= 1.01, "Pillow rounds twice"


@pytest.mark.parametrize(("margin", "whole"), [(3, True), (-3, False)])
def test_imagenet_takes_the_middle_224_of_256(margin, whole):
    """Shrunk by two, the crop is rows 32 to 480 and columns 160 to 608; a filter looks a bit further."""
    pixels = np.zeros((512, 768, 3), np.uint8)
    pixels[32 - margin : 480 + margin, 160 - margin : 608 + margin] = 255
    found = fitted(pixels, IMAGENET)
    assert found.shape == (224, 224, 3)
    assert [(edge == 255).all() for edge in (found[0], found[-1], found[:, 0], found[:, -1])] == [whole] * 4


def test_resizing_agrees_with_torch():
    import torch

    pixels = np.asarray(smooth(500, 333))
    size = IMAGENET.size(500, 333)[::-1]
    given = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(given, size, mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()
    top, left = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    expected = resized[top : top + 224, left : left + 224]
    assert np.abs(fitted(pixels, IMAGENET).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_camera_comes_out_upright(orientation):
    upright = smooth(40, 30)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, exif=exif)
    np.testing.assert_array_equal(decoded(data, SMALL), fitted(np.asarray(upright), SMALL))


def test_modes_of_all_kinds_become_rgb():
    image = smooth(40, 30)
    grey = image.convert("L")
    same = {
        "grey": (encoded(grey), np.stack([np.asarray(grey)] * 3, 2)),
        "one bit": (encoded(grey.convert("1")), np.asarray(grey.convert("1").convert("RGB"))),
        "palette": (encoded(image.quantize(32)), np.asarray(image.quantize(32).convert("RGB"))),
        "cmyk": (encoded(image.convert("CMYK"), "TIFF"), np.asarray(image)),
        "grey and alpha": (encoded(grey.convert("LA")), np.stack([np.asarray(grey)] * 3, 2)),
    }
    for name, (data, pixels) in same.items():
        np.testing.assert_array_equal(decoded(data, SMALL), fitted(pixels, SMALL), err_msg=name)


def test_sixteen_bits_are_scaled_and_not_clipped():
    steps = np.linspace(0, 65535, 40 * 30).round().astype(np.uint16).reshape(30, 40)
    expected = np.stack([np.round(steps / 257.0).astype(np.uint8)] * 3, 2)
    np.testing.assert_array_equal(decoded(encoded(Image.fromarray(steps)), SQUARE), fitted(expected, SQUARE))


def test_what_is_transparent_lies_on_white():
    image = Image.new("RGBA", (40, 40), (200, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 20, 40))
    found = decoded(encoded(image), SQUARE)
    assert found[0, 0].tolist() == [255, 255, 255]
    assert found[0, -1].tolist() == [200, 0, 0]
    half = Image.new("RGBA", (40, 40), (0, 0, 0, 51))
    assert decoded(encoded(half), SQUARE)[3, 3].tolist() == [204, 204, 204]
    palette = Image.new("P", (40, 40), 1)
    palette.putpalette([9, 9, 9, 10, 20, 30])
    assert decoded(encoded(palette, transparency=1), SQUARE)[3, 3].tolist() == [255, 255, 255]


def test_of_several_frames_the_first_counts():
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    assert decoded(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), SQUARE)[5, 5, 0] > 250


def test_a_draft_is_nearly_the_same():
    data = encoded(smooth(1600, 1200), "JPEG", quality=95)
    exact, draft = (decoded(data, SMALL, draft=draft).astype(int) for draft in (False, True))
    assert 0 < np.abs(exact - draft).max() <= 4


def huge_png(width, height):
    """A sound header, and nothing behind it."""
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "has no bytes"),
        (b"<html>", r"is no image that Pillow knows: 6 bytes, the first are b'<html>'"),
        (
            encoded(smooth(200, 200), "JPEG")[:1000],
            "cannot be decoded: .*truncated.*damaged or cut short, copy it again",
        ),
        (encoded(smooth(200, 200))[:300], "damaged or cut short, copy it again"),
        (
            huge_png(9000, 9000),
            r"has 9,000 x 9,000 pixels, more than most_pixels = 1,000,000; raise that, or shrink it",
        ),
        (huge_png(100_000, 100_000), r"has more than 178,956,970 pixels, which Pillow refuses"),
        (huge_png(1, 50_000), r"would have 20 x 1,000,000 when resized, .*cut it into pieces that are less long"),
        (encoded(smooth(40, 30), "EPS"), "is PostScript, a program that Pillow would let Ghostscript run"),
        (encoded(Image.fromarray(np.zeros((9, 9), np.float32)), "TIFF"), r"has 32 bit pixels \(mode F\)"),
    ],
)
def test_what_cannot_be_used_says_why(data, reason):
    with pytest.raises(PictureError, match=reason):
        decoded(data, SMALL, most_pixels=1_000_000)


def test_the_header_says_size_and_format():
    assert header(encoded(smooth(40, 30), "WEBP")) == (40, 30, "WEBP")
    assert header(encoded(smooth(400, 300), "JPEG")[:1000])[2] == "JPEG"
    with pytest.raises(PictureError, match="no image that Pillow knows"):
        header(b"text")
