"""Fields that are carried through an inlet."""

import math

import numpy as np
import pytest

from penstock.flows.sweeping import Sweep

HEIGHTS = (np.arange(10) + 0.5) / 10


def fields(count=40, n=16):
    """Independent fields of a few waves, the same at each call."""

    def one(seed):
        random = np.random.default_rng(seed)
        x, y = np.meshgrid(*[2 * np.pi * np.arange(n) / n] * 2)
        found = np.zeros((2, n, n))
        for at in (0, 1):
            for kx, ky in ((1, 0), (1, 2), (2, 1), (0, 1), (3, 1)):
                found[at] += random.standard_normal() * np.cos(kx * x + ky * y + random.uniform(0, 2 * np.pi))
        return found

    return lambda first: map(one, range(first, count))


def wave(kx, ky, box, n=16):
    x, y = np.meshgrid(*[2 * np.pi * np.arange(n) / n] * 2)
    return lambda first: iter([np.stack([np.cos(kx * x + ky * y), np.sin(kx * x)])] * 5)


def test_a_wave_passes_as_the_mean_speed_carries_it():
    sweep = Sweep(speed=2.0, box=3.0, scale=0.5, blend=0.0)
    planes = list(sweep.planes(wave(2, 1, 3.0), 0, 0.01, HEIGHTS))[:140]
    for number, plane in enumerate(planes):
        x = -2.0 * 0.01 * number
        k = 2 * np.pi / 3.0
        assert plane[:, 0] == pytest.approx(2.0 + 0.5 * np.cos(2 * k * x + k * HEIGHTS), abs=1e-12)
        assert plane[:, 1] == pytest.approx(0.5 * math.sin(2 * k * x), abs=1e-12)
        assert not plane[:, 2].any()


def test_as_many_planes_come_as_fields_are_long():
    sweep = Sweep(speed=1.0, box=2.05)
    planes = list(sweep.planes(fields(count=5), 0, 0.1, HEIGHTS))
    assert len(planes) == 82, "four fields of 2.05 s each; the last is only blended in"


def test_planes_are_the_same_wherever_one_begins():
    sweep = Sweep(speed=1.3, box=1.9, wall=0.2, profile="parabola")
    whole = list(sweep.planes(fields(), 0, 0.07, HEIGHTS))
    for first in (1, 20, 21, 100, 333):
        some = [plane for _, plane in zip(range(5), sweep.planes(fields(), first, 0.07, HEIGHTS), strict=False)]
        assert np.array_equal(some, whole[first : first + 5])
        assert sweep.field_at(first * 0.07) == int(first * 0.07 * 1.3 // 1.9)


def test_nothing_jumps_where_fields_follow_each_other():
    sweep = Sweep(speed=1.0, box=1.0)
    planes = np.array([plane for _, plane in zip(range(3000), sweep.planes(fields(), 0, 0.002, HEIGHTS), strict=False)])
    steps = np.abs(np.diff(planes, axis=0)).max((1, 2))
    assert steps.max() < 3 * np.median(steps), "a joint without blending jumps by hundreds of such steps"


def test_the_variance_stays_through_the_joints():
    sweep = Sweep(speed=1.0, box=1.0, blend=0.5)
    planes = np.array(list(sweep.planes(fields(count=2000), 0, 0.01, HEIGHTS[:3])))
    parts = planes[: 199000 // 100 * 100, :, 1].reshape(-1, 100, 3)
    before, within = parts[:, :50].var(), parts[:, 50:].var()
    assert within == pytest.approx(before, rel=0.05)


def test_walls_and_profile():
    sweep = Sweep(speed=1.5, height=1.0, wall=0.25, profile="parabola")
    heights = np.array([0.0, 0.125, 0.5, 1.0])
    plane = next(sweep.planes(fields(), 0, 0.01, heights))
    assert plane[[0, 3]] == pytest.approx(0.0, abs=1e-15)
    assert sweep._mean(heights) == pytest.approx([0, 6 * 1.5 * 0.125 * 0.875, 2.25, 0])
    assert sweep._damped(heights) == pytest.approx([0, 0.5, 1, 0])


@pytest.mark.parametrize(
    ("change", "text"), [({"speed": 0}, "must be above 0"), ({"scale": -1}, "not be negative"), ({"blend": 2}, "share")]
)
def test_what_makes_no_sense_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        Sweep(**{"speed": 1.0, **change})
