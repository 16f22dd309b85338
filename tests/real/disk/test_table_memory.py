"""A table many times larger than what its readers and trainers may have answers, and trains (which comes last)."""

import os
import subprocess
import sys

import pytest

from penstock.tables.layout import Table
from penstock.tables.making import create
from penstock.testing.memory import capped

CAP = 192 << 20
"""Python with NumPy and Arrow takes 140 MB of it, 100 MB where only what is touched counts."""

ENTER = """
import sys
open(sys.argv.pop(), "w").write("0")
"""

READ = """
import resource, sys
import numpy as np
from penstock.tables.client import open_table
from penstock.tables.making import random_rows
cap, uri = int(sys.argv[1]), sys.argv[2]
client = open_table(uri)
layout = client.table.layout
assert layout.size_bytes >= 4 * cap, layout.size_bytes
if len(sys.argv) > 3:
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    try:
        np.empty(cap, np.uint8)
        raise SystemExit("the cap does not hold")
    except MemoryError:
        pass
rng = np.random.default_rng(0)
for _ in range(10):
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
if len(sys.argv) > 4:
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
print("trained")
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
    done = run(READ, uri, "own")
    assert done.stdout.strip() == f"answered {len(Table.at(uri).shards)}", done.stderr


@pytest.fixture
def group():
    """A control group: its limit counts pages of mapped files as well."""
    with capped(CAP) as cap:
        if cap is None:
            pytest.skip("this user may make no memory control group; the tests above have a weaker cap")
        yield cap


def test_it_answers_where_pages_of_its_files_count_too(uri, group):
    for shard in Table.at(uri).shards:  # pages that others have read count for them
        with shard.path().open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    done = run(ENTER + READ, uri, group.folder / "cgroup.procs")
    assert done.stdout.strip() == f"answered {len(Table.at(uri).shards)}", done.stderr
    assert group.reached(), "pages had to go for others"
    assert group.peak_bytes() <= CAP


def test_a_table_four_times_the_cap_trains(uri, tmp_path):
    done = run(TRAIN, uri, tmp_path / "copy", "own")
    assert done.stdout.strip() == "trained", done.stderr


def test_it_trains_where_pages_of_its_files_count_too(uri, tmp_path, group):
    done = run(ENTER + TRAIN, uri, tmp_path / "copy", group.folder / "cgroup.procs")
    assert done.stdout.strip() == "trained", done.stderr
    assert group.reached(), "pages had to go for others"
    assert group.peak_bytes() <= CAP
