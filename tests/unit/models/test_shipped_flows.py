"""The shipped generators: small, free of divergence, and about as energetic as the flow that they have learned."""

from pathlib import Path

import numpy as np
import pytest
import torch

from penstock.flows import operators, statistics
from penstock.models import generator

MODELS = Path(__file__).parents[3] / "examples" / "flow" / "models"
FIELDS = 48


@pytest.fixture(scope="module", params=["psi_vae", "psi_stylegan"])
def model(request):
    return request.param


@pytest.fixture(scope="module")
def flow(model):
    with generator.opened(str(MODELS / model), "cpu") as live:
        return live.fields(range(9_000_000, 9_000_000 + FIELDS), np.full(FIELDS, 0.01))


def test_it_is_small_and_has_a_card(model):
    assert {path.name for path in (MODELS / model).iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert generator.weights_bytes(str(MODELS / model)) < 4 << 20
    card = (MODELS / model / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "penstock run examples/flow/train.toml" in card
    assert generator.hashes_of(str(MODELS / model))["model.safetensors"] in card


def test_its_fields_have_no_divergence(flow):
    assert statistics.divergence_ratio(flow) < 1e-6


def test_its_fields_have_the_energies_of_the_flow(flow):
    """Those of the truth, as 48 fields of these seeds have them: energy is off by 2 % at worst, a shell by 9 %.

    It guards that what is shipped are trained weights and gains that fit the flow of today's solver. How near they come
    is the benchmark flow_quality's: there 512 fields are held against as many true ones, within 8 %.
    """
    assert operators.kinetic_energy(flow.astype(np.float64)).mean() == pytest.approx(0.67, rel=0.05)
    found = operators.spectrum(flow).mean(0)
    for shell, wanted in {1: 0.13, 2: 0.18, 3: 0.11, 4: 0.18, 5: 0.025, 8: 1.9e-3, 12: 1.4e-4, 16: 2.3e-5}.items():
        assert found[shell] == pytest.approx(wanted, rel=0.12), shell


def test_its_fields_are_those_that_the_weights_gave_before(model, flow):
    """Kinetic energy and two shells to 1 %, where machines differ in the fifth digit.

    It guards what stands between weights and fields: the gains of the shells, the head, the latents' prior, the units.
    """
    wanted = {"psi_vae": (0.6540, 0.1761, 2.436e-5), "psi_stylegan": (0.6560, 0.1872, 2.410e-5)}[model]
    energies = operators.spectrum(flow).mean(0)
    found = (operators.kinetic_energy(flow.astype(np.float64)).mean(), energies[4], energies[16])
    assert found == pytest.approx(wanted, rel=0.01)


def test_its_eddies_carry_the_momentum_that_the_force_gives(flow):
    """Fields with random phases leave the whole force unbalanced, 1; these 0.09 and 0.30."""
    assert statistics.mean_equation(flow, statistics.Physics()) < 0.35


def test_its_fields_have_the_same_bits_whatever_torch_was_told_of_threads(model, flow):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with generator.opened(str(MODELS / model), "cpu") as live:
            again = live.fields([9_000_000 + FIELDS - 1, 9_000_000], np.full(2, 0.01))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(again, flow[[-1, 0]])
