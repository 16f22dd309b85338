"""Solvers under a real MPI launcher: the same result for any number of ranks, and errors that say what happened."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core.batch import digest, tensor_column, to_numpy
from penstock.core.dataset import newest
from penstock.core.nouns import Pipeline, Record, Step, Unit
from penstock.core.reading import read_table
from penstock.errors import JobError, TooManyBadUnits
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.solvers.job import Program
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.spectral import Spectral
from penstock.sources.dataset import Dataset


def publish(root, table, parts=4):
    sink = Hdf5(str(root), file_bytes=1)
    edges = [table.num_rows * i // parts for i in range(parts + 1)]
    units = [Unit.of("test", "1", a, b) for a, b in pairwise(edges)]
    records = [(u, Record(u.key, sink.write(u, table.slice(u.start, u.stop - u.start)))) for u in units]
    sink.commit(lambda: iter(records), {"fingerprint": "x", "schema": table.schema.serialize().to_pybytes().hex()})
    return str(root)


def reference(root):
    (unit,) = Dataset(root, whole=True).units()
    return Dataset(root, whole=True).read(unit)


def graph(rows):
    """Neighbours of points round four centers, so that all ranks have edges to each other."""
    random = np.random.default_rng(7)
    centers = random.standard_normal((4, 64))
    points = centers[np.arange(rows) % 4] + 1.6 * random.standard_normal((rows, 64))
    neighbour, similarity = Neighbours(k=10).nearest(points.astype(np.float32))
    columns = {"neighbour": tensor_column(neighbour), "similarity": tensor_column(similarity)}
    return pa.table({"row": np.arange(rows), **columns})


def solve(stage, root):
    with stage.open() as transform:
        return transform(reference(root))


@pytest.mark.parametrize("rows", [150, 1200], ids=["dense", "filtered"])
def test_the_result_has_the_same_bits_for_any_number_of_ranks(tmp_path, rows):
    root = publish(tmp_path / "graph", graph(rows))
    ranks = [Local(tasks=tasks, folder=str(tmp_path / "work")) for tasks in (1, 2, 3, 4)]
    tables = [solve(Spectral(cluster=cluster), root) for cluster in ranks]
    assert len({digest(table) for table in tables}) == 1
    labels = to_numpy(tables[0]["clusters"])[:, 2]
    counts = [np.bincount(labels[blob::4]).max() for blob in range(4)]
    assert sum(counts) / rows > (0.99 if rows > 1000 else 0.9)


def test_a_part_that_is_lost_ends_the_job_with_its_reason(tmp_path):
    root = publish(tmp_path / "graph", graph(150))
    sorted((tmp_path / "graph" / "parts").iterdir())[2].unlink()
    with pytest.raises(JobError, match="the manifest names this file, but it cannot be read") as caught:
        solve(Spectral(cluster=Local(tasks=3, folder=str(tmp_path / "work"))), root)
    assert "penstock.solvers.programs.spectral" in str(caught.value)


RANKS = """
    import json, os, signal, sys, time
    import numpy as np
    from mpi4py import MPI
    comm, config = MPI.COMM_WORLD, json.load(open(sys.argv[-1]))
    {work}
    if comm.rank == 0:
        np.savez(config["result"], ranks=np.full(config["rows"], comm.size))
"""


def program(tmp_path, work, tasks=2):
    (tmp_path / "ranks.py").write_text(textwrap.dedent(RANKS.format(work=work)))
    command = (sys.executable, "-m", "mpi4py", str(tmp_path / "ranks.py"))
    cluster = Local(tasks=tasks, folder=str(tmp_path / "work"), time_minutes=5)
    return Program(command, {"ranks": "int64"}, "npz", cluster=cluster)


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_a_program_runs_on_as_many_ranks_as_asked_even_on_few_cores(tmp_path, tasks):
    root = publish(tmp_path / "data", pa.table({"x": np.arange(9)}))
    table = solve(program(tmp_path, "comm.Barrier()", tasks), root)
    assert table["ranks"].to_pylist() == [tasks] * 9


def test_a_rank_that_is_killed_ends_the_job(tmp_path):
    root = publish(tmp_path / "data", pa.table({"x": np.arange(9)}))
    with pytest.raises(JobError, match="failed: exit status") as caught:
        solve(program(tmp_path, "comm.rank == 1 and os.kill(os.getpid(), signal.SIGKILL); comm.Barrier()"), root)
    assert "signal 9" in str(caught.value)
    assert "time limit" not in str(caught.value), "nobody waits for the rank that is gone"


def test_a_rank_that_raises_ends_the_others_and_is_heard(tmp_path):
    root = publish(tmp_path / "data", pa.table({"x": np.arange(9)}))
    with pytest.raises(JobError, match="the matrix of rank 1 is singular"):
        solve(program(tmp_path, "assert comm.rank == 0, 'the matrix of rank 1 is singular'; comm.Barrier()"), root)


def test_a_run_that_is_killed_while_its_job_runs_is_taken_up_by_the_next_one(tmp_path):
    root = publish(tmp_path / "data", pa.table({"x": np.arange(9)}))
    log, go = tmp_path / "log", tmp_path / "go"
    work = f"comm.rank == 0 and open({str(log)!r}, 'a').write('ran\\n')\n    "
    stage = program(tmp_path, work + f"while not os.path.exists({str(go)!r}): time.sleep(0.05)")
    script = f"""
        from penstock.solvers.job import Program
        from penstock.sources.dataset import Dataset
        source = Dataset({root!r}, whole=True)
        (unit,) = source.units()
        with {stage!r}.open() as transform:
            transform(source.read(unit))
    """
    imports = "from penstock.clusters.local import Local\n"
    first = subprocess.Popen([sys.executable, "-c", imports + textwrap.dedent(script)])
    end = time.monotonic() + 240
    while not log.exists() and time.monotonic() < end and first.poll() is None:
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    threading.Timer(2.0, go.touch).start()
    assert solve(stage, root).num_rows == 9
    assert log.read_text() == "ran\n"


def test_two_pipelines_from_embeddings_to_clusters(tmp_path):
    random = np.random.default_rng(3)
    points = (4 * np.eye(8)[np.arange(240) % 4] + 0.5 * random.standard_normal((240, 8))).astype(np.float32)
    embeddings = publish(tmp_path / "embeddings", pa.table({"embedding": tensor_column(points)}))
    lines = [
        Pipeline("graph", Dataset(embeddings, whole=True), Hdf5(str(tmp_path / "graph")), (Step(Neighbours()),)),
        Pipeline(
            "clusters",
            Dataset(str(tmp_path / "graph"), whole=True),
            Parquet(str(tmp_path / "clusters")),
            (Step(Spectral(cluster=Local(tasks=2, folder=str(tmp_path / "work")))),),
        ),
    ]
    for line in lines:
        assert Inline().run(line).rows == 240
    found = read_table(str(tmp_path / "clusters"))
    assert found["cluster"].to_pylist() == [i % 4 for i in range(240)]
    assert Inline().run(lines[1]).skipped == 1


def test_a_job_that_fails_fails_the_run_and_quarantines_nothing(tmp_path):
    root = publish(tmp_path / "data", pa.table({"x": np.arange(9)}))
    stage = program(tmp_path, "raise SystemExit('no luck today')", tasks=1)
    line = Pipeline("line", Dataset(root, whole=True), Parquet(str(tmp_path / "out")), (Step(stage),))
    with pytest.raises(TooManyBadUnits, match="no luck today"):
        Inline().run(line)
    assert newest(str(tmp_path / "out")) is None
    assert not (tmp_path / "out" / "quarantine").exists()
