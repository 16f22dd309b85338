"""A variational autoencoder of stream functions learns from snapshots of Kolmogorov flow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from penstock.core.dataset import existing
from penstock.core.nouns import Team
from penstock.core.storage import Uri
from penstock.models import generator, mixture, psi_vae, stream
from penstock.models.device import device_of
from penstock.models.generator import Generator
from penstock.models.layers import Tensor, Weights
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

__all__ = ["PsiVae"]

_PAIRS_EVERY = 4
"""The residual is asked for at every fourth step, and counts four times there."""
_WARMUP = 0.05
_LONGEST_GRADIENT = 1.0
_ALIGNED_ROWS = 256
_TEMPLATE_ROWS = 512
_ASKED_ROWS = 128
_RIDGE = 0.05
"""Added to the variances of each component: most have fewer points than dimensions."""
_JITTER = 0.05
"""Deviation that is added to conditions when the mixture is fitted: few viscosities are no density."""


@dataclass(frozen=True)
class PsiVae:
    """A PDE-aware variational autoencoder; see `penstock.models.psi_vae`.

    Every snapshot is brought, by the symmetry of the flow (shift in x, half a forcing period up with a mirror in x,
    half a turn) that makes it most like their common mean, into one frame, in which the networks learn; a sample leaves
    the frame by a symmetry drawn at random. All rows are kept in memory, as one or two n x n fields of float32 each.

    Attributes:
        source: a dataset with the columns *column* (float32[2, n, n]) and ``viscosity``, as the `kolmogorov` step makes
            it.
        uri: where the model is published, a folder or ``s3://``; `generate` takes it.
        column: of the velocity.
        later: of the velocity *pair_seconds* later; without it the residual is not learned from.
        pair_seconds: between the two.
        width: channels of the finest maps.
        latent: dimensions of the latent space.
        components: of the mixture that is fitted to latent points in the end.
        samples: are drawn when gains are fitted.
        wavenumber: of the forcing, k in ``f_x = sin(k y)``.
        drag: mu in the vorticity equation.
        divergence: weight of the Kullback-Leibler divergence in the loss, a nat of it.
        spectral: weight of the squared logarithms of ratios of energies, in shells and, locally, in bands.
        residual: weight of the squared residual of the vorticity equation, over that of the vorticity's own change.
        rate: at its highest; it rises for a short while and falls to 0 along a cosine.
        epochs: how often all rows are gone through.
        batch_rows: rows of a step in each worker.
        seed: of new weights and of all draws.
        publish_minutes: a version is published at least so often, from which a killed training goes on.
        device: ``auto`` takes a GPU where there is one.
    """

    source: Uri
    uri: Uri
    column: str = "velocity"
    later: str = "later"
    pair_seconds: float = 0.05
    width: int = 16
    latent: int = 96
    components: int = 32
    samples: int = 2048
    wavenumber: int = 4
    drag: float = 0.1
    divergence: float = 1e-4
    spectral: float = 0.03
    residual: float = 0.05
    rate: float = 2e-3
    epochs: int = 30
    batch_rows: int = 16
    seed: int = 0
    publish_minutes: float = 5.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    ASIDE = ("publish_minutes", "device")
    NEEDS = ("torch", "safetensors")

    def __post_init__(self) -> None:
        psi_vae.Shape(32, self.width, self.latent)
        if (
            min(self.epochs, self.batch_rows, self.components, self.samples, self.wavenumber) < 1
            or self.pair_seconds <= 0
        ):
            raise ValueError(
                "epochs, batch_rows, components, samples and wavenumber must be 1 or more, pair_seconds above 0"
            )

    @property
    def reads(self) -> str:
        """The dataset that is learned from."""
        return self.source

    def schema(self, given: pa.Schema) -> pa.Schema:
        """What `generate` makes with the model. Raises `SchemaError` where there is no plane flow."""
        return result_schema(plane_of(given, self.column, "psi_vae", self.wavenumber))

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
    """One worker's autoencoder; see `penstock.trainings.snapshots.Learner`."""

    def __init__(self, training: PsiVae, team: Team) -> None:
        import torch

        self.training, self.team = training, team
        self.data = _in_frame(Snapshots.read(training.source, training.column, training.later), training.wavenumber)
        sizes = {"width": training.width, "latent": training.latent, "layers": 0, "wavenumber": training.wavenumber}
        self.config = self.data.config("psi_vae", sizes, existing(training.source).parts_sha256)
        self.shape = psi_vae.Shape(self.config.size, training.width, training.latent)
        self.device = device_of(training.device, "training")
        self.conditions = torch.from_numpy(self.config.condition(self.data.viscosity)).float()
        self.change = self._change()
        first = team.gather(self._initial() if team.rank == 0 else None)[0]
        self.weights: Weights = {name: value.to(self.device).clone().requires_grad_() for name, value in first.items()}
        self.optimizer = torch.optim.Adam(list(self.weights.values()), lr=training.rate, betas=(0.9, 0.99))

    def _initial(self) -> Weights:
        weights = psi_vae.initial(self.shape, self.training.seed)
        w = stream.vorticity(self.data.psi[: self.data.learned]) / self.config.vorticity
        return psi_vae.principal(weights, self.shape, w)

    def _change(self) -> float:
        """Root mean square of the vorticity's change in a unit of time, in the pairs."""
        if self.data.later is None:
            return 0.0
        pairs = slice(0, min(self.data.learned, _TEMPLATE_ROWS))
        change = stream.vorticity(self.data.later[pairs] - self.data.psi[pairs]) / self.training.pair_seconds
        return float(change.square().mean().sqrt())

    # --- learning ----------------------------------------------------------------------------------------

    def _psi(self, latent: Tensor, condition: Tensor) -> Tensor:
        return stream.inverted(psi_vae.decode(self.weights, self.shape, latent, condition) * self.config.vorticity)

    def _encoded(self, psi: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        return psi_vae.encode(self.weights, self.shape, flow_of(psi, self.config), condition)

    def _terms(self, rows: Ints, normal: Tensor, pairs: int) -> dict[str, Tensor]:
        """The terms of the loss; the first *pairs* of *rows* are asked for the residual too."""
        psi, condition = self.data.psi[rows].to(self.device), self.conditions[rows].to(self.device)
        mean, log_variance = self._encoded(psi, condition)
        found = self._psi(psi_vae.reparametrised(mean, log_variance, normal), condition)
        scales = {"velocity": self.config.velocity, "vorticity": self.config.vorticity}
        terms = {
            "reconstruction": psi_vae.reconstruction(found, psi, scales),
            "divergence": psi_vae.divergence(mean, log_variance),
            "spectral": psi_vae.spectral(found, psi),
        }
        if pairs and self.data.later is not None:
            terms["residual"] = self._residual(rows[:pairs], found[:pairs], condition[:pairs], normal[:pairs])
        return terms

    def _residual(self, rows: Ints, found: Tensor, condition: Tensor, normal: Tensor) -> Tensor:
        """Of pairs whose latent points are off by the same numbers; over the mean square of the vorticity's change."""
        import torch

        assert self.data.later is not None
        mean, log_variance = self._encoded(self.data.later[rows].to(self.device), condition)
        later = self._psi(psi_vae.reparametrised(mean, log_variance, normal), condition)
        viscosity = torch.from_numpy(self.data.viscosity[rows]).float().to(self.device)
        t = self.training
        missed = stream.residual(
            found, later, t.pair_seconds, viscosity=viscosity, drag=t.drag, wavenumber=t.wavenumber
        )
        return missed.square().mean() / self.change**2

    def _loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        t = self.training
        weighted = terms["reconstruction"] + t.divergence * terms["divergence"] + t.spectral * terms["spectral"]
        return weighted + (_PAIRS_EVERY * t.residual * terms["residual"] if "residual" in terms else 0.0)

    def step(self, rows: Ints, number: int, share: float) -> Mapping[str, float]:
        """See `penstock.trainings.snapshots.Learner`."""
        import torch

        random = np.random.default_rng([self.training.seed, 2, number, self.team.rank])
        normal = torch.from_numpy(random.standard_normal((len(rows), self.shape.latent))).float().to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate * min((share + 1e-3) / _WARMUP, (1 + math.cos(math.pi * share)) / 2)
        self.optimizer.zero_grad()
        terms = self._terms(rows, normal, len(rows) // 2 if number % _PAIRS_EVERY == 0 else 0)
        loss = self._loss(terms)
        loss.backward()
        learned = list(self.weights.values())
        averaged(self.team, learned)
        torch.nn.utils.clip_grad_norm_(learned, _LONGEST_GRADIENT)
        self.optimizer.step()
        told = {name: terms[name].item() for name in ("reconstruction", "divergence", "spectral")}
        return {"loss": sum(getattr(self.training, n, 1.0) * v for n, v in told.items()), **told}

    def asked(self) -> Mapping[str, float]:
        """The loss, and the residual in units of the vorticity's change, on rows that are held out."""
        import torch

        rows = np.arange(self.data.learned, len(self.data.viscosity))[:_ASKED_ROWS]
        normal = torch.zeros(len(rows), self.shape.latent, device=self.device)
        with torch.no_grad():
            terms = self._terms(rows, normal, len(rows))
        told = {"held_out_loss": self._loss({k: v for k, v in terms.items() if k != "residual"}).item()}
        told["held_out_error"] = terms["reconstruction"].item()
        return told | ({"held_out_residual": terms["residual"].sqrt().item()} if "residual" in terms else {})

    # --- what is published -------------------------------------------------------------------------------

    def state(self) -> Mapping[str, Any]:
        """See `penstock.trainings.snapshots.Learner`."""
        return {"weights": {k: v.detach() for k, v in self.weights.items()}, "optimizer": self.optimizer.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `penstock.trainings.snapshots.Learner`."""
        import torch

        with torch.no_grad():
            for name, value in state["weights"].items():
                self.weights[name].copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])

    def finished(self) -> Generator:
        """With the mixture of its latent points, and gains for its shells."""
        import torch

        learned = slice(0, self.data.learned)
        weights = {name: value.detach() for name, value in self.weights.items()}
        gains = torch.zeros(2, stream.shells(self.config.size), device=self.device)
        with torch.inference_mode():
            plain = Generator(self.config, weights, gains, self._mixture())
            psi, viscosity = self.data.psi[learned], self.data.viscosity[learned]
            fitted = generator.calibrated(plain, psi, viscosity, self.training.seed, self.training.samples).clone()
        return Generator(self.config, weights, fitted, plain.mixture)

    def _mixture(self) -> mixture.Mixture:
        """Of latent points, drawn once for each row, and conditions."""
        random = np.random.default_rng([self.training.seed, 3])
        points = []
        for rows in np.array_split(np.arange(self.data.learned), -(-self.data.learned // _ALIGNED_ROWS)):
            condition = self.conditions[rows].to(self.device)
            mean, log_variance = self._encoded(self.data.psi[rows].to(self.device), condition)
            normal = random.standard_normal((len(rows), self.shape.latent))
            points.append(mean.cpu().numpy() + np.exp(log_variance.cpu().numpy() / 2) * normal)
        conditions = self.conditions[: self.data.learned].double().numpy()
        jittered = conditions + _JITTER * random.standard_normal(len(conditions))
        known = np.c_[np.concatenate(points), jittered]
        return mixture.fit(known, self.training.components, self.training.seed, ridge=_RIDGE)


def _in_frame(data: Snapshots, wavenumber: int) -> Snapshots:
    """*data* with each row, and what it becomes later, in the frame of their common mean."""
    import torch

    every = max(data.learned // _TEMPLATE_ROWS, 1)
    template = stream.template_of(data.psi[: data.learned : every], wavenumber)
    moves = [move for part in data.psi.split(_ALIGNED_ROWS) for move in stream.aligned(part, template, wavenumber)]

    def moved(psi: Tensor) -> Tensor:
        return torch.stack([stream.moved(one, move, wavenumber) for one, move in zip(psi, moves, strict=True)])

    later = None if data.later is None else moved(data.later)
    return Snapshots(moved(data.psi), later, data.viscosity, data.learned)
