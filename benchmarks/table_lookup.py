"""Looking vectors up: 1M x 384 float32 rows, ids at random and by Zipf's law (exponent 1.05).

* In one process, on one thread: the local client (shards mapped into memory) beside torch's `nn.Embedding` over an
  array in RAM, and pooled, bags of 64 ids, beside `nn.EmbeddingBag`. Pages of both are in memory.
* Over two Ray actors: bags pooled in the shards beside rows that are shipped and pooled by who asked.
* Two processes at once, each in a memory control group of its own whose limit, Python and the pages of the table
  counted, is a quarter of the table; it is dropped from the page cache before. Rows a second, page faults and resident
  memory. Where no control group can be made, RLIMIT_DATA takes its place, which does not count pages of files, and the
  result says so; nothing is read ahead either way.

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
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import measuring
import numpy as np

from penstock.runners.ray import Ray
from penstock.runners.tables import serving
from penstock.tables.client import Local
from penstock.tables.layout import Table
from penstock.tables.making import create
from penstock.testing import memory

ROWS, DIM = int(os.environ.get("ROWS", "1000000")), 384
TURNS = int(os.environ.get("TURNS", "7"))
IDS, BAG = 1 << 16, 64
CAP_BYTES = max(160 << 20, ROWS * DIM)  # a quarter of the table; Python itself needs 140 MB of it


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
uri, procs, cap, turns, count, seed = *sys.argv[1:3], *map(int, sys.argv[3:])
if procs:
    open(procs, "w").write("0")
import numpy as np
from penstock.tables import mapping
from penstock.tables.client import Local
from penstock.tables.layout import Table
if not procs:
    mapping.memory_bytes = lambda: cap
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
table = Table.at(uri)
rng, order = np.random.default_rng(seed), np.random.default_rng(0).permutation(table.layout.rows)
weights = np.arange(1, table.layout.rows + 1) ** -1.05
edges = np.cumsum(weights / weights.sum())
del weights
def by_zipf():
    return order[np.minimum(np.searchsorted(edges, rng.random(count)), len(order) - 1)]
def at_random():
    return rng.integers(0, table.layout.rows, count)
def measured(client, ids):
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    client.lookup(ids)
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows_a_second": len(ids) / seconds,
        "major_faults_a_row": (after.ru_majflt - before.ru_majflt) / len(ids),
        "minor_faults_a_row": (after.ru_minflt - before.ru_minflt) / len(ids),
    }
with Local(table) as client:
    found = {"cold, random ids": [measured(client, at_random())]}
    found["random ids"] = [measured(client, at_random()) for _ in range(turns)]
    found["Zipf ids"] = [measured(client, by_zipf()) for _ in range(turns)]
    few = at_random()[: count // 4]
    client.lookup(few)
    found["rows that were just read"] = [measured(client, few)]
    words = open("/proc/self/status").read().split()
    kept = {name: 1024 * int(words[words.index(name + ":") + 1]) for name in ("VmRSS", "RssAnon", "RssFile")}
print(json.dumps({"found": found, "kept": kept, "not_read_ahead": client._mapped._random}))
"""


def capped(uri: str) -> dict[str, object]:
    """Two processes that look up at once, each under a cap."""
    table = Table.at(uri)
    for shard in table.shards:  # not in the page cache any more
        with shard.path().open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with memory.capped(CAP_BYTES) as one, memory.capped(CAP_BYTES) as other:
        told = _side_by_side(uri, [one, other])
        groups = [{"peak_bytes": cap.peak_bytes(), "limit_reached": cap.reached()} for cap in (one, other) if cap]
    kinds = told[0]["found"]
    return {
        "table_bytes": table.layout.size_bytes,
        "cap_bytes": CAP_BYTES,
        "cap": "memory control group, pages of files counted"
        if groups
        else "RLIMIT_DATA, which counts no pages of files",
        "processes": len(told),
        "groups": groups,
        "resident": [each["kept"] for each in told],
        "not_read_ahead": all(each["not_read_ahead"] for each in told),
        "ways": {kind: _together([turn for each in told for turn in each["found"][kind]]) for kind in kinds},
    }


def _side_by_side(uri: str, caps: list[memory.Cap | None]) -> list[dict[str, Any]]:
    """What a process under each of *caps* tells."""
    small = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    running = []
    for seed, cap in enumerate(caps):
        procs = str(cap.folder / "cgroup.procs") if cap else ""
        words = [uri, procs, CAP_BYTES, TURNS, min(ROWS // 4, 20_000), seed]
        command = [sys.executable, "-c", CAPPED, *map(str, words)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **small}))
    told = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a process under the cap has failed; what it said stands above")
    return [json.loads(each) for each in told]


def _together(measured: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {key: measuring.spread([one[key] for one in measured]) for key in measured[0]}


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
