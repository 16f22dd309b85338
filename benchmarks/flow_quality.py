"""How like the truth generated flow is: the shipped autoencoder and StyleGAN, beside two baselines and random phases.

The truth is what examples/flow/truth.toml makes: 2,000 snapshots of 64 x 64 Kolmogorov flow to learn from and 500 of
other seeds to judge by. `flow_baselines` trains a plain autoencoder on (u, v) and a DCGAN in this run; each is shown
as many rows as the model beside which it stands was (epochs of examples/flow/train.toml times rows). All are judged by
`penstock.flows.judging`, with two seeds each: for the shipped models, whose weights are what they are, of what is
drawn; for the baselines of the training too. The noise floor is one half of the held-out truth judged by the other, and
fields with the truth's spectrum and random phases have learned E(k) and nothing else. Rates are of one thread.

The residual is that of the averaged momentum equation, by that of random phases: no pairs in time are generated. The
first continuity error is icoFoam's, on the box of the example, after the fluxes' own divergence was removed, as times
that of true fields; this removes the baselines' divergence as well.

`penstock run examples/flow/truth.toml`, then `make bench NAME=flow_quality`; ``FIELDS=32 SHOWN=320`` in the
environment tries it out.
"""

from __future__ import annotations

import json
import os
import time
import tomllib
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
from penstock.models import generator, psi_stylegan
from penstock.solvers.openfoam.fresh import Openfoam

EXAMPLE = Path(__file__).parent.parent / "examples" / "flow"
FIELDS = int(os.environ.get("FIELDS", "512"))
MOST_SHOWN = int(os.environ.get("SHOWN", "1000000"))
SEEDS = (1, 2)
BESIDE = {"plain_vae": "psi_vae", "dcgan": "psi_stylegan"}
"""Each baseline and the model beside which it stands."""
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
    "mean equation, by random phases": 0.3,
    "first continuity error, by truth": 2.0,
}


def truth(name: str) -> Sample:
    """A dataset of truth.toml."""
    table = read_table(str(EXAMPLE / "out" / name), ["velocity", "later"])
    velocity, later = (np.asarray(to_numpy(table[column])) for column in ("velocity", "later"))
    return Sample(name, velocity, later, PAIR_SECONDS)


def shipped(name: str, seed: int) -> tuple[np.ndarray, float]:
    """Fields of a shipped model, and how many a second."""
    seeds = range(FIRST + seed * FIELDS, FIRST + (seed + 1) * FIELDS)
    with generator.opened(str(EXAMPLE / "models" / name), "cpu") as live:
        started = time.perf_counter()
        found = live.fields(seeds, np.full(FIELDS, live.config.middle))
        return found, FIELDS / (time.perf_counter() - started)


def parameters(name: str) -> dict[str, int]:
    """How many numbers a shipped model has learned: in the network that draws, and in both."""
    with generator.opened(str(EXAMPLE / "models" / name), "cpu") as live:
        config, sizes = live.config, {key: weights.numel() for key, weights in live.weights.items()}
    drawing = sum(size for key, size in sizes.items() if not key.startswith("encode"))
    if name == "psi_vae":
        return {"draws": drawing, "both": sum(sizes.values())}
    shape = psi_stylegan.Shape(config.size, config.width, config.latent, config.layers)
    judging = psi_stylegan.initial(shape, 0)[1]
    return {"draws": drawing, "both": drawing + sum(weights.numel() for weights in judging.values())}


def shown(name: str, rows: int) -> int:
    """So many rows the model beside which a baseline stands was shown."""
    recipe = tomllib.loads((EXAMPLE / "train.toml").read_text())
    return min(int(recipe["train"][BESIDE[name]]["epochs"]) * rows, MOST_SHOWN)


def trained(name: str, learned: Sample, seed: int) -> tuple[np.ndarray, float, int]:
    """Fields of a baseline that is trained now, how many a second, and how many numbers it has learned."""
    flow = np.asarray(learned.velocity, np.float32)
    sample, count = getattr(flow_baselines, name)(flow, shown(name, len(flow)), seed)
    started = time.perf_counter()
    found = sample(FIELDS, seed)
    return found, FIELDS / (time.perf_counter() - started), count


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


def measured(run: dict[str, Any]) -> dict[str, float]:
    """What the goals are about, of one seed of a way."""
    figures = run["figures"]
    found = {name: figures[name]["generated"] for name in GOALS if name in figures}
    equation = figures["mean equation"]
    found["mean equation, by random phases"] = equation["generated"] / equation["random phase"]
    found["first continuity error, by truth"] = run["first_continuity_error_by_truth"]
    return found


def goals(ways: dict[str, Any]) -> dict[str, Any]:
    """Each goal of the issue, and for each way what its seeds have and whether they all reach it."""
    found: dict[str, Any] = {}
    for goal, bar in GOALS.items():
        seeds = {way: [measured(run)[goal] for run in runs] for way, runs in ways.items()}
        reached = {way: all(value <= bar for value in values) for way, values in seeds.items()}
        found[goal] = {"bar": bar, "seeds": seeds, "reached": reached}
    return found


def main() -> None:
    """Judge all, and write what was found."""
    torch.set_num_threads(1)
    learned, held_out = truth("truth"), truth("held_out")
    ours = tuple(BESIDE.values())
    sizes: dict[str, Any] = {name: parameters(name) for name in ours}
    ways: dict[str, Any] = {name: [] for name in (*ours, *BESIDE)}
    true = continuity(held_out.velocity)
    for name, runs in ways.items():
        for seed in SEEDS:
            if name in ours:
                fields, rate = shipped(name, seed)
            else:
                fields, rate, count = trained(name, learned, seed)
                sizes[name] = {"both": count}
            runs.append(
                {
                    "seed": seed,
                    "fields_a_second": rate,
                    "first_continuity_error_by_truth": continuity(fields) / true,
                    "figures": figures(fields, held_out, learned, seed),
                }
            )
            print(name, seed, json.dumps(measured(runs[-1])), flush=True)
    result = {
        "fields": FIELDS,
        "rows_shown_to_baselines": {name: shown(name, len(learned)) for name in BESIDE},
        "parameters": sizes,
        "goals": goals(ways),
        "ways": ways,
    }
    measuring.write("flow_quality", result)


if __name__ == "__main__":
    main()
