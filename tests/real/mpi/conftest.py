"""Small datasets for programs under a real MPI launcher."""

from itertools import pairwise

import pyarrow as pa
import pytest

from penstock.core.dataset import newest
from penstock.core.nouns import Record, Unit
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.solvers.reference import REFERENCE


@pytest.fixture
def published():
    """Publishes a table in so many parts at an address, and gives the reference to it."""

    def publish(root, table, parts=5, form="hdf5"):
        sink = {"hdf5": Hdf5, "parquet": Parquet}[form](str(root), file_bytes=1)
        units = [
            Unit.of("test", "1", *edges) for edges in pairwise(table.num_rows * i // parts for i in range(parts + 1))
        ]
        records = [(u, Record(u.key, sink.write(u, table.slice(u.start, u.stop - u.start)))) for u in units]
        sink.commit(lambda: iter(records), {"fingerprint": "x", "schema": table.schema.serialize().to_pybytes().hex()})
        return reference_to(newest(sink.uri))

    return publish


def reference_to(manifest):
    row = [[manifest.uri], [manifest.version], [manifest.rows], [manifest.sha256]]
    return pa.table([pa.array(*column) for column in zip(row, REFERENCE.types, strict=True)], schema=REFERENCE)
