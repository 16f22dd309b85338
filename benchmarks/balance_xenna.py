"""The toy of `balance` on cosmos-xenna, in an environment of its own: `python balance_xenna.py ITEMS TURN LATER`.

Prints ``seconds`` and how many from the call until its last result; Ray's start is among them, since Xenna starts it
itself.
"""

import sys
import time

from cosmos_xenna.pipelines import v1 as xenna

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
    started = time.perf_counter()
    found = xenna.run_pipeline(spec)
    seconds = time.perf_counter() - started
    if len(found) != items:
        raise RuntimeError(f"{len(found)} of {items} items arrived")
    print(f"\nseconds {seconds}")


if __name__ == "__main__":
    main()
