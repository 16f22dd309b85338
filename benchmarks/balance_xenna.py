"""The toy of `balance` on cosmos-xenna, in an environment of its own: `python balance_xenna.py ITEMS TURN LATER`.

Prints ``starting`` and the seconds until Ray is up, by Xenna's own function, then ``seconds`` and how many it took from
there until its last result.
"""

import sys
import time

from cosmos_xenna.pipelines import v1 as xenna
from cosmos_xenna.ray_utils import cluster

CPUS = 0.2


class A(xenna.Stage):
    @property
    def required_resources(self) -> xenna.Resources:
        return xenna.Resources(cpus=CPUS)

    def process_data(self, items: list) -> list:
        time.sleep(0.1)
        return items


class B(xenna.Stage):
    def __init__(self, turn: int, later: float) -> None:
        self.turn, self.later = turn, later

    @property
    def required_resources(self) -> xenna.Resources:
        return xenna.Resources(cpus=CPUS)

    def setup(self, worker: object) -> None:
        time.sleep(2.0)

    def process_data(self, items: list) -> list:
        time.sleep(0.3 if items[0] < self.turn else self.later)
        return items


def main() -> None:
    items, turn, later = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    config = xenna.PipelineConfig(execution_mode=xenna.ExecutionMode.STREAMING, return_last_stage_outputs=True)
    spec = xenna.PipelineSpec(list(range(items)), [A(), B(turn, later)], config)
    begun = time.perf_counter()
    cluster.init_or_connect_to_cluster()  # the pipeline finds this Ray and uses it
    started = time.perf_counter()
    found = xenna.run_pipeline(spec)
    seconds = time.perf_counter() - started
    if len(found) != items:
        raise RuntimeError(f"{len(found)} of {items} items arrived")
    print(f"\nstarting {started - begun}\nseconds {seconds}")


if __name__ == "__main__":
    main()
