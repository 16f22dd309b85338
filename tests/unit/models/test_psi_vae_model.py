"""The stream-function autoencoder: no divergence, terms of the loss in plain numpy, and its linear start."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from penstock.models import psi_vae, stream
from penstock.models.layers import conv

SHAPE = psi_vae.Shape(32, 8, 6)


@pytest.fixture(scope="module")
def weights():
    return psi_vae.initial(SHAPE, seed=3)


def normals(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def test_whatever_the_weights_a_decoded_field_has_no_divergence(weights):
    maps = psi_vae.decode(weights, SHAPE, normals(4, 6), normals(4))
    velocity = stream.velocity(stream.inverted(maps)).numpy().astype(np.float64)
    number = 1j * np.fft.fftfreq(32, 1 / 32)
    slopes = [[np.fft.ifft2(np.fft.fft2(velocity[:, c]) * k).real for k in (number, number[:, None])] for c in (0, 1)]
    divergence = slopes[0][0] + slopes[1][1]
    assert divergence.std() / np.sqrt(np.mean(np.square(slopes))) < 1e-6


def test_convolutions_go_around_the_box(weights):
    field, kernel = normals(2, 8, 16, 16), normals(8, 8, 3, 3, seed=1)
    shifted = conv(field.roll((5, 3), (-1, -2)), kernel)
    torch.testing.assert_close(shifted, conv(field, kernel).roll((5, 3), (-1, -2)))
    padded = torch.nn.functional.pad(field, (1, 1, 1, 1), mode="circular")
    torch.testing.assert_close(conv(field, kernel), torch.nn.functional.conv2d(padded, kernel))


def test_encoder_and_decoder_have_the_shapes_that_they_say(weights):
    mean, log_variance = psi_vae.encode(weights, SHAPE, normals(3, 3, 32, 32), normals(3))
    assert mean.shape == log_variance.shape == (3, 6)
    assert psi_vae.decode(weights, SHAPE, mean, normals(3)).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_larger_fields_have_more_levels(size):
    shape = psi_vae.Shape(size, 8, 6)
    assert shape.widths[-3:] == [32, 16, 8]
    assert 4 << (len(shape.widths) - 1) == size // 2
    maps = psi_vae.decode(psi_vae.initial(shape, 0), shape, normals(1, 6), normals(1))
    assert maps.shape == (1, size, size)


def test_the_straight_way_is_principal_components(weights):
    maps = normals(40, 32, 32, seed=2)
    found = psi_vae.principal(weights, SHAPE, maps)
    coarse = psi_vae.coarse(maps).flatten(1).double().numpy()  # in float32 the oracle itself is off by 1e-4
    theirs = PCA(6, whiten=True).fit(coarse)
    ours = coarse @ found["encode.straight.kernel"].numpy().T + found["encode.straight.offset"].numpy()
    back = ours @ found["decode.straight.kernel"].numpy().T + found["decode.straight.offset"].numpy()
    np.testing.assert_allclose(back, theirs.inverse_transform(theirs.transform(coarse)), atol=1e-4)
    np.testing.assert_allclose(ours.std(0), 1, rtol=1e-3)


def test_long_waves_survive_the_coarse_grid():
    x = torch.arange(32) * 2 * torch.pi / 32
    field = (torch.cos(3 * x)[:, None] * torch.sin(7 * x) + torch.sin(5 * x)[:, None])[None]
    small = psi_vae.coarse(field)
    torch.testing.assert_close(small, field[:, ::2, ::2], atol=1e-5, rtol=0)
    torch.testing.assert_close(psi_vae.refined(small, 32), field, atol=1e-5, rtol=0)


def test_reconstruction_is_the_mean_squared_error_of_velocity_and_vorticity():
    psi, wanted = normals(3, 32, 32), normals(3, 32, 32, seed=1)
    found = psi_vae.reconstruction(psi, wanted, {"velocity": 2.0, "vorticity": 5.0}).item()
    (u, v), (a, b) = (stream.velocity(one).numpy().swapaxes(0, 1) for one in (psi, wanted))
    speed = np.mean((u - a) ** 2 + (v - b) ** 2) / 4
    spin = np.mean((stream.vorticity(psi) - stream.vorticity(wanted)).numpy() ** 2) / 25
    assert found == pytest.approx(speed + spin, rel=1e-4)


def test_the_divergence_is_that_of_normal_distributions():
    mean, log_variance = normals(5, 4), normals(5, 4, seed=1)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    wanted = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(1).mean()
    torch.testing.assert_close(psi_vae.divergence(mean, log_variance), wanted)


def test_local_enstrophies_are_those_of_waves_taken_one_by_one():
    psi = stream.bounded(normals(2, 32, 32))
    found = psi_vae.local(psi).numpy()
    assert psi_vae.bands(32) == [(4, 5), (6, 9), (10, 10)]
    assert psi_vae.bands(64) == [(4, 5), (6, 9), (10, 15), (16, 21)]
    number = np.fft.fftfreq(32, 1 / 32)
    square = number[:, None] ** 2 + number**2
    shell = np.rint(np.sqrt(square))
    inside = (abs(number[:, None]) < 32 / 3) & (abs(number) < 32 / 3)
    for at, (low, high) in enumerate(psi_vae.bands(32)):
        kept = square * inside * (low <= shell) * (shell <= high)
        w = np.fft.ifft2(np.fft.fft2(psi.numpy()) * kept).real
        for y in range(8):
            for x in range(8):
                block = w[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4]
                np.testing.assert_allclose(found[:, at, y, x], (block**2).mean((1, 2)), rtol=1e-3)


def test_the_spectral_term_is_0_for_equal_energies_and_twice_log_2_squared_for_halves():
    psi = stream.bounded(normals(3, 32, 32))
    assert psi_vae.spectral(-psi, psi).item() == pytest.approx(0, abs=1e-9)
    assert psi_vae.spectral(psi / np.sqrt(2), psi).item() == pytest.approx(2 * np.log(2) ** 2, rel=0.05)


def test_waves_of_one_length_are_no_band():
    psi = stream.bounded(normals(1, 32, 32))
    gains = torch.ones(1, stream.shells(32))
    gains[:, 5:9] = torch.tensor([2.0, 0.01, 0.01, 0.01])
    assert psi_vae.spectral(stream.filtered(psi, gains), psi) > 5


def test_a_streak_of_short_waves_is_no_spectrum():
    psi = stream.bounded(normals(1, 32, 32))
    window = torch.zeros(32, 32)
    window[8:16, 8:16] = 4
    streak = stream.bounded(psi * window)
    streak = streak * (stream.spectrum(psi)[:, 9:].sum() / stream.spectrum(streak)[:, 9:].sum()).sqrt()
    assert psi_vae.spectral(streak, psi) > 1


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="size 48, width 8, latent 6: size must be a power of 2, 32 or more"):
        psi_vae.Shape(48, 8, 6)
