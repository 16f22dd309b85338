"""Statistics behind an inlet, and the length from which on they are right."""

import math

import numpy as np
import pytest

from penstock.flows.development import development_length, station

PLACES = np.arange(1, 401) / 100


def test_the_length_of_an_exponential_approach_is_that_of_its_formula():
    # f / f_ref = 1 + a exp(-x / l) is within b of 1 from x = l ln(a / b) on.
    for size, length, band in ((1.0, 0.5, 0.15), (-0.8, 0.3, 0.1), (5.0, 0.7, 0.2)):
        reference = 3 / (1 + PLACES)
        found = reference * (1 + size * np.exp(-PLACES / length))
        exact = length * math.log(abs(size) / band)
        assert development_length(PLACES, found, reference, band) == pytest.approx(exact, abs=0.01)


def test_what_is_right_from_the_first_place_on_has_the_length_of_that_place():
    assert development_length(PLACES, 1.1 * PLACES, PLACES, 0.15) == PLACES[0]


def test_what_leaves_the_band_again_counts_from_its_last_return():
    found = np.ones_like(PLACES)
    found[200] = 1.3
    assert development_length(PLACES, found, np.ones_like(PLACES), 0.15) == PLACES[201]


@pytest.mark.parametrize("last", [0.5, math.nan])
def test_what_is_outside_at_the_end_has_no_length(last):
    found = np.ones_like(PLACES)
    found[-1] = last
    assert development_length(PLACES, found, np.ones_like(PLACES), 0.15) == math.inf


def test_a_wave_that_passes_has_the_statistics_of_its_formula():
    # u = a cos(k x) is correlated with itself by cos(k r); the steady part of v does not count.
    a, b, k, spacing = 0.3, 0.2, 2 * math.pi, 0.001
    phase = k * spacing * np.arange(20_000)[:, None] + np.array([0.0, 1.0, 2.0])
    flow = np.stack([1 + a * np.cos(phase), b * np.sin(phase) + [5.0, 6.0, 7.0]], -1)
    found = station(flow, 4 * np.cos(phase) + 9, spacing, octave_metres=1.0)
    assert found.energy == pytest.approx((a**2 + b**2) / 4, rel=1e-3)
    assert found.enstrophy == pytest.approx(4, rel=1e-3)
    assert found.length == pytest.approx(math.acos(1 / math.e) / k, rel=1e-3)
    assert found.flatness == pytest.approx(1.5, rel=1e-3)


def test_a_chain_that_forgets_exponentially_has_its_own_length_and_flatness():
    # x_n+1 = r x_n + noise is correlated by r^n = exp(-n s / l) with l = -s / ln r.
    random, rate, spacing = np.random.default_rng(1), 0.9, 0.05
    noise = random.standard_normal((4_000, 16, 2))
    series = np.zeros_like(noise)
    for at in range(1, len(series)):
        series[at] = rate * series[at - 1] + noise[at]
    found = station(series, series[..., 0], spacing, octave_metres=1.0)
    assert found.length == pytest.approx(-spacing / math.log(rate), rel=0.05)
    assert found.energy == pytest.approx(1 / (1 - rate**2), rel=0.05)
    assert found.flatness == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize("power", [2.0, 5.0])
def test_the_slope_is_the_power_of_the_spectrum(power):
    # Noise whose Fourier coefficients were multiplied by k^(-p / 2): E(k) ~ k^-p.
    count, points = 4_096, 64
    k = np.fft.rfftfreq(count, 1 / count)
    noise = np.fft.rfft(np.random.default_rng(2).standard_normal((count, points, 2)), axis=0)
    series = np.fft.irfft(noise * np.where(k > 3, np.maximum(k, 1) ** (-power / 2), 0)[:, None, None], axis=0)
    found = station(series, series[..., 0], 1.0, octave_metres=32.0)
    assert found.slope == pytest.approx(power, abs=0.05)
