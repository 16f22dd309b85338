"""Engines on work of known cost: how far from perfect are they when all that costs is waiting?

The toy: stage A waits 0.1 s, stage B 0.3 s and takes 2 s to load, 200 items, 8 slots of 0.2 CPUs; perfect is the sum
of all waits over 8. The same with a B that takes 0.6 s from half way on. Every way does it in a Ray that is up already;
what starting Ray takes is told beside. Last, four stages of uneven cost, held against their bottleneck's own rate.

cosmos-xenna insists on a Ray of its own and on being alone with it, so its turns come when the others have had theirs;
it is measured where XENNA_PYTHON names the interpreter of an environment that has it:
`python -m venv xenna; xenna/bin/pip install cosmos-xenna tqdm 'ray[default]'`. `make bench NAME=balance`

To try it: `python benchmarks/balance.py --items 24 --turns 1 --only penstock`, which writes nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measuring
import pyarrow as pa
from pausing import Items, Pause

from penstock.core.nouns import Pipeline, Place, Step
from penstock.report import pools, story
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet

ITEMS, SLOTS, TURNS = 200, 8, 2
A = Pause("a", (0.1,))
B = Pause("b", (0.3,), load=2.0)
XENNA = os.environ.get("XENNA_PYTHON", "")
"""The interpreter of an environment with cosmos-xenna."""
XENNA_NAME, XENNA_SECONDS = "cosmos-xenna", 240
"""What it is called, and how long it may take."""
UNEVEN = 160
"""Items of the line with four stages."""
TIMES_PERFECT, OF_THE_BOTTLENECK = 1.5, 0.9
"""The goals of the issue."""


def turned(items: int) -> Pause:
    """B that becomes slower half way."""
    return Pause("b", (0.3,), load=2.0, turn=items // 2, later=0.6)


def perfect(items: int, *stages: Pause) -> float:
    """Seconds, if no slot ever waits."""
    return sum(stage.cost(at) for at in range(items) for stage in stages) / SLOTS


# --- Penstock --------------------------------------------------------------------------------------------


def run(folder: Path, source: Items, *steps: Step, read: Place | None = None) -> float:
    shutil.rmtree(folder / "out", ignore_errors=True)
    return Ray().run(Pipeline("toy", source, Parquet(str(folder / "out")), steps, read=read or Place())).seconds


def threads(folder: Path, items: int, last: Pause) -> float:
    """One worker with eight units in hand, which any of its threads carries on."""
    worker = Place("actor", cpus=1.6, concurrency=SLOTS)
    return run(folder, Items(items), Step(A, Place(concurrency=SLOTS)), Step(last, worker))


def own_pools(folder: Path, items: int, last: Pause) -> float:
    """Two pools of processes, which Penstock sizes."""
    many = (Place("actor", (1, 7), cpus=0.2), Place("actor", (1, 6), cpus=0.2))
    return run(folder, Items(items), Step(A, many[0]), Step(last, many[1]))


# --- Ray Data --------------------------------------------------------------------------------------------


def ray_data(items: int, last: Pause) -> float:
    """The documented recipe: two stages of actors, a block an item, in pools that scale.

    Pools of 2 and 6, the best of fixed sizes for the steady toy, took longer than that and are not measured any more.
    """
    import ray.data

    class Stage:
        def __init__(self, pause: Pause) -> None:
            self.stack = pause.open()
            self.wait = self.stack.__enter__()

        def __call__(self, batch: pa.Table) -> pa.Table:
            return self.wait(batch)

    def work() -> None:
        data = ray.data.from_items([{"number": at} for at in range(items)], override_num_blocks=items)
        for at, pause in enumerate((A, last)):
            pool = ray.data.ActorPoolStrategy(min_size=1, max_size=SLOTS - 1)
            how = {"fn_constructor_args": (pause,), "compute": pool, "num_cpus": 0.2 - 0.01 * at}
            data = data.map_batches(Stage, batch_size=None, batch_format="pyarrow", **how)
        assert sum(len(batch["number"]) for batch in data.iter_batches(batch_size=None)) == items

    return in_a_process(work)


def in_a_process(work: Callable[[], None]) -> float:
    """Ray Data as it comes: Penstock's settings of this process are put aside for the time."""
    from ray.data import DataContext

    kept = DataContext.get_current()
    DataContext._set_current(DataContext())
    DataContext.get_current().enable_progress_bars = False
    try:
        return measuring.seconds(work)
    finally:
        DataContext._set_current(kept)


# --- cosmos-xenna ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tried:
    """What a run of cosmos-xenna took, apart from Ray's start; or why there is no figure."""

    seconds: float | None = None
    starting: float | None = None
    reason: str = ""


def xenna(items: int, last: Pause) -> Tried:
    """In a process of its own, since it insists on a Ray of its own."""
    program = Path(__file__).with_name("balance_xenna.py")
    words = [XENNA, str(program), str(items), str(last.turn), str(last.later)]
    limits = dict.fromkeys(("RAY_MAX_LIMIT_FROM_API_SERVER", "RAY_MAX_LIMIT_FROM_DATA_SOURCE"), "40000")
    env = {**os.environ, **limits}  # it asks for so many
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=XENNA_SECONDS, env=env)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tried(reason=f"{type(error).__name__}: {error}")
    told = dict(
        line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("seconds ", "starting "))
    )
    if done.returncode or len(told) < 2:
        return Tried(reason=f"exit status {done.returncode}: {_last_words(done.stderr)}")
    return Tried(float(told["seconds"]), float(told["starting"]))


def _last_words(text: str) -> str:
    """The last line that speaks of an error, or the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1])[:500]


def tried(runs: Sequence[Tried], best: float) -> dict[str, Any]:
    """All of its turns; null and the reasons where there is no figure."""
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return {
        "seconds": measuring.spread(seconds) if seconds else None,
        "times_perfect": measuring.spread([value / best for value in seconds]) if seconds else None,
        "starting_ray_seconds": measuring.spread([r.starting for r in runs if r.starting is not None])
        if seconds
        else None,
        "failed": [run.reason for run in runs if run.reason],
    }


# --- four stages -----------------------------------------------------------------------------------------


def uneven(folder: Path, items: int) -> Mapping[str, float]:
    """A line of four; `encode` takes one unit at a time, as a model does. Its own rate is one over its mean cost."""
    decode, encode = Pause("decode", (0.02, 0.3, 0.05, 0.13)), Pause("encode", (0.05, 0.2, 0.1, 0.02, 0.13), load=1.0)
    steps = [
        Step(decode, Place(concurrency=8)),
        Step(Pause("clean", (0.01, 0.09)), Place(concurrency=8)),
        Step(encode, Place("actor", concurrency=1)),
        Step(Pause("judge", (0.04, 0.0, 0.11)), Place(concurrency=8)),
    ]
    seconds = run(folder, Items(items, 0.05), *steps, read=Place(concurrency=8))
    own = sum(encode.cost(at) for at in range(items))
    (told,) = story.runs(str(folder / "out"))
    (pool,) = pools.pools(told)
    at_work = float(pool.spans[0, 1] - pool.spans[0, 0])
    return {"of_the_bottlenecks_rate": own / at_work, "with_start_and_commit": own / seconds}


# --- the result ------------------------------------------------------------------------------------------


def toys(items: int) -> dict[str, Pause]:
    """What B may be."""
    return {"steady": B, "slower from half way": turned(items)}


def engines(folder: Path, items: int, last: Pause) -> dict[str, Callable[[], float]]:
    """The ways that share a Ray."""
    return {
        "penstock, units in hand": lambda: threads(folder, items, last),
        "penstock, two pools": lambda: own_pools(folder, items, last),
        "Ray Data, pools that scale": lambda: ray_data(items, last),
    }


def compared(found: Mapping[str, list[float]], best: float) -> dict[str, Any]:
    """Seconds of each way, and how many times the perfect ones they are."""
    return {
        "perfect_seconds": best,
        "seconds": {way: measuring.spread(values) for way, values in found.items()},
        "times_perfect": {way: measuring.spread([each / best for each in values]) for way, values in found.items()},
    }


def goals(result: Mapping[str, Any], four: Mapping[str, Any] | None) -> dict[str, Any]:
    """The issue's, and whether the medians reach them."""
    hand = {toy: told["times_perfect"].get("penstock, units in hand") for toy, told in result.items()}
    found = {
        f"times perfect, {toy}": {"goal": TIMES_PERFECT, "reached": each["median"] <= TIMES_PERFECT}
        for toy, each in hand.items()
        if each
    }
    if four:
        rate = four["of_the_bottlenecks_rate"]["median"]
        found["of the bottleneck's rate"] = {"goal": OF_THE_BOTTLENECK, "reached": rate >= OF_THE_BOTTLENECK}
    return found


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--only", default="", help="ways whose names begin so, or `four`; writes nothing")
    return parser.parse_args()


def wanted(ways: Mapping[str, Callable[[], float]], given: argparse.Namespace) -> dict[str, Callable[[], float]]:
    return {name: way for name, way in ways.items() if name.startswith(given.only)}


def shared(folder: Path, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What every engine but cosmos-xenna makes of the toys, and Penstock of the four stages."""
    result = {}
    for toy, last in toys(given.items).items():
        found = measuring.turns(wanted(engines(folder, given.items, last), given), given.turns)
        result[toy] = compared(found, perfect(given.items, A, last))
    if not "four".startswith(given.only):
        return result, None
    many = UNEVEN if given.items == ITEMS else given.items
    lines = [uneven(folder, many) for _ in range(given.turns)]
    return result, {key: measuring.spread([line[key] for line in lines]) for key in lines[0]}


def alone(given: argparse.Namespace) -> dict[str, Any]:
    """cosmos-xenna on the toys, in turn."""
    if not XENNA:
        return {"not_measured": "XENNA_PYTHON does not name the interpreter of an environment with cosmos-xenna"}
    found: dict[str, list[Tried]] = {toy: [] for toy in toys(given.items)}
    for _ in range(given.turns if XENNA_NAME.startswith(given.only) else 0):
        for toy, last in toys(given.items).items():
            found[toy].append(xenna(given.items, last))
            print(f"{XENNA_NAME}, {toy}: {found[toy][-1]}", flush=True)
    return {toy: tried(runs, perfect(given.items, A, toys(given.items)[toy])) for toy, runs in found.items()}


def main() -> None:
    given, begun = options(), time.perf_counter()
    with tempfile.TemporaryDirectory() as name, Ray(object_store_bytes=500 << 20).session():
        starting = time.perf_counter() - begun
        result, four = shared(Path(name), given)
    other = alone(given)
    data = {
        "items": given.items,
        "slots": SLOTS,
        "turns": given.turns,
        "seconds": time.perf_counter() - begun,
        "starting_ray_seconds": starting,
        "goals": goals(result, four),
        **result,
        XENNA_NAME: other,
        "four_stages": four,
    }
    if given.only or given.items != ITEMS:
        print(data)
    else:
        measuring.write("balance", data)


if __name__ == "__main__":
    main()
