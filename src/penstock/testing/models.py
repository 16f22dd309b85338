"""Models with random weights that are made in a moment, for tests that need a model and no meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from penstock.models import generator, psi_stylegan, psi_vae, stream
from penstock.models.generator import Config, Generator
from penstock.models.mixture import Mixture
from penstock.models.tokenizer import RESIDUES

__all__ = ["tiny_encoder", "tiny_generator", "tiny_resnet"]


def tiny_encoder(folder: Path, seed: int = 0) -> Path:
    """Write a BERT of 2 layers and 32 dimensions over protein letters, at most 64 tokens; gives *folder* back.

    It is in the Hugging Face layout: ``config.json``, ``model.safetensors``, ``vocab.txt``, ``README.md``.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *RESIDUES["protein"]]
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = BertModel(config, add_pooling_layer=False)
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    save_file(network.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom numbers.\n", encoding="utf-8")
    return folder


def tiny_generator(folder: Path, model: Literal["psi_vae", "psi_stylegan"] = "psi_vae", seed: int = 0) -> Path:
    """Write a generator of 32 x 32 flows for viscosities from 0.01 to 0.04; gives *folder* back.

    It is what the trainings publish: ``config.json``, ``model.safetensors``, ``README.md``.
    """
    import torch

    layers = 2 if model == "psi_stylegan" else 0
    config = Config(model, 32, 8, 6, layers, 4, 1.2, 3.5, (float(np.log(0.02)), 0.5), (0.01, 0.04))
    gains = torch.linspace(-0.5, 0.5, 2 * stream.shells(32)).reshape(2, -1)
    if model == "psi_vae":
        network = psi_vae.initial(psi_vae.Shape(32, 8, 6), seed)
        made = Generator(config, network, gains, Mixture(np.array([0.4, 0.6]), np.eye(2, 7), np.stack([np.eye(7)] * 2)))
    else:
        network, _ = psi_stylegan.initial(psi_stylegan.Shape(32, 8, 6, layers), seed)
        made = Generator(config, network, gains)
    folder.mkdir(parents=True, exist_ok=True)
    generator.save(made, folder, "---\nlicense: apache-2.0\n---\nRandom numbers.\n")
    return folder


def tiny_resnet(folder: Path, seed: int = 0, classes: int = 5) -> Path:
    """Write a residual network of 4 bottlenecks and 32 dimensions; gives *folder* back.

    Its weights are called as torchvision calls them, in ``model.safetensors``, with a ``README.md`` beside.
    """
    import torch
    from safetensors.torch import save_file

    random, weights = torch.Generator().manual_seed(seed), dict[str, torch.Tensor]()

    def convolution(name: str, norm: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(shape, generator=random) * (2 / np.prod(shape[1:])) ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{norm}.{part}"] = torch.rand(shape[0], generator=random) + 0.5

    convolution("conv1", "bn1", 8, 3, 7, 7)
    for layer, (taken, width) in enumerate([(8, 4), (8, 4), (16, 8), (16, 8)], 1):
        name, given = f"layer{layer}.0", (8, 16, 16, 32)[layer - 1]
        convolution(f"{name}.conv1", f"{name}.bn1", width, taken, 1, 1)
        convolution(f"{name}.conv2", f"{name}.bn2", width, width, 3, 3)
        convolution(f"{name}.conv3", f"{name}.bn3", given, width, 1, 1)
        convolution(f"{name}.downsample.0", f"{name}.downsample.1", given, taken, 1, 1)
    weights["fc.weight"] = torch.randn(classes, 32, generator=random)
    weights["fc.bias"] = torch.randn(classes, generator=random)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nRandom numbers.\n", encoding="utf-8")
    return folder
