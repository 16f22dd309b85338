"""Looking vectors up: 1M x 384 float32 rows, ids at random and by Zipf's law (exponent 1.05).

* In one process, on one thread: the local client (shards mapped into memory) beside torch's `nn.Embedding` over an
  array in RAM, and pooled, bags of 64 ids, beside `nn.EmbeddingBag`. Pages of both are in memory.
* Over two Ray actors: bags pooled in the shards beside rows that are shipped and pooled by who asked.
* A table four times what the process may have of its own (RLIMIT_DATA), dropped from the page cache before: rows a
  second and page faults, cold and warm.

`make bench NAME=table_lookup`; ``ROWS=20000 TURNS=2`` in the environment tries it out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import measuring
import numpy as np

from penstock.runners.ray import Ray
from penstock.runners.tables import serving
from penstock.tables.client import Local
from penstock.tables.layout import Table
from penstock.tables.making import create

ROWS, DIM = int(os.environ.get("ROWS", "1000000")), 384
TURNS = int(os.environ.get("TURNS", "7"))
IDS, BAG = 1 << 16, 64
CAP_BYTES = max(160 << 20, ROWS * DIM)  # a quarter of the table; Python itself needs 140 MB


def ids_of(kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "random":
        return rng.integers(0, ROWS, IDS)
    weights = np.arange(1, ROWS + 1) ** -1.05
    ranks = rng.choice(ROWS, IDS, p=weights / weights.sum())
    return np.random.default_rng(0).permutation(ROWS)[ranks]  # frequent ids lie anywhere


def here(uri: str) -> dict[str, dict[str, float]]:
    """Medians in nanoseconds a row."""
    import torch

    torch.set_num_threads(1)
    client = Local(Table.at(uri))
    array = client.lookup(np.arange(ROWS))
    embedding = torch.nn.Embedding.from_pretrained(torch.from_numpy(array))
    bag = torch.nn.EmbeddingBag.from_pretrained(torch.from_numpy(array), mode="mean", include_last_offset=True)
    offsets = np.arange(0, IDS + 1, BAG)
    found: dict[str, dict[str, float]] = {}
    for kind in ("random", "zipf"):
        batches = [ids_of(kind, seed) for seed in range(TURNS + 1)]
        ways = {
            f"{kind}: local client": client.lookup,
            f"{kind}: torch Embedding": lambda ids: embedding(torch.from_numpy(ids)),
            f"{kind}: local client, pooled": lambda ids: client.pooled(ids, offsets),
            f"{kind}: torch EmbeddingBag": lambda ids: bag(torch.from_numpy(ids), torch.from_numpy(offsets)),
        }
        found |= _medians(ways, batches)
    client.close()
    return found


def over_actors(uri: str) -> dict[str, dict[str, float]]:
    offsets = np.arange(0, IDS + 1, BAG)
    found: dict[str, dict[str, float]] = {}
    with Ray(object_store_bytes=1 << 30).session(), serving(uri, 2) as actors:
        actors.pooled(np.arange(ROWS), np.arange(0, ROWS + 1, ROWS))  # the pages are in memory

        def shipped(ids: np.ndarray) -> np.ndarray:
            return _mean(actors.lookup(ids))

        for kind in ("random", "zipf"):
            batches = [ids_of(kind, seed) for seed in range(TURNS + 1)]
            ways = {
                f"{kind}: pooled in the shards": lambda ids: actors.pooled(ids, offsets),
                f"{kind}: rows shipped": shipped,
            }
            found |= _medians(ways, batches)
    return found


def _mean(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(-1, BAG, DIM).mean(axis=1)


def _medians(ways: dict[str, Callable], batches: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Each way on each batch, in turn; the first batch warms up. Nanoseconds an id."""
    at = {name: iter(batches) for name in ways}
    timed = {
        name: lambda name=name, way=way: measuring.seconds(lambda: way(next(at[name]))) / IDS * 1e9
        for name, way in ways.items()
    }
    return {name: measuring.spread(values[1:]) for name, values in measuring.turns(timed, len(batches)).items()}


CAPPED = """
import json, os, resource, sys, time
import numpy as np
from penstock.tables.client import Local
from penstock.tables.layout import Table
uri, cap, turns, count = sys.argv[1], *map(int, sys.argv[2:])
table = Table.at(uri)
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
def measured(client, ids):
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    client.lookup(ids)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows_a_second": len(ids) / seconds,
        "major_faults_a_row": (after.ru_majflt - before.ru_majflt) / len(ids),
        "minor_faults_a_row": (after.ru_minflt - before.ru_minflt) / len(ids),
    }
found = {"cold": [], "again": []}
for turn in range(turns):
    for shard in table.shards:  # not in the page cache any more
        with open(shard.path(), "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    ids = np.random.default_rng(turn).integers(0, table.layout.rows, count)
    with Local(table) as client:
        found["cold"].append(measured(client, ids))
        found["again"].append(measured(client, ids))
layout = table.layout
print(json.dumps({"table_bytes": layout.size_bytes, "cap_bytes": cap, **found}))
"""


def capped(uri: str) -> dict[str, object]:
    """The same look-ups before and after the pages are in memory, in a process with a cap."""
    command = [sys.executable, "-c", CAPPED, uri, str(CAP_BYTES), "5", str(min(ROWS // 4, 20_000))]
    small = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **small})
    if done.returncode:
        raise SystemExit(done.stderr)
    found = json.loads(done.stdout)
    for name in ("cold", "again"):
        found[name] = {key: measuring.spread([turn[key] for turn in found[name]]) for key in found[name][0]}
    return found


def ratios(ns: dict[str, dict[str, float]]) -> dict[str, float]:
    """How many times as fast the first is as the second."""
    pairs = [
        ("local client", "torch Embedding", "local client over nn.Embedding"),
        ("local client, pooled", "torch EmbeddingBag", "local client over nn.EmbeddingBag"),
        ("pooled in the shards", "rows shipped", "pooling in the shards over shipping rows"),
    ]
    return {
        f"{kind}: {words}": ns[f"{kind}: {slow}"]["median"] / ns[f"{kind}: {fast}"]["median"]
        for kind in ("random", "zipf")
        for fast, slow, words in pairs
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        uri = create(str(Path(name) / "table"), ROWS, DIM).uri
        under = capped(uri)
        ns = {**here(uri), **over_actors(uri)}
    goals = {"nn.Embedding": 0.8, "nn.EmbeddingBag": 0.8, "shipping rows": 3.0}
    sizes = {"rows": ROWS, "dim": DIM, "ids_a_call": IDS, "ids_a_bag": BAG, "turns": TURNS}
    result = {**sizes, "ns_an_id": ns, "times_as_fast": ratios(ns), "goals": goals, "under_a_cap": under}
    measuring.write("table_lookup", result)


if __name__ == "__main__":
    main()
