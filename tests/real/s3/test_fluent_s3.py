"""Fluent's cases and folders in S3."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from penstock.clusters.local import Local
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.storage import join, store_of
from penstock.formats.fluent import block, from_foam, read_cloud, write_case
from penstock.solvers.fluent import Fluent, FluentCase, Grid

STAND_IN = Path(__file__).parents[2] / "unit" / "solvers" / "fluent_stand_in.py"
GRID = Grid("velocity", axes=((0, 1, 0), (1, 0, 0)))


def test_a_case_in_s3_is_written_beside_its_folders_and_run(s3_root, tmp_path):
    write_case(tmp_path / "box.cas.h5", from_foam(block((2, 2, 1), (1, 1, 1), ("inlet", "outlet", *["walls"] * 4))))
    content = (tmp_path / "box.cas.h5").read_bytes()
    case = join(s3_root, "cases", "box.cas.h5")
    store_of(case).replace(case, content)
    velocity = np.random.default_rng(0).standard_normal((2, 2, 2, 2)).astype(np.float32)
    given = pa.table({"velocity": tensor_column(velocity)})

    writer = FluentCase(case=case, initial=GRID, folders=join(s3_root, "folders"))
    with writer.open() as transform:
        folders = transform(given)["folder"].to_pylist()
    assert store_of(case).read(join(s3_root, "folders", "box.cas.h5")) == content
    for row, folder in enumerate(folders):
        (tmp_path / "a.ip").write_bytes(store_of(folder).read(join(folder, "initial.ip")))
        found = read_cloud(tmp_path / "a.ip").fields["y-velocity"]
        assert np.array_equal(found.astype(np.float32), velocity[row, 1].ravel())
        assert b'"../box.cas.h5"' in store_of(folder).read(join(folder, "run.jou"))

    program = tmp_path / "fluent"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    program.chmod(0o755)
    cluster = Local(folder=str(tmp_path / "jobs"))
    with Fluent(case=case, initial=GRID, program=str(program), cluster=cluster).open() as transform:
        np.testing.assert_allclose(to_numpy(transform(given)["SV_U"]), velocity[:, 0].reshape(2, 4), rtol=1e-6)
