"""How the driver's memory grows with the number of units: 10,000 units on the Ray runner; 1,000,000 listed by `check`.

`make bench NAME=driver_memory`
"""

from __future__ import annotations

import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import measuring
import numpy as np
import psutil

from penstock.core.nouns import Pipeline, Place, Report, Step
from penstock.core.plan import check
from penstock.core.run import Outcome
from penstock.runners.inline import Inline
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Numbers, Squares

UNITS = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000


class Scale:
    """A watch that weighs the driver at every hundredth outcome."""

    def __init__(self) -> None:
        self.weights: list[tuple[int, int]] = []
        self._seen = 0

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        self._process = psutil.Process()

    def outcome(self, outcome: Outcome) -> None:
        self._seen += 1
        if self._seen % 100 == 0:
            self.weights.append((self._seen, self._process.memory_info().rss))

    def end(self, report: Report | None) -> None:
        pass


def line(root: Path, units: int) -> Pipeline:
    steps = (Step(Squares(), Place("actor", replicas=(2, 2))),)
    return Pipeline("line", Numbers(units, 20), Parquet(str(root / "out")), steps)


def listed(root: Path) -> dict[str, float]:
    tracemalloc.start()
    started = time.perf_counter()
    plan = check(line(root, 1_000_000), Inline().resources())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"units": plan.estimate.units, "peak_bytes": peak, "seconds": time.perf_counter() - started}


def main() -> None:
    scale = Scale()
    with tempfile.TemporaryDirectory() as name:
        check_result = listed(Path(name))
        report = Ray().run(line(Path(name), UNITS), scale)
    units, weights = np.array(scale.weights).T
    warm = units > UNITS // 10
    slope = float(np.polyfit(units[warm], weights[warm], 1)[0])
    result = {
        "units": UNITS,
        "rows": report.rows,
        "seconds": report.seconds,
        "ms_a_unit": report.seconds / UNITS * 1000,
        "driver_bytes_first": int(weights[0]),
        "driver_bytes_last": int(weights[-1]),
        "slope_bytes_a_unit": slope,
        "check": check_result,
    }
    measuring.write("driver_memory", result)


if __name__ == "__main__":
    main()
