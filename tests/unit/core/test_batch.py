"""Tensor columns, and what may happen to batches on the way without anybody noticing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from penstock.core.batch import (
    adding,
    digest,
    field_of,
    from_bytes,
    pick,
    tensor_column,
    tensor_type,
    to_bytes,
    to_numpy,
    with_columns,
)
from penstock.errors import SchemaError

KINDS = st.sampled_from(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
ARRAYS = KINDS.flatmap(
    lambda kind: npst.arrays(kind, npst.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
)


@given(ARRAYS)
def test_arrays_come_back_from_columns(rows):
    column = tensor_column(rows)
    assert len(column) == len(rows)
    found = to_numpy(column)
    assert found.dtype == rows.dtype
    np.testing.assert_array_equal(found, rows)


@given(ARRAYS, st.data())
def test_slices_and_chunks_come_back_too(rows, data):
    cut = data.draw(st.integers(0, len(rows)))
    column = tensor_column(rows)
    chunked = pa.chunked_array([column.slice(0, cut), column.slice(cut)], column.type)
    np.testing.assert_array_equal(to_numpy(chunked), rows)
    np.testing.assert_array_equal(to_numpy(column.slice(cut)), rows[cut:])
    np.testing.assert_array_equal(to_numpy(chunked.slice(cut)), rows[cut:])


def test_no_rows_and_no_chunks_give_an_array_without_rows():
    kind = tensor_type(np.float32, 2, 3)
    assert to_numpy(pa.chunked_array([], kind)).shape == (0, 2, 3)
    assert to_numpy(pa.chunked_array([], pa.int8())).shape == (0,)


def test_one_chunk_is_not_copied():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert np.shares_memory(to_numpy(tensor_column(rows)), rows)
    assert np.shares_memory(to_numpy(pa.chunked_array([tensor_column(rows)])), rows)


def test_the_layout_is_that_of_arrow_s_own_tensors():
    rows = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    assert tensor_column(rows).equals(pa.FixedShapeTensorArray.from_numpy_ndarray(rows))
    assert tensor_column(np.asfortranarray(rows)).equals(tensor_column(rows))


def test_booleans_are_numbers_too():
    assert to_numpy(pa.array([True, False])).tolist() == [True, False]


@pytest.mark.parametrize("kind", [pa.string(), pa.list_(pa.int64()), pa.timestamp("s")])
def test_what_is_not_numeric_is_said_to_be_not(kind):
    with pytest.raises(SchemaError, match=r"a column of type .* is not numeric; numbers or a tensor were needed"):
        to_numpy(pa.array([], kind))


def test_nulls_are_errors_of_rows_and_not_of_the_schema():
    """So that the runner puts the rows aside instead of ending the run."""
    with pytest.raises(ValueError, match="2 of 3 values are null; numbers were needed"):
        to_numpy(pa.array([None, 1, None], pa.int64()))


# --- schemas ---------------------------------------------------------------------------------------------

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.string())])


def test_a_field_is_found_or_its_absence_explained():
    assert field_of(SCHEMA, "b", "clean", pa.string(), pa.large_string()) == SCHEMA.field("b")
    assert field_of(SCHEMA, "a", "clean") == SCHEMA.field("a")
    with pytest.raises(SchemaError, match=r"^clean needs a column 'c'; there are: a, b$"):
        field_of(SCHEMA, "c", "clean")
    with pytest.raises(SchemaError, match=r"^clean needs a column 'c'; there are: none$"):
        field_of(pa.schema([]), "c", "clean")
    with pytest.raises(SchemaError, match=r"^clean needs column 'a' as string or large_string; it is int64$"):
        field_of(SCHEMA, "a", "clean", pa.string(), pa.large_string())


def test_schema_and_batch_change_alike():
    batch = pa.table({"a": [1, 2], "b": ["x", "y"]}, SCHEMA)
    columns = {"c": pa.array([0.5, 1.5]), "a": pa.array(["1", "2"])}
    grown = with_columns(batch, columns)
    assert grown.schema == adding(SCHEMA, {name: column.type for name, column in columns.items()})
    assert grown.schema.names == ["a", "b", "c"]
    assert grown.to_pydict() == {"a": ["1", "2"], "b": ["x", "y"], "c": [0.5, 1.5]}
    assert batch.to_pydict() == {"a": [1, 2], "b": ["x", "y"]}, "the argument is as it was"


@given(st.lists(st.booleans(), max_size=9))
def test_rows_are_picked_and_none_is_lost(keep):
    batch = pa.table({"x": pa.array(range(len(keep)), pa.int64())})
    good, bad = pick(batch, np.array(keep, bool))
    assert good["x"].to_pylist() == [i for i, kept in enumerate(keep) if kept]
    assert bad["x"].to_pylist() == [i for i, kept in enumerate(keep) if not kept]


# --- bytes -----------------------------------------------------------------------------------------------


def mixed(count: int) -> pa.Table:
    return pa.table(
        {
            "t": pa.array([None if i % 3 == 0 else f"größe {i}" for i in range(count)], pa.string()),
            "v": tensor_column(np.arange(2 * count, dtype=np.float16).reshape(count, 2)),
            "l": pa.array([[i] * (i % 3) for i in range(count)], pa.list_(pa.int8())),
        }
    )


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_batch_comes_back_from_its_bytes(count):
    batch = mixed(count).replace_schema_metadata({"a": "b"})
    assert from_bytes(to_bytes(batch)).equals(batch, check_metadata=True)
    assert from_bytes(to_bytes(batch).to_pybytes()).equals(batch)


def test_a_digest_is_of_values_and_not_of_how_they_lie_in_memory():
    batch = mixed(10)
    cut = pa.concat_tables([batch.slice(0, 4), batch.slice(4)])
    within = pa.concat_tables([batch, batch]).slice(10, 10)
    assert digest(batch) == digest(cut) == digest(within)
    assert digest(batch.slice(0, 0)) == digest(mixed(0))


def test_a_digest_tells_values_order_names_and_types_apart():
    batch = pa.table({"x": [1, 2]})
    others = [{"x": [2, 1]}, {"y": [1, 2]}, {"x": [1.0, 2.0]}, {"x": [1]}, {"x": [1, None]}]
    assert len({digest(batch), *(digest(pa.table(other)) for other in others)}) == 6
