"""OpenFOAM on a real Slurm, whose nodes see no folder of ours: template and rows go there, fields come back.

The rows of a batch are one job array.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_column, to_numpy
from penstock.errors import RowErrors
from penstock.solvers.openfoam.case import prepared
from penstock.solvers.openfoam.fresh import Openfoam

BOX = Path(__file__).parents[3] / "examples" / "flow" / "box"
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
