"""What reads a dataset under MPI: `own_rows`, and the readers in C and Fortran, without Python."""

import json
import os
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import penstock.solvers.programs.readers as readers
from penstock.clusters.local import Local
from penstock.core.batch import tensor_column
from penstock.errors import JobError
from penstock.solvers.graph import Graph
from penstock.solvers.job import Program

DEBIAN = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def embeddings(rows=1003):
    random = np.random.default_rng(5)
    return pa.table(
        {
            "embedding": tensor_column(random.standard_normal((rows, 12)).astype(np.float32)),
            "half": tensor_column(random.standard_normal((rows, 2, 3)).astype(np.float16)),
            "length": pa.array(random.integers(0, 99, rows), pa.int32()),
        }
    )


@pytest.fixture(scope="module", params=["slab.c", "slab.f90"])
def reader(request, tmp_path_factory):
    """A reader, built as its first lines say by the compilers of the system's MPI."""
    source = Path(readers.__path__[0]) / request.param
    flags = shlex.split(subprocess.check_output(["pkg-config", "--cflags", "--libs", "hdf5"], text=True))
    compiler = ["/usr/bin/mpicc"] if source.suffix == ".c" else ["/usr/bin/mpifort"]
    more = [] if source.suffix == ".c" else ["-lhdf5_fortran"]
    program = tmp_path_factory.mktemp("reader") / "slab"
    subprocess.run([*compiler, "-O2", "-Wall", "-o", str(program), str(source), *flags, *more], check=True)
    return program


def under_mpi(ranks, *command):
    started = ["/usr/bin/mpiexec", "--oversubscribe", "-n", str(ranks), *(str(word) for word in command)]
    return subprocess.run(started, env={**os.environ, **DEBIAN}, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_solvers_without_python_read_what_numpy_reads(tmp_path, published, reader, ranks):
    table = embeddings()
    published(tmp_path / "data", table)
    for column, width in [("embedding", 12), ("half", 6), ("length", 1)]:
        done = under_mpi(ranks, reader, tmp_path / "data" / "index.h5", column, ranks)
        assert done.returncode == 0, done.stderr
        rows, found_width, total = done.stdout.split()
        values = np.asarray(table[column].combine_chunks().to_numpy_ndarray() if width > 1 else table[column])
        assert (int(rows), int(found_width)) == (1003, width)
        assert float(total) == pytest.approx(values.sum(dtype=np.float64), rel=1e-12)


def test_more_ranks_than_rows_are_no_trouble(tmp_path, published, reader):
    published(tmp_path / "data", embeddings(2), parts=1)
    done = under_mpi(4, reader, tmp_path / "data" / "index.h5", "length", 4)
    assert done.stdout.split()[:2] == ["2", "1"], done.stderr


def test_a_missing_part_is_seen_without_python_too(tmp_path, published, reader):
    published(tmp_path / "data", embeddings())
    sorted((tmp_path / "data" / "parts").iterdir())[3].unlink()
    done = under_mpi(2, reader, tmp_path / "data" / "index.h5", "length")
    assert done.returncode
    assert "a part of the dataset is missing" in done.stderr


def test_wrong_arguments_are_told_without_python_too(tmp_path, published, reader):
    published(tmp_path / "data", embeddings(20))
    index = tmp_path / "data" / "index.h5"
    assert "there is no such column; h5ls" in under_mpi(1, reader, index, "lenght").stderr
    assert "there are other ranks than TASKS; start it by" in under_mpi(2, reader, index, "length", 3).stderr
    assert "is no HDF5 file; give the index.h5" in under_mpi(1, reader, tmp_path / "none.h5", "length").stderr
    assert "arguments are missing; give INDEX COLUMN" in under_mpi(1, reader, index).stderr


@pytest.mark.parametrize("reader", ["slab.c"], indirect=True)
def test_the_c_reader_refuses_another_dataset(tmp_path, published, reader):
    (reference,) = published(tmp_path / "data", embeddings(20)).to_pylist()
    index = tmp_path / "data" / "index.h5"
    assert under_mpi(2, reader, index, "length", 2, reference["sha256"]).returncode == 0
    assert "is the index of another dataset" in under_mpi(2, reader, index, "length", 2, "0" * 64).stderr


SUMS = """
    import json, sys
    import numpy as np
    from mpi4py import MPI
    from penstock.solvers.programs.rows import gather_rows, own_rows, require_ranks
    comm, config = MPI.COMM_WORLD, json.load(open(sys.argv[-1]))
    reference = {name: config[name] for name in ("dataset", "version", "rows", "sha256")}
    found = own_rows(comm, reference, ["embedding", "length"], CHECK)
    sums = found["embedding"].sum(axis=1, dtype=np.float64) + found["length"]
    whole = gather_rows(comm, sums, config["rows"])
    if comm.rank == 0:
        np.savez(config["result"], sum=whole, ranks=np.full(len(whole), comm.size))
"""


def sums(tmp_path, tasks, check="sha256"):
    (tmp_path / "sums.py").write_text(textwrap.dedent(SUMS).replace("CHECK", repr(check)))
    cluster = Local(tasks=tasks, folder=str(tmp_path / "work"), time_minutes=5)
    command = (sys.executable, "-m", "mpi4py", str(tmp_path / "sums.py"))
    return Program(command, {"sum": "float64", "ranks": "int64"}, "npz", cluster=cluster)


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


@pytest.mark.parametrize(
    ("tasks", "form", "check"),
    [(1, "hdf5", "size"), (2, "hdf5", "sha256"), (4, "hdf5", "size"), (2, "parquet", "size"), (4, "parquet", "sha256")],
)
def test_each_rank_reads_its_own_rows(tmp_path, published, tasks, form, check):
    table = embeddings()
    found = solve(sums(tmp_path, tasks, check), published(tmp_path / "data", table, form=form))
    exact = table["embedding"].combine_chunks().to_numpy_ndarray().sum(axis=1, dtype=np.float64)
    np.testing.assert_array_equal(found["sum"], exact + table["length"].to_numpy())
    assert set(found["ranks"].to_pylist()) == {tasks}


def test_each_rank_reads_its_own_rows_from_s3(tmp_path, published, s3_root):
    table = embeddings()
    found = solve(sums(tmp_path, 2), published(f"{s3_root}/data", table))
    exact = table["embedding"].combine_chunks().to_numpy_ndarray().sum(axis=1, dtype=np.float64)
    np.testing.assert_array_equal(found["sum"], exact + table["length"].to_numpy())


def test_a_missing_part_ends_the_job(tmp_path, published):
    reference = published(tmp_path / "data", embeddings())
    sorted((tmp_path / "data" / "parts").iterdir())[1].unlink()
    with pytest.raises(JobError, match="the manifest names this file, but it cannot be read"):
        solve(sums(tmp_path, 2, "size"), reference)


def test_a_changed_part_ends_the_job(tmp_path, published):
    reference = published(tmp_path / "data", embeddings())
    part = sorted((tmp_path / "data" / "parts").iterdir())[1]
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    with pytest.raises(JobError, match=r"its sha256 is .*the file is damaged"):
        solve(sums(tmp_path, 2), reference)
    part.write_bytes(data[:-9])
    with pytest.raises(JobError, match=r"bytes, the parts table says .*the file is damaged"):
        solve(sums(tmp_path, 2, "size"), reference)


def test_a_manifest_newer_than_the_reader_ends_the_job(tmp_path, published):
    reference = published(tmp_path / "data", embeddings())
    stage = sums(tmp_path, 2)
    # The driver still has the old one in hand: the ranks meet the new one.
    script = tmp_path / "sums.py"
    manifest = tmp_path / "data" / "manifests" / "00000001.json"
    newer = json.dumps({**json.loads(manifest.read_text()), "penstock": 2})
    script.write_text(f"open({str(manifest)!r}, 'w').write({newer!r})\n" + script.read_text())
    with pytest.raises(JobError, match="has form 2, this Penstock reads form 1; install a later one"):
        solve(stage, reference)


def test_a_launcher_of_another_mpi_is_recognised(tmp_path, published):
    launcher = tmp_path / "mpiexec"
    launcher.write_text('#!/bin/sh\nshift 2\nexec "$@"\n')
    launcher.chmod(0o755)
    graph = {"neighbour": tensor_column(np.array([[1], [0]])), "similarity": tensor_column(np.ones((2, 1), np.float32))}
    reference = published(tmp_path / "data", pa.table({"row": np.arange(2), **graph}), parts=1)
    cluster = Local(tasks=2, mpiexec=str(launcher), folder=str(tmp_path / "work"))
    with pytest.raises(JobError, match="2 ranks were expected and there are 1; is mpiexec of the same MPI as"):
        solve(Graph(cluster=cluster), reference)
