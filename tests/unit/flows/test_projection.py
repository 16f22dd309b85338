"""The divergence that a finite-volume solver sees."""

import numpy as np
import pytest

from penstock.flows.operators import divergence, velocity
from penstock.flows.projection import flux_divergence, flux_projected


def naive_divergence(flow, side):
    """The sum over the four faces of each cell, one cell after the other."""
    _, rows, columns = flow.shape
    dx, dy = side / columns, side / rows
    found = np.zeros((rows, columns))
    for j in range(rows):
        for i in range(columns):
            u, v = flow
            east, west = (u[j, i] + u[j, (i + 1) % columns]) / 2, (u[j, i] + u[j, i - 1]) / 2
            north, south = (v[j, i] + v[(j + 1) % rows, i]) / 2, (v[j, i] + v[j - 1, i]) / 2
            found[j, i] = ((east - west) * dy + (north - south) * dx) / (dx * dy)
    return found


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 7, 9), (2, 4, 6)])
def test_the_divergence_is_the_sum_of_fluxes(shape):
    flow = np.random.default_rng(0).standard_normal(shape)
    np.testing.assert_allclose(flux_divergence(flow, 3.0), naive_divergence(flow, 3.0), atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 64, 64), (3, 2, 16, 24), (2, 9, 7)])
def test_no_flux_is_left_after_the_projection(shape):
    flow = np.random.default_rng(1).standard_normal(shape)
    found = flux_projected(flow)
    rate = abs(flow).max() * shape[-1] / (2 * np.pi)
    assert abs(flux_divergence(found)).max() < 1e-14 * rate * shape[-1]
    np.testing.assert_allclose(flux_projected(found), found, atol=1e-13)
    np.testing.assert_allclose(found.mean((-2, -1)), flow.mean((-2, -1)), atol=1e-14)


def test_what_is_taken_away_is_a_gradient():
    """The projection is orthogonal: what is taken away and what stays have no common part."""
    flow = np.random.default_rng(2).standard_normal((2, 32, 32))
    found = flux_projected(flow)
    assert abs(((flow - found) * found).sum()) < 1e-10


def test_a_smooth_field_without_spectral_divergence_is_changed_a_little_only():
    n = 64
    x = 2 * np.pi * np.arange(n) / n
    flow = velocity(np.sin(3 * x)[None] * np.cos(2 * x)[:, None])
    assert abs(divergence(flow)).max() < 1e-12
    assert abs(flux_divergence(flow)).max() > 1e-3
    assert abs(flux_projected(flow) - flow).max() < 0.05 * abs(flow).max()


def test_alternating_cells_have_no_flux():
    flow = np.zeros((2, 8, 8))
    flow[0, :, ::2], flow[0, :, 1::2] = 1, -1
    np.testing.assert_allclose(flux_projected(flow), flow, atol=1e-15)
