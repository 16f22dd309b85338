import numpy as np
import pytest

from penstock.solvers.programs.poisson import Box, Equation, component, deposited, marched, sampled, steady
from penstock.solvers.programs.waves import Waves

TURN = 2 * np.pi


def plane(size, period=(1.0, 1.0)):
    """The coordinates of a grid's points."""
    return np.meshgrid(*(length * np.arange(size) / size for length in period), indexing="ij")


def test_the_transform_is_that_of_numpy_and_comes_back(alone):
    field, waves = np.random.default_rng(0).standard_normal((12, 12)), Waves(12, alone)
    np.testing.assert_allclose(waves.forward(field), np.fft.rfft2(field), atol=1e-12)
    np.testing.assert_allclose(waves.backward(waves.forward(field)), field, atol=1e-14)


def test_products_of_fields_can_be_summed_by_their_spectra(alone):
    one, other = np.random.default_rng(0).standard_normal((2, 10, 10))
    waves = Waves(10, alone)
    assert waves.dot(waves.forward(one), waves.forward(other)) == pytest.approx((one * other).sum())


@pytest.mark.parametrize("screening", [0.0, 7.0])
@pytest.mark.parametrize("period", [(1.0, 1.0), (2.0, 0.5)])
def test_a_single_wave_is_divided_by_its_symbol(alone, screening, period):
    x, y = plane(16, period)
    wave = np.sin(3 * TURN * x / period[0]) * np.cos(2 * TURN * y / period[1])
    symbol = (3 * TURN / period[0]) ** 2 + (2 * TURN / period[1]) ** 2 + screening
    found = steady(Equation(Waves(16, alone), period, screening), wave)
    np.testing.assert_allclose(found, wave / symbol, atol=1e-13)


def manufactured(size):
    """``u = exp(sin X) cos Y`` with ``kappa = exp(cos X / 2 + 3 sin Y / 10)``: u, kappa, ``-div(kappa grad u)``."""
    x, y = (TURN * axis for axis in plane(size))
    u, kappa = np.exp(np.sin(x)) * np.cos(y), np.exp(0.5 * np.cos(x) + 0.3 * np.sin(y))
    u_x, u_y = np.cos(x) * u, -np.exp(np.sin(x)) * np.sin(y)
    laplace = (np.cos(x) ** 2 - np.sin(x) - 1) * u
    kappa_x, kappa_y = -0.5 * np.sin(x) * kappa, 0.3 * np.cos(y) * kappa
    return u, kappa, -(TURN**2) * (kappa * laplace + kappa_x * u_x + kappa_y * u_y)


def test_with_a_variable_coefficient_the_error_falls_spectrally(alone):
    errors = []
    for size in (8, 16, 32):
        u, kappa, forcing = manufactured(size)
        found = steady(Equation(Waves(size, alone), (1.0, 1.0), 0.0, kappa), forcing)
        errors.append(np.abs(found - u + u.mean()).max())
    assert errors[0] > 1e-3
    assert errors[1] < 1e-6
    assert errors[2] < 1e-11


def test_with_screening_the_mean_is_held_too(alone):
    u, kappa, forcing = manufactured(32)
    found = steady(Equation(Waves(32, alone), (1.0, 1.0), 5.0, kappa), forcing + 5.0 * u)
    np.testing.assert_allclose(found, u, atol=1e-11)


def test_the_operator_is_symmetric(alone):
    waves = Waves(12, alone)
    kappa = np.exp(np.random.default_rng(2).standard_normal((12, 12)))
    equation = Equation(waves, (1.0, 2.0), 0.5, kappa)
    one, other = (equation.kept(waves.forward(f)) for f in np.random.default_rng(3).standard_normal((2, 12, 12)))
    assert waves.dot(one, equation.applied(other)) == pytest.approx(waves.dot(equation.applied(one), other))
    assert waves.dot(one, equation.applied(one)) > 0


def test_heat_follows_its_exact_course_to_second_order(alone):
    x, y = plane(16)
    wave, rate, time = np.sin(TURN * x) * np.sin(TURN * y), 2 * TURN**2 + 1.0, 0.02
    exact = wave / rate * (1 - np.exp(-rate * time))
    equation = Equation(Waves(16, alone), (1.0, 1.0), 1.0)
    errors = [np.abs(marched(equation, wave, time, steps) - exact).max() for steps in (10, 20, 40)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)
    assert errors[2] < 1e-6


def test_heat_ends_in_the_steady_state(alone):
    _, kappa, forcing = manufactured(16)
    equation = Equation(Waves(16, alone), (1.0, 1.0), 3.0, kappa)
    np.testing.assert_allclose(marched(equation, forcing, 1.5, 30), steady(equation, forcing), atol=1e-8)


def test_without_screening_the_mean_grows_by_that_of_the_source(alone):
    found = marched(Equation(Waves(8, alone), (1.0, 1.0)), np.full((8, 8), 3.0), 2.0, 4)
    np.testing.assert_allclose(found, 6.0)


def test_a_forcing_of_nothing_gives_nothing(alone):
    assert not steady(Equation(Waves(8, alone), (1.0, 1.0)), np.zeros((8, 8))).any()


def test_too_much_contrast_is_said(alone, monkeypatch):
    monkeypatch.setattr("penstock.solvers.programs.poisson._MAX_ROUNDS", 3)
    _, kappa, forcing = manufactured(16)
    with pytest.raises(RuntimeError, match="conjugate gradients did not converge in 3 rounds: kappa varies too much"):
        steady(Equation(Waves(16, alone), (1.0, 1.0), 0.0, kappa**8), forcing)


def test_rows_become_periodic_gaussians_whose_mean_is_that_of_the_values(alone):
    waves, width = Waves(32, alone), 0.05
    at = np.array([[0.25, 31.5], [7.0, 8.5], [31.9, 16.2]])
    values = np.array([[1.0, -2.0], [3.0, 0.5], [0.0, 4.0]])
    found = deposited(waves, at, values, width, 3)
    np.testing.assert_allclose(found.mean(axis=(1, 2)), values.mean(axis=0), rtol=1e-12)
    x, y = plane(32)
    naive = np.zeros((2, 32, 32))
    for (a, b), value in zip(at / 32, values, strict=True):
        for i in (-1, 0, 1):
            for j in (-1, 0, 1):
                bell = np.exp(-((x - a + i) ** 2 + (y - b + j) ** 2) / (2 * width**2)) / (TURN * width**2)
                naive += value[:, None, None] * bell / 3
    np.testing.assert_allclose(found, naive, atol=1e-9)


def test_rows_in_blocks_make_the_same_fields(alone, monkeypatch):
    at = np.random.default_rng(0).uniform(0, 16, (50, 2))
    values = np.random.default_rng(1).standard_normal((50, 1))
    whole = deposited(Waves(16, alone), at, values, 0.1, 50)
    monkeypatch.setattr("penstock.solvers.programs.poisson._BLOCK_BYTES", 7 * 8 * 16)
    np.testing.assert_allclose(deposited(Waves(16, alone), at, values, 0.1, 50), whole, atol=1e-12)


def test_a_field_is_read_between_the_points_of_its_grid_exactly(alone):
    x, y = plane(16)
    at = np.concatenate([np.random.default_rng(0).uniform(0, 16, (40, 2)), [[3.0, 5.0], [0.0, 15.999999999999]]])
    field = np.sin(3 * TURN * x + 1) * np.cos(5 * TURN * y)
    exact = np.sin(3 * TURN * at[:, 0] / 16 + 1) * np.cos(5 * TURN * at[:, 1] / 16)
    np.testing.assert_allclose(sampled(Waves(16, alone), field, at), exact, atol=1e-12)


def test_a_box_is_fitted_to_the_points_or_wraps_them(alone):
    points = np.array([[1.0, -2.0], [5.0, 2.0]])
    fitted = Box.of(points, (0, 0), alone)
    assert fitted == Box((0.5, -2.5), (5.0, 5.0))
    np.testing.assert_allclose(fitted.scaled(points, 10), [[1, 1], [9, 9]])
    given = Box.of(points, (2.0, 3.0), alone)
    np.testing.assert_allclose(given.scaled(points, 6), [[3, 2], [3, 4]])
    assert Box.of(points[:1], (0, 0), alone).period == (1.25, 1.25)


def test_components_are_counted_through_the_whole_tensor():
    values = np.arange(12).reshape(2, 2, 3)
    np.testing.assert_array_equal(component(values, 4), [4.0, 10.0])
    np.testing.assert_array_equal(component(np.array([1, 2], np.int32), None), [1.0, 2.0])
