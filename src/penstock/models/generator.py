"""Trained generators of plane flow: a folder with ``config.json``, ``model.safetensors`` and a card, and what it draws.

A field is a function of the weights, its seed and its viscosity alone: all that is random is drawn by numpy from the
seed, and on a CPU networks see one field at a time, so that its company cannot change the order of a sum.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.nouns import Licence
from penstock.core.storage import join, local_copy, store_of
from penstock.errors import WeightsError
from penstock.models import psi_stylegan, psi_vae, stream
from penstock.models.device import device_of
from penstock.models.layers import Tensor, Weights
from penstock.models.mixture import Mixture
from penstock.models.stream import Move

__all__ = [
    "Config",
    "Generator",
    "calibrated",
    "config_of",
    "groups",
    "hashes_of",
    "licence_of",
    "opened",
    "save",
    "streams",
    "weights_bytes",
]

Doubles: TypeAlias = npt.NDArray[np.float64]

_CONFIG, _WEIGHTS, _CARD = "config.json", "model.safetensors", "README.md"
_TOGETHER = 32
"""So many fields go through a network at once on a GPU; fewer are filled up, so that the same program runs."""
_SLACK = 1.001
_BINS = 8
"""At most so many groups of about equal viscosity are told apart when gains are fitted."""


@dataclass(frozen=True)
class Config:
    """What a generator is, beside its weights.

    Attributes:
        model: the kind of network.
        size: points along a side of a field.
        width: channels where maps are finest.
        latent: dimensions of what is drawn.
        layers: of the mapping network; 0 where there is none.
        wavenumber: of the forcing, k in ``f_x = sin(k y)``.
        velocity: root of the mean of u.u in the training data.
        vorticity: its root mean square there.
        log_viscosity: mean and deviation of the logarithm of the viscosity there.
        viscosities: the lowest and the highest there.
        source: sha256 of the training data's parts.
    """

    model: Literal["psi_vae", "psi_stylegan"]
    size: int
    width: int
    latent: int
    layers: int
    wavenumber: int
    velocity: float
    vorticity: float
    log_viscosity: tuple[float, float]
    viscosities: tuple[float, float]
    source: str = ""

    def condition(self, viscosity: Doubles) -> Doubles:
        """What the networks are told: the logarithm, brought to mean 0 and deviation 1 over the training data."""
        mean, deviation = self.log_viscosity
        return (np.log(viscosity) - mean) / (deviation or 1.0)

    @property
    def middle(self) -> float:
        """The geometric mean of the lowest and the highest viscosity."""
        return math.sqrt(self.viscosities[0] * self.viscosities[1])

    def reason(self, viscosity: float) -> str:
        """Why there are no fields at *viscosity*; empty where there are."""
        low, high = self.viscosities
        if low / _SLACK <= viscosity <= high * _SLACK:
            return ""
        return f"the viscosity {viscosity:g} lies outside {low:g} to {high:g}, from which the model has learned"


# --- what is drawn ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    """All that is random in one field."""

    latent: Doubles
    noise: tuple[Doubles, ...]
    move: Move


def _draw_vae(config: Config, mixture: Mixture, random: np.random.Generator) -> _Draw:
    return _Draw(mixture.sample(random), (), Move.drawn(random, config.size, config.wavenumber))


def _draw_stylegan(config: Config, random: np.random.Generator) -> _Draw:
    latent = random.standard_normal(config.latent)
    move = Move.drawn(random, config.size, config.wavenumber)
    return _Draw(latent, tuple(random.standard_normal((n, n)) for n in psi_stylegan.noise_sizes(_shape(config))), move)


def _shape(config: Config) -> Any:
    if config.model == "psi_vae":
        return psi_vae.Shape(config.size, config.width, config.latent)
    return psi_stylegan.Shape(config.size, config.width, config.latent, config.layers)


@dataclass(frozen=True)
class Generator:
    """A generator that is ready to work.

    Attributes:
        config: what it is.
        weights: of its network.
        gains: logarithms of the factor of each shell, of its stream function: those at the mean viscosity, and their
            slopes over the condition; float32, ``"2 shell"``.
        mixture: of latent point and condition, where the latent distribution is fitted.
    """

    config: Config
    weights: Weights
    gains: Tensor
    mixture: Mixture | None = None

    def fields(self, seeds: Sequence[int], viscosity: Doubles) -> npt.NDArray[np.float32]:
        """U and v, float32, ``"row 2 y x"``, of seeds and viscosities."""
        import torch

        found = [self._together(*part) for part in self._parts(seeds, viscosity)]
        psi = torch.cat(found)[: len(seeds)]
        return np.asarray(stream.velocity(psi).float().numpy())

    def _parts(self, seeds: Sequence[int], viscosity: Doubles) -> Iterator[tuple[Sequence[int], Doubles]]:
        count = 1 if self.gains.device.type == "cpu" else _TOGETHER
        for at in range(0, len(seeds), count):
            full = np.minimum(np.arange(at, at + count), len(seeds) - 1)
            yield [seeds[int(row)] for row in full], viscosity[full]

    def _together(self, seeds: Sequence[int], viscosity: Doubles) -> Tensor:
        """Stream functions, float64, ``"row y x"``; in the order of `fields`, since those that fill up are the last."""
        import torch

        conditions = self.config.condition(viscosity)
        draws = [self._drawn(seed, c) for seed, c in zip(seeds, conditions.tolist(), strict=True)]
        psi = self.streams_of(draws, conditions).double().cpu()
        return torch.stack([stream.moved(p, d.move, self.config.wavenumber) for p, d in zip(psi, draws, strict=True)])

    def _drawn(self, seed: int, condition: float) -> _Draw:
        random = np.random.default_rng(seed % 2**64)
        if self.mixture is None:
            return _draw_stylegan(self.config, random)
        return _draw_vae(self.config, self._given(condition), random)

    def _given(self, condition: float) -> Mixture:
        assert self.mixture is not None
        return _conditioned(_Kept(self.mixture), condition)

    def streams_of(self, draws: Sequence[_Draw], conditions: Doubles) -> Tensor:
        """Stream functions, ``"row y x"``, before they are moved."""
        import torch

        device = self.gains.device
        latent = torch.from_numpy(np.stack([draw.latent for draw in draws])).float().to(device)
        given = torch.from_numpy(conditions).float().to(device)
        noise = [
            torch.from_numpy(np.stack(maps)).float().to(device) for maps in zip(*(d.noise for d in draws), strict=True)
        ]
        return streams(self._maps(latent, noise, given).double(), self.gains.double(), given.double(), self.config)

    def _maps(self, latent: Tensor, noise: Sequence[Tensor], condition: Tensor) -> Tensor:
        shape = _shape(self.config)
        if self.config.model == "psi_vae":
            return psi_vae.decode(self.weights, shape, latent, condition)
        style = psi_stylegan.mapped(self.weights, shape, latent, condition)
        return psi_stylegan.synthesise(self.weights, shape, style, noise)


def streams(maps: Tensor, gains: Tensor, condition: Tensor, config: Config) -> Tensor:
    """Stream functions, ``"row y x"``, of *maps*, taken for vorticities of unit size; *gains* as in `Generator`."""
    factors = (gains[0] + condition[:, None] * gains[1]).exp()
    return stream.filtered(stream.inverted(maps * config.vorticity), factors)


@dataclass(frozen=True, eq=False)
class _Kept:
    """A mixture by its identity, as a key."""

    mixture: Mixture

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self.mixture is other.mixture

    def __hash__(self) -> int:
        return id(self.mixture)


@functools.lru_cache(maxsize=64)
def _conditioned(kept: _Kept, condition: float) -> Mixture:
    return kept.mixture.given(np.array([condition]))


# --- energies --------------------------------------------------------------------------------------------


def calibrated(generator: Generator, psi: Tensor, viscosity: Doubles, seed: int, samples: int) -> Tensor:
    """Gains, as in `Generator`, by which the mean energy in each shell becomes that of the training data.

    What a network reconstructs or imitates lacks energy where the spectrum is steep. A gain for each shell is a linear
    filter that knows no direction: it brings back the energy, and leaves phases as they are.

    Args:
        generator: whose own gains these are added to.
        psi: stream functions of the training data, ``"row y x"``.
        viscosity: of these, ``"row"``.
        seed: of the samples that are drawn.
        samples: how many in all.
    """
    import torch

    found, conditions = [], []
    parts = groups(viscosity)
    for number, rows in enumerate(parts):
        middle = float(np.exp(np.log(viscosity[rows]).mean()))
        first = seed + number * samples
        seeds = range(first, first + max(samples // len(parts), 1))
        made = stream.stream_of(torch.from_numpy(generator.fields(seeds, np.full(len(seeds), middle))).double())
        wanted = stream.spectrum(psi[torch.from_numpy(rows)].double()).mean(0)
        found.append((wanted / stream.spectrum(made).mean(0)).log() / 2)
        conditions.append(float(generator.config.condition(np.array([middle]))[0]))
    more = torch.from_numpy(_lines(np.array(conditions), torch.stack(found).numpy())).float()
    return generator.gains + more.to(generator.gains.device)


def groups(viscosity: Doubles) -> list[npt.NDArray[np.int64]]:
    """Rows of about equal viscosity."""
    values = np.unique(viscosity)
    edges = values if len(values) <= _BINS else np.quantile(viscosity, np.arange(_BINS) / _BINS)
    which = np.searchsorted(edges, viscosity, side="right")
    return [np.flatnonzero(which == number) for number in np.unique(which)]


def _lines(x: Doubles, y: Doubles) -> Doubles:
    """Level and slope of the straight line through ``"point"`` and each of ``"point shell"``: ``"2 shell"``."""
    if len(x) == 1:
        return np.stack([y[0], np.zeros_like(y[0])])
    return np.asarray(np.linalg.lstsq(np.stack([np.ones_like(x), x], 1), y, rcond=None)[0])


# --- folders ---------------------------------------------------------------------------------------------


def save(generator: Generator, folder: Path, card: str) -> None:
    """Write the three files of *generator* to *folder*."""
    from safetensors.torch import save_file

    tensors = {f"network.{name}": value.detach().cpu().contiguous() for name, value in generator.weights.items()}
    tensors["gains"] = generator.gains.cpu().contiguous()
    tensors |= {f"mixture.{name}": value for name, value in _stored(generator.mixture).items()}
    save_file(tensors, folder / _WEIGHTS, {"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(asdict(generator.config), indent=1) + "\n", encoding="utf-8")
    (folder / _CARD).write_text(card, encoding="utf-8")


def _stored(mixture: Mixture | None) -> Weights:
    import torch

    if mixture is None:
        return {}
    return {each.name: torch.from_numpy(getattr(mixture, each.name)).float().contiguous() for each in fields(mixture)}


def config_of(uri: str) -> Config:
    """What the generator at *uri* is; torch is not needed.

    Raises:
        WeightsError: there is none, or it is damaged.
    """
    name = join(uri, _CONFIG)
    data = store_of(uri).read(name)
    if data is None:
        raise WeightsError(
            f"{name}: there is no such file; a model folder with {_CONFIG} and {_WEIGHTS} was needed: train one by "
            "psi_vae or psi_stylegan, or name the folder of one that was shipped"
        )
    try:
        found = json.loads(data)
        pairs = {key: tuple(found[key]) for key in ("log_viscosity", "viscosities")}
        config = Config(**{**found, **pairs})
        if config.model not in ("psi_vae", "psi_stylegan"):
            raise ValueError(f"the model is '{config.model}'; psi_vae or psi_stylegan was needed")
        _shape(config)
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(f"{name}: does not describe a generator of flow ({error}); fetch the model again") from error
    return config


def hashes_of(uri: str) -> Mapping[str, str]:
    """sha256 (hex) of config and weights."""
    found = {}
    for name in (_CONFIG, _WEIGHTS):
        with _file(uri, name) as path:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def weights_bytes(uri: str) -> int:
    """Size of the weights in memory."""
    with _file(uri, _WEIGHTS) as path:
        return path.stat().st_size


def licence_of(uri: str) -> Licence:
    """The licence that the card of the weights at *uri* names."""
    card = store_of(uri).read(join(uri, _CARD)) or b""
    found = re.match(rb"---\s*\n(?:.*\n)*?license:\s*(\S+)", card)
    name = found[1].decode() if found else "not said"
    return Licence(uri, name, True if name == "apache-2.0" else None)


@contextmanager
def _file(uri: str, name: str) -> Iterator[Path]:
    if store_of(uri).entry(join(uri, name)) is None:
        raise WeightsError(
            f"{join(uri, name)}: there is no such file; a model folder with {_CONFIG} and {_WEIGHTS} was needed"
        )
    with local_copy(join(uri, name)) as path:
        yield path


@contextmanager
def opened(uri: str, device: Literal["auto", "cpu", "cuda"] = "auto") -> Iterator[Generator]:
    """The generator at *uri*, live. Inside, torch uses one thread: more round otherwise, and make one field no faster.

    Raises:
        WeightsError: it is missing or damaged.
        PlanError: ``cuda`` was asked for, and torch sees none.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(deterministic=True, allow_tf32=False):
            yield _loaded(uri, device_of(device, "step"))
    finally:
        torch.set_num_threads(before)


def _loaded(uri: str, device: str) -> Generator:
    from safetensors.torch import load_file

    config = config_of(uri)
    with _file(uri, _WEIGHTS) as path:
        try:
            tensors = load_file(path, device)
        except Exception as error:  # whatever a damaged file provokes
            raise WeightsError(f"{join(uri, _WEIGHTS)}: cannot be loaded ({error}); fetch the model again") from error
    weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    if missing := set(_names(config)) - set(weights):
        raise WeightsError(f"{join(uri, _WEIGHTS)}: {len(missing)} weights are missing, the first: {min(missing)}")
    return Generator(config, weights, tensors["gains"], _restored(tensors))


def _names(config: Config) -> Sequence[str]:
    if config.model == "psi_vae":
        return [name for name in psi_vae.shapes_of(_shape(config)) if name.startswith("decode.")]
    return list(psi_stylegan.generator_shapes(_shape(config)))


def _restored(tensors: Weights) -> Mixture | None:
    found = [tensors.get(f"mixture.{each.name}") for each in fields(Mixture)]
    if any(value is None for value in found):
        return None
    return Mixture(*(value.double().cpu().numpy() for value in found if value is not None))
