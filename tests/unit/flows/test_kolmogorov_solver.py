"""The vorticity solver against exact solutions, conservation laws and a plain second implementation."""

import numpy as np
import pytest

from penstock.flows import operators
from penstock.flows.kolmogorov import Kolmogorov, budget, random_start


def taylor_green(n, wave=2):
    x = np.arange(n) * 2 * np.pi / n
    x, y = np.meshgrid(x, x)
    return np.stack([np.cos(wave * x) * np.sin(wave * y), -np.sin(wave * x) * np.cos(wave * y)])


def starts(n, count, **settings):
    return np.stack([random_start(n, seed, **settings) for seed in range(count)])


@pytest.mark.parametrize(("precision", "error"), [("float64", 1e-13), ("float32", 2e-6)])
def test_taylor_green_vortices_decay_as_they_must(precision, error):
    flow, nu, mu = taylor_green(32), 0.05, 0.3
    solver = Kolmogorov(32, (nu,), 0.05, mu, amplitude=0, precision=precision)
    found = solver.velocity(solver.advance(solver.state(flow[None]), 2.0))[0]
    np.testing.assert_allclose(found, np.exp(-(nu * 8 + mu) * 2.0) * flow, atol=error)


def test_the_laminar_flow_stands_still():
    n, nu, mu, wave = 32, 0.1, 0.2, 3
    y = np.arange(n) * 2 * np.pi / n
    u = np.broadcast_to((np.sin(wave * y) / (nu * wave**2 + mu))[:, None], (n, n))
    flow = np.stack([u, np.zeros((n, n))])
    solver = Kolmogorov(n, (nu,), 0.01, mu, wavenumber=wave)
    found = solver.velocity(solver.advance(solver.state(flow[None]), 1.0))[0]
    np.testing.assert_allclose(found, flow, atol=1e-9)


def plain_slope(vorticity, nu, drag, amplitude, wave):
    """dw/dt by products on a grid of twice the points, with numpy's full transforms: no trick of the solver's."""
    n = len(vorticity)
    k = np.fft.fftfreq(n, 1 / n)
    kx, ky = np.meshgrid(k, k)
    hat = np.fft.fft2(vorticity) / n**2
    square = np.where(kx**2 + ky**2 > 0, kx**2 + ky**2, 1)

    def fine(values):
        wide = np.zeros((2 * n, 2 * n), complex)
        wide[np.ix_(k.astype(int), k.astype(int))] = values
        return np.fft.ifft2(wide * (2 * n) ** 2).real

    u, v = fine(1j * ky * hat / square), fine(-1j * kx * hat / square)
    product = np.fft.fft2(u * fine(1j * kx * hat) + v * fine(1j * ky * hat)) / (2 * n) ** 2
    advected = product[np.ix_(k.astype(int), k.astype(int))]
    kept = (abs(kx) < n / 3) & (abs(ky) < n / 3)
    y = np.arange(n) * 2 * np.pi / n
    force = -amplitude * wave * np.cos(wave * y)[:, None]
    return np.fft.ifft2(np.where(kept, -advected, 0) * n**2).real + force - drag * vorticity, -nu * square * hat


def test_the_slope_is_that_of_a_plain_implementation():
    n, flow = 24, random_start(24, 5)
    vorticity = operators.vorticity(flow)
    solver = Kolmogorov(n, (0.0,), 0.01, drag=0.0, amplitude=0.7, wavenumber=3)
    found = np.zeros((n, n // 2 + 1), complex)
    found[:, : operators.cut(n)] = solver.slope(solver.state(flow[None]))[0]
    expected, _ = plain_slope(vorticity, 0.0, 0.0, 0.7, 3)
    np.testing.assert_allclose(operators.backward(found), expected, atol=1e-12)


def test_halving_the_step_divides_the_error_by_sixteen():
    start = starts(32, 2, energy=1.0)

    def after(step):
        solver = Kolmogorov(32, (0.02,), step)
        return solver.velocity(solver.advance(solver.state(start), 0.8))

    exact = after(0.0025)
    errors = [abs(after(step) - exact).max() for step in (0.04, 0.02, 0.01)]
    orders = np.log2([errors[0] / errors[1], errors[1] / errors[2]])
    assert orders == pytest.approx([4, 4], abs=0.35)


def test_the_truncated_inviscid_system_conserves_energy_and_enstrophy():
    start = starts(32, 2)
    solver = Kolmogorov(32, (0.0,), 0.01, drag=0.0, amplitude=0)
    state = solver.state(start)
    end = solver.velocity(solver.advance(state, 3.0))
    assert abs(end - start).max() > 0.5  # it does move
    np.testing.assert_allclose(operators.kinetic_energy(end), operators.kinetic_energy(start), rtol=1e-7)
    np.testing.assert_allclose(operators.enstrophy(end), operators.enstrophy(start), rtol=1e-6)


def test_the_energy_budget_closes():
    step, nu = 0.005, 0.02
    solver = Kolmogorov(32, (nu,), step)
    states = [solver.advance(solver.state(starts(32, 3)), 2.0)]
    states += [solver.step(states[0])]
    states += [solver.step(states[1])]
    before, now, after = (budget(solver.velocity(state), nu) for state in states)
    np.testing.assert_allclose((after.energy - before.energy) / (2 * step), now.rate, atol=2e-4 * now.production.max())


def test_a_member_does_not_depend_on_the_others_by_a_bit():
    start, nus = starts(32, 7), (0.01, 0.02, 0.03, 0.01, 0.02, 0.05, 0.01)
    for precision in ("float64", "float32"):
        whole = Kolmogorov(32, nus, 0.02, precision=precision)
        together = whole.velocity(whole.advance(whole.state(start), 1.0))
        for some in ([0], [5], [6, 2], [1, 3, 5]):
            part = Kolmogorov(32, tuple(nus[i] for i in some), 0.02, precision=precision)
            assert (part.velocity(part.advance(part.state(start[some]), 1.0)) == together[some]).all()


def test_the_random_start_has_its_energy_and_no_divergence():
    flow = random_start(64, 3, energy=0.7, peak=6)
    assert operators.kinetic_energy(flow) == pytest.approx(0.7)
    assert abs(operators.divergence(flow)).max() < 1e-12
    assert operators.spectrum(starts(64, 20, peak=6)).mean(0).argmax() == 6
    assert (random_start(64, 3) == random_start(64, 3)).all()
    assert (random_start(64, 3) != random_start(64, 4)).any()
