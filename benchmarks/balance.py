"""Engines on work of known cost: how far from perfect are they when all that costs is waiting?

The toy: stage A waits 0.1 s, stage B 0.3 s and takes 2 s to load, 200 items, 8 slots of 0.2 CPUs; perfect is the sum
of all waits over 8. The same with a B that takes 0.6 s from half way on. Every way does it in a Ray that is up already;
what starting Ray takes is told beside. Last, four stages of uneven cost, held against their bottleneck's own rate.

cosmos-xenna is measured where XENNA_PYTHON names the interpreter of an environment that has it:
`python -m venv xenna; xenna/bin/pip install cosmos-xenna tqdm 'ray[default]'`. `make bench NAME=balance`
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import measuring
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
UNEVEN = 160
"""Items of the line with four stages."""


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


def ray_data(items: int, last: Pause, sizes: tuple[int, int] | None) -> float:
    """The documented recipe: two stages of actors, a block an item; pools that scale, or of fixed sizes."""
    import ray.data

    class Stage:
        def __init__(self, pause: Pause) -> None:
            self.stack = pause.open()
            self.wait = self.stack.__enter__()

        def __call__(self, batch):
            return self.wait(batch)

    def pool(at: int) -> ray.data.ActorPoolStrategy:
        if sizes is None:
            return ray.data.ActorPoolStrategy(min_size=1, max_size=SLOTS - 1)
        return ray.data.ActorPoolStrategy(size=sizes[at])

    def work() -> None:
        data = ray.data.from_items([{"number": at} for at in range(items)], override_num_blocks=items)
        for at, pause in enumerate((A, last)):
            how = {"fn_constructor_args": (pause,), "compute": pool(at), "num_cpus": 0.2 - 0.01 * at}
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


def xenna(items: int, last: Pause) -> float:
    """In a process of its own, since it insists on a Ray of its own; its seconds are those of the pipeline."""
    program = Path(__file__).with_name("balance_xenna.py")
    words = [XENNA, str(program), str(items), str(last.turn), str(last.later)]
    limits = {
        "RAY_MAX_LIMIT_FROM_API_SERVER": "40000",
        "RAY_MAX_LIMIT_FROM_DATA_SOURCE": "40000",
    }  # it asks for so many
    env = {**os.environ, **limits}
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240, env=env)
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
        return float("nan")
    return next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("seconds "))


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


def main() -> None:
    items = int(os.environ.get("ITEMS", ITEMS))
    uneven_items, turns = (UNEVEN, TURNS) if items == ITEMS else (items, 1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, Ray(object_store_bytes=500 << 20).session():
        ray_seconds = time.perf_counter() - started
        folder, result = Path(name), {}
        for toy, last, count in (("steady", B, turns), ("slower from half way", turned(items), 1)):
            ways = {
                "penstock, units in hand": lambda last=last: threads(folder, items, last),
                "penstock, two pools": lambda last=last: own_pools(folder, items, last),
                "Ray Data, pools that scale": lambda last=last: ray_data(items, last, None),
            }
            if last is B:
                ways["Ray Data, pools of 2 and 6"] = lambda: ray_data(items, B, (2, 6))
            best, found = perfect(items, A, last), measuring.turns(ways, count)
            times = {way: [value / best for value in values] for way, values in found.items()}
            result[toy] = {
                "perfect_seconds": best,
                "seconds": {way: measuring.spread(values) for way, values in found.items()},
                "times_perfect": {way: measuring.spread(values) for way, values in times.items()},
            }
        lines = [uneven(folder, uneven_items) for _ in range(turns)]
    four = {key: measuring.spread([line[key] for line in lines]) for key in lines[0]}
    result["cosmos-xenna, steady"] = (
        {"seconds": xenna(items, B), "what": "once, Ray's start among them"}
        if XENNA
        else "not measured: XENNA_PYTHON does not name an environment with cosmos-xenna"
    )
    more = {"items": items, "slots": SLOTS, "starting_ray_seconds": ray_seconds, "four_stages": four}
    measuring.write("balance", {**more, **result})


if __name__ == "__main__":
    main()
