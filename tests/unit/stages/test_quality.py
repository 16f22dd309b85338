from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from scipy import ndimage

from penstock.core.batch import tensor_column
from penstock.errors import SchemaError
from penstock.stages.quality import Quality
from penstock.testing.videos import moving

MOVING = np.stack(moving(1, 4, 48, 64))


def measured(*clips, **settings):
    with Quality(**settings).open() as transform:
        return transform(pa.table({"frames": tensor_column(np.stack(clips))})).drop_columns(["frames"]).to_pylist()


def test_measures_are_those_of_scipy():
    (row,) = measured(MOVING)
    luma = MOVING.astype(np.float64) @ [0.299, 0.587, 0.114]
    sharp = [ndimage.laplace(image)[1:-1, 1:-1].var() for image in luma]
    assert row["motion"] == pytest.approx(np.mean([np.abs(b - a).mean() for a, b in pairwise(luma)]))
    assert row["sharpness"] == pytest.approx(np.median(sharp), rel=1e-4)
    assert row["brightness"] == pytest.approx(luma.mean(), rel=1e-5)


def test_poor_clips_are_marked_and_stay():
    dark, still = (MOVING * 0.05).astype(np.uint8), np.repeat(MOVING[:1], 4, axis=0)
    soft = ndimage.gaussian_filter(MOVING, (0, 5, 5, 0))
    rows = measured(MOVING, dark, soft, still)
    assert [row["reason"] for row in rows] == ["", "dark", "blurred", "still"]
    assert [row["kept"] for row in rows] == [True, False, False, False]


def test_a_limit_of_nothing_lets_all_pass():
    free = {"least_brightness": 0.0, "least_sharpness": 0.0, "least_motion": 0.0}
    assert measured(np.zeros_like(MOVING), **free)[0]["kept"]


def test_one_frame_does_not_move():
    assert measured(MOVING[:1], least_motion=0.0)[0]["motion"] == 0.0


@pytest.mark.parametrize("array", [np.zeros((2, 4, 8, 8, 3), np.float32), np.zeros((2, 8, 8, 3), np.uint8)])
def test_frames_are_needed(array):
    given = pa.table({"frames": tensor_column(array)}).schema
    with pytest.raises(SchemaError, match="quality needs frames in column 'frames', a uint8 tensor 'frame y x rgb'"):
        Quality().schema(given)
