import pyarrow as pa
import pytest

from penstock.errors import SchemaError
from penstock.stages.drop import Drop

TABLE = pa.table({"a": [1, 2], "b": ["x", "y"], "c": [0.5, 1.5]})


def test_the_others_stay():
    with Drop(("a", "c")).open() as transform:
        assert transform(TABLE).equals(TABLE.select(["b"]))
    assert Drop(("a", "c")).schema(TABLE.schema).equals(TABLE.select(["b"]).schema)


def test_columns_must_be_there_and_some_must_stay():
    with pytest.raises(SchemaError, match="drop needs a column 'z'; there are: a, b, c"):
        Drop(("z",)).schema(TABLE.schema)
    with pytest.raises(SchemaError, match="drop leaves no column; there are: a, b, c"):
        Drop(("a", "b", "c")).schema(TABLE.schema)
    with pytest.raises(ValueError, match="columns is empty"):
        Drop(())
