"""Small datasets, and stand-ins for a cluster and for MPI's communicator."""

import contextlib
import importlib
import json
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_column
from penstock.core.dataset import newest
from penstock.core.nouns import JobState, Record, Status, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.solvers.programs import spectral
from penstock.solvers.reference import REFERENCE


class Alone:
    """The communicator of a single rank."""

    rank, size = 0, 1

    def Allgatherv(self, own, whole):
        whole[0][...] = own

    def Bcast(self, array):
        assert array is not None

    def bcast(self, value):
        return value

    def gather(self, value):
        return [value]

    def alltoall(self, values):
        return values

    def allreduce(self, value, operation):
        return value

    def Alltoallv(self, sent, into):
        into[0][...] = sent[0]


@pytest.fixture
def alone():
    return Alone()


@dataclass(frozen=True)
class Here:
    """A cluster that runs a program of Penstock in this process, on one rank."""

    folder: str = ""
    tasks: int = 1
    python: str = "python3"
    retries: int = 0

    def submit(self, job):
        program = importlib.import_module(job.command[-2])
        with contextlib.chdir(job.folder):
            program.solve(program.Config(**json.loads(Path(job.command[-1]).read_text())), Alone())
        return job.folder

    def poll(self, ids):
        return dict.fromkeys(ids, Status(JobState.DONE))

    def cancel(self, native_id):
        raise AssertionError("nobody cancels here")

    def again(self, native_id, status):
        raise AssertionError("nothing fails here")


@pytest.fixture
def here(tmp_path):
    return Here(str(tmp_path / "work"))


@pytest.fixture
def published(tmp_path):
    """Publishes a table in so many parts, and gives the reference to it."""

    def publish(table, parts=3, form="hdf5", name="dataset"):
        sink = {"hdf5": Hdf5, "parquet": Parquet}[form](str(tmp_path / name), file_bytes=1)
        edges = [table.num_rows * i // parts for i in range(parts + 1)]
        units = [Unit.of(name, "1", *pair) for pair in pairwise(edges)]
        records = [
            (unit, Record(unit.key, sink.write(unit, table.slice(unit.start, unit.stop - unit.start))))
            for unit in units
        ]
        schema = sink.schema(table.schema).serialize().to_pybytes().hex()
        sink.commit(lambda: iter(records), {"fingerprint": f"{table.num_rows}", "schema": schema})
        return reference_to(newest(sink.uri))

    return publish


def reference_to(manifest):
    row = [[manifest.uri], [manifest.version], [manifest.rows], [manifest.sha256]]
    return pa.table([pa.array(*column) for column in zip(row, REFERENCE.types, strict=True)], schema=REFERENCE)


@pytest.fixture
def graph_of():
    """The table that `Neighbours` gives, from arrays."""

    def graph(neighbour, similarity=None):
        weights = np.ones(neighbour.shape) if similarity is None else similarity
        columns = {"neighbour": neighbour.astype(np.int64), "similarity": weights.astype(np.float32)}
        return pa.table({"row": np.arange(len(neighbour)), **{k: tensor_column(v) for k, v in columns.items()}})

    return graph


@pytest.fixture
def solved(tmp_path, alone, published, graph_of):
    """Runs the spectral program on one rank; gives its arrays."""
    names = (f"graph-{number}" for number in count())

    def solve(neighbour, similarity=None, **options):
        (reference,) = published(graph_of(neighbour, similarity), name=next(names)).to_pylist()
        plain = {"clusters": 0, "max_clusters": 6, "seed": 0, "ranks": 1, "result": str(tmp_path / "result.npz")}
        spectral.solve(spectral.Config(**{**reference, **plain, **options}), alone)
        with np.load(plain["result"]) as found:
            return dict(found)

    return solve


@pytest.fixture
def blobs():
    """Points round *k* centers, row i round center i % k."""

    def make(rows=400, dim=16, k=4, sigma=0.8):
        random = np.random.default_rng(7)
        centers = random.standard_normal((k, dim))
        return (centers[np.arange(rows) % k] + sigma * random.standard_normal((rows, dim))).astype(np.float32)

    return make
