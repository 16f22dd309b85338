"""Vector potentials in three dimensions: flows with known curls, and no divergence whatever the potential."""

import numpy as np
import pytest
import torch

from penstock.models import potential, stream

N = 16


def grid(n=N):
    """x, y and z, each ``"z y x"``."""
    along = torch.arange(n, dtype=torch.float64) * 2 * torch.pi / n
    z, y, x = torch.meshgrid(along, along, along, indexing="ij")
    return x, y, z


def taylor_green(n=N):
    """Taylor and Green (1937), doi:10.1098/rspa.1937.0036: velocity and vorticity at the start."""
    x, y, z = grid(n)
    sin, cos = torch.sin, torch.cos
    flow = torch.stack([sin(x) * cos(y) * cos(z), -cos(x) * sin(y) * cos(z), 0 * z])
    whirl = [-cos(x) * sin(y) * sin(z), -sin(x) * cos(y) * sin(z), 2 * sin(x) * sin(y) * cos(z)]
    return flow, torch.stack(whirl)


def abc(n=N, a=1.0, b=0.7, c=0.4):
    """Arnold, Beltrami and Childress: a flow that is its own curl."""
    x, y, z = grid(n)
    sin, cos = torch.sin, torch.cos
    return torch.stack([a * sin(z) + c * cos(y), b * sin(x) + a * cos(z), c * sin(y) + b * cos(x)])


def noise(rows=2, n=N, dtype=torch.float64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, 3, n, n, n))).to(dtype)


def central(field, axis):
    """A derivative by differences of second order."""
    n = field.shape[axis]
    return (field.roll(-1, axis) - field.roll(1, axis)) * n / (4 * torch.pi)


def differences(flow):
    """The divergence by differences of second order."""
    return sum(central(flow[..., at, :, :, :], -1 - at) for at in range(3))


def test_the_curl_of_taylor_greens_vortices_is_their_vorticity():
    flow, whirl = taylor_green()
    torch.testing.assert_close(potential.velocity(flow), whirl, atol=1e-13, rtol=0)
    torch.testing.assert_close(potential.induced(whirl), flow, atol=1e-13, rtol=0)


def test_a_beltrami_flow_is_its_own_curl_and_its_own_potential():
    torch.testing.assert_close(potential.velocity(abc()), abc(), atol=1e-13, rtol=0)
    torch.testing.assert_close(potential.potential_of(abc()), abc(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("head", [potential.velocity, potential.induced])
def test_no_flow_has_a_divergence_whatever_the_network_gives(head):
    flow = head(noise())
    assert potential.divergence(flow).abs().max() < 1e-12 * flow.abs().max() * N
    single = head(noise(dtype=torch.float32)).double()
    slopes = torch.stack([central(single, axis) for axis in (-3, -2, -1)])
    assert potential.divergence(single).square().mean().sqrt() / slopes.square().mean().sqrt() < 1e-6


def test_the_divergence_is_the_one_that_differences_find():
    """Of second order: twice the points, a quarter of what is left; of a flow with divergence they find it as well."""
    apart = []
    for n in (16, 32):
        x, y, z = grid(n)
        curled = torch.stack([torch.sin(y) * torch.sin(2 * z), torch.cos(2 * x + z), torch.sin(x - y)])
        flow = potential.velocity(curled) + torch.stack([torch.sin(x), 0 * y, torch.cos(x) * torch.sin(z)])
        found = potential.divergence(flow)
        torch.testing.assert_close(found, torch.cos(x) + torch.cos(x) * torch.cos(z), atol=1e-12, rtol=0)
        apart.append((differences(flow) - found).abs().max())
    assert apart[0] / apart[1] == pytest.approx(4, rel=0.1)


def test_what_has_divergence_is_lost_and_the_rest_comes_back():
    x, y, z = grid()
    gradient = torch.stack([torch.cos(x) * torch.sin(y), torch.sin(x) * torch.cos(y), 3 * torch.cos(3 * z)])
    flow, _ = taylor_green()
    torch.testing.assert_close(potential.velocity(potential.potential_of(flow + gradient)), flow, atol=1e-13, rtol=0)


def test_the_spectrum_is_a_sum_over_waves():
    flow = potential.velocity(noise())
    waves = np.fft.fftn(flow.numpy(), axes=(-3, -2, -1)) / N**3
    numbers = np.fft.fftfreq(N, 1 / N)
    z, y, x = np.meshgrid(numbers, numbers, numbers, indexing="ij")
    shell = np.rint(np.sqrt(x**2 + y**2 + z**2)).astype(int)
    energy = 0.5 * (abs(waves) ** 2).sum(1)
    wanted = [[row[shell == k].sum() for k in range(1, stream.shells(N) + 1)] for row in energy]
    np.testing.assert_allclose(potential.spectrum(flow), wanted, rtol=1e-9)
    one = potential.spectrum(abc(a=1.0, b=1.0, c=1.0)[None])[0]
    torch.testing.assert_close(one[0], torch.tensor(1.5, dtype=torch.float64))
    assert one[1:].abs().max() < 1e-20


@pytest.mark.parametrize("head", [potential.velocity, potential.induced])
def test_gradients_pass_through_the_head(head):
    given = noise(rows=1, n=6).requires_grad_()
    assert torch.autograd.gradcheck(head, (given,), fast_mode=True)


def test_a_decoder_that_ends_in_the_head_learns_a_flow():
    """One convolution over a fixed input: after some steps its curl is near the flow."""
    torch.manual_seed(0)
    wanted, given = abc(8).float()[None], torch.cat([abc(8), taylor_green(8)[0]]).float()[None]
    layer = torch.nn.Conv3d(6, 3, 1, bias=False)
    steps = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(60):
        loss = (potential.velocity(layer(given)) - wanted).square().mean()
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert loss.item() < 1e-2 * wanted.square().mean().item()
