"""How well `check --simulate` foretells the pipelines of the examples, those apart that `NOT_MEASURED` names.

Each is run on Ray with one core and with two, and in this process over half of its units and over all. Foretold is
two cores from one, one from two, and all units from half of them. What has no room on one core is foretold on Ray with
two cores from half of its units instead. The error is what was foretold over what was measured, less one.

The data (reads, photographs, films) are made once, and so is the table that `genomes` trains, which is no pipeline.
`make bench NAME=simulation`; to try it: `python benchmarks/simulation.py --turns 1 --only images,video`, which writes
nothing.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import measuring

from penstock.commands.simulate import predicted
from penstock.core import spec
from penstock.core.nouns import Fit, Pipeline, Place, Runner
from penstock.core.plan import admit
from penstock.core.simulation import Hardware
from penstock.errors import PlanError
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray

EXAMPLES = Path(__file__).parents[1] / "examples"
MADE: dict[str, tuple[str, ...]] = {
    "antibodies": (),
    "text": (),
    "own_stage": (),
    "genomes": ("reads.py", "reads", "--reads", "60", "--length", "3000", "--error", "0.05"),
    "images": ("photos.py", "photos"),
    "video": ("make.py", "videos"),
    "flow": (),
    "fluent": (),
}
"""The examples, each with the program that makes its data."""
NOT_MEASURED = {
    "flow: started": "runs OpenFOAM, whose time is not that of the units that were measured before",
    "flow: channel_fields": "reads what a stream into OpenFOAM leaves, and a stream is no pipeline",
    "slurm": "the pipelines of `antibodies`, on S3 and on a Slurm cluster, whose queue nobody foretells",
}
TURNS, GOAL = 2, 0.15
FEWEST_UNITS = 8
"""Half of fewer units foretells little."""

Told: TypeAlias = tuple[float, float]
"""Seconds that were foretold, and measured."""


# --- the pipelines ---------------------------------------------------------------------------------------


def made(folder: Path, examples: Sequence[str]) -> None:
    """The *examples* with their data in *folder*."""
    for name in {*examples, "antibodies"}:
        shutil.copytree(EXAMPLES / name, folder / name, ignore=shutil.ignore_patterns("out"), dirs_exist_ok=True)
    for name in examples:
        if MADE[name]:
            program, data, *more = MADE[name]
            words = [sys.executable, str(folder / name / program), str(folder / name / data), *more]
            subprocess.run(words, check=True)
        trained(folder / name)


def trained(example: Path) -> None:
    """What a file trains is made from what stands before it, in this process; only the tables stay."""
    found = spec.load(example / "pipeline.toml").lines
    last = max((at for at, line in enumerate(found) if isinstance(line, Fit)), default=-1)
    for line in found[: last + 1]:
        if isinstance(line, Fit):
            Inline().train(line, lambda values: None)
        elif isinstance(line, Pipeline):
            Inline().run(line)
    for line in found[: last + 1]:
        if isinstance(line, Pipeline):
            shutil.rmtree(line.sink.uri)


def lines(folder: Path, examples: Sequence[str]) -> Iterator[tuple[str, Pipeline]]:
    """The pipelines of *examples*, which lie in *folder*, in the order in which they run."""
    for example in examples:
        for line in spec.load(folder / example / "pipeline.toml").lines:
            name = f"{example}: {line.name}"
            if isinstance(line, Pipeline) and name not in NOT_MEASURED:
                yield name, line


def refusal(line: Pipeline, cpus: int) -> str:
    """Why *line* has no room on so many cores."""
    try:
        admit(line, Hardware(cpus=cpus).resources)
    except PlanError as error:
        return str(error)
    return ""


# --- measured and foretold -------------------------------------------------------------------------------


def measured(folder: Path, data: Path, examples: Sequence[str], runner: Runner, cpus: int) -> dict[str, Any]:
    """All pipelines in turn, as a file is run: each with its seconds; none where it has no room."""
    shutil.copytree(data, folder)
    found = {}
    with runner.session():
        for name, line in lines(folder, examples):
            if refusal(line, cpus):
                Inline().run(line)  # the pipelines behind it read what it makes
            else:
                found[name] = (line, runner.run(line).seconds)
    return found


def halves(folder: Path, whole: Mapping[str, Any], runner: Runner, cpus: int) -> dict[str, Told]:
    """All units from half of them."""
    found = {}
    with runner.session():
        for name, (line, seconds) in whole.items():
            units = sum(1 for _ in line.units())
            if units >= FEWEST_UNITS:
                half = replace(line, max_units=units // 2, sink=replace(line.sink, uri=str(folder / name / "half")))
                runner.run(half)
                bare = in_process(half) if isinstance(runner, Inline) else half
                hardware = Hardware(cpus=cpus, **({"driver_seconds": 0} if isinstance(runner, Inline) else {}))
                found[name] = (predicted(replace(bare, max_units=0), hardware).seconds, seconds)
    return found


def in_process(line: Pipeline) -> Pipeline:
    """As `inline` sees it: without places."""
    return replace(line, read=Place(), steps=tuple(replace(step, place=Place()) for step in line.steps))


def turn(folder: Path, data: Path, examples: Sequence[str]) -> dict[str, dict[str, Told]]:
    """What was foretold and measured of every pipeline, once."""
    one = measured(folder / "one", data, examples, Ray(cpus=1), 1)
    two = measured(folder / "two", data, examples, Ray(cpus=2), 2)
    whole = measured(folder / "inline", data, examples, Inline(), 1 << 20)
    found: dict[str, dict[str, Told]] = {"two from one": {}, "one from two": {}}
    for name, (line, seconds) in one.items():
        found["two from one"][name] = (predicted(line, Hardware(cpus=2)).seconds, two[name][1])
        found["one from two"][name] = (predicted(two[name][0], Hardware(cpus=1)).seconds, seconds)
    found["all from half"] = halves(folder / "half", whole, Inline(), 1)
    wide = {name: run for name, run in two.items() if name not in one}
    found["all from half, two cores of Ray"] = halves(folder / "half-ray", wide, Ray(cpus=2), 2) if wide else {}
    return found


# --- the result ------------------------------------------------------------------------------------------


def summary(told: Sequence[Told]) -> dict[str, Any]:
    """Of one pipeline, foretold one way, over all turns."""
    error = statistics.median(foretold / seconds - 1 for foretold, seconds in told)
    return {
        "foretold_seconds": measuring.spread([each[0] for each in told]),
        "measured_seconds": measuring.spread([each[1] for each in told]),
        "error": error,
        "reached": abs(error) <= GOAL,
    }


def goals(ways: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Whether each pipeline is foretold well enough in every way that it was."""
    found: dict[str, list[float]] = {}
    for told in ways.values():
        for name, each in told.items():
            found.setdefault(name, []).append(abs(each["error"]))
    reached = {name: max(errors) <= GOAL for name, errors in found.items()}
    return {
        "goal": f"within {GOAL:.0%} on every pipeline",
        "largest_error": {name: max(errors) for name, errors in found.items()},
        "reached": reached,
        "all_reached": all(reached.values()),
    }


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--only", default="", help="examples, with commas between them; writes nothing")
    return parser.parse_args()


def main() -> None:
    given = options()
    examples = given.only.split(",") if given.only else list(MADE)
    turns, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        made(Path(name) / "data", examples)
        refused = {what: text for what, line in lines(Path(name) / "data", examples) if (text := refusal(line, 1))}
        print(f"made in {time.perf_counter() - started:.0f} s", flush=True)
        for at in range(given.turns):
            turns.append(turn(Path(name) / str(at), Path(name) / "data", examples))
            shutil.rmtree(Path(name) / str(at))
            print(f"turn {at + 1}, {time.perf_counter() - started:.0f} s: {turns[-1]}", flush=True)
    ways = {way: {name: summary([each[way][name] for each in turns]) for name in turns[0][way]} for way in turns[0]}
    result = {
        "turns": given.turns,
        "seconds": time.perf_counter() - started,
        "goals": goals(ways),
        **ways,
        "no_room_on_one_core": refused,
        "not_measured": NOT_MEASURED,
    }
    if given.only:
        print(result)
    else:
        measuring.write("simulation", result)


if __name__ == "__main__":
    main()
