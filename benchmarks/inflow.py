"""How far behind an inlet flow is what it shall be: generated fields, noise, random phases, OpenFOAM's own eddies.

One channel for all: that of examples/flow, as high as a field's box, with slip walls, and with the viscosity that the
fields themselves have at this scale. "Developed" is what the same channel has at the same place when true, held-out
fields of Kolmogorov flow are swept into it (`penstock.flows.sweeping`, Taylor's hypothesis).

A development length is the first station from which on a statistic stays within BAND of that reference, up to the last
one. It is told for five statistics (`penstock.flows.development.Station`: energy, enstrophy, length of correlation,
slope of the spectrum, flatness of the vorticity) over the middle half of the channel, and for all together, which is
what is compared. The floor: true fields of another seed.

The ways: fields of both shipped generators, and of random phases (the truth's fluctuations, whose modes keep their
sizes, about its mean profile), swept in likewise; noise of the truth's variances about its mean profile, a plane for
each step; and OpenFOAM's `turbulentDFSEMInlet` with R, L and U of the truth's planes, which is given what helps it:
R_zz is all but zero, so that its eddies lie in the plane as those of the truth do; the one cell across the plane is
thick, since it counts its eddies by volume; and it runs a second time with R and L tuned in runs of a short channel,
until this has the truth's energy and enstrophy a quarter of a metre behind the inlet.

`penstock run examples/flow/truth.toml`, then `make bench NAME=inflow`; `--seconds 4 --length 2` for a try.
"""

from __future__ import annotations

import argparse
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import torch

from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.flows.baselines import random_phase
from penstock.flows.development import development_length, station
from penstock.flows.sweeping import Sweep
from penstock.models import generator
from penstock.solvers.openfoam.case import environment
from penstock.solvers.openfoam.live import Inlet
from penstock.solvers.openfoam.process import made, solver_command

FLOW = Path(__file__).parents[1] / "examples" / "flow"
BAND = 0.15
BARS = {"by_noise": 0.5, "by_eddies": 1.0}
SPEED, BOX, SCALE, WALL = 1.0, 2.0, 0.25, 0.25
CELLS = 48  # along a side of the box
SHORT = 1.0  # the channel for the tuning of eddies, m
VISCOSITY = 0.01 * SCALE * BOX / (2 * math.pi)
STEP_SECONDS, SAMPLE_STEPS = 0.016, 3
WARM_SECONDS = 6.0
MIDDLE = (0.5, 1.5)
THICK = 1.0
SWEEP = Sweep(speed=SPEED, box=BOX, scale=SCALE, height=BOX, wall=WALL)
SAMPLE_METRES = SPEED * STEP_SECONDS * SAMPLE_STEPS
OCTAVE_METRES = BOX / 4
"""The wave length of the force that made the truth: below it the spectrum falls."""
DFSEM, TUNED = "turbulentDFSEMInlet", "turbulentDFSEMInlet, tuned"
COLOURS = {
    "truth": "black",
    "psi_vae": "#1f77b4",
    "psi_stylegan": "#2ca02c",
    "random phases": "#9467bd",
    "noise": "#7f7f7f",
    DFSEM: "#ff7f0e",
    TUNED: "#d62728",
}
FIRST_SEED = 7_000_000
"""Seeds of generated fields begin here, far from those of the truth and those that gains were fitted with."""

Floats = np.ndarray
Planes = Callable[[int], Iterator[Floats]]
Profiles = dict[str, list[float]]
"""Statistics, each at all stations."""


# --- the channel -----------------------------------------------------------------------------------------


def stations(length: float) -> Floats:
    """Where flow is looked at: centres of cells, six cells apart, and not near the outlet."""
    side = BOX / CELLS
    return (np.arange(0, round((length - 0.5) / side), 6) + 0.5) * side


def in_the_middle(y: Floats) -> Floats:
    """Whether heights are where statistics are taken."""
    return (y > MIDDLE[0]) & (y < MIDDLE[1])


def heights() -> Floats:
    """Centres of all cells across the channel."""
    return (np.arange(CELLS) + 0.5) * BOX / CELLS


def added(case: Path, name: str, text: str) -> None:
    """Entries after those of the example's file, which count where both say something."""
    path = case / name
    path.write_text(f"{path.read_text()}\n{text}\n")


def channel(case: Path, length: float, seconds: float, inlet: str, probed: str) -> Path:
    """The template: the channel of examples/flow, higher, finer, with slip walls, and of second order in time."""
    shutil.copytree(FLOW / "channel", case)
    corners = " ".join(f"({x} {y} {z})" for z in (0, THICK) for x, y in ((0, 0), (length, 0), (length, BOX), (0, BOX)))
    cells = f"({round(length * CELLS / BOX)} {CELLS} 1)"
    block = f"vertices ({corners}); blocks (hex (0 1 2 3 4 5 6 7) {cells} simpleGrading (1 1 1));"
    pressure = "solver GAMG; smoother GaussSeidel; tolerance 1e-6;"
    solvers = f"p {{ {pressure} relTol 0.02; }} pFinal {{ {pressure} relTol 0.02; }}"
    steps = round((WARM_SECONDS + seconds) / STEP_SECONDS)
    timing = f"deltaT {STEP_SECONDS}; endTime {steps * STEP_SECONDS:.12g}; writeInterval {steps}; writePrecision 8;"
    added(case, "system/blockMeshDict", block)
    added(case, "constant/transportProperties", f"nu [0 2 -1 0 0 0 0] {VISCOSITY:.12g};")
    added(case, "0/U", f"boundaryField {{ walls {{ type slip; }} inlet {{ {inlet} }} }}")
    added(case, "system/fvSchemes", "ddtSchemes { default backward; }")
    added(case, "system/fvSolution", f"solvers {{ {solvers} }} PISO {{ nNonOrthogonalCorrectors 0; }}")
    added(case, "system/controlDict", f"{timing}\nfunctions {{ {probed} }}")
    return case


def probes(length: float) -> str:
    """Velocity and vorticity at all stations."""
    middle = heights()[in_the_middle(heights())]
    points = " ".join(f"({x:.8g} {y:.8g} {THICK / 2})" for x in stations(length) for y in middle)
    every = f"timeStart {WARM_SECONDS}; executeControl timeStep; executeInterval {SAMPLE_STEPS};"
    return (
        f'turning {{ type vorticity; libs ("libfieldFunctionObjects.so"); field U; {every} writeControl none; }}\n'
        f'probes {{ type probes; libs ("libsampling.so"); fields (U vorticity); {every} '
        f"writeControl timeStep; writeInterval {SAMPLE_STEPS}; probeLocations ({points}); }}"
    )


def probed(folder: Path, name: str, shape: tuple[int, ...]) -> Floats:
    """What probes wrote, ``"sample ... 3"``."""
    (path,) = folder.glob(f"postProcessing/probes/*/{name}")
    rows = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    numbers = np.array(" ".join(rows).replace("(", " ").replace(")", " ").split(), np.float64)
    return numbers.reshape(len(rows), -1)[:, 1:].reshape(len(rows), *shape, 3)


# --- what flows in ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """What is known of the truth at the inlet, of its planes.

    Attributes:
        mean: profile of the velocity, ``"face 3"``.
        stress: covariances of u and v, ``"face 2 2"``.
        length: of u along the flow, in m.
    """

    mean: Floats
    stress: Floats
    length: float

    @property
    def energy(self) -> float:
        """Of the fluctuations, in m2/s2, in the middle of the channel."""
        return float(np.einsum("faa->f", self.stress)[in_the_middle(heights())].mean() / 2)


def swept(fields: Floats, faces: Floats) -> Planes:
    """Fields, ``"row 2 y x"``, through an inlet whose faces are at these heights."""
    return lambda first: SWEEP.planes(lambda start: iter(fields[start:]), first, STEP_SECONDS, faces)


def target_of(taken: Floats, faces: Floats) -> Target:
    """Of planes, ``"sample face 3"``, one each SAMPLE_STEPS."""
    moved = (taken - taken.mean(0))[..., :2]
    middle = in_the_middle(faces)
    found = station(taken[:, middle, :2], moved[:, middle, 0], SAMPLE_METRES, OCTAVE_METRES)
    return Target(taken.mean(0), np.einsum("tfa,tfb->fab", moved, moved) / len(moved), found.length)


def noise(target: Target, seed: int) -> Planes:
    """Normal numbers of the truth's variances, a plane for each step."""
    deviation = np.sqrt(np.einsum("faa->fa", target.stress))

    def planes(first: int) -> Iterator[Floats]:
        for index in range(first, 1 << 30):
            values = np.array(target.mean)
            values[:, :2] += deviation * np.random.default_rng((seed, index)).standard_normal(deviation.shape)
            yield values

    return planes


@dataclass(frozen=True)
class Eddies:
    """How OpenFOAM's synthetic eddies are set: times the truth's Reynolds stresses, times its length."""

    stress: float = 1.0
    length: float = 1.0

    def entry(self, target: Target, seed: int) -> str:
        """The inlet's entry in 0/U. Random numbers are the same in each run; more eddies change all that follows."""
        covariance = target.stress * self.stress
        spread = np.hypot(covariance[:, 0, 0] - covariance[:, 1, 1], 2 * covariance[:, 0, 1])
        across = np.maximum(1.05 * spread, 0.01 * np.einsum("faa->f", covariance))  # the least that it can make
        rows = zip(covariance[:, 0, 0], covariance[:, 0, 1], covariance[:, 1, 1], across, strict=True)
        tensors = " ".join(f"({xx:.8g} {xy:.8g} 0 {yy:.8g} 0 {zz:.8g})" for xx, xy, yy, zz in rows)
        vectors = " ".join(f"({u:.8g} {v:.8g} {w:.8g})" for u, v, w in target.mean)
        count = len(target.mean)
        return (
            f"type turbulentDFSEMInlet; delta {10 * BOX}; d {16 + seed}; nCellPerEddy 1; "
            f"R nonuniform List<symmTensor> {count}({tensors}); U nonuniform List<vector> {count}({vectors}); "
            f"L uniform {self.length * target.length:.8g}; value uniform ({SPEED} 0 0);"
        )


def run_alone(case: Path, folder: Path) -> Path:
    """The solver, with no stream."""
    folder.mkdir()
    made(folder, case, 1)
    command = solver_command(folder, "", 1, (), ordinary=False)
    with (folder / "log").open("wb") as log:
        subprocess.run(command, cwd=folder, env=environment(folder), stdout=log, check=True)
    return folder


# --- the runs --------------------------------------------------------------------------------------------


def fields_of(seconds: float) -> int:
    """So many are swept in in a run; one more is blended in, one is to spare."""
    return math.ceil((WARM_SECONDS + seconds) * SPEED / BOX) + 2


@dataclass(frozen=True)
class Data:
    """True, held-out fields, ``"row 2 y x"``, in an order of their own for each seed."""

    velocity: Floats

    def fields(self, way: str, seed: int, count: int) -> Floats:
        """So many of a way."""
        if way in ("psi_vae", "psi_stylegan"):
            seeds = range(FIRST_SEED + seed * count, FIRST_SEED + (seed + 1) * count)
            with generator.opened(str(FLOW / "models" / way), "cpu") as live:
                return live.fields(seeds, np.full(count, live.config.middle))
        order = np.random.default_rng(0).permutation(len(self.velocity))
        chosen = self.velocity[order[seed * count : (seed + 1) * count]]
        mean = self.velocity.mean((0, 3))[:, :, None]
        return chosen if way == "truth" else random_phase(chosen - mean, seed) + mean

    def target(self, seconds: float) -> Target:
        """What is known of the truth, of the planes of so many seconds."""
        planes = swept(self.fields("truth", 0, fields_of(seconds)), heights())(0)
        return target_of(np.stack(list(islice(planes, 0, round(seconds / STEP_SECONDS), SAMPLE_STEPS))), heights())


def measured(folder: Path, length: float) -> Profiles:
    """Each statistic at all stations."""
    shape = len(stations(length)), int(in_the_middle(heights()).sum())
    flow, turning = probed(folder, "U", shape), probed(folder, "vorticity", shape)
    found = [
        asdict(station(flow[:, at, :, :2], turning[:, at, :, 2], SAMPLE_METRES, OCTAVE_METRES))
        for at in range(shape[0])
    ]
    return {name: [each[name] for each in found] for name in found[0]}


@dataclass(frozen=True)
class Runs:
    """Runs of the channel, each in a folder of its own under *root*, for so many seconds after the warming up."""

    root: Path
    seconds: float
    length: float
    data: Data
    target: Target

    def folder(self, way: str, seed: int) -> Path:
        """Of a run; OpenFOAM takes no blanks in it."""
        return self.root / f"{''.join(filter(str.isalnum, way))}{seed}"

    def channel(self, way: str, seed: int, inlet: str = "") -> Path:
        """The way's template."""
        return channel(
            self.folder(way, seed).with_suffix(".case"), self.length, self.seconds, inlet, probes(self.length)
        )

    def of(self, way: str, seed: int, inflow: Planes | Eddies | None = None) -> Profiles:
        """What the channel has at all stations; without *inflow* the way's fields are swept in."""
        started, folder = time.perf_counter(), self.folder(way, seed)
        if isinstance(inflow, Eddies):
            run_alone(self.channel(way, seed, inflow.entry(self.target, seed)), folder)
        else:
            inlet = Inlet(str(self.channel(way, seed)), ahead=8)
            planes = inflow or swept(self.data.fields(way, seed, fields_of(self.seconds)), inlet.centres(folder)[:, 1])
            for _ in inlet.feed(planes, folder):
                pass
        found = measured(folder, self.length)
        shutil.rmtree(folder)
        print(f"{way} {seed}: {time.perf_counter() - started:.0f} s", flush=True)
        return found


def tuned(short: Runs) -> tuple[Eddies, list[dict[str, float]]]:
    """Stresses and length with which a short channel has the truth's energy and enstrophy; and the way there."""
    true, chosen, told = short.of("truth", 0), Eddies(), []
    for turn in range(6):
        found = short.of(f"tuning {turn}, seed", 0, chosen)
        energy, enstrophy = (found[name][-1] / true[name][-1] for name in ("energy", "enstrophy"))
        told.append({**asdict(chosen), "energy_by_truth": energy, "enstrophy_by_truth": enstrophy})
        print("eddies", told[-1], flush=True)
        if max(abs(energy - 1), abs(enstrophy - 1)) < 0.1:
            break
        chosen = Eddies(chosen.stress / energy, chosen.length * math.sqrt(enstrophy / energy))
    return chosen, told


def ratios(run: Profiles, reference: list[Profiles]) -> Profiles:
    """What a run has by the mean of others, at all stations."""
    means = {name: np.mean([each[name] for each in reference], axis=0) for name in run}
    return {name: (np.array(run[name]) / means[name]).round(4).tolist() for name in run}


def lengths(by_truth: Profiles, places: Floats) -> dict[str, float | None]:
    """Development lengths of each statistic and of all together, None where the channel is too short."""
    ones = np.ones_like(places)
    each = {name: development_length(places, np.array(values), ones, BAND) for name, values in by_truth.items()}
    each["all"] = max(each.values())
    return {name: value if math.isfinite(value) else None for name, value in each.items()}


def judged(found: dict[str, list[Profiles]], places: Floats) -> dict[str, Any]:
    """Of each way and seed what it has by the truth's mean, and the lengths; truth is held against its other seeds."""
    told: dict[str, Any] = {way: [] for way in found}
    for way, runs in found.items():
        for run in runs:
            others = [each for each in found["truth"] if each is not run] or [run]
            by_truth = ratios(run, others)
            told[way].append({"development_length_m": lengths(by_truth, places), "by_truth": by_truth})
    return told


def goals(told: dict[str, Any], last: float) -> dict[str, Any]:
    """Each generator's longest by noise's and the eddies' shortest; at most, where those go beyond *last*."""
    together = {way: [each["development_length_m"]["all"] or math.inf for each in runs] for way, runs in told.items()}
    others = {"noise": min(together["noise"]), "eddies": min(together[DFSEM] + together[TUNED])}
    found: dict[str, Any] = {"bars": BARS, "at_most": [name for name, theirs in others.items() if theirs > last]}
    for way in ("psi_vae", "psi_stylegan"):
        ours = max(together[way])
        if not math.isfinite(ours):
            found[way] = {"length_m": None, "reached": False}
            continue
        by = {f"by_{name}": ours / min(theirs, last) for name, theirs in others.items()}
        found[way] = {"length_m": ours, **by, "reached": all(by[name] <= bar for name, bar in BARS.items())}
    return found


def plot(told: dict[str, Any], places: Floats, path: Path) -> None:
    """What each way has by the truth, the mean of its seeds, along the channel."""
    from plotly.subplots import make_subplots

    names = list(told["truth"][0]["by_truth"])
    figure = make_subplots(1, len(names), subplot_titles=names, shared_yaxes=True)
    for number, name in enumerate(names, 1):
        for way, colour in COLOURS.items():
            values = np.mean([each["by_truth"][name] for each in told[way]], axis=0)
            line = {"color": colour, "dash": "dot" if way == "truth" else "solid"}
            figure.add_scatter(
                x=places, y=values, name=way, mode="lines", line=line, showlegend=number == 1, row=1, col=number
            )
    figure.add_hrect(1 - BAND, 1 + BAND, fillcolor="lightgrey", line_width=0, layer="below", row=1, col="all")
    figure.update_xaxes(title="m behind the inlet")
    figure.update_yaxes(range=[0, 2])
    figure.update_layout(
        template="plotly_white",
        width=1500,
        height=420,
        margin={"t": 40, "l": 40, "r": 20},
        legend={"y": -0.2, "orientation": "h"},
    )
    measuring.picture(figure, path)


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=60.0, help="of flow, after the warming up")
    arguments.add_argument("--length", type=float, default=4.0, help="of the channel, in m")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments.add_argument("--at-once", type=int, default=2, help="solvers")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    data = Data(np.asarray(to_numpy(read_table(str(FLOW / "out" / "held_out"), ["velocity"])["velocity"])))
    places = stations(options.length)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.at_once) as pool:
        target = data.target(options.seconds)
        runs = Runs(Path(name), options.seconds, options.length, data, target)
        short = Runs(Path(name) / "short", min(30.0, options.seconds), SHORT, data, target)
        short.root.mkdir()
        tuning = pool.submit(tuned, short)
        work = {
            way: [pool.submit(runs.of, way, seed) for seed in options.seeds]
            for way in ("truth", "psi_vae", "psi_stylegan", "random phases")
        }
        work["noise"] = [pool.submit(runs.of, "noise", seed, noise(target, seed)) for seed in options.seeds]
        work[DFSEM] = [pool.submit(runs.of, DFSEM, seed, Eddies()) for seed in options.seeds]
        eddies, settings = tuning.result()
        work[TUNED] = [pool.submit(runs.of, TUNED, seed, eddies) for seed in options.seeds]
        found = {way: [each.result() for each in waiting] for way, waiting in work.items()}
    told = judged(found, places)
    result = {
        "channel": {"length_m": options.length, "height_m": BOX, "cells_across": CELLS, "viscosity_m2_s": VISCOSITY},
        "speed_m_s": SPEED,
        "intensity": math.sqrt(target.energy) / SPEED,
        "seconds": options.seconds,
        "seeds": options.seeds,
        "band": BAND,
        "stations_m": places.tolist(),
        "truth": found["truth"],
        "goals": goals(told, float(places[-1])),
        "ways": told,
        "tuning_of_eddies": settings,
    }
    measuring.write("inflow", result)
    plot(told, places, measuring.RESULTS / "inflow.png")


if __name__ == "__main__":
    main()
