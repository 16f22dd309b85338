import numpy as np
import pyarrow as pa
import pytest

from penstock.core.batch import column_of, tensor_column
from penstock.errors import RowErrors
from penstock.sinks.columns import arrays


def test_columns_become_arrays_and_come_back():
    batch = pa.table(
        {
            "id": pa.array([1, -2], pa.int16()),
            "text": ["", "ä🧬"],
            "long": pa.array(["a", "b"], pa.large_string()),
            "good": [True, False],
            "vector": tensor_column(np.arange(12, dtype=np.float16).reshape(2, 3, 2)),
        }
    )
    found = arrays(batch, "npz")
    assert found["text"].dtype.kind == "U"
    assert (found["vector"].shape, found["vector"].dtype) == ((2, 3, 2), np.float16)
    assert pa.table([column_of(found[f.name], f.type) for f in batch.schema], batch.schema).equals(batch)


def test_names_of_a_tensors_axes_come_back():
    kind = pa.fixed_shape_tensor(pa.float32(), (2, 3), dim_names=("y", "x"))
    assert column_of(np.zeros((4, 2, 3), np.float32), kind).type == kind


def test_no_rows_are_arrays_too():
    found = arrays(pa.table({"text": pa.array([], pa.string()), "id": pa.array([], pa.int8())}), "npz")
    assert [(array.shape, array.dtype.kind) for array in found.values()] == [((0,), "U"), ((0,), "i")]


def test_rows_that_arrays_cannot_say_are_refused():
    with pytest.raises(RowErrors) as caught:
        arrays(pa.table({"id": [1, None, 3, 4], "text": ["a", "b", "c\0", None]}), "npz")
    assert caught.value.good.to_pylist() == [{"id": 1, "text": "a"}]
    assert caught.value.reasons == [
        "column 'id' is null, which npz cannot say; fill it in a stage",
        "column 'text' ends with a NUL, which NumPy drops; take it away in a stage",
        "column 'text' is null, which npz cannot say; fill it in a stage",
    ]
