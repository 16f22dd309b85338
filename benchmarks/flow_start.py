"""How soon a solver is in the statistically steady band, by what it starts from; and E(k) of an ensemble of 32.

Starts: generated fields, rest with a little noise, fields of the true spectrum with random phases, and true ones of
other seeds as the floor. The band: the ensemble's means of kinetic energy and enstrophy within 10 % of the long run's,
and so for two turn-over times from then on.

The ensemble's time-mean E(k) (shells 1 to 16, worst one) is told for several lengths of the run, with the steps of each
member from which on it stays within 5 % of the truth's 2,000 snapshots. Beside it a single long run for each seed, from
rest: the steps after which its own time-mean stays within 5 %, with those of its spin-up, which are not in the mean.
The ensemble's steps are those of all its members together.

The solver is our spectral one: icoFoam has no volume force of its own, so there is no steady state for it to reach.
`penstock run examples/flow/truth.toml`, then `make bench NAME=flow_start`; `--members 4 --seconds 4 --long-steps 2000`
for a try.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pyarrow as pa

from penstock.core.batch import to_numpy
from penstock.core.dataset import existing
from penstock.core.reading import read_rows
from penstock.flows import operators
from penstock.flows.baselines import random_phase
from penstock.flows.kolmogorov import Kolmogorov
from penstock.flows.statistics import Physics
from penstock.flows.steadiness import Steady, follow, rest
from penstock.stages.generate import Generate

FLOW = Path(__file__).parents[1] / "examples" / "flow"
PHYSICS, STEP_SECONDS, EVERY_STEPS, SHELLS = Physics(), 0.02, 10, slice(1, 17)
LONG_EVERY_STEPS, SPIN_UP_STEPS = 50, 1000
OURS = ("psi_vae", "psi_stylegan")
SOONER_THAN_REST, SOONER_THAN_PHASES, SPECTRUM_BAR, STEPS_SHARE = 5.0, 2.0, 0.05, 0.2


def truth(uri: str) -> np.ndarray:
    manifest = existing(uri)
    return to_numpy(read_rows(manifest, 0, manifest.rows, ["velocity"])["velocity"])


def starts(options: argparse.Namespace, seed: int, true: np.ndarray) -> dict[str, np.ndarray]:
    chosen = true[np.random.default_rng(seed).permutation(len(true))[: options.members]]
    still = rest(true.shape[-1], options.members, 7000 * seed)
    found = {"truth": chosen, "random phase": random_phase(chosen, seed), "rest and noise": still}
    seeds = pa.table({"seed": np.arange(options.members, dtype=np.int64) + 2_000_000 * (seed + 1)})
    for name, uri in (("psi_vae", options.vae), ("psi_stylegan", options.stylegan)):
        if Path(uri).exists():
            with Generate(uri).open() as transform:
                found[name] = to_numpy(transform(seeds)["velocity"])
    return found


def spectrum_error(spectrum: np.ndarray, long: np.ndarray) -> float:
    """Of the worst shell."""
    return float(abs(spectrum[SHELLS] / long[SHELLS] - 1).max())


def errors_so_far(spectra: np.ndarray, long: np.ndarray) -> np.ndarray:
    """Of the time-mean up to each time, of ``"time shell"``."""
    means = spectra.cumsum(0) / np.arange(1, len(spectra) + 1)[:, None]
    return np.array([spectrum_error(mean, long) for mean in means])


def steps_within(errors: np.ndarray, every_steps: int) -> int | None:
    """From which on all errors are within the bar; None when the last one is not."""
    outside = np.flatnonzero(errors > SPECTRUM_BAR)
    first = int(outside[-1]) + 1 if len(outside) else 0
    return first * every_steps if first < len(errors) else None


def told(errors: np.ndarray) -> dict[str, float]:
    """Some of them, by steps of each member."""
    lengths = [at for at in (0, 1, 2, 5, 10, 20, 50, 100, 200) if at < len(errors)]
    return {str(EVERY_STEPS * at): float(errors[at]) for at in lengths}


def long_runs(n: int, seeds: list[int], steps: int, long: np.ndarray) -> list[int | None]:
    """The steps of a single run from rest for each seed until its time-mean E(k) stays within the bar."""
    force = (PHYSICS.drag, PHYSICS.amplitude, PHYSICS.wavenumber)
    solver = Kolmogorov(n, (PHYSICS.viscosity,), STEP_SECONDS, *force, precision="float32")
    start = np.concatenate([rest(n, 1, 9_000_000 + seed) for seed in seeds])
    state, spectra = solver.advance(solver.state(start), SPIN_UP_STEPS * STEP_SECONDS), []
    for _ in range((steps - SPIN_UP_STEPS) // LONG_EVERY_STEPS):
        state = solver.advance(state, LONG_EVERY_STEPS * STEP_SECONDS)
        spectra.append(operators.spectrum(solver.velocity(state)))
    found = [steps_within(errors_so_far(run, long), LONG_EVERY_STEPS) for run in np.stack(spectra, axis=1)]
    return [None if within is None else SPIN_UP_STEPS + LONG_EVERY_STEPS + within for within in found]


def sooner(ours: list[int | None], theirs: list[int | None], most: int) -> list[float | None]:
    """How many times, for each seed; None where ours was never there. Steps are known to EVERY_STEPS, the least."""
    pairs = zip(ours, theirs, strict=True)
    return [
        None if mine is None else max(most if at is None else at, EVERY_STEPS) / max(mine, EVERY_STEPS)
        for mine, at in pairs
    ]


def shares(result: dict[str, Any], name: str) -> list[float | None]:
    """The steps of the ensemble's members together, by those of the long run; at most, where this was too short."""
    pairs = zip(result["steps_to_spectrum"][name], result["long_run_steps"], strict=True)
    return [
        None if each is None else result["members"] * each / (long or result["long_run_steps_at_most"])
        for each, long in pairs
    ]


def goal(bar: float, values: list[float | None], *, least: bool = False) -> dict[str, Any]:
    """What each seed has, and whether it reaches the bar, at most or at least; what was never seen does not."""
    good = [value is not None and (value >= bar if least else value <= bar) for value in values]
    return {"bar": bar, "seeds": values, "reached": good}


def goals(result: dict[str, Any]) -> dict[str, Any]:
    """Each bar of the issue, by model."""
    steps, most, found = result["steps_to_band"], result["steps"], dict[str, Any]()
    for name in (name for name in OURS if name in steps):
        from_rest = sooner(steps[name], steps["rest and noise"], most)
        from_phases = sooner(steps[name], steps["random phase"], most)
        found[name] = {
            "times sooner than from rest": goal(SOONER_THAN_REST, from_rest, least=True),
            "times sooner than from random phases": goal(SOONER_THAN_PHASES, from_phases, least=True),
            "E(k): share of the long run's steps": goal(STEPS_SHARE, shares(result, name)),
        }
    return found


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--vae", default=str(FLOW / "models" / "psi_vae"))
    arguments.add_argument("--stylegan", default=str(FLOW / "models" / "psi_stylegan"))
    arguments.add_argument("--truth", default=str(FLOW / "out" / "held_out"), help="starts of other seeds")
    arguments.add_argument("--long", default=str(FLOW / "out" / "truth"), help="the long run")
    arguments.add_argument("--members", type=int, default=32)
    arguments.add_argument("--seconds", type=float, default=40.0)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--long-steps", type=int, default=300_000, help="of the single long runs, at most")
    options = arguments.parse_args()
    long, true = truth(options.long), truth(options.truth)
    steady = Steady.of(long)
    steps: dict[str, list[int | None]] = {}
    within: dict[str, list[int | None]] = {}
    errors: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name, flow in starts(options, seed, true).items():
            course = follow(name, flow, PHYSICS, options.seconds, STEP_SECONDS, every_steps=EVERY_STEPS)
            so_far = errors_so_far(course.spectrum, steady.spectrum)
            steps.setdefault(name, []).append(steady.reached(course))
            within.setdefault(name, []).append(steps_within(so_far, EVERY_STEPS))
            errors.setdefault(name, []).append(told(so_far))
            print(seed, name, steps[name][-1], within[name][-1], errors[name][-1], flush=True)
    result = {
        "members": options.members,
        "seeds": options.seeds,
        "turnover_seconds": steady.turnover_seconds,
        "band": steady.band,
        "steps": round(options.seconds / STEP_SECONDS),
        "steps_to_band": steps,
        "spectrum_error_by_steps": errors,
        "steps_to_spectrum": within,
        "long_run_steps": long_runs(long.shape[-1], options.seeds, options.long_steps, steady.spectrum),
        "long_run_steps_at_most": options.long_steps,
        "spectrum_error_of_held_out": spectrum_error(Steady.of(true).spectrum, steady.spectrum),
        "solver": "penstock.flows.kolmogorov",
    }
    measuring.write("flow_start", {**result, "goals": goals(result)})


if __name__ == "__main__":
    main()
