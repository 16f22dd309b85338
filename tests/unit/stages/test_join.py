import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import tensor_column, to_numpy
from penstock.core.nouns import Record, Unit
from penstock.errors import DatasetError, RowErrors, SchemaError
from penstock.sinks.parquet import Parquet
from penstock.stages.join import Join

VECTORS = np.arange(12, dtype=np.float32).reshape(6, 2)
NAMES = ["a", "b", "c", "d", "e", "f"]


def published(root, names):
    """A dataset of two units, with the rows of `VECTORS`."""
    sink, records = Parquet(str(root)), []
    whole = pa.table({"name": names, "vector": tensor_column(VECTORS)})
    for start in (0, 4):
        unit = Unit.of("memory", "1", start, start + 4)
        records.append((unit, Record(unit.key, sink.write(unit, whole.slice(start, 4)))))
    provenance = {"schema": whole.schema.serialize().to_pybytes().hex(), "fingerprint": "0" * 64}
    return sink.commit(lambda: records, provenance)


@pytest.fixture
def dataset(tmp_path):
    published(tmp_path / "other", NAMES)
    return str(tmp_path / "other")


def joined(stage, batch):
    with stage.open() as transform:
        result = transform(batch)
    assert result.schema.equals(stage.schema(batch.schema))
    return result


def test_adds_columns_by_row_number(dataset):
    found = joined(Join(dataset, ("vector", "name")), pa.table({"row": [5, 0, 3, 3], "cluster": [1, 2, 3, 4]}))
    assert found.column_names == ["row", "cluster", "vector", "name"]
    assert found["name"].to_pylist() == ["f", "a", "d", "d"]
    np.testing.assert_array_equal(to_numpy(found["vector"]), VECTORS[[5, 0, 3, 3]])


def test_adds_columns_by_key(dataset):
    found = joined(Join(dataset, ("vector",), on="name"), pa.table({"name": ["c", "a"]}))
    np.testing.assert_array_equal(to_numpy(found["vector"]), VECTORS[[2, 0]])


def test_quarantines_rows_without_a_partner(dataset):
    with pytest.raises(RowErrors) as caught:
        joined(Join(dataset, ("name",)), pa.table({"row": [6, 1, -1, None]}))
    assert caught.value.good.to_pydict() == {"row": [1], "name": ["b"]}
    assert caught.value.reasons == [f"row {row} is not among the 6 rows of {dataset}" for row in (6, -1, None)]
    with pytest.raises(RowErrors) as caught:
        joined(Join(dataset, ("vector",), on="name"), pa.table({"name": ["b", "zz", None]}))
    assert caught.value.reasons == [f"no row of {dataset} has name {name!r}" for name in ("zz", None)]


def test_refuses_keys_that_many_rows_share(tmp_path):
    published(tmp_path / "other", ["a", "b", "a", "c", "b", "a"])
    with pytest.raises(DatasetError, match="3 of 6 values of 'name' repeat others"):
        joined(Join(str(tmp_path / "other"), ("vector",), on="name"), pa.table({"name": ["b"]}))


def test_identity_follows_the_dataset(tmp_path, dataset):
    other = published(tmp_path / "changed", NAMES[::-1])
    assert Join(dataset, ("name",)).identity() != {"dataset": other.sha256}
    assert Join(other.uri, ("name",)).identity() == {"dataset": other.sha256}


def test_refuses_what_cannot_be_joined(tmp_path, dataset):
    rows = pa.schema({"row": pa.int64()})
    with pytest.raises(DatasetError, match="there is no manifest, so no finished dataset; run the pipeline"):
        Join(str(tmp_path / "nothing"), ("name",)).schema(rows)
    with pytest.raises(SchemaError, match=f"join with {dataset} needs a column 'colour'; there are: name, vector"):
        Join(dataset, ("colour",)).schema(rows)
    with pytest.raises(
        SchemaError, match="join needs column 'row' as int64 or int32 or uint64 or uint32; it is string"
    ):
        Join(dataset, ("name",)).schema(pa.schema({"row": pa.string()}))
    with pytest.raises(SchemaError, match="join: 'name' is int64 here and string in"):
        Join(dataset, ("vector",), on="name").schema(pa.schema({"name": pa.int64()}))
    with pytest.raises(ValueError, match="columns is empty"):
        Join(dataset, ())
