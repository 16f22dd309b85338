import numpy as np
import pytest
import torch

from penstock.errors import WeightsError
from penstock.models.convolutions import efficientnet_lite, resnet


def randomised(network, seed=0):
    """Norms with statistics that matter."""
    random = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if "num_batches" not in name and value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=random) + 0.5)
    return network.eval()


def reference(layer_type, halve_first, depths=(2, 1, 2, 1)):
    """A ResNet of transformers, an implementation that is independent of torchvision's and of ours."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 48, 64, 96],
        depths=list(depths),
        layer_type=layer_type,
        downsample_in_bottleneck=halve_first,
        num_labels=7,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(ResNetForImageClassification(config))


def as_torchvision(network):
    """The reference's weights by torchvision's names."""
    found = {}
    for name, value in network.state_dict().items():
        words = name.removeprefix("resnet.").split(".")
        last = words[-1]
        if words[0] == "embedder":
            found[f"{'conv1' if words[2] == 'convolution' else 'bn1'}.{last}"] = value
        elif words[0] == "classifier":
            found[f"fc.{last}"] = value
        else:
            block = f"layer{int(words[2]) + 1}.{words[4]}"
            norm = words[-2] == "normalization"
            if words[5] == "shortcut":
                found[f"{block}.downsample.{int(norm)}.{last}"] = value
            else:
                found[f"{block}.{'bn' if norm else 'conv'}{int(words[6]) + 1}.{last}"] = value
    return found


@pytest.mark.parametrize(("layer_type", "halve_first"), [("basic", False), ("bottleneck", False), ("bottleneck", True)])
def test_residual_networks_equal_the_reference(layer_type, halve_first):
    network = reference(layer_type, halve_first)
    ours = resnet(as_torchvision(network), "conv1" if halve_first else "conv2").at("cpu")
    x = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = network.resnet(x).last_hidden_state
        found = ours.features(x.clone())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * wanted.abs().max())
        logits, said = network(x).logits, ours.logits(found.mean((2, 3)))
        np.testing.assert_allclose(said, logits, rtol=0, atol=2e-5 * logits.abs().max())


def test_where_the_stride_stands_matters():
    weights = as_torchvision(reference("bottleneck", False))
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    first, second = (resnet(weights, at).features(x.clone()) for at in ("conv1", "conv2"))
    assert (first - second).abs().max() > 0.1 * second.abs().max()


def test_groups_are_read_off_the_shapes():
    weights = as_torchvision(reference("bottleneck", False))
    weights["layer1.0.conv2.weight"] = weights["layer1.0.conv2.weight"][:, :2]
    middle = resnet(weights).blocks[0].chain[1]
    assert middle.groups == middle.weight.shape[0] // 2


def test_efficientnet_lite_equals_the_reference():
    """Lite2: its widths are scaled, and its maps have odd sizes, which TensorFlow pads on one side."""
    from efficientnet_lite_pytorch import EfficientNet

    variant = "efficientnet-lite2"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = randomised(EfficientNet.from_name(variant))
    side = EfficientNet.get_image_size(variant)
    ours = efficientnet_lite(network.state_dict()).at("cpu")
    x = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted, found = network.extract_features(x), ours.features(x.clone())
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * wanted.abs().max())
        logits, said = network(x), ours.logits(found.mean((2, 3)))
        np.testing.assert_allclose(said, logits, rtol=0, atol=2e-5 * logits.abs().max())


def test_weights_that_are_missing_or_left_over_are_refused():
    weights = as_torchvision(reference("basic", False))
    lost = {name: value for name, value in weights.items() if name != "layer2.0.bn1.bias"}
    with pytest.raises(WeightsError, match=r"no weight layer2\.0\.bn1\.bias; the file is incomplete"):
        resnet(lost)
    squeezing = {**weights, "layer1.0.se.fc1.weight": torch.zeros(1), "layer1.0.se.fc1.bias": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"2 weights have no place in a ResNet or ResNeXt, the first is layer1.0.se"):
        resnet(squeezing)
    with pytest.raises(WeightsError, match=r"conv1.weight is \(16, 3, 3, 3\); a first convolution of 7 x 7 was needed"):
        resnet({**weights, "conv1.weight": weights["conv1.weight"][..., :3, :3]})
    with pytest.raises(WeightsError, match=r"layer1.0.conv1.weight is .*; a convolution of 16 channels was needed"):
        resnet({**weights, "layer1.0.conv1.weight": torch.zeros(32, 5, 3, 3)})


def test_without_a_classifier_there_are_no_logits():
    weights = {name: value for name, value in as_torchvision(reference("basic", False)).items() if name[:2] != "fc"}
    with pytest.raises(WeightsError, match="no classifier"):
        resnet(weights).logits(torch.zeros(1, 96))
