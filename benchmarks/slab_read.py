"""How fast two MPI ranks read their rows of 1,000,000 x 384 float32, over plain `read()` of the same bytes.

Beside it: the same with every file's sha256 held against the manifest first, plain h5py on the index, and the reader
in C. Each rank reads into memory of its own, in turn with the others, from the page cache as long as that holds them.
Each turn begins with another way, so that none of them is always the first, which meets the coldest memory.
`make bench NAME=slab_read`; `--rows 20000` for a try.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import measuring
import numpy as np
import pyarrow as pa

from penstock.clusters.local import _LAUNCHER
from penstock.core.batch import tensor_column
from penstock.core.nouns import Record, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.solvers.programs import readers
from penstock.solvers.reference import Reference

RANKS, DIM, PARTS, TURNS = 2, 384, 8, 12
BAR, OURS = 0.8, "own_rows, size checked"

RANK = """
import json, sys
from mpi4py import MPI
import numpy as np
comm, config = MPI.COMM_WORLD, json.load(open(sys.argv[1]))
import h5py
from penstock.core import reading
from penstock.solvers.programs.rows import bounds, own_rows

def raw():
    low, high = (int(edge) * config["dim"] * 4 for edge in bounds(config["rows"], comm.size)[comm.rank:comm.rank + 2])
    whole = np.empty(high - low, np.uint8)
    with open(config["raw"], "rb", buffering=0) as file:
        file.seek(low)
        view, at = memoryview(whole), 0
        while at < len(view):
            at += file.readinto(view[at:])
    return whole

def index():
    low, high = bounds(config["rows"], comm.size)[comm.rank:comm.rank + 2]
    with h5py.File(config["reference"]["dataset"] + "/index.h5", "r", locking=False) as file:
        return file["embedding"][low:high]

def penstock(check):
    reading._seen.cache_clear()
    return own_rows(comm, config["reference"], ["embedding"], check)["embedding"]

ways = {
    "raw read()": raw,
    "own_rows, size checked": lambda: penstock("size"),
    "own_rows, sha256 checked": lambda: penstock("sha256"),
    "h5py on index.h5": index,
}
names, first = list(ways), None
found = {name: [] for name in names}
for turn in range(-1, config["turns"]):  # the first one is not counted
    for name in names[turn % len(names):] + names[:turn % len(names)]:
        comm.Barrier()
        started = MPI.Wtime()
        array = ways[name]()
        comm.Barrier()
        found[name].append(MPI.Wtime() - started)
        sums = comm.allgather(float(array.reshape(-1).view(np.float32)[::9973].sum(dtype=np.float64)))
        del array
        first = first or sums
        assert sums == first, (name, sums, first)
if comm.rank == 0:
    print(json.dumps({name: times[1:] for name, times in found.items()}))
"""


def publish(root: Path, rows: int) -> Reference:
    """Random rows, as a dataset and as one raw file."""
    sink, random = Hdf5(str(root / "data")), np.random.default_rng(0)
    schema = pa.schema([("embedding", tensor_column(np.zeros((1, DIM), np.float32)).type)])
    records = []
    with (root / "raw").open("wb") as raw:
        for start, stop in pairwise(rows * i // PARTS for i in range(PARTS + 1)):
            block = random.standard_normal((stop - start, DIM), np.float32)
            raw.write(block)
            unit = Unit.of("memory", "1", start, stop)
            records.append((unit, Record(unit.key, sink.write(unit, pa.table([tensor_column(block)], schema=schema)))))
    provenance = {"fingerprint": "bench", "schema": schema.serialize().to_pybytes().hex()}
    manifest = sink.commit(lambda: iter(records), provenance)
    return Reference(manifest.uri, manifest.version, manifest.rows, manifest.sha256)


def build(folder: Path) -> Path:
    """The reader in C."""
    flags = shlex.split(subprocess.check_output(["pkg-config", "--cflags", "--libs", "hdf5"], text=True))
    program, source = folder / "slab", Path(readers.__path__[0]) / "slab.c"
    subprocess.run(["/usr/bin/mpicc", "-O2", "-o", str(program), str(source), *flags], check=True)
    return program


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=1_000_000)
    rows = arguments.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = publish(folder, rows)
        config = {"reference": reference.told(), "rows": rows, "dim": DIM, "raw": str(folder / "raw"), "turns": TURNS}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "rank.py").write_text(RANK)
        launcher = str(Path(sys.executable).with_name("mpiexec"))
        command = [launcher, "-n", str(RANKS), sys.executable, "-m", "mpi4py", str(folder / "rank.py")]
        environment = {**_LAUNCHER, **os.environ}
        done = subprocess.run(
            [*command, str(folder / "config.json")], env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        times = json.loads(done.stdout)
        reader = build(folder)
        index = str(folder / "data" / "index.h5")
        c_reader = ["/usr/bin/mpiexec", "--oversubscribe", "-n", str(RANKS), str(reader), index, "embedding"]
        whole = [
            measuring.seconds(lambda: subprocess.run(c_reader, env=environment, check=True, stdout=subprocess.DEVNULL))
            for _ in range(3)
        ]
    bytes_read = rows * DIM * 4
    over_raw = {
        way: measuring.spread([r / s for r, s in zip(times["raw read()"], seconds, strict=True)])
        for way, seconds in times.items()
    }
    result = {
        "rows": rows,
        "dim": DIM,
        "parts": PARTS,
        "ranks": RANKS,
        "turns": TURNS,
        "gigabytes_a_second": {way: measuring.spread([bytes_read / s / 1e9 for s in times[way]]) for way in times},
        "rate_over_raw_read": over_raw,
        "c_reader_whole_program_seconds": measuring.spread(whole),
        "bar": f"own_rows, size checked >= {BAR} of raw read()",
        "reached_by_the_median": over_raw[OURS]["median"] >= BAR,
        "reached_in_the_worst_turn": over_raw[OURS]["min"] >= BAR,
        "turns_below_the_bar": sum(r / s < BAR for r, s in zip(times["raw read()"], times[OURS], strict=True)),
    }
    measuring.write("slab_read", result)


if __name__ == "__main__":
    main()
