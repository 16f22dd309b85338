"""`penstock.read` beside PyArrow, h5py and zarr-python, which read the same files by themselves."""

from itertools import pairwise

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import penstock
from penstock.core import reading
from penstock.core.batch import tensor_column
from penstock.core.dataset import existing
from penstock.core.nouns import Record, Unit
from penstock.errors import DatasetError, SchemaError
from penstock.sinks.hdf5 import Hdf5
from penstock.sinks.parquet import Parquet
from penstock.sinks.zarr import Zarr, group

ROWS = 60
EMBEDDING = np.random.default_rng(0).normal(size=(ROWS, 4, 2)).astype(np.float32)
TABLE = pa.table(
    {
        "id": pa.array(np.arange(ROWS) * 3, pa.int64()),
        "text": [f"né {i}" for i in range(ROWS)],
        "good": [i % 3 == 0 for i in range(ROWS)],
        "embedding": tensor_column(EMBEDDING),
    }
)
SINKS = {
    "parquet": lambda root: Parquet(root, file_bytes=5000),
    "hdf5": lambda root: Hdf5(root, file_bytes=12_000),
    "hdf5-gzip": lambda root: Hdf5(root, file_bytes=12_000, compression="gzip", chunk_bytes=200),
    "zarr": lambda root: Zarr(root, file_bytes=12_000, chunk_bytes=200),
    "zarr-zstd": lambda root: Zarr(root, file_bytes=12_000, chunk_bytes=200, compression="zstd"),
}


def write(sink, edges=(0, 7, 7, 30, 31, 31, 52, ROWS), table=TABLE):
    records = []
    for low, high in pairwise(edges):
        unit = Unit.of("test", "1", low, high)
        records.append((unit, Record(unit.key, sink.write(unit, table.slice(low, high - low)))))
    told = {"schema": table.schema.serialize().to_pybytes().hex(), "fingerprint": f"{len(edges):064}"}
    return sink.commit(lambda: iter(records), told)


@pytest.fixture(scope="module", params=SINKS)
def dataset(request, tmp_path_factory):
    root = str(tmp_path_factory.mktemp(request.param))
    assert len(set(write(SINKS[request.param](root)).parts()["path"].to_pylist())) > 1
    return penstock.read(root)


EXACT = {
    "id": TABLE["id"].to_numpy(),
    "text": np.array(TABLE["text"].to_pylist(), object),
    "good": np.array(TABLE["good"].to_pylist()),
    "embedding": EMBEDDING,
}


def test_it_says_what_there_is_without_reading(dataset, monkeypatch):
    monkeypatch.setattr(reading, "_checked", lambda *_: pytest.fail("a file is read"))
    assert (len(dataset), dataset.version, dataset.names) == (ROWS, 1, ("id", "text", "good", "embedding"))
    assert dataset.schema == TABLE.schema
    column = dataset["embedding"]
    assert (column.shape, column.dtype, column.ndim, len(column)) == ((ROWS, 4, 2), np.float32, 3, ROWS)
    assert (dataset["text"].dtype, dataset["good"].dtype) == (object, bool)


edge = st.none() | st.integers(-ROWS - 5, ROWS + 5)
slices = st.builds(slice, edge, edge, st.none() | st.integers(-9, 9).filter(bool))
numbers = st.lists(st.integers(-ROWS, ROWS - 1), max_size=20)
masks = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS).map(np.array)
allowed = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
fair = settings(deadline=None, max_examples=40, suppress_health_check=allowed)


@fair
@given(rows=slices | numbers.map(lambda found: np.array(found, np.int64)) | masks, name=st.sampled_from(list(EXACT)))
def test_any_rows_are_those_that_numpy_gives(dataset, rows, name):
    found = dataset[name][rows]
    assert found.dtype == EXACT[name].dtype
    np.testing.assert_array_equal(found, EXACT[name][rows])


@fair
@given(rows=numbers)
def test_rows_as_tables_come_in_the_order_asked(dataset, rows):
    assert dataset[rows].to_pylist() == TABLE.take(pa.array([row % ROWS for row in rows], pa.int64())).to_pylist()
    assert dataset[rows].schema == TABLE.schema


def test_one_row_and_further_indices(dataset):
    column = dataset["embedding"]
    np.testing.assert_array_equal(column[-1], EMBEDDING[-1])
    np.testing.assert_array_equal(column[5, 2, 1], EMBEDDING[5, 2, 1])
    np.testing.assert_array_equal(column[10:40, :, 1], EMBEDDING[10:40, :, 1])
    assert dataset[3]["text"] == "né 3"
    np.testing.assert_array_equal(dataset[-2]["embedding"], EMBEDDING[-2])
    assert dataset["text"][4] == "né 4"


def test_all_of_it_in_each_form(dataset):
    assert dataset.arrow().equals(TABLE)
    np.testing.assert_array_equal(np.asarray(dataset["embedding"]), EMBEDDING)
    assert {name: array.tolist() for name, array in dataset.numpy().items()} == {
        name: array.tolist() for name, array in EXACT.items()
    }
    assert [batch.num_rows for batch in dataset.batches(25)] == [25, 25, 10]
    assert pa.concat_tables(dataset.batches(7, 20, 43)).equals(TABLE.slice(20, 23))
    assert list(dataset["text"]) == TABLE["text"].to_pylist()
    assert dataset.select("good", "id").names == ("good", "id")
    assert penstock.read(dataset.uri, columns=["embedding"], check="sha256").arrow().equals(TABLE.select(["embedding"]))


@pytest.mark.parametrize("form", ["parquet", "hdf5", "zarr"])
def test_the_libraries_themselves_find_the_same(tmp_path, form):
    write(SINKS[form](str(tmp_path)))
    ours = penstock.read(str(tmp_path))["embedding"]
    if form == "hdf5":
        with h5py.File(tmp_path / "index.h5") as file:
            theirs = file["embedding"][20:45]
    elif form == "zarr":
        theirs = zarr.open_group(group(str(tmp_path)))["embedding"][20:45]
        np.testing.assert_array_equal(penstock.read(str(tmp_path)).zarr()["embedding"][20:45], theirs)
    else:
        paths = dict.fromkeys(existing(str(tmp_path)).parts()["path"].to_pylist())
        parts = pa.concat_tables(pq.read_table(tmp_path / path) for path in paths)
        theirs = parts["embedding"].combine_chunks().to_numpy_ndarray()[20:45]
    np.testing.assert_array_equal(ours[20:45], theirs)


def test_only_the_files_with_such_rows_are_opened(dataset, monkeypatch):
    opened, checked = [], reading._checked
    monkeypatch.setattr(reading, "_checked", lambda uri, *more: opened.append(uri) or checked(uri, *more))
    dataset["embedding"][3:6]
    assert len(opened) == 1
    opened.clear()
    dataset["embedding"][[5, 59, 2, 5]]
    assert len(opened) == 2, "one for each file, however the rows are mixed"


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (ROWS, f"row {ROWS} was asked for; there are {ROWS}, from 0 to {ROWS - 1}"),
        ([0, -ROWS - 1], f"row {-ROWS - 1} was asked for"),
        (np.array([True]), r"a mask of shape \(1,\) was given; one truth value for each of 60 rows"),
        (np.array([1.0]), r"rows were asked for by float64 of shape \(1,\); a slice, whole numbers in one dimension"),
        ([[1, 2]], r"rows were asked for by int64 of shape \(1, 2\)"),
    ],
)
def test_rows_that_are_not_there(dataset, rows, text):
    with pytest.raises(IndexError, match=text):
        dataset["id"][rows]


def test_a_column_that_is_not_there(dataset):
    with pytest.raises(SchemaError, match="has no column 'age'; there are: id, text, good, embedding"):
        dataset["age"]
    with pytest.raises(SchemaError, match="has no column 'age'"):
        penstock.read(dataset.uri, columns=["age"])


def test_a_version_stays_what_it_was(tmp_path):
    sink = Parquet(str(tmp_path))
    write(sink, (0, 10))
    first = penstock.read(sink.uri)
    write(sink, (0, 10, 20))
    assert (len(first), len(penstock.read(sink.uri)), len(penstock.read(sink.uri, version=1))) == (10, 20, 10)
    assert first.arrow().equals(TABLE.slice(0, 10))
    with pytest.raises(DatasetError, match=r"there is no version 3; there are: \[1, 2\]"):
        penstock.read(sink.uri, version=3)


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match="there is no manifest, so no finished dataset"):
        penstock.read(str(tmp_path))


@pytest.mark.parametrize("form", SINKS)
def test_a_dataset_without_rows(tmp_path, form):
    sink = SINKS[form](str(tmp_path))
    write(sink, (0, 0))
    empty = penstock.read(sink.uri)
    assert (len(empty), empty["embedding"][:].shape, empty["text"][[]].shape) == (0, (0, 4, 2), (0,))
    assert list(empty.batches()) == []


def test_a_unit_that_is_twice_in_it(tmp_path):
    """Both lines of the parts table lead to one file."""
    sink, unit, again = Hdf5(str(tmp_path)), Unit.of("test", "1", 0, 1), Unit.of("test", "2", 0, 1)
    part = sink.write(unit, TABLE.slice(0, 4))
    told = {"schema": TABLE.schema.serialize().to_pybytes().hex(), "fingerprint": "f"}
    sink.commit(lambda: [(unit, Record(unit.key, part)), (again, Record(again.key, part))], told)
    assert penstock.read(sink.uri)["id"][[7, 3, 0, 4]].tolist() == [9, 9, 0, 0]


def test_tensors_share_the_memory_that_was_read(dataset):
    import torch

    tensor = dataset["embedding"].torch(slice(3, 33))
    assert torch.equal(tensor, torch.from_numpy(EMBEDDING[3:33]))
    tensor += 1
    np.testing.assert_array_equal(dataset["embedding"][3:33], EMBEDDING[3:33])
    with pytest.raises(SchemaError, match=r"column 'text' is string; a tensor needs numbers. Take .arrow\(\)"):
        dataset["text"].torch()


def test_nulls_among_numbers_are_told_and_come_as_arrow(tmp_path):
    batch = pa.table({"score": pa.array([1.5, None, 2.5])})
    sink, unit = Parquet(str(tmp_path)), Unit.of("test", "1", 0, 1)
    record = Record(unit.key, sink.write(unit, batch))
    schema = batch.schema.serialize().to_pybytes().hex()
    sink.commit(lambda: iter([(unit, record)]), {"schema": schema, "fingerprint": "f" * 64})
    found = penstock.read(sink.uri)
    with pytest.raises(SchemaError, match=r"1 of 3 rows of column 'score' are null, which float64 cannot say; take"):
        found["score"][:]
    assert found["score"].arrow().to_pylist() == [1.5, None, 2.5]
    assert found[1] == {"score": None}
