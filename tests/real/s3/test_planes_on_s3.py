"""Planes of the stage `kmer` that lie on S3."""

import numpy as np
import pyarrow as pa
import pytest

from penstock.core.storage import join
from penstock.errors import StorageError
from penstock.models import planes
from penstock.models.kmers import Letters
from penstock.stages.kmer import Kmer

DNA = pa.table({"sequence": ["".join(np.random.default_rng(1).choice(list("ACGT"), 2000))]})


def fitted(seed):
    return planes.fit(Letters.of(DNA["sequence"]), 9, 6, bands=2, seed=seed)


def test_the_stage_takes_planes_from_s3(s3_root):
    uri = join(s3_root, "model", "planes.npz")
    planes.save(fitted(0), uri)
    expected, _ = fitted(0).ids(Letters.of(DNA["sequence"]))
    with Kmer(planes=uri).open() as transform:
        assert transform(DNA)["kmers"][0].values.to_pylist() == expected.tolist()


def test_other_planes_are_never_written_over(s3_root):
    uri = join(s3_root, "planes.npz")
    planes.save(fitted(0), uri)
    planes.save(fitted(0), uri)
    with pytest.raises(StorageError, match="other planes lie there, on which models may depend"):
        planes.save(fitted(1), uri)
    assert planes.load(uri).sha256 == fitted(0).sha256
