"""Generators as folders: the same seed gives the same field, wherever and beside whatever."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from penstock.errors import PlanError, WeightsError
from penstock.models import generator, stream
from penstock.testing.models import tiny_generator

KINDS = ("psi_vae", "psi_stylegan")
SEEDS = [5, 0, -3, 2**62, 7]
VISCOSITIES = np.array([0.01, 0.02, 0.02, 0.03, 0.04])


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    return str(tiny_generator(tmp_path_factory.mktemp("model"), request.param))


def fields(folder, rows):
    with generator.opened(folder, "cpu") as live:
        return live.fields([SEEDS[row] for row in rows], VISCOSITIES[rows])


def test_a_seed_gives_the_same_bits_in_any_company(folder):
    whole = fields(folder, [0, 1, 2, 3, 4])
    assert whole.shape == (5, 2, 32, 32)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(fields(folder, [4, 3, 2, 1, 0])[::-1], whole)
    np.testing.assert_array_equal(np.concatenate([fields(folder, [at]) for at in range(5)]), whole)


def test_a_seed_gives_the_same_bits_by_one_thread_or_two(folder):
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(fields(folder, [0, 1, 2]))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


def test_seeds_and_viscosities_make_a_difference(folder):
    with generator.opened(folder, "cpu") as live:
        found = live.fields([1, 2, 1], np.array([0.02, 0.02, 0.03]))
    assert abs(found[0] - found[1]).max() > 0.1
    assert abs(found[0] - found[2]).max() > 1e-3


def test_fields_have_no_divergence_and_no_mean(folder):
    found = fields(folder, [0, 1, 2]).astype(np.float64)
    number = 1j * np.fft.fftfreq(32, 1 / 32)
    slopes = [[np.fft.ifft2(np.fft.fft2(found[:, c]) * k).real for k in (number, number[:, None])] for c in (0, 1)]
    assert (slopes[0][0] + slopes[1][1]).std() / np.sqrt(np.mean(np.square(slopes))) < 1e-6
    np.testing.assert_allclose(found.mean((2, 3)), 0, atol=1e-6)


def test_gains_give_samples_the_energies_of_the_data_at_each_viscosity(folder):
    random = np.random.default_rng(0)
    viscosity = np.repeat([0.01, 0.04], 200)
    psi = (
        stream.bounded(torch.from_numpy(random.standard_normal((400, 32, 32))))
        * torch.from_numpy(viscosity)[:, None, None]
    )
    with generator.opened(folder, "cpu") as live:
        gains = generator.calibrated(live, psi, viscosity, seed=0, samples=128)
        found = replace(live, gains=gains).fields(range(1000, 1128), np.repeat([0.01, 0.04], 64))
    energies = stream.spectrum(stream.stream_of(torch.from_numpy(found).double())).reshape(2, 64, -1).mean(1)
    wanted = stream.spectrum(psi).reshape(2, 200, -1).mean(1)
    assert 0.6 < (energies / wanted).min() <= (energies / wanted).max() < 1.6


def test_gains_of_many_viscosities_lie_on_straight_lines():
    viscosity = np.linspace(0.01, 0.04, 100)
    groups = generator.groups(viscosity)
    assert sorted(np.concatenate(groups)) == list(range(100))
    assert {len(rows) for rows in groups} == {12, 13}
    assert len(generator.groups(np.full(5, 0.01))) == 1


def test_a_viscosity_outside_of_what_was_learned_has_a_reason(folder):
    config = generator.config_of(folder)
    assert config.reason(0.01) == config.reason(0.04) == ""
    assert config.reason(0.1) == "the viscosity 0.1 lies outside 0.01 to 0.04, from which the model has learned"
    assert config.middle == pytest.approx(0.02)


def test_hashes_are_those_of_config_and_weights(folder, tmp_path):
    other = str(tiny_generator(tmp_path, generator.config_of(folder).model, seed=9))
    ours, theirs = generator.hashes_of(folder), generator.hashes_of(other)
    assert list(ours) == ["config.json", "model.safetensors"]
    assert ours["config.json"] == theirs["config.json"]
    assert ours["model.safetensors"] != theirs["model.safetensors"]
    assert generator.weights_bytes(folder) > 10_000
    assert generator.licence_of(folder).name == "apache-2.0"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"config.json: there is no such file.*train one by psi_vae or psi_stylegan"):
        generator.config_of(str(tmp_path))


def test_a_config_of_something_else_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(WeightsError, match="does not describe a generator of flow"):
        generator.config_of(str(tmp_path))


@pytest.mark.parametrize(("change", "text"), [("model", "the model is 'dcgan'"), ("size", "must be a power of 2")])
def test_a_config_that_cannot_be_is_refused(tmp_path, change, text):
    tiny_generator(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    data[change] = {"model": "dcgan", "size": 33}[change]
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(WeightsError, match=text):
        generator.config_of(str(tmp_path))


def test_damaged_weights_are_refused(tmp_path):
    uri = str(tiny_generator(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be loaded"), generator.opened(uri, "cpu"):
        pass
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="there is no such file"):
        generator.hashes_of(uri)


def test_weights_of_another_network_are_refused(tmp_path):
    uri = str(tiny_generator(tmp_path, "psi_stylegan"))
    other = tiny_generator(tmp_path / "other", "psi_vae")
    (tmp_path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with (
        pytest.raises(WeightsError, match="weights are missing, the first: 0"),
        generator.opened(uri, "cpu"),
    ):
        pass


def test_a_gpu_that_is_not_there_is_refused(folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = "torch sees no GPU here; give the step's place gpus = 1"
    with pytest.raises(PlanError, match=words), generator.opened(folder, "cuda"):
        pass
