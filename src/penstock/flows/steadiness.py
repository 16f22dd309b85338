"""How soon a solver is statistically steady, by what it starts from.

An ensemble of solvers starts from fields of one kind. It is steady from when on its mean kinetic energy and its mean
enstrophy stay within a band about those of the steady flow for two turn-over times.

Source: Pope, Turbulent Flows, 2000, chapter 3 (statistically stationary flow, ensemble averages).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from penstock.flows import operators
from penstock.flows.kolmogorov import Kolmogorov, random_start
from penstock.flows.operators import Floats, cut
from penstock.flows.statistics import Physics

__all__ = ["Course", "Steady", "follow", "rest"]

_REST_ENERGY = 1e-4
_SHELLS = 16


@dataclass(frozen=True)
class Course:
    """What an ensemble of solvers goes through: means over its members.

    Attributes:
        name: what the solvers started from.
        members: how many they are.
        steps: of each solver up to then, ``"time"``.
        step_seconds: length of a step.
        energy, enstrophy: ``"time"``.
        spectrum: E(k) of the shells that the 2/3 rule keeps, ``"time shell"``.
    """

    name: str
    members: int
    steps: Floats
    step_seconds: float
    energy: Floats
    enstrophy: Floats
    spectrum: Floats


@dataclass(frozen=True)
class Steady:
    """The steady flow, and how near to it is near enough.

    Attributes:
        energy, enstrophy: means.
        spectrum: mean E(k), ``"shell"``.
        band: the largest deviation of the two means, as a share.
    """

    energy: float
    enstrophy: float
    spectrum: Floats
    band: float = 0.1

    @classmethod
    def of(cls, flow: Floats, band: float = 0.1) -> Steady:
        """From fields of the steady flow, ``"sample 2 y x"``."""
        found = _means(flow)
        return cls(float(found[0]), float(found[1]), found[2], band)

    @property
    def turnover_seconds(self) -> float:
        """2 pi by the rms vorticity: in which an eddy turns once."""
        return float(2 * np.pi / np.sqrt(2 * self.enstrophy))

    def distance(self, course: Course) -> Floats:
        """The larger of the relative deviations of energy and enstrophy, ``"time"``; inside the band up to *band*."""
        return np.maximum(abs(course.energy / self.energy - 1), abs(course.enstrophy / self.enstrophy - 1))

    def spectrum_error(self, course: Course) -> Floats:
        """The relative deviation of E(k) in the worst shell to 16, ``"time"``."""
        shells = slice(1, _SHELLS + 1)
        return np.asarray(abs(course.spectrum[:, shells] / self.spectrum[shells] - 1).max(-1))

    def reached(self, course: Course) -> int | None:
        """The steps after which the ensemble is steady; None when that was not seen."""
        inside = self.distance(course) < self.band
        every = float(course.steps[1] - course.steps[0]) * course.step_seconds
        held = int(np.ceil(2 * self.turnover_seconds / every)) + 1
        good = [at for at in range(len(inside) - held + 1) if inside[at : at + held].all()]
        return int(course.steps[good[0]]) if good else None


def _means(flow: Floats) -> tuple[Floats, Floats, Floats]:
    flow = np.asarray(flow, np.float64)
    spectrum = operators.spectrum(flow).mean(0)[: cut(flow.shape[-1])]
    return operators.kinetic_energy(flow).mean(), operators.enstrophy(flow).mean(), spectrum


def rest(n: int, members: int, seed: int = 0) -> Floats:
    """Still fluid with a little noise, without which the force would drive a laminar flow: ``"member 2 y x"``."""
    return np.stack([random_start(n, seed + at, energy=_REST_ENERGY) for at in range(members)])


def follow(
    name: str, flow: Floats, physics: Physics, seconds: float, step_seconds: float = 0.02, *, every_steps: int = 10
) -> Course:
    """Let a solver go on from each of *flow*, ``"member 2 y x"``, and look at them every *every_steps* steps.

    Raises:
        ValueError: it is too short to be looked at, or a flow explodes.
    """
    times = round(seconds / step_seconds / every_steps)
    if times < 1:
        raise ValueError(
            f"{seconds:g} s are fewer than {every_steps} steps of {step_seconds:g} s; a longer time was needed"
        )
    with np.errstate(all="ignore"):  # a flow that explodes is found below
        found = [_means(each) for each in _states(flow, physics, step_seconds, every_steps, times)]
    energy, enstrophy, spectrum = (np.array(each) for each in zip(*found, strict=True))
    if not np.isfinite(enstrophy).all():
        raise ValueError(f"a flow that starts from {name} explodes with steps of {step_seconds:g} s; take shorter ones")
    return Course(name, len(flow), every_steps * np.arange(times + 1), step_seconds, energy, enstrophy, spectrum)


def _states(flow: Floats, physics: Physics, step_seconds: float, every_steps: int, times: int) -> Iterator[Floats]:
    n, force = flow.shape[-1], (physics.drag, physics.amplitude, physics.wavenumber)
    solver = Kolmogorov(n, (physics.viscosity,), step_seconds, *force, precision="float32")
    state = solver.state(flow)
    yield solver.velocity(state)
    for _ in range(times):
        state = solver.advance(state, every_steps * step_seconds)
        yield solver.velocity(state)
