"""A driver whose actors hold a table on many nodes: asks them until the file `stop` is there, and notes each answer."""

import sys
from pathlib import Path

import numpy as np

from penstock.runners.ray import Ray
from penstock.runners.tables import serving
from penstock.tables.client import Local
from penstock.tables.layout import Table
from penstock.tables.making import create

ROWS, DIM = 20_000, 16


if __name__ == "__main__":
    address, folder = sys.argv[1], Path(sys.argv[2])
    uri = create(str(folder / "table"), ROWS, DIM, shard_bytes=1).uri
    ids = np.random.default_rng(0).integers(0, ROWS, 5000)
    offsets = np.arange(0, 5001, 100)
    with Ray(address).session(), Local(Table.at(uri)) as local, serving(uri, 3, cpus=0.3) as actors:
        wanted, sums = local.lookup(ids), actors.pooled(ids, offsets)
        with (folder / "answers").open("w", buffering=1) as answers:
            while not (folder / "stop").exists():
                right = (actors.lookup(ids) == wanted).all() and (actors.pooled(ids, offsets) == sums).all()
                answers.write("right\n" if right else "wrong\n")
