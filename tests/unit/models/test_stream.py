"""Stream functions in torch against plain sums over waves, and the symmetries of the flow."""

import numpy as np
import pytest
import torch

from penstock.models import stream
from penstock.models.stream import Move

N, K = 32, 4


def random_psi(rows=2, seed=0, n=N):
    random = np.random.default_rng(seed)
    return stream.bounded(torch.from_numpy(random.standard_normal((rows, n, n)))) / 8


def slope(field, axis):
    """A derivative by the full complex spectrum; axis -1 is x."""
    numbers = 1j * np.fft.fftfreq(field.shape[axis], 1 / field.shape[axis])
    shape = [1] * field.ndim
    shape[axis] = -1
    return np.fft.ifft(np.fft.fft(field, axis=axis) * numbers.reshape(shape), axis=axis).real


def test_velocity_and_vorticity_are_those_of_plain_derivatives():
    psi = random_psi()
    u, v = stream.velocity(psi).numpy().swapaxes(0, 1)
    np.testing.assert_allclose(u, slope(psi.numpy(), -2), atol=1e-11)
    np.testing.assert_allclose(v, -slope(psi.numpy(), -1), atol=1e-11)
    np.testing.assert_allclose(stream.vorticity(psi).numpy(), slope(v, -1) - slope(u, -2), atol=1e-9)


def test_a_velocity_has_its_stream_function_and_a_vorticity_too():
    psi = random_psi()
    np.testing.assert_allclose(stream.stream_of(stream.velocity(psi)), psi, atol=1e-12)
    np.testing.assert_allclose(stream.inverted(stream.vorticity(psi)), psi, atol=1e-12)


def test_what_has_divergence_is_lost():
    potential = random_psi(seed=1).numpy()
    gradient = np.stack([slope(potential, -1), slope(potential, -2)], 1)
    np.testing.assert_allclose(stream.stream_of(torch.from_numpy(gradient)), 0, atol=1e-12)


def test_the_spectrum_is_a_sum_over_waves():
    psi = random_psi()
    u, v = (np.fft.fft2(one) / N**2 for one in stream.velocity(psi).numpy().swapaxes(0, 1))
    found = np.zeros((2, N))
    numbers = np.fft.fftfreq(N, 1 / N)
    for at_y, y in enumerate(numbers):
        for at_x, x in enumerate(numbers):
            shell = round(np.hypot(x, y))
            found[:, shell] += (abs(u[:, at_y, at_x]) ** 2 + abs(v[:, at_y, at_x]) ** 2) / 2
    np.testing.assert_allclose(stream.spectrum(psi), found[:, 1 : stream.shells(N) + 1], rtol=1e-9)


def test_a_filter_changes_each_shell_by_its_own_factor():
    psi, gains = random_psi(), torch.linspace(0.5, 2, stream.shells(N), dtype=torch.float64).expand(2, -1)
    after = stream.spectrum(stream.filtered(psi, gains))
    np.testing.assert_allclose(after, stream.spectrum(psi) * gains**2, rtol=1e-9)


def naive_tendency(psi, viscosity, drag):
    w, u, v = -slope(slope(psi, -1), -1) - slope(slope(psi, -2), -2), slope(psi, -2), -slope(psi, -1)
    advected = u * slope(w, -1) + v * slope(w, -2)
    number_y, number_x = np.meshgrid(*[np.fft.fftfreq(N, 1 / N)] * 2, indexing="ij")
    kept = (abs(number_y) < N / 3) & (abs(number_x) < N / 3) & (number_y**2 + number_x**2 > 0)
    advected = np.fft.ifft2(np.fft.fft2(advected) * kept).real
    y = np.arange(N) * 2 * np.pi / N
    forcing = -K * np.cos(K * y)[:, None]
    diffused = viscosity[:, None, None] * (slope(slope(w, -1), -1) + slope(slope(w, -2), -2))
    return forcing - drag * w + diffused - advected


def test_the_residual_is_that_of_plain_derivatives():
    psi, later, viscosity = random_psi(), random_psi(seed=5), np.array([0.01, 0.02])
    found = stream.residual(psi, later, 0.1, viscosity=torch.from_numpy(viscosity), drag=0.2, wavenumber=K)
    change = (stream.vorticity(later) - stream.vorticity(psi)).numpy() / 0.1
    wanted = change - naive_tendency((psi + later).numpy() / 2, viscosity, 0.2)
    np.testing.assert_allclose(found, wanted, atol=1e-8)


def test_laminar_kolmogorov_flow_stands_still():
    y = torch.arange(N, dtype=torch.float64) * 2 * torch.pi / N
    size = 1 / (0.01 * K**2 + 0.1)
    psi = (-size / K * torch.cos(K * y))[None, :, None].expand(1, N, N)
    np.testing.assert_allclose(stream.velocity(psi)[0, 0, :, 0], size * torch.sin(K * y), atol=1e-12)
    still = stream.tendency(psi, torch.tensor([0.01], dtype=torch.float64), 0.1, K)
    np.testing.assert_allclose(still, 0, atol=1e-10)


@pytest.mark.parametrize("move", [Move(5), Move(0, 1), Move(0, 2), Move(0, 0, turned=True), Move(3, 5, turned=True)])
def test_a_move_makes_solutions_of_solutions(move):
    psi, viscosity = random_psi(), torch.tensor([0.01, 0.02], dtype=torch.float64)
    after = stream.tendency(stream.moved(psi, move, K), viscosity, 0.1, K)
    before = stream.moved(stream.tendency(psi, viscosity, 0.1, K), move, K)
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_a_shift_of_a_quarter_forcing_period_is_no_symmetry():
    psi, viscosity = random_psi(), torch.tensor([0.01, 0.02], dtype=torch.float64)
    wrong = stream.tendency(psi.roll(N // K // 4, -2), viscosity, 0.1, K)
    assert (wrong - stream.tendency(psi, viscosity, 0.1, K).roll(N // K // 4, -2)).abs().max() > 1


def test_every_move_is_drawn_and_seen_in_the_images():
    random = np.random.default_rng(0)
    drawn = {Move.drawn(random, 8, 2) for _ in range(2000)}
    assert len(drawn) == 8 * 4 * 2
    psi = random_psi()
    images = stream.images(psi, K)
    assert images.shape == (2, 4 * K, N, N)
    np.testing.assert_array_equal(images[:, 2 * K + 3], stream.moved(psi, Move(0, 3, turned=True), K))


def test_fields_that_differ_by_moves_are_aligned_to_the_same():
    psi = random_psi(1)[0]
    random = np.random.default_rng(3)
    moves = [Move.drawn(random, N, K) for _ in range(12)]
    orbit = torch.stack([stream.moved(psi, move, K) for move in moves])
    found = stream.aligned(orbit, psi, K)
    for one, move in zip(orbit, found, strict=True):
        np.testing.assert_array_equal(stream.moved(one, move, K), psi)


def test_the_template_of_an_orbit_is_one_of_its_fields():
    psi = random_psi(1)[0]
    random = np.random.default_rng(4)
    orbit = torch.stack([stream.moved(psi, Move.drawn(random, N, K), K) for _ in range(9)])
    np.testing.assert_allclose(stream.template_of(orbit, K), orbit[0], atol=1e-12)
