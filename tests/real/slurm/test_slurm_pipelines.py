"""Solvers and programs as steps of pipelines on a real Slurm: what they give here, they give there."""

import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import Local
from penstock.core.batch import digest, tensor_column, to_numpy
from penstock.core.nouns import Pipeline, Record, Step, Unit
from penstock.core.reading import read_table
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.solvers.graph import Graph
from penstock.solvers.job import Program
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.poisson import Poisson
from penstock.solvers.spectral import Spectral
from penstock.sources.dataset import Dataset

ROWS, ITEMS = 230, 7


@pytest.fixture
def dataset(tmp_path):
    """A neighbour graph whose rows also lie on a plane."""
    random = np.random.default_rng(5)
    points = (random.standard_normal((4, 16))[np.arange(ROWS) % 4] + 0.6 * random.standard_normal((ROWS, 16))).astype(
        "f4"
    )
    neighbour, similarity = Neighbours(k=6).nearest(points)
    columns = {"embedding": points, "neighbour": neighbour, "similarity": similarity, "place": random.random((ROWS, 2))}
    table = pa.table({"row": np.arange(ROWS), **{name: tensor_column(values) for name, values in columns.items()}})
    sink, unit = Hdf5(str(tmp_path / "data")), Unit.of("test", "1", 0, ROWS)
    record = Record(unit.key, sink.write(unit, table))
    sink.commit(
        lambda: iter([(unit, record)]), {"fingerprint": "x", "schema": table.schema.serialize().to_pybytes().hex()}
    )
    return table, Dataset(sink.uri, whole=True)


def run(source, stage, sink):
    assert Inline().run(Pipeline("line", source, sink, (Step(stage),))).rows
    return read_table(sink.uri)


SOLVERS = {
    "spectral": lambda cluster: Spectral(max_clusters=5, cluster=cluster),
    "graph": lambda cluster: Graph(cluster=cluster),
    "poisson": lambda cluster: Poisson(
        ("place[0]", "place[1]"), ("embedding[0]",), "embedding[1]", screening=1.0, grid=32, width=0.05, cluster=cluster
    ),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_solver_on_two_ranks_gives_what_it_gives_here(slurm, over_ssh, dataset, tmp_path, solver):
    _, source = dataset
    there = slurm.cluster(tasks=2, folder=str(tmp_path / "jobs"), memory="400M")
    here = Local(tasks=2, folder=str(tmp_path / "local"))
    found, wanted = (
        run(source, SOLVERS[solver](cluster), Parquet(str(tmp_path / name)))
        for name, cluster in (("there", there), ("here", here))
    )
    assert digest(found) == digest(wanted)
    assert not list((tmp_path / "jobs").glob("*/*")), "what the job needed is taken away"


ITEM = """
    import json, os, sys
    import numpy as np
    from penstock.core.reading import read_arrays
    from penstock.solvers.reference import Reference
    told = json.load(open(sys.argv[-1]))
    item, items = int(os.environ["PENSTOCK_ITEM"]), int(os.environ["PENSTOCK_ITEMS"])
    start, stop = (told["rows"] * edge // items for edge in (item, item + 1))
    reference = Reference(*(told[name] for name in ("dataset", "version", "rows", "sha256")))
    rows = read_arrays(reference.manifest(), start, stop, ["embedding"])["embedding"]
    sums = rows.sum(axis=1, dtype=np.float64)
    np.savez(told["result"].replace("{item}", str(item)), sum=sums, item=np.full(len(sums), item))
"""


def test_a_program_of_ones_own_as_an_array_of_items_in_a_pipeline(slurm, over_ssh, dataset, tmp_path):
    table, source = dataset
    (tmp_path / "item.py").write_text(textwrap.dedent(ITEM))
    cluster = slurm.cluster(folder=str(tmp_path / "jobs"), memory="400M", at_once=3)
    columns = {"sum": "float64", "item": "int64"}
    stage = Program((sys.executable, str(tmp_path / "item.py")), columns, "npz", ITEMS, cluster=cluster)
    with slurm.counted("sbatch") as sbatch:
        found = run(source, stage, Parquet(str(tmp_path / "out")))
        assert sbatch() == 1
    assert found["row"].to_pylist() == list(range(ROWS))
    np.testing.assert_array_equal(found["sum"], to_numpy(table["embedding"]).sum(axis=1, dtype=np.float64))
    edges = [ROWS * item // ITEMS for item in range(ITEMS + 1)]
    np.testing.assert_array_equal(found["item"], np.repeat(np.arange(ITEMS), np.diff(edges)))
