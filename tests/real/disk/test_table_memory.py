"""A table many times larger than what its readers and trainers may have answers, and trains."""

import os
import subprocess
import sys

import pytest

from penstock.tables.layout import Table
from penstock.tables.making import create

CAP = 192 << 20
"""Python with NumPy and Arrow takes 140 MB of it."""

READ = """
import resource, sys
import numpy as np
from penstock.tables.client import open_table
from penstock.tables.making import random_rows
cap, uri = int(sys.argv[1]), sys.argv[2]
client = open_table(uri)
layout = client.table.layout
assert layout.size_bytes >= 4 * cap, layout.size_bytes
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
try:
    np.empty(cap, np.uint8)
    raise SystemExit("the cap does not hold")
except MemoryError:
    pass
rng = np.random.default_rng(0)
for _ in range(20):
    ids = rng.integers(0, layout.rows, 5000)
    found = client.lookup(ids)
    for at in (0, 4999):
        wanted = random_rows(0, int(ids[at]), int(ids[at]) + 1, layout.dim)[0] * np.float32(layout.dim**-0.5)
        assert (found[at] == wanted).all()
    client.pooled(ids, np.arange(0, 5001, 50))
print("answered", len(client.table.shards))
"""

TRAIN = """
import resource, sys
import numpy as np
from penstock.tables.layout import Table
from penstock.tables.working import Adagrad, Working
cap, uri, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
table = Table.at(uri)
resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
rng = np.random.default_rng(0)
with Working(table, folder, Adagrad(0.1)) as working:
    for _ in range(5):
        ids = rng.integers(0, table.layout.rows, 5000)
        working.add(ids, np.ones((5000, table.layout.dim), np.float32))
    trained = working.lookup(ids)
    working.publish(uri, {"step": 5})
    from penstock.tables.client import open_table
    assert (open_table(uri).lookup(ids) == trained).all()
print("trained", Table.at(uri).manifest.version)
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return create(str(tmp_path_factory.mktemp("large")), 4 * CAP // 256 + 4096, 64, shard_bytes=8 << 20).uri


def run(script, *words):
    command = [sys.executable, "-c", script, str(CAP), *map(str, words)]
    one = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **one})


def test_a_table_four_times_the_cap_answers(uri):
    """RLIMIT_DATA counts what a process has of its own; mapped files do not belong to it."""
    done = run(READ, uri)
    assert done.stdout.strip() == f"answered {len(Table.at(uri).shards)}", done.stderr


def test_a_table_four_times_the_cap_trains(uri, tmp_path):
    done = run(TRAIN, uri, tmp_path / "copy")
    assert done.stdout.strip() == "trained 2", done.stderr
