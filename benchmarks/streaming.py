"""Planes streamed into a running OpenFOAM: how many a second, and what the solver loses by it.

The channel of examples/flow: 3,200 cells, 40 faces at its inlet, a plane for every step. Beside it the same solver
without the plugin and with a fixed inlet; the same with the plugin and a plane that never changes, which is what the
exchange alone costs; and OpenFOAM's own `timeVaryingMappedFixedValue` with all planes as files from the start. How
often the solver's linear solvers went round tells what a changing inlet costs, whoever feeds it.

Exchanges a second are those of two ends: a peer that speaks the protocol and computes nothing (so it is our end that is
measured), and the plugin in icoFoam on 80 cells with one round for each equation.

`make bench NAME=streaming`; `--steps 40 --exchanges 500 --turns 1` for a try.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import accumulate, repeat
from pathlib import Path
from typing import Any, Literal

import measuring
import numpy as np

from penstock.formats.openfoam import pieces, read_case_field, read_field, write_field
from penstock.solvers.openfoam.case import environment
from penstock.solvers.openfoam.exchange import VERSION, Server
from penstock.solvers.openfoam.live import Inlet, built_plugin
from penstock.solvers.openfoam.process import solver_command

CHANNEL = Path(__file__).parents[1] / "examples" / "flow" / "channel"
FACES, DT = 40, 0.005
BARS = {"exchanges_a_second": 1000, "plugin_over_without": 1.1, "solver_idle_share": 0.05, "planes_on_disk": 1}
RANKS = ("1 rank", "2 ranks")
STILL, PLUGIN, STAGED = "a plane that never changes by the plugin", "streamed by the plugin", "staged files"
PLANE_BYTES = FACES * 3 * 8
Transport = Literal["plugin", "fifo"]
CHEAP_CONTROL = "maxIter 1; tolerance 1; relTol 0;"

# The solver's end of the protocol and nothing else, in a process of its own.
PEER = """
    import socket, struct, sys
    address, token = sys.argv[1].removeprefix("unix:"), sys.argv[2].encode()
    count, version = map(int, sys.argv[3:])
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    head = struct.Struct("<4sHHq")
    texts = b"".join(struct.pack("<H", len(text)) + text for text in (token, b"U", b"inlet"))
    hello = struct.pack("<qdddiiiiq", 0, 0, 1, count, 1, 1, 3, 1, 40) + texts + bytes(40 * 24)
    sock.sendall(head.pack(b"PSTK", version, 1, len(hello)) + hello)
    sock.recv(16)
    answer = bytearray(16 + 8 + 40 * 24)
    for step in range(count):
        state = struct.pack("<qddq", step, step, 1, 0) + bytes(40 * 24)
        sock.sendall(head.pack(b"PSTK", version, 3, len(state)) + state)
        sock.recv_into(answer, len(answer), socket.MSG_WAITALL)
    sock.sendall(head.pack(b"PSTK", version, 6, 0))
"""


def plane(index: int) -> np.ndarray:
    y = (np.arange(FACES) + 0.5) / FACES
    return np.stack([1 + 0.2 * np.sin(2 * np.pi * (y - 0.01 * index)), 0.1 * np.cos(2 * np.pi * y), 0 * y], axis=-1)


def planes_from(index: int) -> Iterator[np.ndarray]:
    while True:
        yield plane(index)
        index += 1


def still_from(index: int) -> Iterator[np.ndarray]:
    """The fixed inlet of the case itself."""
    return repeat(np.tile([1.0, 0.0, 0.0], (FACES, 1)), sys.maxsize - index)


def exchanges(count: int) -> float:
    """Exchanges a second with a peer that computes nothing."""
    values = plane(0)
    with Server() as server:
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(PEER),
            server.address,
            server.token,
            *map(str, (count, VERSION)),
        ]
        with subprocess.Popen(command) as peer:
            link = server.accept(lambda: peer.poll() is None)
            assert link is not None, server.refused
            started = time.perf_counter()
            while (state := link.receive()) is not None:
                link.send(state.step, values)
            return count / (time.perf_counter() - started)


def added(case: Path, name: str, text: str) -> None:
    """Entries after those of the example's file, which count where both say something."""
    path = case / name
    path.write_text(f"{path.read_text()}\n{text}\n")


def case_of(folder: Path, steps: int) -> Path:
    """The channel, with its mesh, for so many steps."""
    Inlet(str(CHANNEL)).centres(folder)
    added(folder, "system/controlDict", f"endTime {steps * DT:.12g};\ndeltaT {DT};\nwriteInterval {steps};")
    return folder


def cheap_case(folder: Path, steps: int) -> Path:
    """As many faces at the inlet, two cells behind each, and as little work as icoFoam can do."""
    shutil.copytree(CHANNEL, folder)
    added(folder, "system/blockMeshDict", f"blocks (hex (0 1 2 3 4 5 6 7) (2 {FACES} 1) simpleGrading (1 1 1));")
    solvers = " ".join(f"{name} {{ {CHEAP_CONTROL} }}" for name in ("p", "pFinal", "U"))
    added(folder, "system/fvSolution", f"solvers {{ {solvers} }} PISO {{ nCorrectors 1; nNonOrthogonalCorrectors 0; }}")
    added(folder, "system/controlDict", f"endTime {steps * DT:.12g};\ndeltaT {DT};\nwriteInterval {steps};")
    return folder


def plugin_exchanges(root: Path, count: int) -> float:
    """Exchanges a second of the plugin in a solver that has next to nothing to do, from the first one to the last."""
    inlet = Inlet(str(cheap_case(root / "cheap", count)), plugin=built_plugin(), ahead=4)
    states = inlet.feed(still_from, root / "cheap_run")
    next(states)
    taken = measuring.seconds(lambda: deque(states, 0))
    shutil.rmtree(root / "cheap")
    shutil.rmtree(root / "cheap_run")
    return count / taken


class Runs:
    """Runs of one channel, each in a folder of its own, whose making is not measured."""

    def __init__(self, root: Path, steps: int) -> None:
        self.root, self.steps, self.case, self.number = root, steps, case_of(root / "case", steps), 0
        self.idle: dict[str, list[float]] = {}
        self.disk_bytes: dict[str, int] = {}
        self.iterations: dict[str, dict[str, float]] = {}
        self.results: dict[str, str] = {}

    def _folder(self, inlet: Inlet) -> Path:
        self.number += 1
        folder = self.root / f"run{self.number}"
        inlet.centres(folder)
        return folder

    def _look(self, way: str, folder: Path) -> str:
        """What a run has come to, and how often its linear solvers went round; the log."""
        log = (folder / "log").read_text()
        found = re.findall(r"Solving for (\w+),.* No Iterations (\d+)", log)
        rounds = {name: sum(int(count) for field, count in found if field == name) for name in ("Ux", "Uy", "p")}
        self.iterations[way] = {name: count / self.steps for name, count in rounds.items()}
        end = read_case_field(folder, f"{self.steps * DT:.12g}", "U").internal
        self.results[way] = hashlib.sha256(np.ascontiguousarray(end).tobytes()).hexdigest()
        shutil.rmtree(folder)
        return log

    def alone(self, way: str, ranks: int) -> float:
        folder = self._folder(Inlet(str(self.case), ranks=ranks))
        taken = bare(folder, ranks)
        self._look(way, folder)
        return taken

    def streamed(
        self,
        way: str,
        ranks: int,
        planes: Callable[[int], Iterator[np.ndarray]],
        transport: Transport = "plugin",
    ) -> float:
        inlet = Inlet(str(self.case), ranks=ranks, transport=transport, plugin=built_plugin(), ahead=4)
        folder, most = self._folder(inlet), 0
        data = folder / "constant" / "boundaryData"

        def feed() -> None:
            nonlocal most
            for state in inlet.feed(planes, folder):
                if state.step % 50 == 10:
                    most = max(most, size(data))

        taken = measuring.seconds(feed)
        said = re.search(r"penstock: \d+ exchanges, waited (\S+) s", self._look(way, folder))
        if said:
            self.idle.setdefault(way, []).append(float(said[1]) / taken)
        self.disk_bytes[way] = most
        return taken

    def staged(self, way: str, ranks: int) -> float:
        """All planes as files before the start; writing them is measured too."""
        inlet = Inlet(str(self.case), ranks=ranks)
        folder = self._folder(inlet)
        for case in pieces(folder) or (folder,):
            mapped(case / "0" / "U")
        data = folder / "constant" / "boundaryData" / "inlet"
        centres = inlet.centres(folder)

        def stage() -> None:
            data.mkdir(parents=True)
            (data / "points").write_text(listed(centres))
            for step, moment in enumerate(accumulate([0.0, *[DT] * self.steps])):  # rounded as the solver does it
                (data / repr(moment)).mkdir()
                (data / repr(moment) / "U").write_text(listed(plane(max(0, step - 1))))

        taken = measuring.seconds(stage)
        self.disk_bytes[way] = size(data)
        taken += bare(folder, ranks)
        self._look(way, folder)
        return taken


def bare(folder: Path, ranks: int) -> float:
    """Seconds of the solver by itself."""
    command = solver_command(folder, "", ranks, (), ordinary=False)
    with (folder / "log").open("wb") as log:
        return measuring.seconds(
            lambda: subprocess.run(command, cwd=folder, env=environment(folder), stdout=log, check=True)
        )


def mapped(path: Path) -> None:
    """Have the inlet take its values from ``boundaryData``."""
    velocity = read_field(path)
    entry: dict[str, Any] = {"type": "timeVaryingMappedFixedValue", "setAverage": "off", "mapMethod": "nearest"}
    entry |= {"offset": "(0 0 0)", "value": velocity.boundary["inlet"]["value"]}
    write_field(path, replace(velocity, boundary={**velocity.boundary, "inlet": entry}))


def listed(rows: np.ndarray) -> str:
    return f"{len(rows)}\n(\n" + "\n".join(f"({x!r} {y!r} {z!r})" for x, y, z in rows.tolist()) + "\n)\n"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "points")


def ways(runs: Runs) -> dict[str, Callable[[], float]]:
    """On one rank, then on two."""
    found: dict[str, Callable[[], float]] = {}
    for ranks in (1, 2):
        at = RANKS[ranks - 1]
        found |= {
            f"alone, {at}": partial(runs.alone, f"alone, {at}", ranks),
            f"{STILL}, {at}": partial(runs.streamed, f"{STILL}, {at}", ranks, still_from),
            f"{PLUGIN}, {at}": partial(runs.streamed, f"{PLUGIN}, {at}", ranks, planes_from),
            f"{STAGED}, {at}": partial(runs.staged, f"{STAGED}, {at}", ranks),
        }
    pipes = "streamed by pipes, 1 rank"
    return found | {pipes: partial(runs.streamed, pipes, 1, planes_from, "fifo")}


def ratios(found: dict[str, list[float]], way: str, other: str) -> dict[str, dict[str, float]]:
    """One way over another, of neighbours in time, by the number of ranks."""
    pairs = {at: zip(found[f"{way}, {at}"], found[f"{other}, {at}"], strict=True) for at in RANKS}
    return {at: measuring.spread([ours / theirs for ours, theirs in each]) for at, each in pairs.items()}


def goals(result: dict[str, Any]) -> dict[str, Any]:
    """Each bar of the issue, the figures that it is for, and whether all of them reach it."""
    idle = {way: values for way, values in result["solver_idle_share"].items() if way.startswith(PLUGIN)}
    disk = {way: value for way, value in result["planes_on_disk_bytes"].items() if way.startswith(PLUGIN)}
    over = ("with_plugin_over_without", "plugin_over_staged", "still_plane_over_without")
    same = result["same_results_as_staged"]
    return {
        "same_results_as_staged": {"figures": same, "reached": all(same.values())},
        "exchanges_a_second": goal("exchanges_a_second", medians(result["exchanges_a_second"]), least=True),
        **{name: goal("plugin_over_without", medians(result[name])) for name in over},
        "solver_idle_share": goal("solver_idle_share", medians(idle)),
        "planes_on_disk": goal("planes_on_disk", {way: value / PLANE_BYTES for way, value in disk.items()}),
    }


def medians(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of each spread."""
    return {name: spread["median"] for name, spread in figures.items()}


def goal(bar: str, figures: dict[str, float], *, least: bool = False) -> dict[str, Any]:
    """Figures that shall be at most, or at least, what the bar says."""
    good = [value >= BARS[bar] if least else value <= BARS[bar] for value in figures.values()]
    return {"bar": BARS[bar], "figures": figures, "reached": all(good)}


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--exchanges", type=int, default=20_000)
    arguments.add_argument("--turns", type=int, default=3)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        rates = [exchanges(options.exchanges) for _ in range(options.turns)]
        of_plugin = [plugin_exchanges(root, options.exchanges) for _ in range(options.turns)]
        runs = Runs(root, options.steps)
        found = measuring.turns(ways(runs), options.turns)
    result = {
        "faces": FACES,
        "cells": 3200,
        "steps": options.steps,
        "turns": options.turns,
        "exchanges_a_second": {"a peer that computes nothing": measuring.spread(rates)}
        | {"the plugin in icoFoam, 80 cells": measuring.spread(of_plugin)},
        "seconds": {way: measuring.spread(values) for way, values in found.items()},
        "with_plugin_over_without": ratios(found, PLUGIN, "alone"),
        "plugin_over_staged": ratios(found, PLUGIN, STAGED),
        "still_plane_over_without": ratios(found, STILL, "alone"),
        "iterations_a_step": runs.iterations,
        "same_results_as_staged": {
            at: runs.results[f"{PLUGIN}, {at}"] == runs.results[f"{STAGED}, {at}"] for at in RANKS
        },
        "solver_idle_share": {way: measuring.spread(values) for way, values in runs.idle.items()},
        "planes_on_disk_bytes": runs.disk_bytes,
    }
    measuring.write("streaming", {**result, "goals": goals(result)})


if __name__ == "__main__":
    main()
