"""Diffusion with embeddings as forcing and as a mask, under MPI: ``mpiexec -n P python -m mpi4py -m ... CONFIG``.

On a periodic rectangle, with ``x`` the points at which the rows of a dataset lie::

    -div(kappa grad u) + s u = f                    the steady state, time = 0
    du/dt = div(kappa grad u) - s u + f, u(0) = 0   up to a time

The forcing ``f`` is a sum of Gaussians round the points, each with the row's value, and ``kappa = exp(contrast g)``
with ``g`` such a sum of the mask's values; 1 without one. Derivatives are taken in Fourier space (Gottlieb and Orszag
1977, "Numerical Analysis of Spectral Methods"). The linear system is solved by conjugate gradients, preconditioned by
the same equation with constant kappa, which Fourier space solves at once (Concus and Golub 1973, SIAM J. Numer. Anal.
10, 1103-1120). Time goes by an implicit method of second order that damps what is too fast for its steps (Alexander
1977, SIAM J. Numer. Anal. 14, 1006-1021). The result is equal to rounding for any number of ranks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.core.reading import Check
from penstock.solvers.programs.results import write_arrays
from penstock.solvers.programs.rows import bounds, gather_rows, own_rows, require_ranks
from penstock.solvers.programs.waves import Field, Spectrum, Waves

__all__ = ["Box", "Config", "Equation", "deposited", "main", "marched", "sampled", "solve", "steady"]

Floats: TypeAlias = npt.NDArray[np.float64]
Comm: TypeAlias = Any
Place: TypeAlias = Sequence[Any]
"""A column, and the component of its tensors or None."""

_TOLERANCE = 1e-12
_MAX_ROUNDS = 1000
_MARGIN = 1.25
_BLOCK_BYTES = 64 << 20
_GAMMA = 1 - 2**-0.5
"""Of the implicit method: with it, and no other below 1, waves that are too fast vanish."""


@dataclass(frozen=True)
class Config:
    """What is to be done.

    Attributes:
        reference: the dataset: ``dataset``, ``version``, ``rows`` and ``sha256``.
        tasks: how many ranks there must be.
        points: the two coordinates of each row.
        forcing: the values of each channel.
        mask: that of kappa, or None.
        contrast: how strongly kappa follows the mask.
        period: of the rectangle along each axis; 0 fits it to the points.
        grid: points along each axis.
        width: standard deviation of the Gaussians, as a fraction of the period.
        screening: ``s``.
        time: 0 asks for the steady state.
        steps: into which the time is cut.
        output: ``rows`` asks for the solution at the points, ``grid`` for all of it.
        result: path of the ``.npz`` that rank 0 writes.
        check: how files are held against the manifest.
    """

    reference: dict[str, Any]
    tasks: int
    points: list[Place]
    forcing: list[Place]
    mask: Place | None
    contrast: float
    period: list[float]
    grid: int
    width: float
    screening: float
    time: float
    steps: int
    output: Literal["rows", "grid"]
    result: str
    check: Check = "sha256"


def main() -> None:
    """Solve what the configuration file says."""
    from mpi4py import MPI

    solve(Config(**json.loads(Path(sys.argv[1]).read_text())), MPI.COMM_WORLD)


def solve(config: Config, comm: Comm) -> None:
    """Read, solve and write; collective.

    Raises:
        ValueError: there are other ranks than were expected, or values that are not finite.
        DatasetError: the dataset is not what its manifest says.
        RuntimeError: the linear system was not solved.
    """
    require_ranks(comm, config.tasks)
    places = [*config.points, *config.forcing, *([config.mask] if config.mask else [])]
    values = own_values(comm, config.reference, places, config.check)
    count = len(config.forcing)
    points, forcing, mask = values[:, :2], values[:, 2 : 2 + count], values[:, 2 + count :]
    waves, box = Waves(config.grid, comm), Box.of(points, config.period, comm)
    at, rows = box.scaled(points, config.grid), int(config.reference["rows"])
    kappa = np.exp(config.contrast * deposited(waves, at, mask, config.width, rows)[0]) if config.mask else None
    fields = deposited(waves, at, forcing, config.width, rows)
    equation = Equation(waves, box.period, config.screening, kappa)
    solutions = [
        marched(equation, field, config.time, config.steps) if config.time else steady(equation, field)
        for field in fields
    ]
    if config.output == "rows":
        own = np.stack([sampled(waves, solution, at) for solution in solutions], axis=1)
        arrays = {"solution": gather_rows(comm, own, rows)}
    else:
        arrays = whole_grid(waves, box, fields, solutions, kappa)
    if comm.rank == 0:
        write_arrays(config.result, arrays)


def own_values(comm: Comm, reference: Mapping[str, Any], places: Sequence[Place], check: Check) -> Floats:
    """The values of our rows, ``"own place"``.

    Raises:
        ValueError: some are not finite.
    """
    arrays = own_rows(comm, reference, sorted({column for column, _ in places}), check)
    values = np.stack([component(arrays[column], number) for column, number in places], axis=1)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, place = bad[0]
        first = bounds(int(reference["rows"]), comm.size)[comm.rank]
        raise ValueError(
            f"column '{places[place][0]}' is not finite in row {first + row}; "
            "mend or drop such rows in the pipeline that writes it"
        )
    return values


def component(values: npt.NDArray[Any], number: int | None) -> Floats:
    """One number of each row."""
    chosen = values if number is None else values.reshape(len(values), -1)[:, number]
    return np.asarray(chosen, np.float64)


def whole_grid(
    waves: Waves, box: Box, fields: Floats, solutions: Sequence[Field], kappa: Field | None
) -> dict[str, Floats]:
    """A row for each line of the grid; collective."""
    along_x, along_y = box.places(waves.size)
    local = np.ones_like(solutions[0]) if kappa is None else kappa
    stacked = {"forcing": np.stack(list(fields), axis=1), "solution": np.stack(solutions, axis=1), "kappa": local}
    whole = {name: gather_rows(waves.comm, values, waves.size) for name, values in stacked.items()}
    return {"x": along_x, "y": np.tile(along_y, (waves.size, 1)), **whole}


# --- from rows to fields, and back -----------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """The periodic rectangle.

    Attributes:
        origin: its lower corner.
        period: its lengths.
    """

    origin: tuple[float, float]
    period: tuple[float, float]

    @classmethod
    def of(cls, points: Floats, period: Sequence[float], comm: Comm) -> Box:
        """The given periods from 0 on; where they are 0, a quarter more than the points need; collective."""
        low = comm.allreduce(points.min(axis=0, initial=np.inf), np.minimum)
        extent = comm.allreduce(points.max(axis=0, initial=-np.inf), np.maximum) - low
        extent = np.where(extent > 0, extent, 1.0)
        given = np.asarray(period)
        lengths = np.where(given > 0, given, _MARGIN * extent)
        origin = np.where(given > 0, 0.0, low - (_MARGIN - 1) / 2 * extent)
        return cls((float(origin[0]), float(origin[1])), (float(lengths[0]), float(lengths[1])))

    def scaled(self, points: Floats, size: int) -> Floats:
        """The points in cells of a grid, from 0 up to *size*."""
        return (points - self.origin) / self.period % 1.0 * size

    def places(self, size: int) -> tuple[Floats, Floats]:
        """Where the grid's points lie along each axis."""
        x, y = (start + length * np.arange(size) / size for start, length in zip(self.origin, self.period, strict=True))
        return x, y


def deposited(waves: Waves, at: Floats, values: Floats, width: float, rows: int) -> Floats:
    """Our lines of the fields of *values*, ``"own channel"``, at the points *at*: ``"channel own_x y"``; collective.

    Each row adds its value times a periodic Gaussian; the mean of a field is the mean of its values.
    """
    size = waves.size
    whole = np.zeros((values.shape[1], size, size))
    for block in blocks(len(at), size):
        along_x, along_y = (gaussian(at[block, axis], width * size, size) for axis in (0, 1))
        for channel, value in enumerate(values[block].T):
            whole[channel] += along_x.T @ (value[:, None] * along_y)
    sent = [whole[:, low:high] for low, high in pairwise(bounds(size, waves.comm.size))]
    own: Floats = sum(waves.comm.alltoall(sent)) * (size**2 / rows)
    return own


def sampled(waves: Waves, field: Field, at: Floats) -> Floats:
    """The trigonometric polynomial through *field* at the points *at*, ``"own"``; collective."""
    whole, size = gather_rows(waves.comm, field, waves.size), waves.size
    out = np.empty(len(at))
    for block in blocks(len(at), size):
        along_x, along_y = (cardinal(at[block, axis], size) for axis in (0, 1))
        out[block] = ((along_x @ whole) * along_y).sum(axis=1)
    return out


def blocks(rows: int, size: int) -> Iterator[slice]:
    """The rows in pieces whose weights fit the memory."""
    step = max(1, _BLOCK_BYTES // (8 * size))
    return (slice(start, start + step) for start in range(0, rows, step))


def offsets(at: Floats, size: int) -> Floats:
    """From each grid point to each of *at*, the short way round: ``"point grid"``, in cells."""
    return np.asarray((at[:, None] - np.arange(size) + size / 2) % size - size / 2)


def gaussian(at: Floats, sigma: float, size: int) -> Floats:
    """Weights of a Gaussian round each of *at*, which sum to one: ``"point grid"``."""
    return np.asarray(np.exp(-0.5 * (offsets(at, size) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi)))


def cardinal(at: Floats, size: int) -> Floats:
    """The weights by which values on the grid make those at *at*: ``sin(N t / 2) / (N tan(t / 2))``.

    Trefethen (2000), "Spectral Methods in MATLAB", equation 3.7.
    """
    half = np.pi / size * offsets(at, size)
    here = np.abs(half) < 1e-15
    return np.asarray(np.where(here, 1.0, np.sin(size * half) / (size * np.tan(np.where(here, 1.0, half)))))


# --- the equation ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Equation:
    """``shift u + scale (s u - div(kappa grad u))`` on spectra.

    The highest wave of an even grid has no derivative there, so it is left out; so is the mean, where nothing
    holds it.

    Attributes:
        waves: the transform.
        period: lengths of the rectangle.
        screening: ``s``.
        kappa: our lines of it, or None for 1 everywhere.
        shift: 0 for the steady state.
        scale: 1 for the steady state.
    """

    waves: Waves
    period: tuple[float, float]
    screening: float = 0.0
    kappa: Field | None = None
    shift: float = 0.0
    scale: float = 1.0

    @cached_property
    def gradient(self) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """What the spectrum is multiplied by for each derivative."""
        x, y = (2j * np.pi / length * number for number, length in zip(self.waves.numbers(), self.period, strict=True))
        return x, y

    @cached_property
    def flat(self) -> Field:
        """The operator on each wave with the mean of kappa; 0 for those that are left out."""
        x, y = self.waves.numbers()
        steep = np.abs(self.gradient[0]) ** 2 + np.abs(self.gradient[1]) ** 2
        symbol = self.shift + self.scale * (self.mean_kappa * steep + self.screening)
        return np.where((np.abs(x) == self.waves.size // 2) | (y == self.waves.size // 2), 0.0, symbol)

    @cached_property
    def mean_kappa(self) -> float:
        """Over the whole plane."""
        if self.kappa is None:
            return 1.0
        return float(gather_rows(self.waves.comm, self.kappa.mean(axis=1), self.waves.size).mean())

    def kept(self, spectrum: Spectrum) -> Spectrum:
        """*spectrum* without the waves that are left out."""
        return np.asarray(np.where(self.flat > 0, spectrum, 0))

    def applied(self, spectrum: Spectrum) -> Spectrum:
        """The operator on the spectrum of a field; collective."""
        if self.kappa is None:
            return self.flat * spectrum
        flux = [self.waves.forward(self.kappa * self.waves.backward(d * spectrum)) for d in self.gradient]
        spread = sum(d * part for d, part in zip(self.gradient, flux, strict=True))
        return self.kept((self.shift + self.scale * self.screening) * spectrum - self.scale * spread)

    def preconditioned(self, spectrum: Spectrum) -> Spectrum:
        """The solution with the mean of kappa."""
        return self.kept(spectrum) / np.where(self.flat > 0, self.flat, 1)

    def solved(self, right: Spectrum) -> Spectrum:
        """The spectrum whose image is *right*, by conjugate gradients; collective.

        Raises:
            RuntimeError: they did not converge.
        """
        solution, rest = np.zeros_like(right), self.kept(right)
        guess = self.preconditioned(rest)
        search, size = guess, self.waves.dot(rest, guess)
        goal = _TOLERANCE**2 * size
        for _ in range(_MAX_ROUNDS):
            if size <= goal:
                return solution
            image = self.applied(search)
            step = size / self.waves.dot(search, image)
            solution, rest = solution + step * search, rest - step * image
            guess, before = self.preconditioned(rest), size
            size = self.waves.dot(rest, guess)
            search = guess + size / before * search
        raise RuntimeError(
            f"conjugate gradients did not converge in {_MAX_ROUNDS} rounds: kappa varies too much for the grid; "
            "lower 'contrast', or raise 'width' or 'grid'"
        )


def steady(equation: Equation, forcing: Field) -> Field:
    """Our lines of the solution where nothing changes any more; collective."""
    return equation.waves.backward(equation.solved(equation.waves.forward(forcing)))


def marched(equation: Equation, forcing: Field, time: float, steps: int) -> Field:
    """Our lines of the solution after *time*, from 0 on; collective."""
    step = time / steps
    here = Equation(equation.waves, equation.period, equation.screening, equation.kappa)
    ahead = replace(here, shift=1.0, scale=_GAMMA * step)
    source = ahead.kept(equation.waves.forward(forcing))
    solution = np.zeros_like(source)
    for _ in range(steps):
        first = ahead.solved(source - here.applied(solution))
        between = solution + (1 - _GAMMA) * step * first
        second = ahead.solved(source - here.applied(between))
        solution = between + _GAMMA * step * second
    return equation.waves.backward(solution)


if __name__ == "__main__":
    main()
