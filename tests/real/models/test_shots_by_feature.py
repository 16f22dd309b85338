"""Shots that differ in what is seen and not in their colours: by feature they are found, by colour they are not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import skimage
from PIL import Image

from penstock.stages.shots import Shots
from penstock.testing.videos import write_video

CAT = Path(skimage.__file__).parent / "data" / "chelsea.png"
HEIGHT, WIDTH, BLOCKS = 144, 256, 4


def frames(count):
    """A camera that pans over a photograph."""
    photo = np.asarray(Image.open(CAT).convert("RGB").resize((WIDTH + 2 * count, HEIGHT)))
    return [photo[:, 2 * at : 2 * at + WIDTH] for at in range(count)]


def shuffled(frame):
    """The same colours in each of 4 x 4 blocks, upside down: no cat any more."""
    blocks = frame.reshape(BLOCKS, HEIGHT // BLOCKS, BLOCKS, WIDTH // BLOCKS, 3)
    return np.ascontiguousarray(blocks[:, ::-1, :, ::-1].reshape(frame.shape))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Shots of 41, 47 and 42 frames of one continuous pan; the middle one is shuffled."""
    pan = frames(130)
    shown = [*pan[:41], *map(shuffled, pan[41:88]), *pan[88:]]
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", shown, options={"crf": "15"})


def lengths(stage, film):
    with stage.open() as cut:
        return cut(pa.table({"id": ["film"], "uri": [str(film)]}))["clip_frames"].to_pylist()


def test_what_is_seen_tells_them_apart(film):
    assert lengths(Shots("feature", device="cpu"), film) == [41, 47, 42]


def test_their_colours_do_not(film):
    assert lengths(Shots(), film) == [130]
