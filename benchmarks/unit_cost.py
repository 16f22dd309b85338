"""What a unit costs on the Ray runner: read, two no-op steps in two actors, write, ledger; 200 rows x 4 floats.

Beside it: the same rows by the plain Ray Data recipe (read -> map_batches(actor) -> write_parquet), a file a unit.
`make bench NAME=unit_cost`
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import measuring

from penstock.core.nouns import Pipeline, Place, Step
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Numbers, Squares

UNITS, ROWS, TURNS = 200, 200, 4


def penstock(runner: Ray | Inline, folder: Path) -> float:
    shutil.rmtree(folder / "out", ignore_errors=True)
    steps = (Step(Squares(), Place("actor", replicas=(2, 2))),)
    report = runner.run(Pipeline("line", Numbers(UNITS, ROWS), Parquet(str(folder / "out")), steps))
    return report.seconds / UNITS * 1000


def ray_data(folder: Path) -> float:
    import numpy as np
    import ray.data

    class Powers:
        def __call__(self, batch: dict) -> dict:
            return {"number": batch["id"], "powers": (batch["id"][:, None] ** np.arange(1, 5)).astype(np.float32)}

    shutil.rmtree(folder / "plain", ignore_errors=True)

    def work() -> None:
        data = ray.data.range(UNITS * ROWS, override_num_blocks=UNITS)
        # A pool of exactly two would leave no CPU for the read, and the recipe would hang.
        pool = ray.data.ActorPoolStrategy(min_size=1, max_size=2)
        data = data.map_batches(Powers, batch_size=ROWS, compute=pool, num_cpus=0.9)
        data.write_parquet(str(folder / "plain"))

    return measuring.seconds(work) / UNITS * 1000


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Ray(object_store_bytes=500 << 20).session():
        folder = Path(name)
        ways = {
            "penstock inline": lambda: penstock(Inline(), folder),
            "penstock on Ray": lambda: penstock(Ray(), folder),
            "plain Ray Data recipe": lambda: ray_data(folder),
        }
        found = measuring.turns(ways, TURNS)  # the first turn starts the workers and does not count
    warm = {name: measuring.spread(values[1:]) for name, values in found.items()}
    measuring.write("unit_cost", {"units": UNITS, "rows_a_unit": ROWS, "ms_a_unit": warm, "warm_turns": TURNS - 1})


if __name__ == "__main__":
    main()
