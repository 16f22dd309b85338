"""A StyleGAN2 of stream functions learns from snapshots of Kolmogorov flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.core.dataset import existing
from penstock.core.nouns import Team
from penstock.core.storage import Uri
from penstock.models import generator, psi_stylegan, stream
from penstock.models.device import device_of
from penstock.models.generator import Generator
from penstock.models.layers import Tensor, Weights
from penstock.models.stream import Move
from penstock.trainings.snapshots import (
    Course,
    Ints,
    Snapshots,
    averaged,
    flow_of,
    found_at,
    plane_of,
    result_schema,
)

__all__ = ["PsiStylegan"]

_PENALTY_EVERY = 16
_PATHS_EVERY = 8
_PATHS_FORGOTTEN = 0.01
"""In each step with path lengths their mean is renewed by this share."""
_ASKED_ROWS = 64
_EARLY = 0.05
"""Weights are averaged over at most this share of the fields shown so far, at the beginning."""


@dataclass(frozen=True)
class PsiStylegan:
    """StyleGAN2 on stream functions; see `penstock.models.psi_stylegan`.

    Real and generated fields alike are shown to the discriminator after a symmetry of the flow drawn at random: a shift
    in x; half a forcing period up, mirrored in x; half a turn (Karras et al. 2020, https://arxiv.org/abs/2006.06676,
    show why such changes do not leak). A sample leaves the generator by one too. All rows are kept in memory, as one n
    x n field of float32 each.

    Attributes:
        source: a dataset with the columns *column* (float32[2, n, n]) and ``viscosity``, as the `kolmogorov` step makes
            it.
        uri: where the generator is published, a folder or ``s3://``; `generate` takes it.
        column: of the velocity.
        width: channels of the finest maps; 16 for 64 x 64 points on a CPU, 32 for 128 and 256 on a GPU.
        latent: dimensions of what is drawn, and of a style.
        layers: of the mapping network.
        samples: are drawn when gains are fitted.
        wavenumber: of the forcing, k in ``f_x = sin(k y)``.
        penalty: weight of R1, half of it as gamma is meant in the paper.
        paths: weight of the path lengths' variance.
        rate: of Adam, for both networks.
        averaged_rows: in so many rows shown, weights lose half their part in the average that is published.
        epochs: how often all rows are shown.
        batch_rows: rows of a step in each worker.
        seed: of new weights and of all draws.
        publish_minutes: a version is published at least so often, from which a killed training goes on.
        device: ``auto`` takes a GPU where there is one.
    """

    source: Uri
    uri: Uri
    column: str = "velocity"
    width: int = 16
    latent: int = 64
    layers: int = 4
    samples: int = 2048
    wavenumber: int = 4
    penalty: float = 1.0
    paths: float = 2.0
    rate: float = 2.5e-3
    averaged_rows: int = 4000
    epochs: int = 30
    batch_rows: int = 16
    seed: int = 0
    publish_minutes: float = 5.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("publish_minutes", "device")
    NEEDS = ("torch", "safetensors")

    def __post_init__(self) -> None:
        psi_stylegan.Shape(32, self.width, self.latent, self.layers)
        if min(self.epochs, self.batch_rows, self.samples, self.wavenumber, self.averaged_rows) < 1:
            raise ValueError("epochs, batch_rows, averaged_rows, samples and wavenumber must be 1 or more")

    @property
    def reads(self) -> str:
        """The dataset that is learned from."""
        return self.source

    def schema(self, given: pa.Schema) -> pa.Schema:
        """What `generate` makes with the generator. Raises `SchemaError` where there is no plane flow."""
        return result_schema(plane_of(given, self.column, "psi_stylegan", self.wavenumber))

    def done(self) -> bool:
        """Whether the newest version is the end of this training."""
        return found_at(self)

    def begin(self) -> None:
        """Look whether there is something to learn from. Raises `SchemaError`."""
        self.schema(existing(self.source).schema)

    def train(self, team: Team) -> None:
        """Go on to the end; collective.

        Raises:
            UnitError: there are too few rows, or numbers that are not finite.
            PlanError: ``cuda`` was asked for, and torch sees none.
        """
        learner = _Learner(self, team)
        Course(self, team, learner, learner.data.learned).run()


class _Learner:
    """One worker's two networks; see `penstock.trainings.snapshots.Learner`."""

    def __init__(self, training: PsiStylegan, team: Team) -> None:
        self.training, self.team = training, team
        self.data = Snapshots.read(training.source, training.column, "")
        sizes = {"width": training.width, "latent": training.latent, "layers": training.layers}
        sizes["wavenumber"] = training.wavenumber
        self.config = self.data.config("psi_stylegan", sizes, existing(training.source).parts_sha256)
        self.shape = psi_stylegan.Shape(self.config.size, training.width, training.latent, training.layers)
        self.device = device_of(training.device, "training")
        self.conditions = self.config.condition(self.data.viscosity)
        *first, gains = team.gather(self._initial() if team.rank == 0 else None)[0]
        self.maker, self.judge = (
            {name: value.to(self.device).clone().requires_grad_() for name, value in each.items()} for each in first
        )
        self.gains = gains.to(self.device)
        self.average: Weights = {name: value.detach().clone() for name, value in self.maker.items()}
        self.path = 0.0
        self.makes = self._optimizer(self.maker, _PATHS_EVERY)
        self.judges = self._optimizer(self.judge, _PENALTY_EVERY)

    def _initial(self) -> tuple[Weights, Weights, Tensor]:
        """New weights, and gains by which what they generate has the energies of the data from the start.

        Else the discriminator would tell real from generated fields by short waves alone, long before there are any
        eddies.
        """
        maker, judge = psi_stylegan.initial(self.shape, self.training.seed)
        return maker, judge, self._gains(Generator(self.config, maker, self._no_gains().cpu()))

    def _no_gains(self) -> Tensor:
        import torch

        return torch.zeros(2, stream.shells(self.config.size), device=self.device)

    def _gains(self, found: Generator) -> Tensor:
        import torch

        learned = slice(0, self.data.learned)
        with torch.inference_mode():
            psi, viscosity = self.data.psi[learned], self.data.viscosity[learned]
            return generator.calibrated(found, psi, viscosity, self.training.seed, self.training.samples).clone()

    def _optimizer(self, weights: Weights, every: int) -> Any:
        """Adam, slowed as much as the regularisation now and then adds steps (section 3.1 of StyleGAN2)."""
        import torch

        share = every / (every + 1)
        return torch.optim.Adam(list(weights.values()), lr=self.training.rate * share, betas=(0.0, 0.99**share))

    # --- what is shown -----------------------------------------------------------------------------------

    def _random(self, *what: int) -> np.random.Generator:
        return np.random.default_rng([self.training.seed, *what, self.team.rank])

    def _seen(self, psi: Tensor, random: np.random.Generator) -> Tensor:
        """What the discriminator sees of stream functions, ``"row y x"``."""
        import torch

        moves = [Move.drawn(random, self.config.size, self.config.wavenumber) for _ in psi]
        turned = [stream.moved(one, move, self.config.wavenumber) for one, move in zip(psi, moves, strict=True)]
        return flow_of(torch.stack(turned), self.config)

    def _normals(self, random: np.random.Generator, *shape: int) -> Tensor:
        import torch

        return torch.from_numpy(random.standard_normal(shape, np.float32)).to(self.device)

    def _made(self, weights: Weights, condition: Tensor, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Maps like vorticities, and the styles that they are made by."""
        rows = len(condition)
        style = psi_stylegan.mapped(weights, self.shape, self._normals(random, rows, self.shape.latent), condition)
        noise = [self._normals(random, rows, n, n) for n in psi_stylegan.noise_sizes(self.shape)]
        return psi_stylegan.synthesise(weights, self.shape, style, noise), style

    def _shown(self, maps: Tensor, condition: Tensor, random: np.random.Generator) -> Tensor:
        return self._seen(generator.streams(maps, self.gains, condition, self.config), random)

    def _score(self, flow: Tensor, condition: Tensor) -> Tensor:
        return psi_stylegan.discriminate(self.judge, self.shape, flow, condition)

    # --- learning ----------------------------------------------------------------------------------------

    def step(self, rows: Ints, number: int, share: float) -> Mapping[str, float]:
        """See `penstock.trainings.snapshots.Learner`."""
        import torch

        condition = torch.from_numpy(self.conditions[rows]).float().to(self.device)
        doubt = self._judge(rows, condition, number)
        loss = self._make(condition, number)
        if number % _PATHS_EVERY == 0:
            self._straighten(condition[: max(len(condition) // 2, 1)], number)
        self._remember(number)
        return {"loss": loss, "discriminator_loss": doubt, "path_length": self.path}

    def _judge(self, rows: Ints, condition: Tensor, number: int) -> float:
        """A step of the discriminator."""
        import torch

        random, weight = self._random(2, number), self.training.penalty / 2 * _PENALTY_EVERY
        penalised = number % _PENALTY_EVERY == 0
        with torch.no_grad():
            made = self._shown(self._made(self.maker, condition, random)[0], condition, random)
        real = self._seen(self.data.psi[rows].to(self.device), random).requires_grad_(penalised)
        score = self._score(real, condition)
        loss = psi_stylegan.judged(score, real=True)
        loss = loss + psi_stylegan.judged(self._score(made, condition), real=False)
        self._learn(
            self.judges, self.judge, loss + weight * psi_stylegan.gradient_penalty(score, real) if penalised else loss
        )
        return float(loss.detach())

    def _make(self, condition: Tensor, number: int) -> float:
        """A step of the generator."""
        random = self._random(3, number)
        frozen = {name: value.detach() for name, value in self.judge.items()}
        maps, _ = self._made(self.maker, condition, random)
        score = psi_stylegan.discriminate(frozen, self.shape, self._shown(maps, condition, random), condition)
        loss = psi_stylegan.judged(score, real=True)
        self._learn(self.makes, self.maker, loss)
        return float(loss.detach())

    def _straighten(self, condition: Tensor, number: int) -> None:
        """A step of the generator by path lengths alone."""
        random = self._random(4, number)
        maps, style = self._made(self.maker, condition, random)
        lengths = psi_stylegan.path_lengths(maps, style, self._normals(random, *maps.shape))
        every = self.team.gather(float(lengths.detach().mean()))
        self.path += _PATHS_FORGOTTEN * (sum(every) / len(every) - self.path)
        loss = (lengths - self.path).square().mean() * (self.training.paths * _PATHS_EVERY)
        self._learn(self.makes, self.maker, loss)

    def _learn(self, optimizer: Any, weights: Weights, loss: Tensor) -> None:
        optimizer.zero_grad()
        loss.backward()
        averaged(self.team, list(weights.values()))
        optimizer.step()

    def _remember(self, number: int) -> None:
        import torch

        rows = self.training.batch_rows * self.team.size
        half = min(float(self.training.averaged_rows), max(_EARLY * rows * number, 1e-3))
        kept = 0.5 ** (rows / half)
        with torch.no_grad():
            for name, value in self.maker.items():
                self.average[name].lerp_(value, 1 - kept)

    def asked(self) -> Mapping[str, float]:
        """How far the mean energies of generated fields are from those of rows that are held out."""
        import torch

        random, rows = self._random(5), np.arange(self.data.learned, len(self.data.viscosity))[:_ASKED_ROWS]
        condition = torch.from_numpy(np.resize(self.conditions[rows], _ASKED_ROWS)).float().to(self.device)
        with torch.no_grad():
            maps, _ = self._made(self.average, condition, random)
            made = generator.streams(maps, self.gains, condition, self.config)
        found, wanted = (stream.spectrum(psi.cpu()).mean(0) for psi in (made, self.data.psi[rows]))
        return {"spectrum_error": float((found / wanted).log().abs().mean())}

    # --- what is published -------------------------------------------------------------------------------

    def _weights(self) -> Sequence[Weights]:
        return self.maker, self.judge, self.average

    def state(self) -> Mapping[str, Any]:
        """See `penstock.trainings.snapshots.Learner`."""
        weights = [{name: value.detach() for name, value in each.items()} for each in self._weights()]
        optimizers = [self.makes.state_dict(), self.judges.state_dict()]
        return {"weights": weights, "optimizers": optimizers, "path": self.path, "gains": self.gains}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `penstock.trainings.snapshots.Learner`."""
        import torch

        with torch.no_grad():
            for ours, given in zip(self._weights(), state["weights"], strict=True):
                for name, value in given.items():
                    ours[name].copy_(value)
        for optimizer, given in zip((self.makes, self.judges), state["optimizers"], strict=True):
            optimizer.load_state_dict(given)
        self.path, self.gains = state["path"], state["gains"].to(self.device)

    def finished(self) -> Generator:
        """The average over time, with gains for its shells."""
        return Generator(self.config, self.average, self._gains(Generator(self.config, self.average, self.gains)))
