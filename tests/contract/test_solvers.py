"""The shipped suite over every stage of penstock.solvers; their source is one row, the reference to a dataset."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core import plugins
from penstock.core.batch import tensor_column
from penstock.core.nouns import Record, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.solvers.duplicates import Duplicates
from penstock.solvers.fluent import Fluent, FluentCase, Grid
from penstock.solvers.graph import Graph
from penstock.solvers.job import Program
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.openfoam.deform import Deform
from penstock.solvers.openfoam.fresh import Openfoam
from penstock.solvers.poisson import Poisson
from penstock.solvers.reference import REFERENCE
from penstock.solvers.spectral import Spectral
from penstock.testing import StageTests


def published(root, table):
    sink = Hdf5(str(root), file_bytes=1)
    units = [Unit.of("memory", "1", *edges) for edges in pairwise([0, table.num_rows // 2, table.num_rows])]
    records = [(u, Record(u.key, sink.write(u, table.slice(u.start, u.stop - u.start)))) for u in units]
    schema = table.schema.serialize().to_pybytes().hex()
    manifest = sink.commit(lambda: iter(records), {"schema": schema, "fingerprint": "0" * 64})
    row = [[manifest.uri], [manifest.version], [manifest.rows], [manifest.sha256]]
    return pa.table([pa.array(*column) for column in zip(row, REFERENCE.types, strict=True)], schema=REFERENCE)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    points = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    return published(tmp_path_factory.mktemp("embeddings"), pa.table({"embedding": tensor_column(points)}))


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory):
    columns = {
        "neighbour": tensor_column((np.arange(40)[:, None] + [-1, 1]) % 40),
        "similarity": tensor_column(np.full((40, 2), 0.5, np.float32)),
    }
    return published(tmp_path_factory.mktemp("neighbours"), pa.table({"row": np.arange(40), **columns}))


class OneReference:
    """A batch of a single row: the tests that cut it in two or double it say nothing."""

    needs = ("dataset", "sha256")
    rowwise = False
    test_does_not_see_chunks_and_offsets = None


class TestNeighbours(OneReference, StageTests):
    stage = Neighbours(k=3)

    @pytest.fixture(autouse=True)
    def _made(self, embeddings):
        self.batch = embeddings


class TestDuplicates(TestNeighbours):
    stage = Duplicates(threshold=0.8, clusters=3)


class TestPoisson(TestNeighbours):
    stage = Poisson(("embedding[0]", "embedding[1]"), ("embedding[2]",), mask="embedding[3]", grid=32, width=0.05)


class TestGraph(OneReference, StageTests):
    stage = Graph(keep="greedy")

    @pytest.fixture(autouse=True)
    def _made(self, neighbours):
        self.batch = neighbours


class TestSpectral(TestGraph):
    stage = Spectral(max_clusters=3, seed=4)


PROGRAM = """
import json, sys
import numpy as np
told = json.load(open(sys.argv[-1]))
np.savez(told["result"], number=np.arange(told["rows"]))
"""


class TestProgram(TestGraph):
    stage = Program(("python3", "-c", PROGRAM), {"number": "int64"}, "npz")


SPECIMENS = (
    TestNeighbours.stage,
    Duplicates(threshold=0.9, clusters=8, prefer="most", by="sharpness", among="kept", groups="connected"),
    Graph(damping=0.5, least_similarity=0.2, keep="greedy", cluster=Local(tasks=2)),
    Poisson(("x", "y"), ("a", "b[3]"), mask="c", period=(1.0, 2.0), screening=1.0, time=2.0, steps=3),
    TestSpectral.stage,
    TestProgram.stage,
    FluentCase(case="/cases/box.cas.h5", initial=Grid("velocity", axes=((0, 1, 0), (1, 0, 0))), folders="/out"),
    Fluent(
        case="/cases/box.cas.h5", initial=Grid("velocity", axes=((0, 1, 0), (1, 0, 0))), cluster=Local(cpus_per_task=2)
    ),
    Openfoam("/cases/box", {"velocity": "U"}, {"later": "U"}, control={"endTime": 0.1}, log=("steps",), ranks=2),
    Deform("/cases/channel", modes="free_form", lattice=(7, 3, 1), cluster=Local(cpus_per_task=2)),
    Deform("/cases/channel", how="displacement"),
)


def test_every_solver_has_a_specimen():
    ours = {name for name, point in plugins.named("stages").items() if point.module.startswith("penstock.solvers.")}
    assert {plugins.name_of("stages", stage) for stage in SPECIMENS} == ours


@pytest.mark.parametrize("stage", SPECIMENS, ids=lambda stage: type(stage).__name__)
def test_solvers_come_back_from_plain_data(stage):
    assert plugins.adapter(type(stage)).validate_python(plugins.describe(stage)) == stage
