"""How solvers hold the files that they read against the manifest."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.ledger import identity_of
from penstock.errors import DatasetError
from penstock.solvers.graph import Graph
from penstock.solvers.poisson import Poisson
from penstock.solvers.spectral import Spectral

STAGES = [Spectral(max_clusters=3), Graph(), Poisson(("x", "x"), ("row",), grid=32, width=0.05)]


@pytest.mark.parametrize("stage", STAGES, ids=["spectral", "graph", "poisson"])
def test_a_changed_byte_is_seen_by_the_hash_and_a_lost_one_by_the_size(published, graph_of, here, tmp_path, stage):
    ring = (np.arange(90)[:, None] + [-1, 1]) % 90
    table = graph_of(ring).append_column("x", pa.array(np.linspace(0, 1, 90)))
    reference = published(table)
    part = sorted((tmp_path / "dataset" / "parts").iterdir())[1]
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)

    def rows(check):
        with dataclasses.replace(stage, cluster=here, check=check).open() as transform:
            return transform(reference).num_rows

    with pytest.raises(DatasetError, match=r"its sha256 is .*the file is damaged"):
        rows("sha256")
    assert rows("size") == 90
    part.write_bytes(data[:-9])
    with pytest.raises(DatasetError, match=r"bytes, the parts table says .*the file is damaged"):
        rows("size")


@pytest.mark.parametrize("stage", STAGES, ids=["spectral", "graph", "poisson"])
def test_what_is_computed_does_not_depend_on_the_check(stage):
    assert stage.check == "sha256"
    assert identity_of("stages", dataclasses.replace(stage, check="size")) == identity_of("stages", stage)
