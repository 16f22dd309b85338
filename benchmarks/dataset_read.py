"""Rows a second through `penstock.read`, beside the libraries that read the same files by themselves; and write rates.

Slabs are neighbouring rows at random places; random rows are drawn from all of them and given in the order drawn. The
files come from the page cache, so what is measured is the work of the readers. Every way must give the same numbers.
Peak memory is that of a process of its own which makes one pass of slabs. `datasets` of Hugging Face is an Arrow IPC
file that is mapped; that is what stands for it here. `make bench NAME=dataset_read`; `--rows 5000` for a try.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import measuring
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import zarr

import penstock
from penstock.core.batch import tensor_column
from penstock.core.nouns import Record, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr, group

DIM, PARTS, SLAB, SLABS, DRAWN, TURNS = 384, 8, 4096, 16, 1000, 5
SINKS: dict[str, Callable[[str], Any]] = {
    "parquet": Parquet,
    "hdf5": Hdf5,
    "zarr": Zarr,
    "zarr, parts alone": lambda root: Zarr(root, arrays="parts"),
    "zarr, shards of 64 MB": lambda root: Zarr(root, shard_bytes=64 << 20),
}

MEMORY = """
import resource, sys
import numpy as np, penstock
column = penstock.read(sys.argv[1])["embedding"]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for low in range(0, len(column), int(sys.argv[2])):
    column[low : low + int(sys.argv[2])].sum()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def publish(sink: Any, rows: np.ndarray) -> None:
    """Write *rows* in parts and commit them."""
    schema = pa.schema([("embedding", tensor_column(rows[:1]).type)])
    records = []
    for low, high in pairwise(len(rows) * at // PARTS for at in range(PARTS + 1)):
        unit = Unit.of("memory", "1", low, high)
        part = sink.write(unit, pa.table([tensor_column(rows[low:high])], schema=schema))
        records.append((unit, Record(unit.key, part)))
    sink.commit(lambda: iter(records), {"fingerprint": "bench", "schema": schema.serialize().to_pybytes().hex()})


def raw(path: Path, rows: np.ndarray) -> None:
    """What no sink can beat: the bytes, and the disk told to keep them."""
    import os

    with path.open("wb") as file:
        rows.tofile(file)
        os.fsync(file.fileno())


Way = tuple[Callable[[int, int], np.ndarray], Callable[[np.ndarray], np.ndarray]]


def ways(root: Path, rows: int) -> dict[str, Way]:
    """How slabs and drawn rows are read; files are opened before, as each library is meant to be used."""
    found: dict[str, Way] = {}
    for name in ("parquet", "hdf5", "zarr"):
        column = penstock.read(str(root / name))["embedding"]
        found[f"penstock.read, {name}"] = (lambda a, b, c=column: c[a:b], lambda at, c=column: c[at])
    parts = sorted((root / "parquet" / "parts").iterdir())
    names = dict.fromkeys(penstock.read(str(root / "parquet")).manifest.parts()["path"].to_pylist())
    table = pyarrow.dataset.dataset([str(root / "parquet" / name) for name in names], format="parquet")
    assert len(parts) >= len(names)
    found["pyarrow.dataset, parquet"] = (
        lambda a, b: _numpy(table.take(pa.array(np.arange(a, b)))),
        lambda at: _numpy(table.take(pa.array(at))),
    )
    index = h5py.File(root / "hdf5" / "index.h5", locking=False)["embedding"]
    found["h5py on index.h5"] = (lambda a, b: index[a:b], lambda at: _sorted(index.__getitem__, at))
    array = zarr.open_group(group(str(root / "zarr")), mode="r")["embedding"]
    found["zarr-python on the group"] = (lambda a, b: array[a:b], lambda at: array.oindex[at])
    with pa.memory_map(str(root / "rows.arrow")) as file:
        mapped = pa.ipc.open_file(file).read_all()
    found["mapped Arrow IPC, as datasets does"] = (
        lambda a, b: np.array(_numpy(mapped.slice(a, b - a))),
        lambda at: _numpy(mapped.take(pa.array(at))),
    )
    plain = np.memmap(root / "raw", np.float32, "r", shape=(rows, DIM))
    found["numpy.memmap of tofile"] = (lambda a, b: np.array(plain[a:b]), lambda at: plain[at])
    return found


def _numpy(table: pa.Table) -> np.ndarray:
    return table["embedding"].combine_chunks().to_numpy_ndarray()


def _sorted(read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> np.ndarray:
    once, again = np.unique(rows, return_inverse=True)
    return read(once)[again]


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rows", type=int, default=200_000)
    count = arguments.parse_args().rows
    random = np.random.default_rng(0)
    rows = random.standard_normal((count, DIM), np.float32)
    slab, drawn = min(SLAB, count // 4), random.integers(0, count, min(DRAWN, count))
    starts = random.integers(0, count - slab, SLABS)
    with tempfile.TemporaryDirectory() as folder:
        root, turn = Path(folder), iter(range(10_000))
        writes = measuring.turns(
            {
                "tofile": lambda: measuring.seconds(lambda: raw(root / f"raw{next(turn)}", rows)),
                **{
                    name: (
                        lambda make=make: measuring.seconds(lambda: publish(make(str(root / str(next(turn)))), rows))
                    )
                    for name, make in SINKS.items()
                },
            },
            3,
        )
        for name in ("parquet", "hdf5", "zarr"):
            publish(SINKS[name](str(root / name)), rows)
        raw(root / "raw", rows)
        with pa.ipc.new_file(
            str(root / "rows.arrow"), (table := pa.table({"embedding": tensor_column(rows)})).schema
        ) as f:
            f.write_table(table)
        readers = ways(root, count)
        for way, (slice_of, taken) in readers.items():
            np.testing.assert_array_equal(slice_of(5, 5 + slab), rows[5 : 5 + slab], err_msg=way)
            np.testing.assert_array_equal(taken(drawn), rows[drawn], err_msg=way)
        slabs = measuring.turns(
            {
                way: (lambda read=read: measuring.seconds(lambda: [read(int(at), int(at) + slab) for at in starts]))
                for way, (read, _) in readers.items()
            },
            TURNS,
        )
        single = measuring.turns(
            {way: (lambda take=take: measuring.seconds(lambda: take(drawn))) for way, (_, take) in readers.items()},
            TURNS,
        )
        memory = {
            name: int(subprocess.check_output([sys.executable, "-c", MEMORY, str(root / name), str(slab)]))
            for name in ("parquet", "hdf5", "zarr")
        }
    size = rows.nbytes
    result = {
        "rows": count,
        "dim": DIM,
        "parts": PARTS,
        "slab_rows": slab,
        "drawn_rows": len(drawn),
        "slab_rows_a_second": {
            way: measuring.spread([slab * SLABS / s for s in found]) for way, found in slabs.items()
        },
        "drawn_rows_a_second": {
            way: measuring.spread([len(drawn) / s for s in found]) for way, found in single.items()
        },
        "write_megabytes_a_second": {
            way: measuring.spread([size / s / 1e6 for s in found]) for way, found in writes.items()
        },
        "memory_beyond_the_imports_of_a_pass_of_slabs_bytes": memory,
        "slab_bytes": slab * DIM * 4,
        "peak_memory_of_this_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    measuring.write("dataset_read", result)


if __name__ == "__main__":
    main()
