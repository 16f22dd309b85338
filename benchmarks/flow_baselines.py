"""What Penstock's generators of flow are held against: a plain autoencoder on (u, v) and a DCGAN, of equal size.

The plain VAE (Kingma and Welling 2013) encodes and decodes u and v with zero-padded convolutions, has the squared error
and the Kullback-Leibler divergence for a loss, and draws from the standard normal distribution. The DCGAN is Radford,
Metz and Chintala's (2015): transposed convolutions, batch normalisation, ReLU and LeakyReLU, Adam with 2e-4 and 0.5.
Neither knows of stream functions, spectra, symmetries or fitted priors: that is what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Floats = npt.NDArray[np.float32]
Sampler = Callable[[int, int], Floats]
"""Draws so many fields by a seed: float32, ``"row 2 y x"``."""

LATENT = 96
BATCH = 16


def parameters(*nets: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(weights.numel() for net in nets for weights in net.parameters())


def _batches(flow: Floats, rows_shown: int, seed: int) -> Iterator[torch.Tensor]:
    """Rows in any order, each epoch in another, until so many were shown."""
    random, data = np.random.default_rng(seed), torch.from_numpy(flow)
    shown = 0
    while shown < rows_shown:
        order = random.permutation(len(flow))
        for at in range(0, len(order) - BATCH + 1, BATCH):
            yield data[order[at : at + BATCH]]
            shown += BATCH
            if shown >= rows_shown:
                return


def _down(width: int, size: int) -> nn.Sequential:
    """From ``"row 2 size size"`` to ``"row channel 4 4"``."""
    layers: list[nn.Module] = [nn.Conv2d(2, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    while (size := size // 2) > 4:
        layers += [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2)]
        width *= 2
    return nn.Sequential(*layers)


def _up(width: int, size: int) -> nn.Sequential:
    """From ``"row latent 1 1"`` to ``"row 2 size size"``; *width* channels at half the size."""
    channels = width * size // 8
    layers: list[nn.Module] = [nn.ConvTranspose2d(LATENT, channels, 4), nn.BatchNorm2d(channels), nn.ReLU()]
    while channels > width:
        layers += [nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1), nn.BatchNorm2d(channels // 2), nn.ReLU()]
        channels //= 2
    return nn.Sequential(*layers, nn.ConvTranspose2d(channels, 2, 4, 2, 1))


def _sampler(decoder: nn.Module, scale: float) -> Sampler:
    decoder.eval()

    def sample(rows: int, seed: int) -> Floats:
        normal = torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, LATENT, 1, 1), np.float32))
        with torch.inference_mode():
            found = torch.cat([decoder(part) for part in normal.split(32)])
        return np.asarray((found * scale).numpy())

    return sample


def plain_vae(flow: Floats, rows_shown: int, seed: int, width: int = 8) -> tuple[Sampler, int]:
    """Trained on *flow*, ``"row 2 y x"``; and how many numbers it has learned."""
    torch.manual_seed(seed)
    size, scale = flow.shape[-1], float(flow.std())
    encoder, decoder = _down(width, size), _up(width, size)
    heads = nn.Linear(width * size // 8 * 16, 2 * LATENT)
    optimizer = torch.optim.Adam([w for net in (encoder, decoder, heads) for w in net.parameters()], 1e-3)
    for batch in _batches(flow / scale, rows_shown, seed):
        mean, log_variance = heads(encoder(batch).flatten(1)).clamp(-12, 12).chunk(2, 1)
        latent = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        error = (decoder(latent[..., None, None]) - batch).square().sum((1, 2, 3)).mean() / 2
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        optimizer.zero_grad()
        (error + divergence).backward()
        optimizer.step()
    return _sampler(decoder, scale), parameters(encoder, decoder, heads)


def dcgan(flow: Floats, rows_shown: int, seed: int, width: int = 12) -> tuple[Sampler, int]:
    """Trained on *flow*, ``"row 2 y x"``; and how many numbers both networks have learned."""
    torch.manual_seed(seed)
    size, scale = flow.shape[-1], float(flow.std())
    maker, judge = _up(width, size), nn.Sequential(_down(width, size), nn.Conv2d(width * size // 8, 1, 4))
    for net in (maker, judge):
        for weights in net.parameters():
            if weights.ndim == 4:
                nn.init.normal_(weights, 0, 0.02)
    makes, judges = (torch.optim.Adam(net.parameters(), 2e-4, (0.5, 0.999)) for net in (maker, judge))
    softplus = nn.functional.softplus
    for batch in _batches(flow / scale, rows_shown, seed):
        made = maker(torch.randn(len(batch), LATENT, 1, 1))
        judges.zero_grad()
        (softplus(-judge(batch)).mean() + softplus(judge(made.detach())).mean()).backward()
        judges.step()
        makes.zero_grad()
        softplus(-judge(made)).mean().backward()
        makes.step()
    return _sampler(maker, scale), parameters(maker, judge)
