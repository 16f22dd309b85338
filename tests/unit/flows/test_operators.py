"""Spectral operators against analytic fields and sums over every mode."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.flows import operators

SIDES = st.sampled_from([8, 12, 16, 18])


def grid(n):
    x = np.arange(n) * 2 * np.pi / n
    return np.meshgrid(x, x)


def naive_derivative(field, axis):
    """The definition: a sum over all modes of the discrete Fourier transform, written as matrices."""
    n = field.shape[0]
    k = np.arange(-n // 2 + 1, n // 2)
    x = np.arange(n) * 2 * np.pi / n
    matrix = (np.exp(1j * np.outer(x, k)) * (1j * k) @ np.exp(-1j * np.outer(k, x)) / n).real
    return field @ matrix.T if axis == 1 else matrix @ field


@given(SIDES, st.integers(0, 1000))
def test_derivatives_are_the_sums_over_all_modes(n, seed):
    field = np.random.default_rng(seed).standard_normal((n, n))
    slopes = operators.gradient(field)
    np.testing.assert_allclose(slopes[0], naive_derivative(field, 1), atol=1e-11)
    np.testing.assert_allclose(slopes[1], naive_derivative(field, 0), atol=1e-11)


def test_the_curl_of_a_known_stream_function():
    x, y = grid(16)
    flow = operators.velocity(np.sin(3 * x) * np.cos(2 * y))
    np.testing.assert_allclose(flow[0], -2 * np.sin(3 * x) * np.sin(2 * y), atol=1e-12)
    np.testing.assert_allclose(flow[1], -3 * np.cos(3 * x) * np.cos(2 * y), atol=1e-12)
    np.testing.assert_allclose(operators.vorticity(flow), 13 * np.sin(3 * x) * np.cos(2 * y), atol=1e-11)


@given(SIDES, st.integers(0, 1000), st.sampled_from([np.float32, np.float64]))
def test_a_curl_has_no_divergence(n, seed, dtype):
    flow = operators.velocity(np.random.default_rng(seed).standard_normal((2, n, n)).astype(dtype))
    assert flow.dtype == dtype
    assert flow.shape == (2, 2, n, n)
    size = np.sqrt((operators.gradient(flow) ** 2).mean())
    assert np.sqrt((operators.divergence(flow) ** 2).mean()) < 20 * np.finfo(dtype).eps * size


@given(SIDES, st.integers(0, 1000))
def test_projection_keeps_what_is_free_of_divergence_and_takes_the_rest(n, seed):
    rng = np.random.default_rng(seed)
    curl = operators.velocity(operators.dealiased(rng.standard_normal((n, n)))) + rng.standard_normal((2, 1, 1))
    slope = operators.gradient(operators.dealiased(rng.standard_normal((n, n))))
    np.testing.assert_allclose(operators.projected(curl + slope), curl, atol=1e-11)


@given(SIDES, st.integers(0, 1000))
def test_the_stream_function_comes_back(n, seed):
    stream = operators.dealiased(np.random.default_rng(seed).standard_normal((n, n)))
    back = operators.stream_function(operators.velocity(stream))
    np.testing.assert_allclose(back, stream - stream.mean(), atol=1e-12)


def test_the_laplacian_of_a_wave_is_minus_its_squared_wave_number():
    x, y = grid(16)
    wave = np.cos(3 * x + 4 * y)
    np.testing.assert_allclose(operators.laplacian(wave), -25 * wave, atol=1e-11)


def test_dealiasing_drops_a_third_and_more():
    x, _ = grid(12)
    kept, dropped = np.cos(3 * x), np.cos(4 * x)
    assert operators.cut(12) == 4
    assert operators.cut(64) == 22
    np.testing.assert_allclose(operators.dealiased(kept + dropped), kept, atol=1e-13)


def naive_spectrum(flow):
    """Shell sums over every mode of the whole transform, one at a time."""
    n = flow.shape[-1]
    hat = np.fft.fft2(flow) / n**2
    k = np.fft.fftfreq(n, 1 / n)
    sums = np.zeros(int(np.rint(np.hypot(n / 2, n / 2))) + 1)
    for i in range(n):
        for j in range(n):
            sums[int(np.rint(np.hypot(k[i], k[j])))] += (abs(hat[:, i, j]) ** 2).sum() / 2
    return sums


@given(SIDES, st.integers(0, 1000))
def test_the_spectrum_is_a_sum_over_shells(n, seed):
    flow = np.random.default_rng(seed).standard_normal((2, n, n))
    found = operators.spectrum(flow)
    np.testing.assert_allclose(found, naive_spectrum(flow), atol=1e-12)
    np.testing.assert_allclose(found.sum(), operators.kinetic_energy(flow))


def test_one_wave_lies_in_one_shell():
    x, y = grid(32)
    found = operators.spectrum(operators.velocity(np.cos(3 * x + 4 * y)))
    assert found[5] == pytest.approx(25 / 4)
    assert found.sum() == pytest.approx(25 / 4)
    assert operators.enstrophy(operators.velocity(np.cos(3 * x + 4 * y))) == pytest.approx(625 / 4)


def test_many_fields_at_once_are_each_alone():
    flows = np.random.default_rng(3).standard_normal((2, 3, 2, 8, 8))
    assert operators.spectrum(flows).shape == (2, 3, 7)
    assert (operators.vorticity(flows)[1, 2] == operators.vorticity(flows[1, 2])).all()


def test_an_odd_grid_is_refused():
    with pytest.raises(ValueError, match="a grid of 7 points a side; an even number of 4 or more was needed"):
        operators.wavenumbers(7)
