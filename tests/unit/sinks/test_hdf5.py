"""HDF5 files as a solver meets them: layout, bytes, refusals, the index and the one file of all."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.batch import tensor_column
from penstock.core.dataset import existing
from penstock.core.nouns import Record, Unit
from penstock.core.storage import join
from penstock.core.verify import verify
from penstock.errors import DatasetError, RowErrors, SchemaError
from penstock.sinks import hdf5
from penstock.sinks.hdf5 import Hdf5, compact
from penstock.sinks.parquet import Parquet

RNG = np.random.default_rng(3)


@pytest.fixture
def sink(tmp_path) -> Hdf5:
    return Hdf5(str(tmp_path / "out"), file_bytes=30_000)


def unit(at: int) -> Unit:
    return Unit.of("u", "1", at, at + 1)


def write(sink: Hdf5, batch: pa.Table) -> Path:
    return Path(join(sink.uri, sink.write(unit(0), batch).path))


def committed(sink, batches: list[pa.Table]):
    records = [(unit(at), Record(unit(at).key, sink.write(unit(at), batch))) for at, batch in enumerate(batches)]
    schema = sink.schema(batches[0].schema)
    provenance = {"fingerprint": "f", "schema": schema.serialize().to_pybytes().hex(), "model": "esm"}
    return sink.commit(lambda: records, provenance)


def embeddings(start: int, stop: int, width: int = 3) -> pa.Table:
    rng = np.random.default_rng(start)
    return pa.table(
        {
            "id": pa.array(range(start, stop), pa.int32()),
            "name": pa.array([f"größe {i}" for i in range(start, stop)], pa.string()),
            "half": tensor_column(rng.normal(size=(stop - start, 2)).astype(np.float16)),
            "vector": tensor_column(rng.normal(size=(stop - start, width)).astype(np.float32)),
            "count": pa.array(range(stop - start), pa.uint16()),
            "good": pa.array([i % 2 == 0 for i in range(start, stop)], pa.bool_()),
        }
    )


# --- part files ------------------------------------------------------------------------------------------

NUMBERS = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
NUMBERS += [np.float16, np.float32, np.float64]


@pytest.mark.parametrize("kind", NUMBERS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("shape", [(), (3,), (2, 2, 2)], ids=str)
def test_numbers_and_tensors_are_datasets_of_the_same_name_and_kind(sink, kind, shape):
    values = (RNG.normal(size=(7, *shape)) * 50).astype(np.int8).astype(kind)
    path = write(sink, pa.table({"x": tensor_column(values)}))
    with h5py.File(path) as file:
        assert set(file) == {"x", "row"}
        assert file["x"].dtype == kind
        assert np.array_equal(file["x"][:], values)
        assert file["row"][:].tolist() == list(range(7))


def test_text_is_utf8_of_variable_length_and_booleans_are_bytes(sink):
    path = write(sink, pa.table({"t": ["", "größe", "🧬" * 1000], "b": [True, False, True]}))
    with h5py.File(path) as file:
        kind = h5py.check_string_dtype(file["t"].dtype)
        assert (kind.encoding, kind.length) == ("utf-8", None)
        assert file["t"].asstr()[:].tolist() == ["", "größe", "🧬" * 1000]
        assert file["b"].dtype == np.uint8
        assert file["b"][:].tolist() == [1, 0, 1]


def test_large_columns_lie_in_one_piece_at_a_multiple_of_a_mebibyte(sink):
    values = RNG.normal(size=(1500, 300)).astype(np.float32)
    path = write(sink, pa.table({"small": list(range(1500)), "x": tensor_column(values)}))
    with h5py.File(path) as file:
        assert file["x"].chunks is None
        offset = file["x"].id.get_offset()
        assert file["small"].id.get_offset() < offset
    assert offset % (1 << 20) == 0
    mapped = np.memmap(path, np.float32, "r", offset, (1500, 300))
    assert np.array_equal(mapped, values), "anybody can map it, without HDF5"
    assert path.stat().st_size < values.nbytes + (2 << 20)


def test_small_parts_are_small(sink):
    assert write(sink, pa.table({"x": [1]})).stat().st_size < 8192


def test_an_independent_reader_understands_the_file(sink):
    import pyfive

    batch = embeddings(0, 20)
    with pyfive.File(str(write(sink, batch))) as file:
        assert np.array_equal(file["vector"][:], batch["vector"].combine_chunks().to_numpy_ndarray())
        assert file["id"][:].tolist() == list(range(20))
        assert [t.decode() if isinstance(t, bytes) else t for t in file["name"][:]] == batch["name"].to_pylist()


def test_the_superblock_is_one_that_hdf5_1_8_knew(sink):
    data = write(sink, pa.table({"x": [1]})).read_bytes()
    assert data[:8] == b"\x89HDF\r\n\x1a\n"
    assert data[8] == 2, (
        "version of the superblock: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html"
    )


def test_the_clock_is_not_in_the_file(sink):
    first = sink.write(unit(0), embeddings(0, 5))
    time.sleep(1.1)  # HDF5's times count seconds
    assert sink.write(unit(0), embeddings(0, 5)) == first


def test_compressed_columns_have_chunks_of_whole_rows(tmp_path):
    sink = Hdf5(str(tmp_path), compression="gzip", chunk_bytes=4000)
    values = np.zeros((1000, 100), np.float32)
    path = write(sink, pa.table({"x": tensor_column(values), "i": pa.array(np.zeros(1000, np.int8))}))
    with h5py.File(path) as file:
        assert (file["x"].chunks, file["x"].compression, file["x"].shuffle) == ((10, 100), "gzip", True)
        assert file["i"].chunks == (1000,), "no larger than the column"
        assert np.array_equal(file["x"][:], values)
    assert path.stat().st_size < values.nbytes / 10


def test_a_row_wider_than_a_chunk_has_a_chunk_of_its_own(tmp_path):
    sink = Hdf5(str(tmp_path), compression="gzip", chunk_bytes=100)
    with h5py.File(write(sink, pa.table({"x": tensor_column(np.zeros((3, 50), np.float32))}))) as file:
        assert file["x"].chunks == (1, 50)


def test_columns_are_chosen_and_ordered(tmp_path):
    sink = Hdf5(str(tmp_path), columns=("vector", "id"))
    batch = embeddings(0, 4)
    assert sink.schema(batch.schema).names == ["vector", "id"]
    with h5py.File(write(sink, batch)) as file:
        assert set(file) == {"vector", "id", "row"}


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (pa.list_(pa.float32()), "solvers need one shape for all rows: make it a fixed_shape_tensor, pad ragged lists"),
        (pa.list_(pa.float32(), 3), "solvers need one shape for all rows: make it a fixed_shape_tensor"),
        (pa.struct([("a", pa.int64())]), "solvers need one shape for all rows"),
        (pa.timestamp("us"), "cast it to int64, and say in its name from when it counts and in what unit"),
        (pa.date32(), "cast it to int64"),
        (pa.decimal128(10, 2), "cast it to float64"),
        (pa.dictionary(pa.int8(), pa.string()), "cast it to what its dictionary holds"),
        (pa.binary(2), "bfloat16 and the like are opaque to solvers: cast it to float32 or float16"),
        (pa.binary(), "cast it to numbers, a tensor or text"),
        (pa.null(), "cast it to numbers, a tensor or text"),
        (pa.fixed_shape_tensor(pa.bool_(), [2]), "make it a tensor of numbers, not of bool"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_solvers_cannot_read_is_refused_with_what_to_do(kind, remedy):
    with pytest.raises(SchemaError) as caught:
        Hdf5("x").schema(pa.schema([("ok", pa.int64()), ("c", kind)]))
    text = str(caught.value)
    assert text.startswith(f"the hdf5 sink cannot hold column 'c' of type {kind}; {remedy}")
    assert text.endswith("or choose the others by 'columns'")
    assert Hdf5("x", columns=("ok",)).schema(pa.schema([("ok", pa.int64()), ("c", kind)])).names == ["ok"]


def test_names_that_hdf5_takes_for_paths_are_refused():
    with pytest.raises(SchemaError, match="the hdf5 sink cannot call a dataset 'a/b'; rename the column, without '/'"):
        Hdf5("x").schema(pa.schema([("a/b", pa.int64())]))


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(SchemaError, match="the hdf5 sink needs a column 'y'; there are: x"):
        Hdf5("x", columns=("y",)).schema(pa.schema([("x", pa.int64())]))


def test_chunks_have_a_size():
    with pytest.raises(ValueError, match="chunk_bytes must be positive, not 0"):
        Hdf5("x", chunk_bytes=0)


def test_rows_with_nulls_or_zero_bytes_are_refused_one_by_one(sink):
    batch = pa.table({"x": [1, None, 3, 4], "t": ["a", "b", "c\0d", None]})
    with pytest.raises(RowErrors) as caught:
        sink.write(unit(0), batch)
    assert caught.value.good.to_pylist() == [{"x": 1, "t": "a"}]
    assert caught.value.bad.to_pylist() == batch.slice(1).to_pylist()
    assert caught.value.reasons == [
        "column 'x' is null, which HDF5 cannot say; fill it in a stage",
        "column 't' has a zero byte, where HDF5 text ends",
        "column 't' is null, which HDF5 cannot say; fill it in a stage",
    ]


def test_nulls_in_columns_that_are_not_written_do_not_matter(tmp_path):
    sink = Hdf5(str(tmp_path), columns=("x",))
    assert sink.write(unit(0), pa.table({"x": [1, 2], "t": ["a", None]})).rows == 2


# --- row -------------------------------------------------------------------------------------------------


def test_packing_numbers_the_rows_of_the_new_file(sink):
    manifest = committed(sink, [embeddings(at, at + 4) for at in range(0, 12, 4)])
    (path,) = set(manifest.parts()["path"].to_pylist())
    with h5py.File(join(sink.uri, path)) as file:
        assert file["row"][:].tolist() == list(range(12))
        assert file["id"][:].tolist() == list(range(12))
        assert file["name"].asstr()[:].tolist() == [f"größe {i}" for i in range(12)]


def test_a_column_row_of_the_batch_takes_the_place_of_ours(sink, tmp_path):
    """Solvers' results have one: the position in the dataset that they read."""
    batches = [pa.table({"row": pa.array([8, 3], pa.int64()), "rank": [0.5, 0.25]}) for _ in range(2)]
    committed(sink, batches)
    for path in (join(sink.uri, "index.h5"), compact(sink.uri, str(tmp_path / "all.h5"))):
        with h5py.File(path) as file:
            assert file["row"][:].tolist() == [8, 3, 8, 3]
    assert existing(sink.uri).schema.names == ["row", "rank"]


def test_a_column_row_of_another_type_is_refused():
    with pytest.raises(SchemaError, match="column 'row' is string; the hdf5 sink needs it as int64, or under another"):
        Hdf5("x").schema(pa.schema([("row", pa.string())]))


# --- packing ---------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.integers(1, 5))
def test_blocks_are_the_column_cut_anew(tmp_path_factory, counts, rows):
    folder = tmp_path_factory.mktemp("blocks")
    paths, at = [], 0
    for i, count in enumerate(counts):
        paths.append(folder / f"{i}.h5")
        with h5py.File(paths[-1], "w") as file:
            file["x"] = np.arange(at, at + count)
        at += count
    blocks = list(hdf5._blocks(paths, "x", rows))
    assert [x for block in blocks for x in block] == list(range(at))
    assert all(len(block) == rows for block in blocks[:-1])


def test_packed_compressed_files_are_as_if_written_at_once(tmp_path):
    values = RNG.integers(0, 9, (640, 25)).astype(np.float32)
    sink = Hdf5(str(tmp_path), compression="gzip", chunk_bytes=3000)
    whole = write(sink, pa.table({"x": tensor_column(values)}))
    pieces = [write(sink, pa.table({"x": tensor_column(values[at : at + 64])})) for at in range(0, 640, 64)]
    sink._pack(pieces, tmp_path / "packed.h5")
    with h5py.File(tmp_path / "packed.h5") as packed, h5py.File(whole) as file:
        assert np.array_equal(packed["x"][:], values)
        assert packed["x"].chunks == file["x"].chunks
        assert packed["x"].id.get_storage_size() == file["x"].id.get_storage_size(), "each chunk compressed once"


# --- the index -------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """Twelve units in several files."""
    sink = Hdf5(str(tmp_path / "out"), file_bytes=30_000, columns=("id", "name", "half", "vector", "count", "good"))
    return committed(sink, [embeddings(at, at + 5) for at in range(0, 60, 5)])


def test_the_index_shows_all_parts_as_one(published):
    assert len(set(published.parts()["path"].to_pylist())) > 1
    with h5py.File(join(published.uri, "index.h5")) as file:
        assert set(file) == {"row", "id", "half", "vector", "count", "good"}, "numeric columns"
        assert all(file[name].is_virtual for name in file)
        assert file["id"][:].tolist() == list(range(60))
        for at in range(0, 60, 5):
            wanted = np.random.default_rng(at)
            assert np.array_equal(file["half"][at : at + 5], wanted.normal(size=(5, 2)).astype(np.float16))
            assert np.array_equal(file["vector"][at : at + 5], wanted.normal(size=(5, 3)).astype(np.float32))
        assert (file["row"][:] >= 0).all()


def test_the_index_says_what_it_shows_and_who_made_it(published):
    with h5py.File(join(published.uri, "index.h5")) as file:
        about = dict(file.attrs)
    assert about["manifest_sha256"] == published.sha256
    assert (about["manifest_version"], about["rows"], about["fingerprint"]) == (1, 60, "f")
    assert '"model": "esm"' in about["provenance"]


def test_a_missing_part_shows_as_minus_one_nan_and_the_largest_number(published):
    lost = published.parts()["path"][0].as_py()
    rows = sum(line["rows"] for line in published.parts().to_pylist() if line["path"] == lost)
    Path(published.uri, lost).unlink()
    with h5py.File(join(published.uri, "index.h5")) as file:
        assert file["row"][:rows].tolist() == file["id"][:rows].tolist() == [-1] * rows
        assert np.isnan(file["vector"][:rows]).all()
        assert np.isnan(file["half"][:rows]).all()
        assert file["count"][:rows].tolist() == [65535] * rows
        assert file["good"][:rows].tolist() == [255] * rows
        assert (file["row"][rows:] >= 0).all()
    with pytest.raises(DatasetError, match=f"{lost} is missing; restore it"):
        verify(published.uri)


def test_the_index_is_found_from_anywhere_and_goes_with_its_folder(published, tmp_path, monkeypatch):
    moved = shutil.move(published.uri, tmp_path / "moved")
    monkeypatch.chdir("/")
    with h5py.File(Path(moved) / "index.h5") as file:
        assert file["id"][:].tolist() == list(range(60))


def test_an_index_that_stands_is_left_alone_and_a_damaged_or_older_one_is_made_anew(tmp_path):
    sink = Hdf5(str(tmp_path / "out"), file_bytes=30_000)
    batches = [embeddings(at, at + 5) for at in range(0, 20, 5)]
    committed(sink, batches)
    index = Path(sink.uri) / "index.h5"
    before = index.stat().st_ino
    committed(sink, batches)
    assert index.stat().st_ino == before
    index.write_bytes(b"no hdf5")
    committed(sink, batches)
    with h5py.File(index) as file:
        assert len(file["id"]) == 20
    manifest = committed(sink, [*batches, embeddings(20, 25)])
    with h5py.File(index) as file:
        assert (len(file["id"]), file.attrs["manifest_version"]) == (25, manifest.version)
    index.unlink()
    with pytest.raises(DatasetError, match=r"index.h5 is missing; run the pipeline or the copy again, which makes"):
        verify(sink.uri)


def test_an_index_of_another_version_is_found_out(tmp_path):
    sink = Hdf5(str(tmp_path / "out"))
    committed(sink, [embeddings(0, 5)])
    index = Path(sink.uri) / "index.h5"
    old = index.read_bytes()
    committed(sink, [embeddings(0, 5), embeddings(5, 6)])
    index.write_bytes(old)
    with pytest.raises(DatasetError, match=r"index.h5 is not that of version 2; run the pipeline or the copy again"):
        verify(sink.uri)


def test_an_index_whose_parts_lie_elsewhere_is_found_out(published, tmp_path):
    """Parts are found by the manifest, the index looks for them beside itself."""
    other = tmp_path / "other"
    shutil.copytree(published.uri, other)
    (other / "parts").rename(other / "moved")
    (other / "parts").symlink_to("moved")
    assert verify(str(other)).rows == 60
    with h5py.File(other / "index.h5", "r+") as file:
        shape, kind = file["row"].shape, file["row"].dtype
        del file["row"]
        layout = h5py.VirtualLayout(shape, kind)
        layout[:] = h5py.VirtualSource("gone.h5", "row", shape, kind)
        file.create_virtual_dataset("row", layout, -1)
    with pytest.raises(
        DatasetError, match=r"index.h5 shows fill values after row 0: a part is not where it looks; run"
    ):
        verify(str(other))


def test_rows_of_files_that_no_unit_names_any_more_are_not_shown(tmp_path):
    sink = Hdf5(str(tmp_path / "out"), file_bytes=1 << 20)
    batches = [embeddings(at, at + 5) for at in range(0, 20, 5)]
    committed(sink, batches)
    for order in ([1], [3, 0, 1], [0, 1, 2]):
        committed(sink, [batches[at] for at in order])
        with h5py.File(Path(sink.uri) / "index.h5") as file:
            assert file["id"][:].tolist() == [x for at in order for x in range(5 * at, 5 * at + 5)]
            assert (file["row"][:] >= 0).all()


def test_provenance_too_long_for_an_attribute_stays_in_the_manifest(tmp_path):
    sink = Hdf5(str(tmp_path / "out"))
    part = sink.write(unit(0), embeddings(0, 2))
    schema = embeddings(0, 2).schema
    provenance = {"fingerprint": "f", "schema": schema.serialize().to_pybytes().hex(), "long": "x" * 70_000}
    sink.commit(lambda: [(unit(0), Record(unit(0).key, part))], provenance)
    with h5py.File(Path(sink.uri) / "index.h5") as file:
        assert file.attrs["provenance"] == "see manifest.json"


# --- one file of all -------------------------------------------------------------------------------------


def test_compact_is_the_index_in_one_plain_file(published, tmp_path):
    path = compact(published.uri, str(tmp_path / "größe" / "all of it.h5"))
    assert path == tmp_path / "größe" / "all of it.h5"
    with h5py.File(path) as file, h5py.File(join(published.uri, "index.h5")) as index:
        assert set(file) == {"row", "id", "name", "half", "vector", "count", "good"}
        for name in set(index) - {"row"}:
            assert np.array_equal(file[name][:], index[name][:])
            assert file[name].dtype == index[name].dtype
        assert file["row"][:].tolist() == list(range(60)), "the place in the dataset"
        assert file["name"].asstr()[:].tolist() == [f"größe {i}" for i in range(60)]
        assert not any(file[name].is_virtual or file[name].chunks for name in file)
        assert dict(file.attrs) == dict(index.attrs)


def test_compact_copies_in_slabs_and_aligns(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5, "_SLAB_BYTES", 1000)
    sink = Hdf5(str(tmp_path / "out"), file_bytes=1)
    committed(sink, [embeddings(at, at + 500, 600) for at in (0, 500)])
    with h5py.File(compact(sink.uri, str(tmp_path / "all.h5"))) as file:
        assert file["vector"].id.get_offset() % (1 << 20) == 0
        wanted = np.random.default_rng(500)
        wanted.normal(size=(500, 2))
        assert np.array_equal(file["vector"][500:], wanted.normal(size=(500, 600)).astype(np.float32))


@pytest.mark.parametrize(("harm", "text"), [("cut", "is damaged: its hash is not that of"), ("gone", "is missing")])
def test_compact_refuses_a_dataset_that_is_not_whole_and_leaves_nothing(published, tmp_path, harm, text):
    path = Path(published.uri, published.parts()["path"][0].as_py())
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name} {text}.*; restore it, or make the dataset anew"):
        compact(published.uri, str(tmp_path / "new" / "all.h5"))
    assert [p for p in (tmp_path / "new").rglob("*") if p.is_file()] == []


def test_compact_of_an_empty_dataset(tmp_path):
    sink = Hdf5(str(tmp_path / "out"))
    committed(sink, [embeddings(0, 0)])
    with h5py.File(compact(sink.uri, str(tmp_path / "all.h5"))) as file:
        assert file["vector"].shape == (0, 3)
        assert file["row"].shape == (0,)


def test_compact_takes_hdf5_datasets(tmp_path):
    committed(Parquet(str(tmp_path / "out")), [embeddings(0, 5)])
    with pytest.raises(DatasetError, match="its format is parquet, hdf5 was needed; write it by a pipeline with the"):
        compact(str(tmp_path / "out"), str(tmp_path / "all.h5"))
