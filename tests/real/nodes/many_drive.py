"""A driver on many nodes: one run of a line of `count` units, each `seconds` long, at a Ray that is there already.

With one more word, the address of the node that it is on."""

import sys

from penstock.core.nouns import Pipeline, Place, Step
from penstock.runners.ray import Ray
from penstock.sinks.parquet import Parquet
from penstock.testing.parts import Journal, Numbers, Squares


def line(root: str, journal: str, count: int, seconds: float) -> Pipeline:
    pool = Place("actor", replicas=(1, 3), cpus=0.5)
    steps = (Step(Journal(journal, seconds), pool), Step(Squares(bad=(33,))))
    return Pipeline("line", Numbers(count), Parquet(root, file_bytes=20_000), steps)


if __name__ == "__main__":
    address, root, journal, count, seconds, *own = sys.argv[1:]
    if own:  # processes of all nodes are seen from each, and of these Ray would take the head's
        import ray

        ray.init(address, _node_ip_address=own[0], log_to_driver=False)
    report = Ray(address).run(line(root, journal, int(count), float(seconds)))
    print(report.rows, report.skipped)
