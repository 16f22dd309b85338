"""How well `check --simulate` foretells: every pipeline of the examples that needs neither Slurm nor OpenFOAM.

Each is run on Ray with one core and with two, and in this process over half of its units and over all. Foretold is
two cores from one, one from two, and all units from half of them. The error is what was foretold over what was
measured, less one.
`make bench NAME=simulation`
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import measuring

from penstock.commands.simulate import predicted
from penstock.core import spec
from penstock.core.nouns import Pipeline, Place, Runner
from penstock.core.simulation import Hardware
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray

EXAMPLES = Path(__file__).parents[1] / "examples"
CHOSEN = tuple(filter(None, os.environ.get("CHOSEN", "antibodies,text,own_stage,genomes").split(",")))
TURNS = int(os.environ.get("TURNS", "2"))
FEWEST_UNITS = 8
"""Half of fewer units foretells little."""


def lines(folder: Path, example: str) -> list[Pipeline]:
    """The pipelines of *example*, copied into *folder*, up to the first training, which is no pipeline."""
    if not (folder / example).exists():
        for name in {example, "antibodies"}:
            shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("out"), dirs_exist_ok=True)
        if (program := folder / example / "reads.py").exists():
            reads = [sys.executable, str(program), "--reads", "60", "--length", "3000", "--error", "0.05"]
            subprocess.run([*reads, str(program.with_name("reads"))], check=True)
    found = []
    for line in spec.load(folder / example / "pipeline.toml").lines:
        if not isinstance(line, Pipeline):
            break
        found.append(line)
    return found


def measured(folder: Path, runner: Runner) -> dict[str, tuple[Pipeline, float]]:
    """All pipelines in turn, as a file is run: each with its seconds."""
    found = {}
    with runner.session():
        for example in CHOSEN:
            for line in lines(folder, example):
                found[f"{example}: {line.name}"] = (line, runner.run(line).seconds)
    return found


def in_process(line: Pipeline) -> Pipeline:
    """As `inline` sees it: without places."""
    return replace(line, read=Place(), steps=tuple(replace(step, place=Place()) for step in line.steps))


def halves(folder: Path, whole: dict[str, tuple[Pipeline, float]]) -> Iterator[tuple[str, float, float]]:
    """All units from half of them, in this process: what, foretold, measured."""
    for name, (line, seconds) in whole.items():
        units = sum(1 for _ in line.units())
        if units >= FEWEST_UNITS:
            half = replace(line, max_units=units // 2, sink=replace(line.sink, uri=str(folder / name / "half")))
            Inline().run(half)
            told = predicted(in_process(replace(half, max_units=0)), Hardware(cpus=1, driver_seconds=0))
            yield name, told.seconds, seconds


def turn(folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """What was foretold and measured of every pipeline, once."""
    one, two = measured(folder / "one", Ray(cpus=1)), measured(folder / "two", Ray(cpus=2))
    whole = measured(folder / "inline", Inline())
    found: dict[str, dict[str, tuple[float, float]]] = {"two from one": {}, "one from two": {}, "all from half": {}}
    for name, (line, seconds) in one.items():
        found["two from one"][name] = (predicted(line, Hardware(cpus=2)).seconds, two[name][1])
        found["one from two"][name] = (predicted(two[name][0], Hardware(cpus=1)).seconds, seconds)
    for name, told, seconds in halves(folder / "half", whole):
        found["all from half"][name] = (told, seconds)
    return found


def main() -> None:
    turns = []
    for at in range(TURNS):
        with tempfile.TemporaryDirectory() as name:
            turns.append(turn(Path(name)))
        print(f"turn {at + 1}: {turns[-1]}", flush=True)
    result = {
        way: {
            name: {
                "foretold_seconds": measuring.spread([each[way][name][0] for each in turns]),
                "measured_seconds": measuring.spread([each[way][name][1] for each in turns]),
                "error": statistics.median(each[way][name][0] / each[way][name][1] - 1 for each in turns),
            }
            for name in turns[0][way]
        }
        for way in turns[0]
    }
    largest = {way: max((abs(each["error"]) for each in told.values()), default=0.0) for way, told in result.items()}
    measuring.write("simulation", {"turns": TURNS, "largest_error": largest, **result})


if __name__ == "__main__":
    main()
