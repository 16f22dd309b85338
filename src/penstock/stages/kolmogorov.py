"""Seeds to snapshots of two-dimensional turbulence, by a pseudo-spectral solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from penstock.core.batch import adding, field_of, pick, tensor_column, tensor_type, to_numpy, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.errors import RowErrors
from penstock.flows import kolmogorov
from penstock.flows.kolmogorov import Precision, random_start
from penstock.flows.operators import Complexes, Floats, cut

__all__ = ["Kolmogorov"]

_STABLE = 2.8
"""Where the Runge-Kutta scheme of fourth order ends on the imaginary axis, 2 sqrt(2), rounded down."""
_MEMBERS = 16
"""So many members' arrays still lie in a core's cache."""


@dataclass(frozen=True)
class Kolmogorov:
    """Solve the forced vorticity equation from each row's seed, and give *snapshots* rows for it.

    Adds ``velocity``, float32 tensor ``"2 y x"``, ``time``, ``viscosity``, and ``later`` where *pair_seconds* says so.
    A row's flow depends on its seed and viscosity alone, not by a bit on the rows beside it. A flow for which the step
    is too long is quarantined with the speed that was found. The equation: `penstock.flows.kolmogorov`.

    Attributes:
        resolution: grid points a side, even.
        viscosity: nu, unless the rows have a column of that name.
        drag: mu, the linear drag that ends the inverse cascade.
        amplitude: of the force ``sin(wavenumber y)`` on u; 0 gives decaying turbulence.
        wavenumber: of the force.
        energy: kinetic energy of the random start.
        peak: wave number at which the random start has most of it.
        spin_up_seconds: time before the first snapshot, after which the flow shall have forgotten its start.
        snapshots: rows for each seed.
        every_seconds: time from one snapshot to the next.
        pair_seconds: add ``later``, the velocity so long after ``velocity``; 0 leaves it out.
        step_seconds: the time step; the times above are multiples of it.
        precision: in which it is solved; what is stored is float32.
        column: the seed.
    """

    resolution: int = 64
    viscosity: float = 0.01
    drag: float = 0.1
    amplitude: float = 1.0
    wavenumber: int = 4
    energy: float = 0.5
    peak: float = 4.0
    spin_up_seconds: float = 60.0
    snapshots: int = 1
    every_seconds: float = 10.0
    pair_seconds: float = 0.0
    step_seconds: float = 0.02
    precision: Precision = "float32"
    column: str = "seed"

    NEEDS = ("scipy",)

    def __post_init__(self) -> None:
        if self.resolution < 8 or self.resolution % 2:
            raise ValueError(f"resolution is {self.resolution}; an even number of 8 or more was needed")
        if not 1 <= self.wavenumber < cut(self.resolution):
            raise ValueError(f"wavenumber is {self.wavenumber}; 1 to {cut(self.resolution) - 1} was needed")
        if self.snapshots < 1 or self.step_seconds <= 0 or self.viscosity < 0 or self.drag < 0:
            raise ValueError(
                "snapshots of 1 or more, a positive step_seconds, no negative viscosity or drag were needed"
            )
        for name in ("spin_up_seconds", "every_seconds", "pair_seconds"):
            steps = getattr(self, name) / self.step_seconds
            if steps < 0 or abs(steps - round(steps)) > 1e-6:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; a multiple of step_seconds, {self.step_seconds}, was needed"
                )
        if self.snapshots > 1 and self.pair_seconds > self.every_seconds:
            raise ValueError(
                f"pair_seconds is {self.pair_seconds}; at most every_seconds, {self.every_seconds}, was needed"
            )

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``velocity``, ``time``, ``viscosity`` and perhaps ``later``; other columns are repeated."""
        field_of(given, self.column, "kolmogorov", pa.int64())
        if "viscosity" in given.names:
            field_of(given, "viscosity", "kolmogorov", pa.float64())
        flow = tensor_type(np.float32, 2, self.resolution, self.resolution)
        later = {"later": flow} if self.pair_seconds else {}
        return adding(given, {"velocity": flow, "time": pa.float64(), "viscosity": pa.float64(), **later})

    def rows_per_row(self) -> float:
        """The snapshots of a seed."""
        return float(self.snapshots)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Nothing is loaded."""
        yield self._snapshots

    def _snapshots(self, batch: Batch) -> Batch:
        parts = [self._solved(batch.slice(at, _MEMBERS)) for at in range(0, batch.num_rows, _MEMBERS)]
        good = pa.concat_tables([part for part, _ in parts])
        reasons = [reason for _, found in parts for reason in found]
        if any(reasons):
            _, bad = pick(batch, np.array([not reason for reason in reasons]))
            raise RowErrors(good, bad, [reason for reason in reasons if reason])
        return good

    def _solved(self, batch: Batch) -> tuple[Batch, list[str]]:
        """The snapshots of a few members, and for each member why it has none, or nothing."""
        seeds = to_numpy(batch[self.column])
        viscosity = self._viscosity(batch)
        start = np.stack([random_start(self.resolution, int(s), self.energy, self.peak) for s in seeds])
        solver = kolmogorov.Kolmogorov(
            self.resolution,
            tuple(viscosity.tolist()),
            self.step_seconds,
            self.drag,
            self.amplitude,
            self.wavenumber,
            self.precision,
        )
        with np.errstate(all="ignore"):  # a flow that explodes is found below
            flows, later, speeds = self._run(solver, solver.state(start))
        reasons = [self._reason(float(speed)) for speed in speeds]
        keep = np.array([not reason for reason in reasons])
        return self._rows(batch, viscosity, keep, flows, later), reasons

    def _viscosity(self, batch: Batch) -> Floats:
        if "viscosity" in batch.column_names:
            return np.asarray(to_numpy(batch["viscosity"]), np.float64)
        return np.full(batch.num_rows, self.viscosity)

    def _run(self, solver: kolmogorov.Kolmogorov, state: Complexes) -> tuple[Floats, Floats, Floats]:
        """Velocities and those a pair later, each ``"snapshot member 2 y x"``, and each member's greatest |u| + |v|."""
        state = solver.advance(state, self.spin_up_seconds)
        flows, later = [solver.velocity(state)], []
        for at in range(self.snapshots):
            after = solver.advance(state, self.pair_seconds)
            later.append(solver.velocity(after))
            if at + 1 < self.snapshots:
                state = solver.advance(after, self.every_seconds - self.pair_seconds)
                flows.append(solver.velocity(state))
        found, pairs = np.array(flows), np.array(later)
        return found, pairs, abs(found).sum(2).max((0, 2, 3))

    def _reason(self, speed: float) -> str:
        courant = cut(self.resolution) * speed * self.step_seconds
        if courant <= _STABLE:
            return ""
        found = f"|u| + |v| reaches {speed:.3g}" if np.isfinite(speed) else "the flow explodes"
        return f"{found} with step_seconds = {self.step_seconds}; take a shorter step: this one is stable to " + (
            f"{_STABLE / cut(self.resolution) / self.step_seconds:.3g}"
        )

    def _rows(
        self, batch: Batch, viscosity: Floats, keep: np.typing.NDArray[np.bool_], flows: Floats, later: Floats
    ) -> Batch:
        """One row for each good member and snapshot, those of a member together."""
        member = np.repeat(np.flatnonzero(keep), self.snapshots)
        times = self.spin_up_seconds + self.every_seconds * np.arange(self.snapshots)
        flat: Callable[[Floats], pa.Array] = partial(_column, keep=keep)
        columns = {
            "velocity": flat(flows),
            "time": pa.array(np.tile(times, int(keep.sum()))),
            "viscosity": pa.array(viscosity[member]),
            **({"later": flat(later)} if self.pair_seconds else {}),
        }
        return with_columns(batch.take(pa.array(member)), columns)


def _column(flows: Floats, keep: np.typing.NDArray[np.bool_]) -> pa.Array:
    """``"snapshot member 2 y x"`` as rows, a member's together."""
    rows = np.moveaxis(flows, 0, 1)[keep].astype(np.float32)
    return tensor_column(rows.reshape(-1, *rows.shape[2:]))
