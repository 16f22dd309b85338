"""Generated fields beside true ones: every figure with its noise floor and its baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from penstock.flows import operators, statistics
from penstock.flows.baselines import random_phase
from penstock.flows.operators import Floats
from penstock.flows.statistics import Physics

__all__ = ["SEPARATIONS", "Judgement", "Line", "Portrait", "Sample", "judge", "portrait"]

SEPARATIONS = (2, 8, 32)
"""In grid points, for increments."""
_SHELLS = 16
_BINS = np.linspace(-6, 6, 61)
_MOST_COMPARED = 256


@dataclass(frozen=True)
class Sample:
    """Fields of one origin.

    Attributes:
        name: what they are called.
        velocity: ``"sample 2 y x"``.
        later: the fields *pair_seconds* after, or None.
        pair_seconds: time between the two.
    """

    name: str
    velocity: Floats
    later: Floats | None = None
    pair_seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.velocity)

    def part(self, start: int, stop: int) -> Sample:
        """Some of the fields."""
        later = None if self.later is None else self.later[start:stop]
        return replace(self, velocity=self.velocity[start:stop], later=later)


@dataclass(frozen=True)
class Portrait:
    """The statistics of a sample.

    Attributes:
        spectrum: mean E(k), ``"shell"``.
        energy, enstrophy: one for each field.
        correlation: longitudinal, ``"r"``.
        flatness: of increments, one for each of `SEPARATIONS` that the grid has.
        increments, vorticity: densities over `_BINS`, in units of *deviations*.
        deviations: standard deviations of the increments, then of the vorticity.
        quantiles: of the vorticity.
        divergence: rms by rms of the gradient.
        balance: mean and rms of dE/dt by dissipation.
        mean_equation: residual by force.
        residual: of pairs, None without them.
    """

    spectrum: Floats
    energy: Floats
    enstrophy: Floats
    correlation: Floats
    flatness: tuple[float, ...]
    increments: tuple[Floats, ...]
    vorticity: Floats
    deviations: tuple[float, ...]
    quantiles: Floats
    divergence: float
    balance: tuple[float, float]
    mean_equation: float
    residual: float | None

    @property
    def bins(self) -> Floats:
        """The middles of the densities' bins, in standard deviations."""
        return (_BINS[1:] + _BINS[:-1]) / 2


def portrait(sample: Sample, physics: Physics) -> Portrait:
    """All statistics of *sample* that need no other one."""
    flow, whole = sample.velocity, operators.vorticity(np.asarray(sample.velocity, np.float64))
    steps = [statistics.increments(flow, r) for r in SEPARATIONS if r <= flow.shape[-1] // 2]
    pair = None if sample.later is None else statistics.pair_residual(flow, sample.later, sample.pair_seconds, physics)
    return Portrait(
        operators.spectrum(flow).mean(0),
        operators.kinetic_energy(np.asarray(flow, np.float64)),
        (whole**2).mean((-2, -1)) / 2,
        statistics.correlation(flow),
        tuple(statistics.flatness(step) for step in steps),
        tuple(statistics.density(step / step.std(), _BINS) for step in steps),
        statistics.density(whole / whole.std(), _BINS),
        (*(float(step.std()) for step in steps), float(whole.std())),
        np.quantile(whole, np.linspace(0, 1, 2001)),
        statistics.divergence_ratio(flow),
        statistics.balance(flow, physics),
        statistics.mean_equation(flow, physics),
        pair,
    )


@dataclass(frozen=True)
class Line:
    """One figure of a judgement.

    Attributes:
        name: what it is.
        meaning: how to read it; every figure is better the smaller, but for coverage.
        values: by sample; the truth's own is the noise floor: one half of the true fields judged by the other.
    """

    name: str
    meaning: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Judgement:
    """Samples against the truth.

    Attributes:
        truth: the name of the true sample.
        samples: how many fields each has, by name; the baseline is the last one.
        portraits: by name.
        lines: the figures.
    """

    truth: str
    samples: Mapping[str, int]
    portraits: Mapping[str, Portrait]
    lines: tuple[Line, ...]

    def value(self, name: str, sample: str) -> float:
        """One figure of one sample."""
        return next(line.values[sample] for line in self.lines if line.name == name)


_Measure = Callable[[Portrait, Portrait], float]


def _relative(found: float, truth: float) -> float:
    return float(abs(found / truth - 1))


def _spectrum_error(found: Portrait, truth: Portrait) -> float:
    shells = slice(1, min(_SHELLS, operators.cut(2 * len(truth.correlation) - 2) - 1) + 1)
    return float(abs(found.spectrum[shells] / truth.spectrum[shells] - 1).max())


def _flatness_error(found: Portrait, truth: Portrait, at: int) -> float:
    return _relative(found.flatness[at], truth.flatness[at])


_MEASURES: tuple[tuple[str, str, _Measure], ...] = (
    ("E(k), worst shell to 16", "relative error of the mean energy of a shell", _spectrum_error),
    (
        "kinetic energy",
        "relative error of the mean",
        lambda found, truth: _relative(found.energy.mean(), truth.energy.mean()),
    ),
    ("enstrophy", "relative error of the mean", lambda f, t: _relative(f.enstrophy.mean(), t.enstrophy.mean())),
    (
        "W2 of kinetic energy",
        "distance of the distributions over fields, by the true mean",
        lambda f, t: statistics.wasserstein2(f.energy, t.energy) / float(t.energy.mean()),
    ),
    (
        "W2 of vorticity",
        "distance of the distributions over points, by the true deviation",
        lambda f, t: float(np.sqrt(((f.quantiles - t.quantiles) ** 2).mean()) / t.deviations[-1]),
    ),
    (
        "integral scale",
        "relative error of the correlation length",
        lambda f, t: _relative(statistics.integral_scale(f.correlation), statistics.integral_scale(t.correlation)),
    ),
    *(
        (f"flatness, r = {r}", "relative error, increments over r grid points", partial(_flatness_error, at=at))
        for at, r in enumerate(SEPARATIONS)
    ),
    ("rms(div) / rms(grad)", "0 for an incompressible field", lambda f, _: f.divergence),
    ("energy budget, mean", "mean dE/dt by dissipation; 0 in a steady state", lambda f, _: f.balance[0]),
    (
        "energy budget, rms",
        "relative error of the rms of dE/dt over fields",
        lambda f, t: _relative(f.balance[1], t.balance[1]),
    ),
    ("mean equation", "residual of the averaged u-equation, by the force", lambda f, _: f.mean_equation),
)


def judge(
    generated: Sample, truth: Sample, physics: Physics, training: Sample | None = None, seed: int = 0
) -> Judgement:
    """Hold *generated* against *truth*, beside the truth itself and random-phase fields of its spectrum.

    Args:
        generated: the fields to be judged.
        truth: held-out fields, those of one trajectory together; halves of it give the noise floor.
        physics: the flow that they shall be of.
        training: what a model was trained on, to see whether it remembers.
        seed: of the random phases.

    Raises:
        ValueError: fewer than four true or two generated fields, or grids that differ.
    """
    _comparable(generated, truth)
    half = len(truth) // 2
    floor, reference = truth.part(0, half), truth.part(half, len(truth))
    surrogate = Sample("random phase", random_phase(truth.velocity, seed))
    if truth.later is not None:
        surrogate = replace(surrogate, later=random_phase(truth.later, seed), pair_seconds=truth.pair_seconds)
    samples = {generated.name: generated, truth.name: truth, surrogate.name: surrogate}
    portraits = {name: portrait(sample, physics) for name, sample in samples.items()}
    halves = portrait(floor, physics), portrait(reference, physics)

    def valued(name: str, measure: _Measure) -> float:
        return measure(*halves) if name == truth.name else measure(portraits[name], portraits[truth.name])

    count = len(halves[0].flatness)
    lines = [
        Line(what, meaning, {name: valued(name, measure) for name in samples})
        for what, meaning, measure in _MEASURES
        if not (what.startswith("flatness") and int(what.rpartition(" ")[2]) not in SEPARATIONS[:count])
    ]
    lines += _residuals(portraits)
    lines += _nearness(samples, truth.name, physics, training)
    return Judgement(truth.name, {name: len(sample) for name, sample in samples.items()}, portraits, tuple(lines))


def _comparable(generated: Sample, truth: Sample) -> None:
    if len(truth) < 4 or len(generated) < 2:
        raise ValueError(f"{len(truth)} true and {len(generated)} generated fields; 4 and 2 or more were needed")
    if generated.velocity.shape[1:] != truth.velocity.shape[1:]:
        raise ValueError(
            f"the generated fields are {generated.velocity.shape[1:]}, the true ones {truth.velocity.shape[1:]}; "
            "the same grid was needed"
        )


def _residuals(portraits: Mapping[str, Portrait]) -> list[Line]:
    values = {name: each.residual for name, each in portraits.items() if each.residual is not None}
    meaning = "vorticity equation on pairs in time, by its terms; about 1 for fields that know nothing of it"
    return [Line("equation residual", meaning, values)] if values else []


def _nearness(samples: Mapping[str, Sample], truth: str, physics: Physics, training: Sample | None) -> list[Line]:
    """Coverage of the truth, and distances to the training set, up to the flow's symmetries."""
    if samples[truth].velocity.shape[-1] % (2 * physics.wavenumber):
        return []
    some = {name: sample.velocity[:: -(-len(sample) // _MOST_COMPARED)] for name, sample in samples.items()}
    rows = len(some[truth]) // 2
    mine, other = some[truth][:rows], some[truth][rows:]
    far = partial(statistics.distances, wavenumber=physics.wavenumber)
    among = far(mine, mine)
    drawn = {name: other if name == truth else each[: len(other)] for name, each in some.items()}
    covered = {name: statistics.coverage(among, far(mine, each)) for name, each in drawn.items()}
    lines = [
        Line(
            "coverage",
            "share of true fields with a neighbour as near as true ones; weak, blurred fields are near to all",
            covered,
        )
    ]
    if training is not None:
        size = float(np.sqrt(2 * operators.kinetic_energy(samples[truth].velocity).mean()))
        near = {name: float(np.median(far(each, training.velocity).min(1))) / size for name, each in drawn.items()}
        lines.append(
            Line("nearest training field", "median distance by rms speed; far below the truth's: a copy", near)
        )
    return lines
