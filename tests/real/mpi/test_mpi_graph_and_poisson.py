"""The graph and the diffusion solver under real MPI: the same result for any number of ranks."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.clusters.local import _LAUNCHER, Local
from penstock.core.batch import digest, tensor_column, to_numpy
from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.runners.inline import Inline
from penstock.sinks.hdf5 import Hdf5
from penstock.solvers.graph import Graph
from penstock.solvers.neighbours import Neighbours
from penstock.solvers.poisson import Poisson
from penstock.sources.dataset import Dataset


def solve(stage, reference):
    with stage.open() as transform:
        return transform(reference)


def on(tmp_path, tasks):
    return Local(tasks=tasks, folder=str(tmp_path / "work"), time_minutes=5)


@pytest.mark.parametrize("keep", ["component", "greedy"])
def test_the_graph_has_the_same_bits_for_any_number_of_ranks(tmp_path, published, keep):
    random = np.random.default_rng(7)
    points = random.standard_normal((4, 32))[np.arange(700) % 4] + 0.8 * random.standard_normal((700, 32))
    points[600:] = points[:100] + 1e-3 * random.standard_normal((100, 32))
    neighbour, similarity = Neighbours(k=9).nearest(points.astype(np.float32))
    columns = {"neighbour": tensor_column(neighbour), "similarity": tensor_column(similarity)}
    reference = published(tmp_path / "graph", pa.table({"row": np.arange(700), **columns}))
    tables = [solve(Graph(keep=keep, cluster=on(tmp_path, tasks)), reference) for tasks in (1, 2, 4)]
    assert len({digest(table) for table in tables}) == 1
    assert tables[0]["kept"].to_pylist() == [True] * 600 + [False] * 100


@pytest.fixture
def lattice(tmp_path, published):
    x, y = (axis.ravel() for axis in np.meshgrid(*[np.arange(20) / 20] * 2, indexing="ij"))
    wave = np.sin(2 * np.pi * x) * np.cos(2 * np.pi * y)
    table = {"place": tensor_column(np.stack([x, y], axis=1)), "wave": wave, "other": np.cos(4 * np.pi * x)}
    return wave, published(tmp_path / "data", pa.table(table))


SETTINGS = {
    "constant": {},
    "mask": {"mask": "other", "screening": 1.5},
    "heat": {"mask": "other", "time": 0.02, "steps": 5},
    "grid": {"mask": "other", "output": "grid"},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_diffusion_is_equal_to_rounding_for_any_number_of_ranks(tmp_path, lattice, options):
    wave, reference = lattice
    # 34 points to a line and 18 columns of the spectrum: neither can be shared out evenly by 4.
    plain = {"points": ("place[0]", "place[1]"), "forcing": ("wave", "other"), "grid": 34, "width": 0.06}
    plain["period"] = (1.0, 1.0)
    found = [
        to_numpy(solve(Poisson(**plain, **options, cluster=on(tmp_path, tasks)), reference)["solution"])
        for tasks in (1, 2, 4)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-13 * np.abs(found[0]).max())
    if not options:
        square = 2 * (2 * np.pi) ** 2
        np.testing.assert_allclose(found[2][:, 0], wave * np.exp(-square * 0.06**2 / 2) / square, atol=1e-8)


MANUFACTURED = """
    import numpy as np
    from mpi4py import MPI
    from penstock.solvers.programs.poisson import Equation, steady
    from penstock.solvers.programs.waves import Waves
    waves, turn = Waves(32, MPI.COMM_WORLD), 2 * np.pi
    x, y = np.meshgrid(*[turn * np.arange(32) / 32] * 2, indexing="ij")
    u, kappa = np.exp(np.sin(x)) * np.cos(y), np.exp(0.5 * np.cos(x) + 0.3 * np.sin(y))
    laplace = (np.cos(x) ** 2 - np.sin(x) - 1) * u
    forcing = -turn**2 * kappa * (
        laplace - 0.5 * np.sin(x) * np.cos(x) * u - 0.3 * np.cos(y) * np.exp(np.sin(x)) * np.sin(y)
    )
    own = waves.lines
    found = steady(Equation(waves, (1.0, 1.0), 0.0, kappa[own]), forcing[own])
    np.testing.assert_allclose(waves.forward(u[own]), np.fft.rfft2(u)[:, waves.columns], atol=1e-10)
    np.testing.assert_allclose(found, (u - u.mean())[own], atol=1e-11)
    print("close")
"""


@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
def test_a_manufactured_solution_is_met_on_any_number_of_ranks(tmp_path, ranks):
    (tmp_path / "manufactured.py").write_text(textwrap.dedent(MANUFACTURED))
    launcher = str(Path(sys.executable).with_name("mpiexec"))
    command = [launcher, "-n", str(ranks), sys.executable, "-m", "mpi4py", str(tmp_path / "manufactured.py")]
    done = subprocess.run(command, env={**_LAUNCHER, **os.environ}, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["close"] * ranks, done.stderr


def test_near_duplicates_are_gone_from_the_dataset_at_the_end_of_the_line(tmp_path, published):
    points = np.random.default_rng(3).standard_normal((120, 8)).astype(np.float32)
    points[100:] = points[:20] * (1 + 1e-5)
    table = pa.table({"name": [f"n{i}" for i in range(120)], "embedding": tensor_column(points)})
    published(tmp_path / "embeddings", table, form="parquet")
    (tmp_path / "pipeline.toml").write_text(DEDUPLICATE)
    command = [sys.executable, "-m", "penstock", "run", "pipeline.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_table(str(tmp_path / "unique"))
    assert found["name"].to_pylist() == [f"n{i}" for i in range(100)]
    np.testing.assert_array_equal(to_numpy(found["embedding"]), points[:100])


DEDUPLICATE = """
    [pipeline.neighbours]
    source = { use = "dataset", uri = "embeddings", whole = true }
    sink = { use = "hdf5", uri = "neighbours" }
    [[pipeline.neighbours.step]]
    use = "neighbours"
    k = 5

    [pipeline.graph]
    source = { use = "dataset", uri = "neighbours", whole = true }
    sink = { use = "hdf5", uri = "graph" }
    [[pipeline.graph.step]]
    use = "graph"
    duplicate_similarity = 0.999
    cluster = { use = "local", tasks = 2 }

    [pipeline.unique]
    source = { use = "dataset", uri = "graph" }
    sink = { use = "parquet", uri = "unique" }
    [[pipeline.unique.step]]
    use = "function"
    function = "penstock.solvers.graph:kept"
    [[pipeline.unique.step]]
    use = "join"
    dataset = "embeddings"
    columns = ["name", "embedding"]
"""


def test_from_embeddings_to_a_field_that_a_solver_reads(tmp_path, published):
    random = np.random.default_rng(3)
    points = (4 * np.eye(8)[np.arange(240) % 4] + 0.5 * random.standard_normal((240, 8))).astype(np.float32)
    published(tmp_path / "embeddings", pa.table({"embedding": tensor_column(points)}))
    columns = {"points": ("embedding[0]", "embedding[1]"), "forcing": ("embedding[2]", "embedding[3]")}
    stage = Poisson(**columns, mask="embedding[4]", grid=48, width=0.04, output="grid", cluster=on(tmp_path, 2))
    line = Pipeline(
        "field", Dataset(str(tmp_path / "embeddings"), whole=True), Hdf5(str(tmp_path / "field")), (Step(stage),)
    )
    assert Inline().run(line).rows == 48
    found = read_table(str(tmp_path / "field"))
    assert to_numpy(found["solution"]).shape == (48, 2, 48)
    assert (to_numpy(found["kappa"]) > 0).all()
    assert abs(to_numpy(found["solution"]).mean()) < 1e-10
