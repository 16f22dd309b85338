import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.core import reading
from penstock.core.batch import tensor_column, to_numpy
from penstock.core.dataset import Format, Manifest, commit, draft, existing, publish_part
from penstock.core.nouns import Record, Unit
from penstock.core.reading import read_arrays, read_rows, read_sample, read_table
from penstock.errors import DatasetError, SchemaError
from penstock.sinks.parquet import Parquet

TABLE = pa.table(
    {
        "id": pa.array(range(100), pa.int64()),
        "name": [f"né {i}" for i in range(100)],
        "vector": tensor_column(np.arange(600, dtype=np.float32).reshape(100, 2, 3)),
        "good": [i % 3 == 0 for i in range(100)],
    }
)
ROWS = (0, 7, 0, 30, 1, 0, 52, 10, 0)
ALLOWED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def provenance(schema):
    return {"fingerprint": "f", "schema": schema.serialize().to_pybytes().hex()}


def units():
    firsts = np.cumsum([0, *ROWS])
    return [(Unit.of("x", "e", i, i + 1), TABLE.slice(firsts[i], rows)) for i, rows in enumerate(ROWS)]


def parquet(root, file_bytes=8000):
    sink = Parquet(str(root), file_bytes)
    found = [(unit, Record(unit.key, sink.write(unit, batch))) for unit, batch in units()]
    return sink.commit(lambda: found, provenance(TABLE.schema))


def write_hdf5(batch, path):
    with h5py.File(path, "w") as file:
        file["id"], file["name"] = batch["id"].to_numpy(), batch["name"].to_pylist() or np.empty(0, h5py.string_dtype())
        file["vector"] = np.array(batch["vector"].combine_chunks().to_numpy_ndarray()).reshape(-1, 2, 3)
        file["good"] = np.array(batch["good"].to_pylist(), np.uint8)
        file["row"] = np.arange(batch.num_rows)


def hdf5(root):
    """As `penstock.sinks.hdf5` lays it out, by h5py alone; each unit a file."""
    found = [
        (
            unit,
            Record(
                unit.key,
                publish_part(str(root), ".h5", lambda path, batch=batch: write_hdf5(batch, path), batch.num_rows),
            ),
        )
        for unit, batch in units()
    ]
    return commit(draft(str(root), "hdf5", provenance(TABLE.schema)), Format(".h5", None), lambda: found, 0)


@pytest.fixture(scope="module", params=[parquet, hdf5])
def dataset(request, tmp_path_factory) -> Manifest:
    return request.param(tmp_path_factory.mktemp("dataset"))


@given(st.integers(0, 110), st.integers(0, 110), st.lists(st.sampled_from(TABLE.column_names), unique=True))
@settings(deadline=None, max_examples=60, suppress_health_check=ALLOWED)
def test_any_rows_of_any_columns_are_read(dataset, start, stop, columns):
    wanted = TABLE.slice(start, max(stop - start, 0)).select(columns or TABLE.column_names)
    assert read_rows(dataset, start, stop, columns).equals(wanted)


def test_a_table_is_all_rows(dataset):
    assert read_table(dataset.uri).equals(TABLE)
    assert read_table(dataset.uri, ["vector", "id"]).equals(TABLE.select(["vector", "id"]))


def test_the_files_were_packed(tmp_path):
    parts = parquet(tmp_path).parts()
    assert 1 < len(set(parts["path"].to_pylist())) < len(ROWS)


def test_a_column_that_is_not_there_is_refused(dataset):
    with pytest.raises(SchemaError, match=r"has no column 'age'; there are: id, name, vector, good"):
        read_table(dataset.uri, ["age"])


def test_nothing_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="there is no manifest, so no finished dataset"):
        read_table(str(tmp_path))


@pytest.mark.parametrize("make", [parquet, hdf5])
def test_a_damaged_file_is_refused(tmp_path, make):
    manifest = make(tmp_path)
    path = tmp_path / manifest.parts()["path"][3].as_py()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DatasetError, match=r"its sha256 is \w{16}\.\.\., the parts table says \w{16}\.\.\.; the file is damaged"
    ):
        read_rows(manifest, 10, 20)


@pytest.mark.parametrize("make", [parquet, hdf5])
def test_a_missing_file_is_refused(tmp_path, make):
    manifest = make(tmp_path)
    (tmp_path / manifest.parts()["path"][3].as_py()).unlink()
    with pytest.raises(
        DatasetError, match=r"the manifest names this file, but it cannot be read .*; restore it or run"
    ):
        read_rows(manifest, 10, 20)


def test_a_file_is_hashed_once(tmp_path, monkeypatch):
    manifest, hashed = parquet(tmp_path, 1 << 20), []
    monkeypatch.setattr(
        reading, "sha256_of", lambda path: hashed.append(path) or existing(str(tmp_path)).parts()["sha256"][0].as_py()
    )
    for start in range(0, 100, 10):
        assert read_rows(manifest, start, start + 10).num_rows == 10
    assert len(hashed) == 1


def test_an_unknown_format_is_refused(tmp_path):
    manifest = parquet(tmp_path)
    other = Manifest(manifest.uri, 1, "lance", manifest.schema, 1, 0, "", manifest.parts_sha256)
    with pytest.raises(DatasetError, match=r"its format is 'lance'; known are: parquet, hdf5, zarr"):
        read_rows(other, 0, 1)


def test_few_parts_tables_are_kept(tmp_path):
    for i in range(6):
        read_rows(parquet(tmp_path / str(i)), 0, 1)
    assert len(reading._KNOWN) == 4


def test_parts_tables_are_forgotten_while_other_threads_read_by_them(tmp_path, monkeypatch):
    class Crowded(dict):
        """Another thread forgets a table right after this one has seen it."""

        def __contains__(self, key):
            found = super().__contains__(key)
            self.clear()
            return found

    manifest = parquet(tmp_path)
    monkeypatch.setattr(reading, "_KNOWN", Crowded())
    for _ in range(2):
        assert read_rows(manifest, 0, 1).num_rows == 1


@given(st.integers(0, 100), st.integers(0, 100), st.sampled_from(["sha256", "size"]))
@settings(deadline=None, max_examples=40, suppress_health_check=ALLOWED)
def test_rows_are_read_into_one_array_a_column(dataset, one, other, check):
    start, stop = sorted((one, other))
    found = read_arrays(dataset, start, stop, ["vector", "good", "id"], check)
    assert list(found) == ["vector", "good", "id"]
    for name, array in found.items():
        exact = to_numpy(TABLE[name])[start:stop]
        assert array.dtype == exact.dtype
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, exact)


def test_text_is_no_array(dataset):
    with pytest.raises(SchemaError, match="column 'name' is string; numbers or a tensor were needed"):
        read_arrays(dataset, 0, 3, ["name"])


def test_arrays_end_where_the_dataset_does(dataset):
    with pytest.raises(DatasetError, match="rows 90 to 101 were asked for; it has 100"):
        read_arrays(dataset, 90, 101, ["id"])


@pytest.mark.parametrize("make", [parquet, hdf5])
def test_a_file_of_another_size_is_refused_unread(tmp_path, make):
    manifest = make(tmp_path)
    for path in (tmp_path / "parts").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"it has \d+ bytes, the parts table says \d+; the file is damaged"):
        read_arrays(manifest, 0, 100, ["id"], "size")


def test_hdf5_that_cannot_be_understood_is_named(tmp_path):
    manifest = hdf5(tmp_path)
    for path in (tmp_path / "parts").iterdir():
        path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(DatasetError, match=r"rows 0 to \d+ of id cannot be read .*the file is damaged, restore it"):
        read_arrays(manifest, 0, 100, ["id"], "size")


def test_a_sample_is_the_same_whatever_the_window(tmp_path, monkeypatch):
    manifest = parquet(tmp_path)
    whole = read_sample(manifest, ["id"], 30)
    monkeypatch.setattr(reading, "_WINDOW_ROWS", 7)
    windowed = read_sample(manifest, ["id"], 30)
    assert windowed["id"].to_pylist() == whole["id"].to_pylist()
    assert whole.num_rows == len(set(whole["id"].to_pylist())) == 30
    assert read_sample(manifest, ["id"], 1000).num_rows == 100
