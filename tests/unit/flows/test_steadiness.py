"""Ensembles on their way to the steady state."""

import numpy as np
import pytest

from penstock.flows import operators
from penstock.flows.kolmogorov import Kolmogorov, random_start
from penstock.flows.statistics import Physics
from penstock.flows.steadiness import Course, Steady, follow, rest

DECAYING = Physics(viscosity=0.05, drag=0.1, amplitude=0.0)


def course(energy, enstrophy=None, every=1.0):
    energy = np.asarray(energy, float)
    steps = 10 * np.arange(len(energy))
    enstrophy = energy if enstrophy is None else np.asarray(enstrophy, float)
    return Course("mine", 4, steps, every / 10, energy, enstrophy, np.ones((len(energy), 6)))


def steady(turnover=2.0):
    """Of energy and enstrophy 1 by unit, with a turn-over of so many seconds."""
    enstrophy = (2 * np.pi / turnover) ** 2 / 2
    return Steady(1.0, enstrophy, np.ones(6))


def test_the_turn_over_is_that_of_a_vortex_in_solid_rotation():
    assert steady(3.0).turnover_seconds == pytest.approx(3.0)


def test_steady_is_what_stays_in_the_band_for_two_turn_overs():
    found = steady()
    e = found.enstrophy
    energy = [0.1, 0.95, 1.3, 1.05, 1.0, 0.95, 1.02, 1.01, 1.5]
    assert found.reached(course(energy, [e] * 9)) == 30
    assert found.reached(course(energy[:7], [e] * 7)) is None, "seen for too short a time"
    assert found.reached(course([1.0] * 9, [2 * e] * 4 + [e] * 5)) == 40, "the enstrophy counts as well"
    assert found.reached(course([1.0] * 9, [e] * 9)) == 0


def test_distances_are_relative():
    found = steady()
    np.testing.assert_allclose(found.distance(course([0.8, 1.1], [found.enstrophy, 1.5 * found.enstrophy])), [0.2, 0.5])
    assert found.spectrum_error(course([1.0, 1.0])).tolist() == [0, 0]


def test_one_mode_decays_as_its_exponential():
    """Without force a single mode of wave number 3 is an exact solution: E ~ exp(-2 (nu k^2 + mu) t)."""
    y = 2 * np.pi * np.arange(16) / 16
    flow = np.stack([np.broadcast_to(np.sin(3 * y)[:, None], (16, 16)), np.zeros((16, 16))])[None]
    found = follow("mode", flow, DECAYING, 1.0, step_seconds=0.02, every_steps=25)
    assert found.steps.tolist() == [0, 25, 50]
    np.testing.assert_allclose(found.energy, 0.25 * np.exp(-2 * (0.05 * 9 + 0.1) * np.array([0, 0.5, 1])), rtol=1e-4)
    np.testing.assert_allclose(found.enstrophy, 9 * found.energy, rtol=1e-4)
    np.testing.assert_allclose(found.spectrum[:, 3], found.energy, rtol=1e-4)


def test_means_are_over_members_and_the_spectrum_ends_where_the_solver_does():
    flow = np.stack([random_start(32, seed, energy, peak=2.0) for seed, energy in ((0, 1.0), (1, 3.0))])
    found = Steady.of(flow)
    assert found.energy == pytest.approx(2.0)
    assert found.enstrophy == pytest.approx(float(operators.enstrophy(flow).mean()))
    assert found.spectrum.shape == (operators.cut(32),)
    assert found.spectrum.sum() == pytest.approx(2.0)


def test_rest_is_almost_still_and_every_member_differs():
    flow = rest(16, 3)
    assert operators.kinetic_energy(flow) == pytest.approx([1e-4] * 3)
    assert not np.allclose(flow[0], flow[1])


def test_true_fields_are_steady_at_once_and_rest_is_not():
    physics = Physics(viscosity=0.05, wavenumber=2)
    solver = Kolmogorov(16, (0.05,), 0.04, wavenumber=2, precision="float32")
    state = solver.advance(solver.state(np.stack([random_start(16, seed) for seed in range(24)])), 24.0)
    true = solver.velocity(state)
    found = Steady.of(true, band=0.3)
    assert found.reached(follow("truth", true, physics, 12.0, 0.04)) == 0
    after = found.reached(follow("rest", rest(16, 8), physics, 12.0, 0.04))
    assert after is None or after > 50


def test_a_flow_that_explodes_is_told():
    fast = 1e3 * np.stack([random_start(16, 0)])
    with pytest.raises(ValueError, match=r"a flow that starts from fast explodes with steps of 0.1 s; take shorter"):
        follow("fast", fast, Physics(wavenumber=2), 4.0, 0.1)


def test_too_short_a_time_is_told():
    with pytest.raises(ValueError, match=r"0.1 s are fewer than 10 steps of 0.02 s"):
        follow("mine", rest(16, 1), Physics(wavenumber=2), 0.1)
