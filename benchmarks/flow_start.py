"""How soon a solver is in the statistically steady band, by what it starts from; and E(k) of an ensemble of 32.

Starts: generated fields, rest with a little noise, fields of the true spectrum with random phases, and true ones of
other seeds as the floor. The band: the ensemble's means of kinetic energy and enstrophy within 10 % of the long run's,
and so for two turn-over times from then on. The ensemble's time-mean E(k) (shells 1 to 16, worst one) is told for
several lengths of the run, and the steps that a single long run needs for the same error.

The solver is our spectral one: icoFoam has no volume force of its own, so there is no steady state for it to reach.
`penstock run examples/flow/truth.toml`, then `make bench NAME=flow_start`; `--members 4 --seconds 4` for a try.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measuring
import numpy as np
import pyarrow as pa

from penstock.core.batch import to_numpy
from penstock.core.dataset import existing
from penstock.core.reading import read_rows
from penstock.flows.baselines import random_phase
from penstock.flows.statistics import Physics
from penstock.flows.steadiness import Steady, follow, rest
from penstock.stages.generate import Generate

FLOW = Path(__file__).parents[1] / "examples" / "flow"
PHYSICS, EVERY_STEPS, SHELLS = Physics(), 10, slice(1, 17)


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
    return float(abs(spectrum[SHELLS] / long[SHELLS] - 1).max())


def ensemble_errors(spectrum: np.ndarray, long: np.ndarray) -> dict[str, float]:
    """Worst shell of the time-mean from the start on, by steps of each member."""
    lengths = [at for at in (0, 1, 2, 5, 10, 20, 50, 100) if at < len(spectrum)]
    return {str(EVERY_STEPS * at): spectrum_error(spectrum[: at + 1].mean(0), long) for at in lengths}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--vae", default=str(FLOW / "models" / "psi_vae"))
    arguments.add_argument("--stylegan", default=str(FLOW / "models" / "psi_stylegan"))
    arguments.add_argument("--truth", default=str(FLOW / "out" / "held_out"), help="starts of other seeds")
    arguments.add_argument("--long", default=str(FLOW / "out" / "truth"), help="the long run")
    arguments.add_argument("--members", type=int, default=32)
    arguments.add_argument("--seconds", type=float, default=40.0)
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = arguments.parse_args()
    long, true = truth(options.long), truth(options.truth)
    steady = Steady.of(long)
    steps: dict[str, list[int | None]] = {}
    errors: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for name, flow in starts(options, seed, true).items():
            course = follow(name, flow, PHYSICS, options.seconds, every_steps=EVERY_STEPS)
            steps.setdefault(name, []).append(steady.reached(course))
            errors.setdefault(name, []).append(ensemble_errors(course.spectrum, steady.spectrum))
            print(seed, name, steps[name][-1], errors[name][-1], flush=True)
    result = {
        "members": options.members,
        "seeds": options.seeds,
        "turnover_seconds": steady.turnover_seconds,
        "band": steady.band,
        "steps_to_band": steps,
        "spectrum_error_by_steps": errors,
        "spectrum_error_of_held_out": spectrum_error(Steady.of(true).spectrum, steady.spectrum),
        "solver": "penstock.flows.kolmogorov",
    }
    measuring.write("flow_start", result)


if __name__ == "__main__":
    main()
