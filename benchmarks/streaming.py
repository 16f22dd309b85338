"""Planes streamed into a running OpenFOAM: how many a second, and what the solver loses by it.

The channel of examples/flow: 3,200 cells, 40 faces at its inlet, a plane for every step. Beside it the same solver
without the plugin and with a fixed inlet, and OpenFOAM's own `timeVaryingMappedFixedValue` with all planes as files
from the start. `make bench NAME=streaming`; `--steps 40 --exchanges 500 --turns 1` for a try.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import measuring
import numpy as np

from penstock.formats.openfoam import read_field, write_field
from penstock.solvers.openfoam.case import environment
from penstock.solvers.openfoam.exchange import Server
from penstock.solvers.openfoam.live import Inlet, built_plugin
from penstock.solvers.openfoam.process import solver_command

CHANNEL = Path(__file__).parents[1] / "examples" / "flow" / "channel"
FACES, DT = 40, 0.005

# The solver's end of the protocol and nothing else, in a process of its own.
PEER = """
    import socket, struct, sys
    address, token, count = sys.argv[1].removeprefix("unix:"), sys.argv[2].encode(), int(sys.argv[3])
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(address)
    head = struct.Struct("<4sHHq")
    texts = b"".join(struct.pack("<H", len(text)) + text for text in (token, b"U", b"inlet"))
    hello = struct.pack("<qdddiiiiq", 0, 0, 1, count, 1, 1, 3, 1, 40) + texts + bytes(40 * 24)
    sock.sendall(head.pack(b"PSTK", 1, 1, len(hello)) + hello)
    sock.recv(16)
    answer = bytearray(16 + 8 + 40 * 24)
    for step in range(count):
        state = struct.pack("<qddq", step, step, 1, 0) + bytes(40 * 24)
        sock.sendall(head.pack(b"PSTK", 1, 3, len(state)) + state)
        sock.recv_into(answer, len(answer), socket.MSG_WAITALL)
    sock.sendall(head.pack(b"PSTK", 1, 6, 0))
"""


def plane(index: int) -> np.ndarray:
    y = (np.arange(FACES) + 0.5) / FACES
    return np.stack([1 + 0.2 * np.sin(2 * np.pi * (y - 0.01 * index)), 0.1 * np.cos(2 * np.pi * y), 0 * y], axis=-1)


def planes_from(index: int) -> Iterator[np.ndarray]:
    while True:
        yield plane(index)
        index += 1


def exchanges(count: int) -> float:
    """Exchanges a second with a peer that computes nothing."""
    values = plane(0)
    with Server() as server:
        command = [sys.executable, "-c", textwrap.dedent(PEER), server.address, server.token, str(count)]
        with subprocess.Popen(command) as peer:
            link = server.accept(lambda: peer.poll() is None)
            started = time.perf_counter()
            while (state := link.receive()) is not None:
                link.send(state.step, values)
            return count / (time.perf_counter() - started)


def case_of(folder: Path, steps: int) -> Path:
    """The channel, with its mesh, for so many steps."""
    Inlet(str(CHANNEL)).centres(folder)
    path = folder / "system" / "controlDict"
    path.write_text(f"{path.read_text()}\nendTime {steps * DT:.12g};\ndeltaT {DT};\nwriteInterval {steps};\n")
    return folder


class Runs:
    """Runs of one channel, each in a folder of its own, whose making is not measured."""

    def __init__(self, root: Path, steps: int) -> None:
        self.root, self.steps, self.case, self.number = root, steps, case_of(root / "case", steps), 0
        self.waited: dict[str, list[float]] = {}
        self.disk_bytes: dict[str, int] = {}

    def _folder(self, inlet: Inlet) -> Path:
        self.number += 1
        folder = self.root / f"run{self.number}"
        inlet.centres(folder)
        return folder

    def alone(self, ranks: int) -> float:
        folder = self._folder(Inlet(str(self.case), ranks=ranks))
        return self._bare(folder, ranks)

    def _bare(self, folder: Path, ranks: int) -> float:
        command = solver_command(folder, "", ranks, (), ordinary=False)
        with (folder / "log").open("wb") as log:
            return measuring.seconds(
                lambda: subprocess.run(command, cwd=folder, env=environment(folder), stdout=log, check=True)
            )

    def streamed(self, name: str, ranks: int, transport: str = "plugin") -> float:
        inlet = Inlet(str(self.case), ranks=ranks, transport=transport, plugin=built_plugin(), ahead=4)
        folder, most = self._folder(inlet), 0
        data = folder / "constant" / "boundaryData"

        def feed() -> None:
            nonlocal most
            for state in inlet.feed(planes_from, folder):
                if state.step % 50 == 10:
                    most = max(most, size(data))

        taken = measuring.seconds(feed)
        said = re.search(r"penstock: \d+ exchanges, waited (\S+) s", (folder / "log").read_text())
        if said:
            self.waited.setdefault(name, []).append(float(said[1]) / taken)
        self.disk_bytes[name] = most
        return taken

    def staged(self) -> float:
        """All planes as files before the start; writing them is measured too."""
        folder = self._folder(Inlet(str(self.case)))
        velocity = read_field(folder / "0" / "U")
        mapped = {"type": "timeVaryingMappedFixedValue", "setAverage": "off", "mapMethod": "nearest"}
        mapped |= {"offset": "(0 0 0)", "value": velocity.boundary["inlet"]["value"]}
        write_field(folder / "0" / "U", replace(velocity, boundary={**velocity.boundary, "inlet": mapped}))
        data = folder / "constant" / "boundaryData" / "inlet"
        centres = Inlet(str(self.case)).centres(folder)

        def stage() -> None:
            data.mkdir(parents=True)
            (data / "points").write_text(listed(centres))
            for step in range(self.steps + 1):
                (data / f"{step * DT:.12g}").mkdir()
                (data / f"{step * DT:.12g}" / "U").write_text(listed(plane(max(0, step - 1))))

        taken = measuring.seconds(stage)
        self.disk_bytes["staged files, 1 rank"] = size(data)
        return taken + self._bare(folder, 1)


def listed(rows: np.ndarray) -> str:
    return f"{len(rows)}\n(\n" + "\n".join(f"({x!r} {y!r} {z!r})" for x, y, z in rows.tolist()) + "\n)\n"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "points")


def ways(runs: Runs) -> dict[str, Callable[[], float]]:
    return {
        "alone, 1 rank": lambda: runs.alone(1),
        "streamed by the plugin, 1 rank": lambda: runs.streamed("streamed by the plugin, 1 rank", 1),
        "staged files, 1 rank": runs.staged,
        "streamed by pipes, 1 rank": lambda: runs.streamed("streamed by pipes, 1 rank", 1, "fifo"),
        "alone, 2 ranks": lambda: runs.alone(2),
        "streamed by the plugin, 2 ranks": lambda: runs.streamed("streamed by the plugin, 2 ranks", 2),
    }


def ratios(found: dict[str, list[float]], ranks: str) -> dict[str, float]:
    """Of neighbours in time: with the plugin over without."""
    pairs = zip(found[f"streamed by the plugin, {ranks}"], found[f"alone, {ranks}"], strict=True)
    return measuring.spread([ours / theirs for ours, theirs in pairs])


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--steps", type=int, default=1000)
    arguments.add_argument("--exchanges", type=int, default=20_000)
    arguments.add_argument("--turns", type=int, default=5)
    options = arguments.parse_args()
    rates = [exchanges(options.exchanges) for _ in range(options.turns)]
    with tempfile.TemporaryDirectory() as name:
        runs = Runs(Path(name), options.steps)
        found = measuring.turns(ways(runs), options.turns)
    result = {
        "faces": FACES,
        "cells": 3200,
        "steps": options.steps,
        "turns": options.turns,
        "exchanges_a_second": measuring.spread(rates),
        "seconds": {way: measuring.spread(values) for way, values in found.items()},
        "with_plugin_over_without": {ranks: ratios(found, ranks) for ranks in ("1 rank", "2 ranks")},
        "solver_idle_share": {way: measuring.spread(values) for way, values in runs.waited.items()},
        "planes_on_disk_bytes": runs.disk_bytes,
    }
    measuring.write("streaming", result)


if __name__ == "__main__":
    main()
