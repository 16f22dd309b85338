"""HDF5, for solvers: files that plain C, Fortran and MPI programs read without a plug-in.

Format: https://support.hdfgroup.org/documentation/hdf5/latest/_f_m_t3.html, written so that HDF5 1.10 and later
read it (``libver`` v108 to v110), without times, so that the same rows give the same bytes.

A part file has one dataset for each column at its root, of the same name, ``"row ..."``: numbers and tensors as
they are, booleans as uint8, text as variable-length UTF-8. Columns of 1 MiB and more start at a multiple of 1 MiB and
lie in one piece (``h5dataset.id.get_offset()`` and a memory map read them), unless they are compressed.
Beside them stands ``row`` int64, the row's place in its file, unless the batch has a column ``row`` of its own.

``index.h5`` shows all parts as one file (a virtual dataset, numeric columns only). HDF5 reads fill values where a part
file is missing, and says nothing; so a negative ``row`` means a missing part, as does NaN or -1 elsewhere. Parallel
HDF5 (``mpio``) does not read virtual datasets: there each rank opens the index with the ordinary driver, or
`compact` makes one plain file. Virtual datasets need a file system: on ``s3://`` there is no index.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import field_of, to_numpy
from penstock.core.dataset import Format, Manifest, commit, draft, existing, publish_part, sha256_of
from penstock.core.nouns import Batch, Part, Records, Unit
from penstock.core.storage import Posix, Uri, join, local_copy, parent, publish, store_of
from penstock.errors import DatasetError, SchemaError
from penstock.sinks.columns import fill, is_text, note, refuse, refuse_nulls, refuse_type, row_bytes, shape_of

__all__ = ["Hdf5", "compact"]

_ALIGNMENT_BYTES = 1 << 20
_SLAB_BYTES = 32 << 20
_ABOUT_BYTES = 60_000  # an attribute of the old format holds 64 KiB


@dataclass(frozen=True)
class Hdf5:
    """A dataset of HDF5 files.

    Attributes:
        uri: the dataset's root, a folder or ``s3://`` prefix.
        file_bytes: small parts are packed into files of about this size at commit; one at a time is made in memory.
        chunk_bytes: about how large the chunks of compressed columns are; each holds whole rows.
        compression: ``gzip`` is read everywhere, saves about a sixth of real embeddings, and is slow to write.
        columns: which columns are written, in this order; none means all.
    """

    uri: Uri
    file_bytes: int = 256 << 20
    chunk_bytes: int = 2 << 20
    compression: Literal["none", "gzip"] = "none"
    columns: tuple[str, ...] = ()

    ASIDE = ("file_bytes",)
    NEEDS = ("h5py",)

    def __post_init__(self) -> None:
        if self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be positive, not {self.chunk_bytes}")

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns that are written. Raises `SchemaError` for what HDF5 or a solver cannot take."""
        names = self.columns or given.names
        chosen = pa.schema([field_of(given, name, "the hdf5 sink") for name in names], given.metadata)
        for field in chosen:
            _check(field)
        return chosen

    def write(self, unit: Unit, batch: Batch) -> Part:
        """One file, named by its content. Raises `RowErrors` for rows with nulls."""
        chosen = batch.select(list(self.columns or batch.schema.names))
        _refuse_rows(batch, chosen)
        return publish_part(self.uri, ".h5", lambda path: self._write(chosen, path), batch.num_rows)

    @staticmethod
    def finish(manifest: Manifest) -> None:
        """Make the index of a dataset, also of one that was copied here."""
        _index(manifest)

    def commit(self, records: Records, provenance: Mapping[str, Any]) -> Manifest:
        """Pack small parts, publish the manifest, and index it."""
        form = Format(".h5", self._pack, self.finish)
        return commit(draft(self.uri, "hdf5", provenance), form, records, self.file_bytes)

    def _write(self, batch: Batch, path: Path) -> None:
        with _created(path) as file:
            for field in batch.schema:
                dataset = self._column(file, field.name, _stored(field.type), (batch.num_rows, *shape_of(field.type)))
                if batch.num_rows:
                    dataset[...] = _values(batch[field.name])
            if "row" not in batch.schema.names:
                self._number(file, batch.num_rows)

    def _pack(self, paths: Sequence[Path], target: Path) -> None:
        with _read(paths[0]) as first, _created(target) as file:
            rows = sum(_rows(path) for path in paths)
            for name in _names(first):
                like = first[name]
                column = self._column(file, name, like.dtype, (rows, *like.shape[1:]))
                at = 0
                for block in _blocks(paths, name, self._rows_of(like)):
                    column[at : at + len(block)] = block
                    at += len(block)
            if _is_ours(first["row"]):
                self._number(file, rows)

    def _column(self, file: Any, name: str, kind: npt.DTypeLike, shape: tuple[int, ...]) -> Any:
        """An empty column: in one piece, or in compressed chunks of whole rows."""
        options: dict[str, Any] = {}
        if self.compression != "none" and shape[0]:
            rows = max(1, min(shape[0], self.chunk_bytes // row_bytes(kind, shape)))
            options = {"chunks": (rows, *shape[1:]), "compression": "gzip", "compression_opts": 1, "shuffle": True}
        return file.create_dataset(name, shape, kind, track_times=False, **options)

    def _rows_of(self, column: Any) -> int:
        """How many rows are copied at a time: whole chunks, so that each is compressed once."""
        chunk = max(1, self.chunk_bytes // row_bytes(column.dtype, column.shape))
        return chunk * max(1, _SLAB_BYTES // self.chunk_bytes)

    def _number(self, file: Any, rows: int) -> None:
        column = self._column(file, "row", np.int64, (rows,))
        column[...] = np.arange(rows)
        column.attrs["meaning"] = "place in this file"


# --- columns ---------------------------------------------------------------------------------------------


def _check(field: pa.Field) -> None:
    if "/" in field.name or field.name in ("", "."):
        raise SchemaError(f"the hdf5 sink cannot call a dataset '{field.name}'; rename the column, without '/'")
    refuse_type(field, "hdf5")


def _stored(kind: pa.DataType) -> Any:
    """How a column's values are stored."""
    if is_text(kind):
        import h5py

        return h5py.string_dtype()
    if pa.types.is_boolean(kind):
        return np.uint8
    return np.dtype((kind.value_type if isinstance(kind, pa.FixedShapeTensorType) else kind).to_pandas_dtype())


def _values(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    if is_text(column.type):
        return np.array(column.to_pylist(), object)
    return to_numpy(column)


def _refuse_rows(batch: Batch, chosen: Batch) -> None:
    """HDF5 has no nulls, and its text ends at a zero byte."""
    reasons = [""] * batch.num_rows
    refuse_nulls(reasons, chosen, "HDF5")
    for name in chosen.schema.names:
        if is_text(chosen[name].type):
            zero = pc.match_substring(chosen[name], "\0")
            note(reasons, zero, f"column '{name}' has a zero byte, where HDF5 text ends")
    refuse(batch, reasons)


# --- files -----------------------------------------------------------------------------------------------


_OPTIONS = {
    "libver": ("v108", "v110"),
    "alignment_threshold": _ALIGNMENT_BYTES,
    "alignment_interval": _ALIGNMENT_BYTES,
}


@contextmanager
def _created(path: Path) -> Iterator[Any]:
    """A new file, made in memory and written at once.

    HDF5 itself must not meet a full disk: what it could not write it tries again when objects are freed,
    and that ends the whole process (segmentation fault, HDF5 2.0.0).
    """
    import h5py

    memory = io.BytesIO()
    with h5py.File(memory, "w", **_OPTIONS) as file:
        yield file
    with memory.getbuffer() as data:
        path.write_bytes(data)


@contextmanager
def _reserved(path: Path, size_bytes: int) -> Iterator[Any]:
    """A new file too large for the memory; its space on the disk is taken before HDF5 writes (see `_created`)."""
    import h5py

    # Some parallel file systems have no locks, and nobody else sees this file yet: none is taken.
    with h5py.File(path, "w", locking=False, **_OPTIONS) as file:
        with path.open("r+b") as space:
            try:
                os.posix_fallocate(space.fileno(), 0, size_bytes)
            except OSError:
                space.truncate(0)
                raise
        yield file
    os.truncate(path, _end(path))


def _end(path: Path) -> int:
    """Where HDF5 says that its file ends, in version 2 of its superblock (address at the top of this module)."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(36)[28:36], "little")


@contextmanager
def _read(path: Path) -> Iterator[Any]:
    """A published file, which never changes: no lock is taken."""
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        yield file


def _names(file: Any) -> list[str]:
    """The columns, without a ``row`` of ours."""
    return [name for name in file if not _is_ours(file[name])]


def _is_ours(dataset: Any) -> bool:
    return "meaning" in dataset.attrs


def _rows(path: Path) -> int:
    with _read(path) as file:
        return int(file["row"].shape[0])


def _blocks(paths: Sequence[Path], name: str, rows: int) -> Iterator[npt.NDArray[Any]]:
    """One column of several files in blocks of *rows*; only the last one is shorter."""
    held: list[npt.NDArray[Any]] = []
    count = 0
    for path in paths:
        with _read(path) as file:
            at, column = 0, file[name]
            while at < len(column):
                held.append(column[at : at + rows - count])
                at, count = at + len(held[-1]), count + len(held[-1])
                if count == rows:
                    yield np.concatenate(held)
                    held, count = [], 0
    if held:
        yield np.concatenate(held)


# --- the index, and one file of all ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """Rows *start* to *stop* of the file *path* follow each other in the dataset from row *first* on."""

    path: str
    sha256: str
    start: int
    stop: int
    first: int


def _runs(manifest: Manifest) -> Iterator[_Run]:
    """The dataset's rows in order, as few pieces of files as possible."""
    table = manifest.parts().select(["path", "sha256", "offset", "rows", "first_row"])
    lines = (line for batch in table.to_batches(4096) for line in batch.to_pylist() if line["rows"])
    for _, group in groupby(lines, key=lambda line: (line["path"], line["first_row"] - line["offset"])):
        same = list(group)
        stop = same[-1]["offset"] + same[-1]["rows"]
        yield _Run(same[0]["path"], same[0]["sha256"], same[0]["offset"], stop, same[0]["first_row"])


def _about(manifest: Manifest) -> dict[str, Any]:
    """What made the dataset, as attributes of a file."""
    story = json.dumps({name: value for name, value in manifest.provenance.items() if name != "schema"}, default=str)
    return {
        "manifest_sha256": manifest.sha256,
        "manifest_version": manifest.version,
        "fingerprint": manifest.fingerprint,
        "rows": manifest.rows,
        "provenance": story if len(story.encode()) < _ABOUT_BYTES else "see manifest.json",
    }


def _index(manifest: Manifest) -> None:
    """Make ``index.h5`` for *manifest*, unless it is there already."""
    if not isinstance(store_of(manifest.uri), Posix):
        return
    about = _about(manifest)
    with local_copy(join(manifest.uri, "index.h5")) as standing:
        if standing.exists() and _indexes(standing, about):
            return
    fields = {f.name: (_stored(f.type), shape_of(f.type)) for f in manifest.schema if not is_text(f.type)}
    runs = list(_runs(manifest))
    with publish(manifest.uri, ".h5") as (path, upload):
        with _created(path) as file:
            file.attrs.update(about)
            for name, (kind, shape) in {"row": (np.int64, ()), **fields}.items():
                _virtual(file, name, kind, (manifest.rows, *shape), runs)
        upload("index.h5")


def _indexes(standing: Path, about: Mapping[str, Any]) -> bool:
    try:
        with _read(standing) as file:
            return all(file.attrs.get(name) == about[name] for name in ("manifest_sha256", "manifest_version"))
    except OSError:  # damaged: make it anew
        return False


def _virtual(file: Any, name: str, kind: npt.DTypeLike, shape: tuple[int, ...], runs: Sequence[_Run]) -> None:
    import h5py

    if not runs:
        file.create_dataset(name, shape, kind)
        return
    lengths: dict[str, int] = {}
    for run in runs:
        lengths[run.path] = max(run.stop, lengths.get(run.path, 0))
    layout = h5py.VirtualLayout(shape, kind)
    for run in runs:
        source = h5py.VirtualSource(run.path, name, (lengths[run.path], *shape[1:]), kind)
        layout[run.first : run.first + run.stop - run.start] = source[run.start : run.stop]
    file.create_virtual_dataset(name, layout, fill(kind))


def compact(uri: str, target: str) -> Path:
    """Copy an HDF5 dataset into one plain file, as parallel HDF5 (``mpio``) needs it.

    The file has all columns, each in one piece, and ``row``, the place in the dataset (or the dataset's own).
    Every part's hash is checked on the way; memory stays below a part on S3, and a slab elsewhere.

    Args:
        uri: the dataset's root.
        target: the file, on a local file system; it appears when it is whole.

    Raises:
        DatasetError: it is no HDF5 dataset, or a part is missing or damaged.
        StorageError: the file could not be written.
    """
    manifest = existing(uri)
    if manifest.format != "hdf5":
        raise DatasetError(
            f"{uri}: its format is {manifest.format}, hdf5 was needed; write it by a pipeline with the sink hdf5"
        )
    place = Path(target).absolute()
    with publish(parent(str(place)), ".h5") as (path, upload):
        with _reserved(path, _size_bytes(manifest)) as file:
            file.attrs.update(_about(manifest))
            _fill_columns(file, manifest)
        upload(place.name)
    return place


def _size_bytes(manifest: Manifest) -> int:
    """A little more than the dataset takes in one file; what is too much goes back at the end."""
    widths = [row_bytes(_stored(field.type), (0, *shape_of(field.type))) for field in manifest.schema]
    texts = any(is_text(field.type) for field in manifest.schema)
    parts = pc.sum(manifest.parts()["part_bytes"]).as_py() or 0
    return manifest.rows * (sum(widths) + 8) + texts * parts + (len(widths) + 2) * _ALIGNMENT_BYTES


def _fill_columns(file: Any, manifest: Manifest) -> None:
    for field in manifest.schema:
        file.create_dataset(field.name, (manifest.rows, *shape_of(field.type)), _stored(field.type))
    for run in _runs(manifest):
        with _sound(manifest, run) as part:
            for field in manifest.schema:
                _copy(part[field.name], file[field.name], run)
    if "row" not in manifest.schema.names:
        file.create_dataset("row", data=np.arange(manifest.rows))


@contextmanager
def _sound(manifest: Manifest, run: _Run) -> Iterator[Any]:
    """The file of *run*, when it is what the manifest says."""
    name = join(manifest.uri, run.path)
    with local_copy(name) as path:
        if not path.exists() or sha256_of(path) != run.sha256:
            what = "is damaged: its hash is not that of the manifest" if path.exists() else "is missing"
            raise DatasetError(f"{name} {what}; restore it, or make the dataset anew")
        with _read(path) as file:
            yield file


def _copy(source: Any, target: Any, run: _Run) -> None:
    step = max(1, _SLAB_BYTES // row_bytes(source.dtype, source.shape))
    for start in range(run.start, run.stop, step):
        stop = min(start + step, run.stop)
        first = run.first + start - run.start
        target[first : first + stop - start] = source[start:stop]
