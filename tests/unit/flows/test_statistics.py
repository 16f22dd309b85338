"""Statistics against loops, analytic fields and independent libraries."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kurtosis

from penstock.flows import operators, statistics
from penstock.flows.baselines import random_phase
from penstock.flows.kolmogorov import Kolmogorov, random_start
from penstock.flows.statistics import Physics

FLOW = np.stack([random_start(16, seed) for seed in range(3)])
NUMBERS = st.lists(st.floats(-9, 9), min_size=1, max_size=12)


def naive_correlation(flow):
    n = flow.shape[-1]
    sums = [
        sum(
            f[0, y, x] * f[0, y, (x + r) % n] + f[1, y, x] * f[1, (y + r) % n, x]
            for f in flow
            for y in range(n)
            for x in range(n)
        )
        for r in range(n // 2 + 1)
    ]
    return np.array(sums) / sums[0]


def test_the_correlation_is_the_mean_of_products():
    np.testing.assert_allclose(statistics.correlation(FLOW), naive_correlation(FLOW), atol=1e-12)


def test_the_integral_scale_of_a_cosine_is_its_quarter_wave():
    lags = np.linspace(0, np.pi, 2001)
    assert statistics.integral_scale(np.cos(3 * lags)) == pytest.approx(1 / 3, rel=1e-5)
    assert statistics.integral_scale(np.ones(33)) == pytest.approx(np.pi)


def test_increments_are_differences_along_the_component():
    found = statistics.increments(FLOW[:1], 3)
    u, v = FLOW[0]
    expected = [u[y, (x + 3) % 16] - u[y, x] for y in range(16) for x in range(16)]
    expected += [v[(y + 3) % 16, x] - v[y, x] for y in range(16) for x in range(16)]
    np.testing.assert_allclose(found, expected, atol=1e-14)


def test_flatness_is_scipys():
    values = np.random.default_rng(1).standard_t(5, 4000)
    values -= values.mean()
    assert statistics.flatness(values) == pytest.approx(kurtosis(values, fisher=False))


def test_a_density_integrates_to_the_share_inside():
    found = statistics.density(np.array([-9, -0.5, 0.2, 0.4]), np.linspace(-1, 1, 5))
    assert found.sum() * 0.5 == pytest.approx(0.75)


@given(NUMBERS, NUMBERS)
def test_wasserstein_is_that_of_equal_lists_repeated(left, right):
    many, more = np.repeat(np.sort(left), len(right)), np.repeat(np.sort(right), len(left))
    expected = np.sqrt(((many - more) ** 2).mean())
    assert statistics.wasserstein2(np.array(left), np.array(right)) == pytest.approx(expected, abs=1e-9)


@given(NUMBERS, st.floats(-5, 5))
def test_wasserstein_of_a_shifted_sample_is_the_shift(values, shift):
    values = np.array(values)
    assert statistics.wasserstein2(values, values + shift) == pytest.approx(abs(shift), abs=1e-9)


def test_divergence_of_a_pure_gradient_is_of_the_order_of_its_gradient():
    assert statistics.divergence_ratio(FLOW) < 1e-13
    assert statistics.divergence_ratio(operators.gradient(operators.vorticity(FLOW))) > 0.9


PHYSICS = Physics(0.1, 0.2, 1.0, 2)


def laminar():
    y = np.arange(16) * 2 * np.pi / 16
    u = np.broadcast_to((np.sin(2 * y) / (0.1 * 4 + 0.2))[:, None], (16, 16))
    return np.stack([u, np.zeros((16, 16))])[None]


def test_the_laminar_solution_satisfies_every_equation():
    assert statistics.balance(laminar(), PHYSICS) == pytest.approx((0, 0), abs=1e-13)
    assert statistics.mean_equation(laminar(), PHYSICS) == pytest.approx(0, abs=1e-13)
    assert statistics.mean_equation(0 * laminar(), PHYSICS) == pytest.approx(1)


def test_the_residual_of_the_solvers_own_pairs_falls_as_the_square_of_their_distance():
    solver = Kolmogorov(16, (0.1,), 0.01, 0.2, 1.0, 2)
    state = solver.advance(solver.state(FLOW), 1.0)
    before = solver.velocity(state)
    residuals = [
        statistics.pair_residual(before, solver.velocity(solver.advance(state, s)), s, PHYSICS) for s in (0.08, 0.04)
    ]
    assert residuals[0] / residuals[1] == pytest.approx(4, rel=0.1)
    assert residuals[1] < 0.01
    assert statistics.pair_residual(random_phase(before, 1), random_phase(before, 2), 0.04, PHYSICS) > 0.9


def test_the_images_are_symmetries_of_the_flow():
    moved = statistics.images(FLOW[:1], 2)[:, 0]
    assert len(moved) == 8
    assert min(abs(a - b).max() for a, b in itertools.combinations(moved, 2)) > 0.01
    solver = Kolmogorov(16, (0.1,), 0.01, 0.2, 1.0, 2)
    after = solver.velocity(solver.advance(solver.state(moved), 0.5))
    np.testing.assert_allclose(after, statistics.images(after[:1], 2)[:, 0], atol=1e-12)


def naive_distance(left, right, wavenumber):
    every = [np.roll(image, s, -1) for image in statistics.images(right[None], wavenumber)[:, 0] for s in range(16)]
    return min(np.sqrt(((left - each) ** 2).sum(0).mean()) for each in every)


def test_distances_are_the_least_over_all_symmetries():
    found = statistics.distances(FLOW[:2], FLOW, 2)
    expected = [[naive_distance(a, b, 2) for b in FLOW] for a in FLOW[:2]]
    np.testing.assert_allclose(found, expected, atol=1e-3)
    copy = np.roll(statistics.images(FLOW, 2)[5], 7, -1)
    assert statistics.distances(copy, FLOW, 2).diagonal() == pytest.approx(0, abs=2e-3)


def test_half_waves_must_fit_the_grid():
    with pytest.raises(ValueError, match="16 points hold no whole half waves of k = 3; a multiple of 6 was needed"):
        statistics.images(FLOW, 3)


def test_coverage_counts_the_true_fields_that_have_a_neighbour():
    truth = abs(np.subtract.outer(np.arange(6.0), np.arange(6.0)))
    found = abs(np.subtract.outer(np.arange(6.0), np.array([0.4, 2.2])))
    assert statistics.coverage(truth, found, 1) == pytest.approx(4 / 6)  # 0, 1, 2 and 3


@given(st.integers(0, 99))
def test_random_phases_keep_the_spectrum_mode_by_mode_and_lose_the_rest(seed):
    found = random_phase(FLOW, seed)
    np.testing.assert_allclose(abs(operators.forward(found)), abs(operators.forward(FLOW)), atol=1e-12)
    assert abs(operators.divergence(found)).max() < 1e-12
    assert abs(found - FLOW).max() > 0.1
    assert (found == random_phase(FLOW, seed)).all()
