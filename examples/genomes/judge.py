"""How clusters of reads agree with their organisms: `python judge.py CLUSTERS [NAME]`, a dataset of the example."""

from __future__ import annotations

import json
import sys

from penstock.core.batch import to_numpy
from penstock.core.reading import read_table
from penstock.report.measures import agreement, neighbourhood


def judged(uri: str) -> dict[str, float]:
    """Shares of 1: reads whose nearest neighbour is of their organism, purity; and the adjusted Rand index."""
    clusters = read_table(uri, ["organism", "cluster", "embedding"])
    organisms = clusters["organism"].to_pylist()
    found = agreement(organisms, to_numpy(clusters["cluster"]))
    near = neighbourhood(to_numpy(clusters["embedding"]), organisms).share
    return {"neighbours_of_the_same_organism": near, "adjusted_rand_index": found.ari, "purity": found.purity}


if __name__ == "__main__":
    print(*sys.argv[2:], json.dumps({name: round(value, 3) for name, value in judged(sys.argv[1]).items()}))
