import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from penstock.errors import PlanError, SchemaError, WeightsError
from penstock.models import vision
from penstock.models.pixels import IMAGENET
from penstock.models.vision import Shape
from penstock.testing.models import tiny_resnet


@pytest.fixture
def tiny(tmp_path):
    return tiny_resnet(tmp_path / "tiny")


def pixels(rows=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, 64, 96, 3), np.uint8)


def given(model, output="pooled"):
    with vision.opened(str(model), output, "cpu") as live:
        return live(pixels()).numpy()


def test_sizes_are_told_before_a_network_runs(tiny):
    shape = vision.shape_of(str(tiny))
    assert shape == Shape(32, 7, 5)
    assert shape.of("pooled") == (32,)
    assert shape.of("map") == (32, 7, 7)
    assert shape.of("logits") == (5,)
    assert vision.shape_of("opennsfw-resnet50") == Shape(1024, 7, 2)
    assert vision.shape_of("efficientnet-lite0") == Shape(1280, 7, 1000)
    assert given(tiny, "map").shape == (3, 32, 2, 3)


def test_pooled_is_the_mean_of_the_map_and_logits_come_from_it(tiny):
    pooled, weights = given(tiny), load_file(tiny / "model.safetensors")
    np.testing.assert_allclose(given(tiny, "map").mean((2, 3)), pooled, rtol=1e-5)
    expected = pooled @ weights["fc.weight"].numpy().T + weights["fc.bias"].numpy()
    np.testing.assert_allclose(given(tiny, "logits"), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {"state_dict": {f"module.{n}": v for n, v in w.items()}}])
def test_a_checkpoint_of_torch_gives_the_same(tiny, tmp_path, wrap):
    torch.save(wrap(load_file(tiny / "model.safetensors")), tmp_path / "own.pth")
    np.testing.assert_allclose(given(tmp_path / "own.pth"), given(tiny), rtol=1e-5, atol=1e-5)


def test_weights_without_a_classifier_have_no_logits(tiny):
    path = tiny / "model.safetensors"
    weights = {name: value for name, value in load_file(path).items() if not name.startswith("fc.")}
    torch.save(weights, tiny / "own.pt")
    path.unlink()
    with pytest.raises(SchemaError, match="these weights have no classifier, so no logits; take 'pooled' or 'map'"):
        vision.shape_of(str(tiny)).of("logits")


def test_a_file_that_could_run_code_is_refused(tmp_path):
    torch.save({"conv1.weight": print}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match=r"holds more than weights and could run code; save it as .safetensors"):
        vision.load(str(tmp_path / "bad.pth"))


def test_other_files_and_networks_are_refused(tmp_path, tiny):
    with pytest.raises(WeightsError, match=r"found no such file; a name \(opennsfw-resnet50, efficientnet-lite0\)"):
        vision.load(str(tmp_path / "nothing.pth"))
    (tmp_path / "cut.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(WeightsError, match=r"cut.safetensors: the weights cannot be loaded"):
        vision.load(str(tmp_path / "cut.safetensors"))
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(2)}, tmp_path / "vit.pth")
    with pytest.raises(WeightsError, match=r"1 weights, the first is blocks.0.attn.qkv.weight; a ResNet's"):
        vision.load(str(tmp_path / "vit.pth"))
    (tiny / "second.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match="found 2 such files"):
        vision.load(str(tiny))
    with pytest.raises(WeightsError, match="'minilm' is none for images; for images there are: opennsfw-resnet50"):
        vision.load("minilm")


def test_the_recipe_is_timms_or_torchvisions(tiny):
    assert vision.recipe_of(str(tiny)) == IMAGENET
    told = {
        "input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [1] * 3,
    }
    (tiny / "config.json").write_text(json.dumps({"architecture": "resnet50", "pretrained_cfg": told}))
    recipe = vision.recipe_of(str(tiny))
    assert (recipe.resize, recipe.crop, recipe.filter, recipe.mean) == (303, 288, "bicubic", (127.5,) * 3)
    assert set(vision.weights_hashes(str(tiny))) == {"model.safetensors", "config.json"}
    (tiny / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config.json: cannot be understood \(KeyError"):
        vision.recipe_of(str(tiny))


def test_a_gpu_that_is_not_there_is_told(tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlanError, match="torch sees no GPU here"), vision.opened(str(tiny), "pooled", "cuda"):
        pass


def test_pixels_are_normalised_by_the_recipe(tiny):
    """The same by plain arithmetic: (x / 255 - mean) / std, as torchvision writes it."""
    network = vision.load(str(tiny)).at("cpu")
    x = torch.from_numpy(pixels()).permute(0, 3, 1, 2).double() / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.inference_mode():
        expected = network.features(((x - mean) / std).float()).mean((2, 3)).numpy()
    np.testing.assert_allclose(given(tiny), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_sixteen_bits_are_near_and_the_cpu_computes_in_32(tiny):
    pixels = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found = {}
    for compute in ("auto", "float32", "bfloat16"):
        with vision.opened(str(tiny), "pooled", "cpu", 0, compute) as live:
            found[compute] = live(pixels)
    assert (found["auto"] == found["float32"]).all()
    assert found["bfloat16"].dtype == found["float32"].dtype
    assert not (found["bfloat16"] == found["float32"]).all()
    np.testing.assert_allclose(found["bfloat16"], found["float32"], atol=0.03 * float(found["float32"].abs().max()))
