"""How like the truth generated flow is: the shipped autoencoder and StyleGAN, beside two baselines and random phases.

The truth is what examples/flow/truth.toml makes: 2,000 snapshots of 64 x 64 Kolmogorov flow to learn from and 500 of
other seeds to judge by. `flow_baselines` trains a plain autoencoder on (u, v) and a DCGAN, as many rows shown as the
models were shown, in this run. All are judged by `penstock.flows.judging`, with two seeds each; the noise floor is one
half of the held-out truth judged by the other, and fields with the truth's spectrum and random phases have learned E(k)
and nothing else. Fields a second are of one thread. The first continuity error is icoFoam's, on the box of the example,
after the fluxes' own divergence was removed, as times that of true fields.

`penstock run examples/flow/truth.toml`, then `make bench NAME=flow_quality`; ``FIELDS=32 SHOWN=320`` in the
environment tries it out.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import flow_baselines
import measuring
import numpy as np
import pyarrow as pa
import torch

from penstock.core.batch import tensor_column, to_numpy
from penstock.core.reading import read_table
from penstock.flows.judging import Sample, judge
from penstock.flows.statistics import Physics
from penstock.models import generator
from penstock.solvers.openfoam.fresh import Openfoam

EXAMPLE = Path(__file__).parent.parent / "examples" / "flow"
FIELDS = int(os.environ.get("FIELDS", "512"))
SHOWN = int(os.environ.get("SHOWN", "24000"))
SEEDS = (1, 2)
PAIR_SECONDS = 0.02
FIRST = 5_000_000
"""Seeds of generated fields begin here, far from those of the truth and those that gains were fitted with."""
GOALS = {
    "rms(div) / rms(grad)": 1e-6,
    "E(k), worst shell to 16": 0.10,
    "kinetic energy": 0.05,
    "enstrophy": 0.05,
    "flatness, r = 2": 0.10,
    "flatness, r = 8": 0.10,
    "flatness, r = 32": 0.10,
}


def truth(name: str) -> Sample:
    """A dataset of truth.toml."""
    table = read_table(str(EXAMPLE / "out" / name), ["velocity", "later"])
    return Sample(name, *(np.asarray(to_numpy(table[column])) for column in ("velocity", "later")), PAIR_SECONDS)


def shipped(name: str, seed: int) -> tuple[np.ndarray, float]:
    """Fields of a shipped model, and how many a second."""
    seeds = range(FIRST + seed * FIELDS, FIRST + (seed + 1) * FIELDS)
    with generator.opened(str(EXAMPLE / "models" / name), "cpu") as live:
        started = time.perf_counter()
        found = live.fields(seeds, np.full(FIELDS, live.config.middle))
        return found, FIELDS / (time.perf_counter() - started)


def trained(name: str, learned: Sample, seed: int) -> tuple[np.ndarray, float]:
    """Fields of a baseline that is trained now."""
    sample, count = getattr(flow_baselines, name)(np.asarray(learned.velocity, np.float32), SHOWN, seed)
    print(f"{name}: {count:,} parameters", flush=True)
    started = time.perf_counter()
    found = sample(FIELDS, seed)
    return found, FIELDS / (time.perf_counter() - started)


def figures(fields: np.ndarray, held_out: Sample, learned: Sample, seed: int) -> dict[str, dict[str, float]]:
    """Each figure of the fields, of the truth's halves and of random phases."""
    some = Sample("training", learned.velocity[::4])
    found = judge(Sample("generated", fields), held_out, Physics(), some, seed)
    return {line.name: {key: float(value) for key, value in line.values.items()} for line in found.lines}


def continuity(flow: np.ndarray, count: int = 8) -> float:
    """icoFoam's first ``sum local``, the median over some fields."""
    control = {"endTime": 0.005, "writeInterval": 1}
    stage = Openfoam(str(EXAMPLE / "box"), control=control, projection="fluxes", log=("continuity",))
    with stage.open() as transform:
        found = transform(pa.table({"velocity": tensor_column(flow[:count].astype(np.float32))}))
    return float(np.median([errors[0] for errors in found["continuity"].to_pylist()]))


def main() -> None:
    """Judge all, and write what was found."""
    torch.set_num_threads(1)
    learned, held_out = truth("truth"), truth("held_out")
    result: dict[str, Any] = {"fields": FIELDS, "rows_shown_to_baselines": SHOWN, "goals": GOALS, "ways": {}}
    ours = ("psi_vae", "psi_stylegan")
    true = continuity(held_out.velocity)
    for name in (*ours, "plain_vae", "dcgan"):
        runs = []
        for seed in SEEDS:
            fields, rate = shipped(name, seed) if name in ours else trained(name, learned, seed)
            runs.append(
                {
                    "seed": seed,
                    "fields_a_second": rate,
                    "first_continuity_error_by_truth": continuity(fields) / true,
                    "figures": figures(fields, held_out, learned, seed),
                }
            )
            print(name, seed, json.dumps(runs[-1]["figures"]), flush=True)
        result["ways"][name] = runs
    measuring.write("flow_quality", result)


if __name__ == "__main__":
    main()
