"""StyleGAN2 on stream functions: modulation one row at a time, and regularisers against finite differences."""

import numpy as np
import pytest
import torch

from penstock.models import psi_stylegan as gan
from penstock.models import stream

SHAPE = gan.Shape(32, 8, 6, 2)


@pytest.fixture(scope="module")
def nets():
    return gan.initial(SHAPE, seed=1)


@pytest.fixture(scope="module")
def exact(nets):
    """The same in double precision, for differences."""
    return tuple({name: value.double() for name, value in each.items()} for each in nets)


def normals(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def made(maker, style):
    noise = [normals(len(style), n, n, seed=n).to(style.dtype) for n in gan.noise_sizes(SHAPE)]
    return gan.synthesise(maker, SHAPE, style, noise)


def test_whatever_the_weights_a_generated_field_has_no_divergence(nets):
    style = gan.mapped(nets[0], SHAPE, normals(4, 6).float(), normals(4).float())
    velocity = stream.velocity(stream.inverted(made(nets[0], style))).numpy().astype(np.float64)
    number = 1j * np.fft.fftfreq(32, 1 / 32)
    slopes = [[np.fft.ifft2(np.fft.fft2(velocity[:, c]) * k).real for k in (number, number[:, None])] for c in (0, 1)]
    assert (slopes[0][0] + slopes[1][1]).std() / np.sqrt(np.mean(np.square(slopes))) < 1e-6


@pytest.mark.parametrize("size", [64, 128, 256])
def test_larger_fields_have_more_levels(size):
    shape = gan.Shape(size, 8, 6, 1)
    assert gan.noise_sizes(shape) == [4, *np.repeat([4 << level for level in range(1, len(shape.widths))], 2)]
    maker, judge = gan.initial(shape, 0)
    noise = [normals(1, n, n).float() for n in gan.noise_sizes(shape)]
    maps = gan.synthesise(maker, shape, normals(1, 6).float(), noise)
    assert maps.shape == (1, size, size)
    assert gan.discriminate(judge, shape, maps[:, None].expand(1, 3, size, size), normals(1).float()).shape == (1,)


def test_a_modulated_convolution_scales_and_normalises_the_kernel_of_each_row(exact):
    maker, style, x = exact[0], normals(3, 6), normals(3, 32, 4, 4, seed=1)
    found = gan.modulated(x, style, maker, "0.keep")
    kernel = maker["0.keep.kernel"] / np.sqrt(32 * 9)
    for row in range(3):
        scales = style[row] @ maker["0.keep.style.kernel"].T / np.sqrt(6) + maker["0.keep.style.offset"]
        own = kernel * scales[None, :, None, None]
        own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        padded = torch.nn.functional.pad(x[row : row + 1], (1, 1, 1, 1), mode="circular")
        torch.testing.assert_close(found[row], torch.nn.functional.conv2d(padded, own)[0])


def test_between_points_a_doubled_map_is_a_straight_line_around_the_edge_too():
    field = normals(1, 1, 4, 4)
    found = gan.doubled(field)[0, 0]
    rows = torch.stack([0.75 * field[0, 0] + 0.25 * field[0, 0].roll(s, 0) for s in (1, -1)], 1).reshape(8, 4)
    wanted = torch.stack([0.75 * rows + 0.25 * rows.roll(s, 1) for s in (1, -1)], 2).reshape(8, 8)
    torch.testing.assert_close(found, wanted)


def test_the_deviation_of_a_group_is_seen():
    x = normals(8, 3, 4, 4)
    found = gan.with_deviation(x)
    groups = x.reshape(4, 2, 3, 4, 4).numpy()
    wanted = np.sqrt(groups.var(0) + 1e-8).mean((1, 2, 3))
    np.testing.assert_allclose(found[:, 3, 0, 0], np.tile(wanted, 4))
    assert (gan.with_deviation(x[:1].expand(4, -1, -1, -1))[:, 3] < 1e-3).all()


def test_r1_is_the_squared_slope_of_the_score_by_finite_differences(exact):
    flow, condition = normals(4, 3, 32, 32).requires_grad_(), normals(4)
    score = gan.discriminate(exact[1], SHAPE, flow, condition)
    (slope,) = torch.autograd.grad(score.sum(), flow, retain_graph=True)
    ways = normals(3, 4, 3, 32, 32, seed=5)
    for way in ways:
        with torch.no_grad():
            ends = [gan.discriminate(exact[1], SHAPE, flow + s * 1e-6 * way, condition).sum() for s in (1, -1)]
        assert (slope * way).sum().item() == pytest.approx(((ends[0] - ends[1]) / 2e-6).item(), rel=1e-5)
    assert gan.gradient_penalty(score, flow).item() == pytest.approx((slope**2).sum().item() / 4, rel=1e-9)


def test_path_lengths_are_those_of_finite_differences(exact):
    style = normals(2, 6).requires_grad_()
    field, way = made(exact[0], style), normals(2, 32, 32, seed=7)
    found = gan.path_lengths(field, style, way)
    slopes = torch.zeros(2, 6, dtype=torch.float64)
    for at in range(6):
        step = torch.zeros(6, dtype=torch.float64)
        step[at] = 1e-6
        with torch.no_grad():
            change = (made(exact[0], style + step) - made(exact[0], style - step)) / 2e-6
        slopes[:, at] = (change * way).sum((1, 2)) / 32
    torch.testing.assert_close(found.detach(), slopes.square().sum(1).sqrt(), rtol=1e-5, atol=0)


def test_regularisers_can_be_learned_from(exact):
    maker = {name: value.clone().requires_grad_() for name, value in exact[0].items()}
    style = gan.mapped(maker, SHAPE, normals(2, 6), normals(2))
    gan.path_lengths(made(maker, style), style, normals(2, 32, 32)).sum().backward()
    assert maker["0.keep.kernel"].grad.abs().sum() > 0
    judge = {name: value.clone().requires_grad_() for name, value in exact[1].items()}
    flow = normals(4, 3, 32, 32).requires_grad_()
    gan.gradient_penalty(gan.discriminate(judge, SHAPE, flow, normals(4)), flow).backward()
    assert judge["1.keep.kernel"].grad.abs().sum() > 0


def test_the_losses_are_logistic():
    score = torch.tensor([0.5, -2.0])
    wanted = np.log1p(np.exp(-score.numpy())).mean(), np.log1p(np.exp(score.numpy())).mean()
    assert gan.judged(score, real=True).item() == pytest.approx(wanted[0])
    assert gan.judged(score, real=False).item() == pytest.approx(wanted[1])


def test_kernels_have_unit_size_in_memory_and_the_mapping_more(nets):
    assert nets[0]["1.up.kernel"].std() == pytest.approx(1, rel=0.05)
    assert nets[0]["map.1.kernel"].std() == pytest.approx(100, rel=0.3)
    assert (nets[0]["1.up.style.offset"] == 1).all()
    assert nets[0]["1.up.noise"] == 0


def test_shapes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="size 16, width 8, latent 6, layers 2: size must be a power of 2, 32 or more"):
        gan.Shape(16, 8, 6, 2)
