"""Zarr, for arrays in object stores: chunks of whole rows that Zarr, xarray, Dask and TensorStore read.

Format: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html (Zarr v3). Each column is an array of its
own name, ``"row ..."``: numbers, booleans and tensors as they are, text as ``string`` of variable length.

A part is a whole group in one ZIP file (see `penstock.core.zipped`), so it has one name, one hash and one moment of
publication, and everything that goes by the manifest reads the parts. Units end where they end, and Zarr's grids are
regular; so when the manifest stands, the rows are written once more in their order, as one group::

    root/arrays/00000001-5f0c7a92.zarr/   version 1: the columns, and ``row`` int64, the place in the dataset
    root/zarr.json                        a group whose attribute ``newest`` names that folder

A store of objects has no rename: a group counts from the moment its own ``zarr.json`` is there, which is written last.
Its name holds the hash of its manifest, so all who write one folder write the same, and none has to be emptied first.
The groups of the newest version and the one before are kept. A missing chunk reads as fill values without a word
from Zarr: a negative ``row``, as NaN or -1 elsewhere, means a chunk that is lost. ``arrays = "parts"`` leaves the group
out and halves the space; `penstock.read` does not need it.
"""

from __future__ import annotations

import json
import re
import shutil
from bisect import bisect, bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import field_of, to_numpy
from penstock.core.dataset import Format, Manifest, commit, draft, existing, publish_part, versions
from penstock.core.nouns import Batch, Part, Records, Unit
from penstock.core.reading import read_rows
from penstock.core.storage import Posix, Uri, join, seekable, store_of
from penstock.core.zipped import Zipped, unzipped, write
from penstock.errors import DatasetError, SchemaError, StorageError
from penstock.sinks.columns import fill, is_text, refuse, refuse_nulls, refuse_type, row_bytes, shape_of

__all__ = ["Zarr", "group"]

_SLAB_BYTES = 32 << 20
_TEXT_BYTES = 64
"""What a row of text is taken for when chunks are cut."""
_AT_ONCE = 8


@dataclass(frozen=True)
class Zarr:
    """A dataset of Zarr v3 arrays.

    Attributes:
        uri: the dataset's root, a folder or ``s3://`` prefix.
        file_bytes: small parts are packed into files of about this size at commit.
        chunk_bytes: about how large chunks are; each holds whole rows.
        shard_bytes: how many bytes of chunks share one file or object of the group; 0 gives each chunk its own.
        compression: of chunks.
        columns: which columns are written, in this order; none means all.
        arrays: ``one`` makes one group of all rows when the manifest stands; ``parts`` leaves it at the parts.
    """

    uri: Uri
    file_bytes: int = 256 << 20
    chunk_bytes: int = 2 << 20
    shard_bytes: int = 0
    compression: Literal["none", "zstd", "gzip"] = "none"
    columns: tuple[str, ...] = ()
    arrays: Literal["one", "parts"] = "one"

    ASIDE = ("file_bytes",)
    NEEDS = ("zarr",)

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be positive, not {self.chunk_bytes}")
        if self.shard_bytes < 0 or 0 < self.shard_bytes < self.chunk_bytes:
            raise ValueError(
                f"shard_bytes is {self.shard_bytes}; 0, or at least chunk_bytes ({self.chunk_bytes}), was needed"
            )

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns that are written. Raises `SchemaError` for what Zarr or a solver cannot take."""
        names = self.columns or given.names
        chosen = pa.schema([field_of(given, name, "the zarr sink") for name in names], given.metadata)
        for field in chosen:
            _check(field)
        return chosen

    def write(self, unit: Unit, batch: Batch) -> Part:
        """One file, named by its content. Raises `RowErrors` for rows with nulls."""
        chosen = batch.select(list(self.columns or batch.schema.names))
        reasons = [""] * batch.num_rows
        refuse_nulls(reasons, chosen, "Zarr")
        refuse(batch, reasons)
        columns = {field.name: _values(chosen[field.name]) for field in chosen.schema}
        arrays = [_Array.of(field, len(chosen), self._layout().alone) for field in chosen.schema]
        objects = _objects(arrays, lambda array, low, high: columns[array.name][low:high], self._layout().told())
        return publish_part(self.uri, ".zarr.zip", lambda path: write(path, objects), batch.num_rows)

    def commit(self, records: Records, provenance: Mapping[str, Any]) -> Manifest:
        """Pack small parts, publish the manifest, and write all rows as one group."""
        form = Format(".zarr.zip", _pack, self.finish)
        return commit(draft(self.uri, "zarr", provenance), form, records, self.file_bytes)

    @staticmethod
    def finish(manifest: Manifest) -> None:
        """Write the group of a dataset, also of one that was copied here; idempotent."""
        layout = _layout(manifest)
        if layout.arrays == "one":
            _regrouped(manifest, layout)
        else:  # lest the group of an earlier version be taken for the newest
            store_of(manifest.uri).remove(join(manifest.uri, "zarr.json"))
        _forget(manifest.uri)

    @staticmethod
    def group(uri: str, version: int = 0) -> str:
        """Address of the group; see `group`."""
        return group(uri, version)

    @staticmethod
    def verify(manifest: Manifest) -> None:
        """Hold the group against the parts, value by value. Raises `DatasetError`."""
        if _layout(manifest).arrays == "one":
            _verify(manifest)

    def _layout(self) -> _Layout:
        return _Layout(self.chunk_bytes, self.shard_bytes, self.compression, self.arrays)


# --- arrays ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """How arrays are cut; the parts remember it, so that who copies a dataset can write its group."""

    chunk_bytes: int = 2 << 20
    shard_bytes: int = 0
    compression: str = "none"
    arrays: str = "one"

    @property
    def alone(self) -> _Layout:
        """Of a part, which is one file anyway."""
        return replace(self, shard_bytes=0)

    def told(self) -> dict[str, Any]:
        """As attributes of a part."""
        return {"penstock": dict(vars(self))}


@dataclass(frozen=True)
class _Array:
    """One array, ``"row ..."``, and how it is cut: *chunk* rows, *shard* rows to a file."""

    name: str
    kind: Any
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    chunk: int
    shard: int
    compression: str

    @classmethod
    def of(cls, field: pa.Field, rows: int, layout: _Layout) -> _Array:
        """For *rows* of a column."""
        shape = (rows, *shape_of(field.type))
        kind = "string" if is_text(field.type) else _number(field.type)
        size = _TEXT_BYTES if kind == "string" else row_bytes(kind, shape)
        chunk = max(1, min(rows, layout.chunk_bytes // size))
        shard = min(max(1, layout.shard_bytes // (chunk * size)), -(-rows // chunk) or 1) * chunk
        return cls(field.name, kind, shape, _dims(field), chunk, shard, layout.compression)

    @property
    def slab(self) -> int:
        """How many rows are encoded at a time: whole files; of text, which may be long, a single one."""
        if self.kind == "string":
            return self.shard
        return self.shard * max(1, _SLAB_BYTES // (self.shard * row_bytes(self.kind, self.shape)))

    def made(self, rows: int) -> tuple[dict[str, Any], Any]:
        """An empty array of so many rows in a store in memory, and that store's content."""
        import zarr
        from zarr.codecs import GzipCodec, ZstdCodec
        from zarr.storage import MemoryStore

        codec = {"none": None, "zstd": ZstdCodec(level=1), "gzip": GzipCodec(level=1)}[self.compression]
        held: dict[str, Any] = {}
        rest = self.shape[1:]
        array = zarr.create_array(
            MemoryStore(held),
            name=self.name,
            shape=(rows, *rest),
            dtype=self.kind,
            chunks=(self.chunk, *rest),
            shards=(self.shard, *rest) if self.shard > self.chunk else None,
            compressors=codec,
            fill_value=self.fill,
            dimension_names=self.dims,
            config={"write_empty_chunks": True},
        )
        return held, array

    def metadata(self) -> bytes:
        """Its ``zarr.json``."""
        about = {**json.loads(_metadata(replace(self, shape=(0, *self.shape[1:])))), "shape": list(self.shape)}
        return json.dumps(about, indent=1).encode()

    def encoded(self, first: int, rows: npt.NDArray[Any]) -> Iterator[tuple[str, bytes]]:
        """The files of *rows*, which begin at row *first*: keys and bytes."""
        files = self._plain(rows) if self.is_plain else self._by_zarr(rows)
        for at, data in enumerate(files, first // self.shard):
            yield self.key(at), data

    def key(self, at: int) -> str:
        """Of file number *at*."""
        return "/".join([self.name, "c", str(at), *["0"] * (len(self.shape) - 1)])

    @property
    def is_plain(self) -> bool:
        """Whether a file is the bytes of its rows and nothing else."""
        return self.kind != "string" and self.compression == "none" and self.shard == self.chunk

    def _plain(self, rows: npt.NDArray[Any]) -> Iterator[bytes]:
        """What Zarr writes too, but slowly: its ``bytes`` codec; the last chunk is filled up."""
        rows = np.ascontiguousarray(rows, self.kind.newbyteorder("<"))
        for low in range(0, len(rows), self.chunk):
            block = rows[low : low + self.chunk]
            lacking = (self.chunk - len(block)) * (rows[:1].nbytes // self.kind.itemsize)
            yield block.tobytes() + np.full(lacking, self.fill, rows.dtype).tobytes()

    def _by_zarr(self, rows: npt.NDArray[Any]) -> Iterator[bytes]:
        held, array = self.made(len(rows))
        array[...] = rows
        return (held[self.key(at)].to_bytes() for at in range(-(-len(rows) // self.shard)))

    @property
    def fill(self) -> Any:
        """What Zarr gives where a chunk is lost."""
        return "" if self.kind == "string" else False if self.kind == np.bool_ else fill(self.kind)

    def alike(self, one: bytes, other: bytes) -> bool:
        """Whether two files hold the same values: another version of a library may pack them otherwise."""
        if self.compression == "none":
            return False
        values = self._decoded(one)
        return values is not None and values == self._decoded(other)

    def _decoded(self, data: bytes) -> bytes | list[str] | None:
        from zarr.core.buffer.cpu import Buffer

        held, array = self.made(self.shard)
        held[self.key(0)] = Buffer.from_bytes(data)
        try:
            rows = np.asarray(array[...])
        except Exception:  # decoders raise what they like
            return None
        return list(rows.tolist()) if self.kind == "string" else rows.tobytes()


@lru_cache(maxsize=64)
def _metadata(array: _Array) -> bytes:
    held, _ = array.made(array.shape[0])
    return bytes(held[f"{array.name}/zarr.json"].to_bytes())


def _check(field: pa.Field) -> None:
    if "/" in field.name or field.name.strip(".") == "" or field.name.startswith("__") or field.name == "zarr.json":
        raise SchemaError(
            f"the zarr sink cannot call an array '{field.name}'; rename the column, without '/' and leading '__'"
        )
    refuse_type(field, "zarr")


def _number(kind: pa.DataType) -> np.dtype[Any]:
    found: np.dtype[Any] = np.dtype(getattr(kind, "value_type", kind).to_pandas_dtype())
    return found


def _dims(field: pa.Field) -> tuple[str, ...]:
    """Names of the dimensions, as xarray needs them; those of a tensor carry the column's, lest two be called alike."""
    given = (isinstance(field.type, pa.FixedShapeTensorType) and field.type.dim_names) or map(
        str, range(1, len(shape_of(field.type)) + 1)
    )
    return ("row", *(f"{field.name}_{name}" for name in given))


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    return np.array(column.to_pylist(), object) if is_text(column.type) else to_numpy(column)


_Rows = Callable[[_Array, int, int], npt.NDArray[Any]]


def _objects(arrays: Sequence[_Array], rows: _Rows, attributes: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Keys and bytes of a group; its own metadata come last."""
    yield from _files(arrays, rows)
    yield "zarr.json", _root(arrays, attributes)


def _files(arrays: Sequence[_Array], rows: _Rows) -> Iterator[tuple[str, bytes]]:
    """Keys and bytes of arrays, a slab of rows at a time."""
    for array in arrays:
        yield f"{array.name}/zarr.json", array.metadata()
        for low in range(0, array.shape[0], array.slab):
            yield from array.encoded(low, rows(array, low, min(low + array.slab, array.shape[0])))


def _root(arrays: Sequence[_Array], attributes: Mapping[str, Any]) -> bytes:
    """Metadata of a group, with those of its arrays, so that a reader asks once.

    Zarr 3 writes and reads these consolidated metadata too, and TensorStore passes over them; the specification does
    not have them yet.
    """
    each = {array.name: json.loads(array.metadata()) for array in arrays}
    together = {"kind": "inline", "must_understand": False, "metadata": each}
    told = {"zarr_format": 3, "node_type": "group", "attributes": attributes, "consolidated_metadata": together}
    return json.dumps(told, indent=1).encode()


# --- packing ---------------------------------------------------------------------------------------------


def _pack(paths: Sequence[Path], target: Path) -> None:
    """The rows of several parts as one part; of the parts, which may be thousands, one is open at a time."""
    with unzipped(paths[0]) as first:
        told, abouts = first.attributes, {name: first.text(f"{name}/zarr.json") for name in _names(first)}
    edges = [0, *accumulate(map(_rows, paths))]
    layout = _Layout(**told["penstock"]).alone
    arrays = [_joined(name, about, edges[-1], layout) for name, about in abouts.items()]
    write(target, _objects(arrays, lambda array, low, high: _across(paths, edges, array.name, low, high), told))


def _names(part: Zipped) -> list[str]:
    return list(part.text("zarr.json")["consolidated_metadata"]["metadata"])


def _rows(path: Path) -> int:
    with unzipped(path) as part:
        return next((part.shape(name)[0] for name in _names(part)), 0)


def _joined(name: str, about: Mapping[str, Any], rows: int, layout: _Layout) -> _Array:
    kind = "string" if about["data_type"] == "string" else np.dtype(about["data_type"])
    shape = (rows, *about["shape"][1:])
    size = _TEXT_BYTES if kind == "string" else row_bytes(kind, shape)
    chunk = max(1, min(shape[0], layout.chunk_bytes // size))
    return _Array(name, kind, shape, tuple(about["dimension_names"]), chunk, chunk, layout.compression)


def _across(paths: Sequence[Path], edges: Sequence[int], name: str, low: int, high: int) -> npt.NDArray[Any]:
    """Rows *low* to *high* of parts that follow each other, of which each has those from an edge to the next."""
    found = []
    for at in range(bisect(edges, low) - 1, bisect_left(edges, high)):
        start, stop = max(low, edges[at]) - edges[at], min(high, edges[at + 1]) - edges[at]
        if start < stop:
            with unzipped(paths[at]) as part:
                found.append(part.rows(name, start, stop))
    return np.concatenate(found)


# --- one group of all rows -------------------------------------------------------------------------------


def _folder(manifest: Manifest) -> str:
    return f"arrays/{manifest.version:08d}-{manifest.sha256[:8]}.zarr"


def group(uri: str, version: int = 0) -> str:
    """Address of the group of a dataset, to be given to ``zarr.open_group`` or ``xarray.open_zarr``.

    Raises:
        DatasetError: it has none.
    """
    manifest = existing(uri, version)
    address = join(manifest.uri, _folder(manifest))
    if store_of(address).entry(join(address, "zarr.json")) is None:
        raise DatasetError(
            f"{uri}: version {manifest.version} has no group of all rows; those of the newest two versions are kept, "
            "by the sink zarr with arrays = 'one'. Read the parts by penstock.read, or run the pipeline again"
        )
    return address


def _layout(manifest: Manifest) -> _Layout:
    """As the parts say; a dataset without parts is cut as ever."""
    paths = manifest.parts()["path"]
    if not len(paths):
        return _Layout()
    with unzipped(seekable(join(manifest.uri, paths[0].as_py()))) as part:
        return _Layout(**part.attributes["penstock"])


def _regrouped(manifest: Manifest, layout: _Layout) -> None:
    """As `_regroup`; of a version so old by now that another writer removes its group, there is none to write."""
    try:
        _regroup(manifest, layout)
    except StorageError:
        if manifest.version in versions(manifest.uri)[-2:]:
            raise


def _regroup(manifest: Manifest, layout: _Layout) -> None:
    """Write the group, unless it is there already, and the word where it is."""
    store, folder = store_of(manifest.uri), join(manifest.uri, _folder(manifest))
    if _made_of(folder) != manifest.sha256:
        arrays = _arrays(manifest, layout)
        _post(folder, _files(arrays, _by_manifest(manifest)))
        store.replace(join(folder, "zarr.json"), _root(arrays, _about(manifest)))
    newest = {"zarr_format": 3, "node_type": "group", "attributes": {"newest": _folder(manifest)}}
    store.replace(join(manifest.uri, "zarr.json"), json.dumps(newest, indent=1).encode())


def _made_of(folder: str) -> str | None:
    """Hash of the manifest of which a group was made; None when there is no group, or a damaged one."""
    data = store_of(folder).read(join(folder, "zarr.json"))
    try:
        return str(json.loads(data)["attributes"]["manifest_sha256"]) if data else None
    except (ValueError, KeyError, TypeError):
        return None


def _drop(folder: str) -> None:
    """Remove a group, its own metadata first."""
    store = store_of(folder)
    store.remove(join(folder, "zarr.json"))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(store.remove, [entry.uri for entry in store.below(folder)]))
    if isinstance(store, Posix):  # each chunk has folders of its own
        shutil.rmtree(folder.removeprefix("file://"), ignore_errors=True)


def _post(folder: str, files: Iterable[tuple[str, bytes]]) -> None:
    """Publish *files* below *folder*, some at once."""
    store = store_of(folder)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for some in _handfuls(files):
            list(pool.map(lambda one: store.replace(join(folder, one[0]), one[1]), some))


def _handfuls(files: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """So few that memory holds about two slabs, however large a shard is."""
    held: list[tuple[str, bytes]] = []
    for one in files:
        held.append(one)
        if len(held) == _AT_ONCE or sum(len(data) for _, data in held) >= _SLAB_BYTES:
            yield held
            held = []
    yield held


def _arrays(manifest: Manifest, layout: _Layout) -> list[_Array]:
    fields = list(manifest.schema)
    if "row" not in manifest.schema.names:
        fields.append(pa.field("row", pa.int64()))
    return [_Array.of(field, manifest.rows, layout) for field in fields]


def _by_manifest(manifest: Manifest) -> _Rows:
    def rows(array: _Array, low: int, high: int) -> npt.NDArray[Any]:
        if array.name not in manifest.schema.names:
            return np.arange(low, high)
        return _values(read_rows(manifest, low, high, [array.name], "size")[array.name])

    return rows


def _about(manifest: Manifest) -> dict[str, Any]:
    """What made the dataset, as attributes of its group."""
    return {
        "manifest_sha256": manifest.sha256,
        "manifest_version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "rows": manifest.rows,
    }


def _forget(root: str) -> None:
    """Remove the groups that are older than the version before the newest, or of manifests that were removed."""
    kept = {number: existing(root, number) for number in versions(root)[-2:]}
    there = {found[1]: int(found[2]) for found in map(_GROUP.search, _below(root)) if found}
    for folder, number in sorted(there.items()):
        if number < min(kept) or (number in kept and folder != _folder(kept[number])):
            _drop(join(root, folder))


def _below(root: str) -> Iterator[str]:
    return (entry.uri for entry in store_of(root).below(join(root, "arrays")))


_GROUP = re.compile(r".*/(arrays/(\d{8})-[0-9a-f]{8}\.zarr)/")


def _verify(manifest: Manifest) -> None:
    remedy = "remove that folder and run the pipeline again, which makes the group anew"
    address = group(manifest.uri, manifest.version)
    if _made_of(address) != manifest.sha256:
        raise DatasetError(f"{address} is not that of version {manifest.version}; {remedy}")
    arrays = {array.name: array for array in _arrays(manifest, _layout(manifest))}
    for key, data in _objects(list(arrays.values()), _by_manifest(manifest), _about(manifest)):
        found = store_of(address).read(join(address, key))
        if found is None or not (found == data or ("/c/" in key and arrays[key.split("/")[0]].alike(found, data))):
            raise DatasetError(f"{join(address, key)} is missing or is not what the parts say; {remedy}")
