import dataclasses
import json
import resource
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tensorstore
import xarray
import zarr

from penstock.core.batch import digest, tensor_column, tensor_type
from penstock.core.copying import copy
from penstock.core.dataset import existing, sweep
from penstock.core.nouns import Record, Unit
from penstock.core.reading import read_rows, read_table
from penstock.core.verify import verify
from penstock.core.zipped import Zipped, unzipped
from penstock.errors import DatasetError, RowErrors, SchemaError
from penstock.sinks.zarr import Zarr, _Array, _Layout, group

RNG = np.random.default_rng(3)
BATCH = pa.table(
    {
        "id": pa.array(np.arange(50) - 7, pa.int64()),
        "score": pa.array([np.nan, -0.0, np.inf, *RNG.normal(size=47)]),
        "half": pa.array(RNG.normal(size=50).astype(np.float16)),
        "small": pa.array(RNG.integers(0, 255, 50), pa.uint8()),
        "good": pa.array(RNG.integers(0, 2, 50).astype(bool)),
        "text": pa.array(["", "ä€🧬", "zero\0within", *(f"row {i}" for i in range(47))]),
        "vector": tensor_column(RNG.normal(size=(50, 6)).astype(np.float32)),
        "image": tensor_column(RNG.integers(0, 255, (50, 2, 3), np.uint8)),
    }
)


def commit(sink, pieces):
    schema = sink.schema(pieces[0].schema)
    lines = [Unit.of("test", "1", at, at + 1) for at in range(len(pieces))]
    records = [(unit, Record(unit.key, sink.write(unit, piece))) for unit, piece in zip(lines, pieces, strict=True)]
    return sink.commit(
        lambda: iter(records), {"schema": schema.serialize().to_pybytes().hex(), "fingerprint": "f" * 64}
    )


def folders(root):
    """Names of the groups."""
    return sorted(path.name for path in (root / "arrays").iterdir())


def pieces(batch=BATCH):
    """Units of uneven size, some without rows: no border falls on that of a chunk."""
    return [batch.slice(0, 7), batch.slice(7, 0), batch.slice(7, 1), batch.slice(8, 30), batch.slice(38)]


LAYOUTS = {
    "plain": {},
    "small chunks": {"chunk_bytes": 100},
    "shards": {"chunk_bytes": 100, "shard_bytes": 300},
    "zstd": {"chunk_bytes": 100, "compression": "zstd"},
    "gzip shards": {"chunk_bytes": 200, "shard_bytes": 1000, "compression": "gzip"},
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def dataset(tmp_path, request):
    sink = Zarr(str(tmp_path / "out"), **request.param)
    commit(sink, pieces())
    return sink


def columns():
    """What every reader must find."""
    return {
        "row": np.arange(50),
        **{name: BATCH[name].to_numpy() for name in ("id", "score", "half", "small")},
        "good": np.array(BATCH["good"].to_pylist()),
        "vector": BATCH["vector"].combine_chunks().to_numpy_ndarray(),
        "image": BATCH["image"].combine_chunks().to_numpy_ndarray(),
    }


def naive(folder, name):
    """An array by the specification of Zarr v3, with `struct` and `zlib` alone; no zstd."""
    about = json.loads((folder / name / "zarr.json").read_text())
    shape, grid = about["shape"], about["chunk_grid"]["configuration"]["chunk_shape"]
    assert (about["zarr_format"], about["node_type"]) == (3, "array")
    assert about["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
    found = []
    for at in range(-(-shape[0] // grid[0])):
        data = folder.joinpath(name, "c", str(at), *["0"] * (len(shape) - 1)).read_bytes()
        found.append(decoded(data, about["codecs"], np.dtype(about["data_type"]), grid))
    return np.concatenate(found)[: shape[0]]


def decoded(data, codecs, kind, shape):
    import zlib

    first = codecs[0]
    if first["name"] == "sharding_indexed":
        settings = first["configuration"]
        inner, count = settings["chunk_shape"], shape[0] // settings["chunk_shape"][0]
        index = struct.unpack(f"<{2 * count}Q", data[-16 * count - 4 : -4])  # followed by its crc32c
        ranges = zip(index[::2], index[1::2], strict=True)
        # A chunk past the end of the array may be left out (https://zarr-specs.readthedocs.io, sharding-indexed).
        held = [
            np.zeros(inner, kind)
            if start == size == 2**64 - 1
            else decoded(data[start : start + size], settings["codecs"], kind, inner)
            for start, size in ranges
        ]
        return np.concatenate(held)
    assert first["name"] == "bytes"
    assert first.get("configuration", {"endian": "little"}) == {"endian": "little"}
    if len(codecs) > 1:
        assert codecs[1]["name"] == "gzip"
        data = zlib.decompress(data, 31)
    return np.frombuffer(data, kind.newbyteorder("<")).reshape(shape)


def test_zarr_itself_finds_the_rows_in_order(dataset):
    root = zarr.open_group(group(dataset.uri), mode="r")
    assert sorted(root.array_keys()) == sorted([*BATCH.schema.names, "row"])
    for name, wanted in columns().items():
        assert root[name].dtype == wanted.dtype
        np.testing.assert_array_equal(root[name][:], wanted)
    assert root["text"][:].tolist() == BATCH["text"].to_pylist()
    assert dict(root.attrs)["rows"] == 50


def test_tensorstore_finds_them_too(dataset):
    for name, wanted in columns().items():
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{group(dataset.uri)}/{name}/"}}
        np.testing.assert_array_equal(tensorstore.open(spec, read=True).result().read().result(), wanted)


def test_xarray_has_row_as_a_coordinate(dataset):
    opened = xarray.open_zarr(group(dataset.uri), chunks=None)
    assert opened["vector"].dims == ("row", "vector_1")
    assert opened["image"].dims == ("row", "image_1", "image_2")
    np.testing.assert_array_equal(opened["vector"].sel(row=[3, 20]), columns()["vector"][[3, 20]])


@pytest.mark.parametrize("layout", ["plain", "small chunks", "shards", "gzip shards"])
def test_a_naive_reader_of_the_specification_finds_them(tmp_path, layout):
    sink = Zarr(str(tmp_path), **LAYOUTS[layout])
    commit(sink, pieces())
    for name, wanted in columns().items():
        np.testing.assert_array_equal(naive(Path(group(sink.uri)), name), wanted)


def test_it_is_read_back_and_verified(dataset):
    assert digest(read_table(dataset.uri)) == digest(BATCH)
    assert verify(dataset.uri).rows == 50


def test_a_part_is_a_group_of_its_own_for_zarr(tmp_path):
    sink = Zarr(str(tmp_path), chunk_bytes=100)
    part = sink.write(Unit.of("a", "1", 0, 1), BATCH)
    with zarr.storage.ZipStore(tmp_path / part.path, mode="r") as store:
        np.testing.assert_array_equal(zarr.open_group(store, mode="r")["vector"][:], columns()["vector"])


def test_of_a_part_only_the_chunks_asked_for_are_read(tmp_path):
    sink = Zarr(str(tmp_path), chunk_bytes=240)  # ten rows of vector
    part = sink.write(Unit.of("a", "1", 0, 1), BATCH)
    with (tmp_path / part.path).open("rb") as file:
        read = []

        class Counted:
            def seek(self, *to):
                return file.seek(*to)

            def read(self, count=-1):
                read.append(count)
                return file.read(count)

        zipped = Zipped(Counted())
        zipped.shape("vector")
        read.clear()
        np.testing.assert_array_equal(zipped.rows("vector", 12, 28), columns()["vector"][12:28])
        assert len(read) == 1, "two neighbouring chunks at once"
        assert 480 < read[0] < 700
        read.clear()
        np.testing.assert_array_equal(zipped.take("vector", np.array([3, 41])), columns()["vector"][[3, 41]])
        assert len(read) == 2, "two chunks apart"


def test_dimensions_that_have_names_keep_them(tmp_path):
    kind = pa.fixed_shape_tensor(pa.float32(), [2], dim_names=["axis"])
    column = pa.ExtensionArray.from_storage(kind, pa.array([[1.0, 2.0]], kind.storage_type))
    sink = Zarr(str(tmp_path))
    commit(sink, [pa.table({"u": column})])
    assert xarray.open_zarr(group(sink.uri), chunks=None)["u"].dims == ("row", "u_axis")


def test_the_pointer_at_the_root_names_the_newest_group_and_the_last_two_stay(tmp_path):
    sink = Zarr(str(tmp_path))
    for count in (1, 3, 5):
        commit(sink, pieces()[:count])
        sweep(sink.uri)
    root = zarr.open_group(sink.uri, mode="r")
    assert root.attrs["newest"] == group(sink.uri).removeprefix(f"{sink.uri}/")
    assert root[f"{root.attrs['newest']}/id"].shape == (50,)
    assert folders(tmp_path) == [Path(group(sink.uri, version)).name for version in (2, 3)]
    with pytest.raises(DatasetError, match="version 1 has no group of all rows; those of the newest two"):
        group(sink.uri, 1)
    assert verify(sink.uri).version == 3


def test_parts_alone_make_no_group(tmp_path):
    sink = Zarr(str(tmp_path), arrays="parts", chunk_bytes=100)
    commit(sink, pieces())
    assert not (tmp_path / "arrays").exists()
    assert digest(read_table(sink.uri)) == digest(BATCH)
    assert verify(sink.uri).rows == 50


@pytest.mark.parametrize("harm", ["missing", "changed"])
@pytest.mark.parametrize("layout", ["plain", "zstd"])
def test_a_chunk_of_the_group_that_is_harmed_is_found(tmp_path, harm, layout):
    sink = Zarr(str(tmp_path), **LAYOUTS[layout])
    commit(sink, pieces())
    path = Path(group(sink.uri)) / "vector" / "c" / "0" / "0"
    path.unlink() if harm == "missing" else path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    )
    with pytest.raises(DatasetError, match=r"vector/c/0/0 is missing or is not what the parts say; remove that folder"):
        verify(sink.uri)


def test_a_group_packed_by_another_library_is_the_same(tmp_path):
    import gzip

    sink = Zarr(str(tmp_path), compression="gzip")
    commit(sink, pieces())
    path = Path(group(sink.uri)) / "vector" / "c" / "0" / "0"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()), 9))
    assert verify(sink.uri).rows == 50


def test_a_dataset_that_is_copied_gets_its_group(tmp_path):
    sink = Zarr(str(tmp_path / "here"), chunk_bytes=100, shard_bytes=300)
    commit(sink, pieces())
    copy(sink.uri, str(tmp_path / "there"))
    assert verify(str(tmp_path / "there")).rows == 50
    here, there = (tmp_path / name / "arrays" for name in ("here", "there"))
    assert {p.relative_to(here): p.read_bytes() for p in here.rglob("*") if p.is_file()} == {
        p.relative_to(there): p.read_bytes() for p in there.rglob("*") if p.is_file()
    }


def test_columns_can_be_chosen(tmp_path):
    sink = Zarr(str(tmp_path), columns=("vector", "id"))
    commit(sink, pieces())
    assert read_table(sink.uri).column_names == ["vector", "id"]


def test_a_column_row_of_ones_own_is_kept(tmp_path):
    sink = Zarr(str(tmp_path))
    commit(sink, [pa.table({"row": pa.array([9, 4], pa.int64())})])
    assert zarr.open_group(group(sink.uri), mode="r")["row"][:].tolist() == [9, 4]


def test_rows_with_nulls_are_refused(tmp_path):
    batch = pa.table({"a": [1, None, 3], "b": ["x", "y", None]})
    with pytest.raises(RowErrors) as caught:
        Zarr(str(tmp_path)).write(Unit.of("a", "1", 0, 1), batch)
    assert caught.value.reasons == [
        "column 'a' is null, which Zarr cannot say; fill it in a stage",
        "column 'b' is null, which Zarr cannot say; fill it in a stage",
    ]
    assert caught.value.good["a"].to_pylist() == [1]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (pa.field("a/b", pa.int64()), "cannot call an array 'a/b'; rename the column, without '/' and leading '__'"),
        (pa.field("__x", pa.int64()), "cannot call an array '__x'"),
        (pa.field("..", pa.int64()), "cannot call an array '..'"),
        (pa.field("row", pa.int32()), "column 'row' is int32; the zarr sink needs it as int64"),
        (pa.field("r", pa.list_(pa.int64())), r"cannot hold column 'r' of type list.*; solvers need one shape for all"),
        (pa.field("t", pa.timestamp("s")), "cast it to int64, and say in its name"),
    ],
)
def test_what_cannot_be_held_is_refused_before_anything_runs(field, text):
    with pytest.raises(SchemaError, match=text):
        Zarr("x").schema(pa.schema([field]))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"chunk_bytes": 0}, "chunk_bytes must be positive, not 0"),
        ({"shard_bytes": 5}, r"shard_bytes is 5; 0, or at least chunk_bytes \(2097152\), was needed"),
    ],
)
def test_settings_that_make_no_sense(settings, text):
    with pytest.raises(ValueError, match=text):
        Zarr("x", **settings)


def test_plain_chunks_are_those_that_zarr_itself_writes(tmp_path):
    sink = Zarr(str(tmp_path / "ours"), chunk_bytes=100)
    commit(sink, pieces())
    ours = zarr.open_group(group(sink.uri), mode="r")
    theirs = zarr.create_group(tmp_path / "theirs")
    for name in ("vector", "score", "small", "good", "image"):
        like = ours[name]
        options = {"fill_value": like.fill_value, "compressors": None, "config": {"write_empty_chunks": True}}
        theirs.create_array(name, shape=like.shape, dtype=like.dtype, chunks=like.chunks, **options)[...] = like[:]
        for path in (tmp_path / "theirs" / name / "c").rglob("*"):
            if path.is_file():
                twin = Path(group(sink.uri)) / path.relative_to(tmp_path / "theirs")
                assert twin.read_bytes() == path.read_bytes()


def test_chunks_are_about_as_large_as_asked_and_full_width(tmp_path):
    sink = Zarr(str(tmp_path), chunk_bytes=1 << 16, shard_bytes=1 << 18)
    commit(sink, [pa.table({"x": tensor_column(np.zeros((1000, 128), np.float32))})])
    array = zarr.open_group(group(sink.uri), mode="r")["x"]
    assert (array.chunks, array.shards) == ((128, 128), (512, 128))
    assert array.fill_value != array.fill_value, "NaN: what is lost is seen"


def test_a_damaged_chunk_of_a_part_is_seen_by_its_checksum(tmp_path):
    sink = Zarr(str(tmp_path), arrays="parts")
    manifest = commit(sink, [BATCH])
    path = tmp_path / manifest.parts()["path"][0].as_py()
    with zipfile.ZipFile(path) as file:
        at = file.getinfo("vector/c/0/0").header_offset
    data = bytearray(path.read_bytes())
    data[at + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DatasetError, match="'vector/c/0/0' in the part is damaged; restore it or run the pipeline"):
        read_rows(manifest, 0, 50, ["vector"], "size")
    assert read_rows(manifest, 0, 50, ["id"], "size").num_rows == 50


def test_a_part_that_is_cut_off(tmp_path):
    sink = Zarr(str(tmp_path), arrays="parts")
    manifest = commit(sink, [BATCH])
    path = tmp_path / manifest.parts()["path"][0].as_py()
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(DatasetError, match=r"File is not a zip file; the file is damaged, restore it"):
        read_rows(manifest, 0, 50, ["id"], "size")


def test_packed_parts_are_the_rows_of_the_small_ones(tmp_path):
    sink = Zarr(str(tmp_path), chunk_bytes=100, compression="zstd", arrays="parts")
    manifest = commit(sink, pieces())
    paths = set(manifest.parts()["path"].to_pylist())
    assert len(paths) == 1
    with unzipped(tmp_path / paths.pop()) as part:
        assert part.rows("text", 1, 4).tolist() == BATCH["text"].to_pylist()[1:4]
        assert part.attributes["penstock"]["compression"] == "zstd"
    assert dataclasses.replace(existing(sink.uri)).rows == 50


def test_a_tensor_of_no_rows_keeps_its_type(tmp_path):
    schema = pa.schema([("x", tensor_type(np.float32, 3)), ("t", pa.string())])
    sink = Zarr(str(tmp_path))
    commit(sink, [schema.empty_table()])
    assert read_table(sink.uri).schema == schema
    assert zarr.open_group(group(sink.uri), mode="r")["x"].shape == (0, 3)
    assert verify(sink.uri).rows == 0


def test_more_parts_than_a_process_may_open_are_packed(tmp_path):
    most, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + 40, highest))
    try:
        sink = Zarr(str(tmp_path / "out"), arrays="parts")
        manifest = commit(sink, [BATCH.slice(at % 50, 1) for at in range(100)])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, highest))
    assert len(manifest.parts()["path"].unique()) == 1
    assert digest(read_table(sink.uri)) == digest(pa.concat_tables([BATCH, BATCH]))


def test_a_dataset_that_is_made_anew_does_not_show_the_group_of_the_old_one(tmp_path):
    sink = Zarr(str(tmp_path / "out"), chunk_bytes=100)
    commit(sink, pieces())
    for old in ("manifests", "parts"):
        shutil.rmtree(tmp_path / "out" / old)
    other = BATCH.set_column(0, "id", tensor_column(np.arange(100).reshape(50, 2))).slice(0, 20)
    commit(sink, pieces(other))
    root = zarr.open_group(group(sink.uri), mode="r")
    assert root["id"][:].tolist() == np.arange(40).reshape(20, 2).tolist()
    assert verify(sink.uri).version == 1
    assert folders(tmp_path / "out") == [Path(group(sink.uri)).name]


def test_who_looks_late_does_not_harm_the_group_that_another_writer_finished(tmp_path, monkeypatch):
    """Between our look and our writing, another committer of the same version finishes and a third is at it."""
    sink = Zarr(str(tmp_path / "out"), chunk_bytes=100)
    manifest = commit(sink, pieces())
    seen = {path: path.stat().st_ino for path in Path(group(sink.uri)).rglob("*") if path.is_dir()}
    monkeypatch.setattr("penstock.sinks.zarr._made_of", lambda folder: None)
    sink.finish(manifest)
    assert {path: path.stat().st_ino for path in seen} == seen, "no folder went away under the other writer"
    assert digest(read_table(sink.uri)) == digest(BATCH)


def test_of_a_group_that_is_forgotten_no_folder_stays(tmp_path):
    sink = Zarr(str(tmp_path / "out"), chunk_bytes=100)
    given = BATCH.rename_columns(["arrays", *BATCH.column_names[1:]])
    for rows in (10, 20, 30):
        commit(sink, pieces(given.slice(0, rows)))
    assert folders(tmp_path / "out") == [Path(group(sink.uri, version)).name for version in (2, 3)]


def test_a_version_without_a_group_does_not_point_to_that_of_the_one_before(tmp_path):
    commit(Zarr(str(tmp_path)), pieces())
    assert (tmp_path / "zarr.json").exists()
    commit(Zarr(str(tmp_path), arrays="parts"), pieces(BATCH.slice(20)))
    assert not (tmp_path / "zarr.json").exists()
    assert zarr.open_group(group(str(tmp_path), 1), mode="r")["id"].shape == (50,)


def test_long_texts_are_encoded_a_file_at_a_time():
    text = pa.field("text", pa.string())
    assert _Array.of(text, 10**6, _Layout()).slab == _Array.of(text, 10**6, _Layout()).chunk == (2 << 20) // 64


def test_a_group_whose_own_metadata_are_damaged_is_told_and_made_anew(tmp_path):
    sink = Zarr(str(tmp_path / "out"))
    commit(sink, pieces())
    about = Path(group(sink.uri)) / "zarr.json"
    whole = about.read_bytes()
    about.write_bytes(whole[:100])
    with pytest.raises(DatasetError, match="is not that of version 1; remove that folder and run the pipeline again"):
        verify(sink.uri)
    commit(sink, pieces())
    assert about.read_bytes() == whole
