"""OpenFOAM on a real Slurm.

Ensembles: its nodes see no folder of ours; template and rows go there, fields come back, and the rows of a batch are
one job array. Streams: its nodes see the run's folder, and planes come to them by TCP.
"""

import os
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest
from slurm_site import wait_until

from penstock.core.batch import tensor_column, to_numpy
from penstock.errors import JobError, RowErrors
from penstock.formats.openfoam import read_case_field
from penstock.solvers.openfoam.case import prepared
from penstock.solvers.openfoam.fresh import Openfoam
from penstock.solvers.openfoam.live import Inlet

FLOW = Path(__file__).parents[3] / "examples" / "flow"
BOX = FLOW / "box"
SRUN = ("srun", "--mpi=pmix", "-N", "1", "-n", "2", "--mem=300M")
AWS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_REGION")
N = 16


@pytest.fixture
def box(tmp_path):
    case = tmp_path / "case"
    for part in ("system", "constant", "0"):
        shutil.copytree(BOX / part, case / part)
    path = case / "system" / "blockMeshDict"
    path.write_text(path.read_text().replace("(64 64 1)", f"({N} {N} 1)"))
    prepared(case)
    return case


def test_rows_are_an_array_and_a_bad_one_costs_itself(slurm, over_ssh, s3_root, box):
    prologue = tuple(f"export {name}={os.environ[name]}" for name in AWS if name in os.environ)
    cluster = slurm.cluster(prologue=prologue, folder=s3_root, memory="300M")
    x = 2 * np.pi * np.arange(N) / N
    vortices = np.stack([np.sin(x)[None] * np.cos(x)[:, None], -np.cos(x)[None] * np.sin(x)[:, None]])
    flows = np.stack([vortices, vortices * np.inf, vortices / 2])
    batch = pa.table({"velocity": tensor_column(flows), "name": ["whole", "bad", "half"]})
    stage = Openfoam(str(box), control={"endTime": 0.05, "writeInterval": 10}, cluster=cluster)
    with stage.open() as transform, pytest.raises(RowErrors) as caught:
        transform(batch)
    assert caught.value.reasons == ["the values for U are not all finite; the solver would not start from them"]
    good = caught.value.good
    assert good["name"].to_pylist() == ["whole", "half"]
    later = to_numpy(good["later"])
    np.testing.assert_allclose(later, flows[[0, 2]] * np.exp(-2 * 0.01 * 0.05), atol=5e-3)


@pytest.fixture
def channel(tmp_path):
    case = tmp_path / "channel"
    for part in ("system", "constant", "0"):
        shutil.copytree(FLOW / "channel" / part, case / part)
    path = case / "system" / "controlDict"
    path.write_text(f"{path.read_text()}\nendTime 0.1; writeInterval 5;\n")
    return case


def planes_from(index):
    while True:
        u, v = np.random.default_rng(index).random((2, 40))
        yield np.stack([1 + 0.1 * u, 0.1 * v, 0 * v], axis=-1)
        index += 1


def ranks_in(folder):
    """Solvers that work there, whoever has started them."""
    return [one for one in psutil.process_iter(["name", "cwd"]) if one.info["name"] == "icoFoam" and _at(one, folder)]


def _at(process, folder):
    return process.info["cwd"] == str(folder)


def nodes_of(folder):
    """On which nodes of Slurm the ranks are."""
    return {one.environ().get("SLURMD_NODENAME") for one in ranks_in(folder)}


def test_srun_starts_the_ranks_on_a_node_and_planes_come_by_tcp(slurm, channel, tmp_path):
    """One node: all nodes of this Slurm are one machine, on which srun does not join the ranks of two."""
    inlet = Inlet(str(channel), host="127.0.0.1", ranks=2, launcher=SRUN, ahead=0, silent_seconds=30)
    folder, theirs = tmp_path / "run", tmp_path / "mpirun"
    with slurm.reached(local=True):
        states = inlet.feed(planes_from, folder)
        steps = [state.step for state in islice(states, 13)]
        assert steps[-1] == 12
        assert len(ranks_in(folder)) == 2
        assert len(nodes_of(folder)) == 1
        assert nodes_of(folder) <= {"c1", "c2", "c3", "c4"}
        [srun] = [one for one in psutil.Process().children() if one.name() == "srun"]
        srun.kill()
        wait_until(lambda: not ranks_in(folder), "the ranks' end")  # they would go on for as long as they have planes
        with pytest.raises(JobError, match=r"the solver died after step 12, time .*: icoFoam was ended by signal 9"):
            list(states)
        steps = [state.step for state in inlet.feed(planes_from, folder)]
        assert (steps[0], steps[-1]) == (10, 20)
    list(Inlet(str(channel), ranks=2).feed(planes_from, theirs))
    for name in ("U", "p", "phi"):
        ours, other = (read_case_field(case, "0.1", name).internal for case in (folder, theirs))
        assert np.array_equal(ours, other)
