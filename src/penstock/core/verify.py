"""Every byte of a dataset held against its manifest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from penstock.core import plugins
from penstock.core.dataset import Manifest, existing, sha256_of
from penstock.core.reading import part_reader
from penstock.core.storage import Posix, join, local_copy, store_of
from penstock.core.zipped import unzipped
from penstock.errors import DatasetError

__all__ = ["verify"]

_ROWS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class _File:
    """What the manifest says of one file; *rows* is how many it must have at least."""

    path: str
    sha256: str
    size_bytes: int
    rows: int


def verify(uri: str) -> Manifest:
    """Read the whole dataset at *uri*: every part is there, has its hash and its rows, and the index shows them.

    Raises:
        DatasetError: with the file, what is wrong with it, and what to do.
    """
    manifest = existing(uri)
    _numbered(manifest)
    for file in _files(manifest):
        _verify_file(manifest, file)
    if manifest.format == "hdf5" and isinstance(store_of(uri), Posix):
        _verify_index(manifest)
    _derived(manifest)
    return manifest


def _derived(manifest: Manifest) -> None:
    """What a sink made beside the parts, by the sink's own word."""
    if manifest.format in plugins.named("sinks"):
        check = getattr(plugins.load("sinks", manifest.format), "verify", None)
        if check is not None:
            check(manifest)


def _numbered(manifest: Manifest) -> None:
    table = manifest.parts()
    rows = table["rows"].to_numpy()
    if int(rows.sum()) != manifest.rows or not np.array_equal(table["first_row"].to_numpy(), np.cumsum(rows) - rows):
        raise DatasetError(
            f"{manifest.uri}: its parts have {int(rows.sum())} rows, its manifest says {manifest.rows}; make it anew"
        )


def _files(manifest: Manifest) -> Iterator[_File]:
    """The files that hold rows or stand for empty units, each once, in order."""
    found: dict[str, _File] = {}
    columns = ["path", "sha256", "size_bytes", "offset", "rows"]
    for batch in manifest.parts().select(columns).to_batches(4096):
        for path, sha256, size, offset, rows in zip(*(batch[name].to_pylist() for name in columns), strict=True):
            most = max(offset + rows, found[path].rows if path in found else 0)
            found[path] = _File(path, sha256, size, most)
    yield from found.values()


def _verify_file(manifest: Manifest, file: _File) -> None:
    name = join(manifest.uri, file.path)
    entry = store_of(name).entry(name)
    if entry is None:
        raise DatasetError(f"{name} is missing; restore it, or make the dataset anew")
    if entry.size_bytes != file.size_bytes:
        raise _damaged(name, f"it has {entry.size_bytes} bytes, {file.size_bytes} were written")
    with local_copy(name) as path:
        if sha256_of(path) != file.sha256:
            raise _damaged(name, "its hash is not that of the manifest")
        rows = _rows(manifest, path)
    if rows < file.rows:
        raise _damaged(name, f"it has {rows} rows, the manifest counts on {file.rows}")


def _damaged(name: str, what: str) -> DatasetError:
    return DatasetError(f"{name} is damaged: {what}; restore it, or make the dataset anew")


def _rows(manifest: Manifest, path: Path) -> int:
    """Rows that all columns have."""
    if manifest.format == "parquet":
        return int(pq.read_metadata(path).num_rows)
    if manifest.format == "table":
        return len(np.load(path, mmap_mode="r"))
    if manifest.format == "model":
        return 0
    if manifest.format == "zarr":
        with unzipped(path) as part:
            return min((part.shape(name)[0] for name in manifest.schema.names), default=0)
    if manifest.format != "hdf5":
        return int(part_reader(manifest)(path, manifest.schema).num_rows)
    import h5py

    with h5py.File(path, "r", locking=False) as file:
        return min((len(file[name]) if name in file else 0 for name in manifest.schema.names), default=0)


def _verify_index(manifest: Manifest) -> None:
    import h5py

    path = Path(join(manifest.uri, "index.h5").removeprefix("file://"))
    remedy = "run the pipeline or the copy again, which makes the index anew"
    if not path.exists():
        raise DatasetError(f"{path} is missing; {remedy}")
    with h5py.File(path, "r", locking=False) as file:
        if file.attrs.get("manifest_sha256") != manifest.sha256:
            raise DatasetError(f"{path} is not that of version {manifest.version}; {remedy}")
        for start in range(0, manifest.rows, _ROWS_AT_ONCE):
            if (file["row"][start : start + _ROWS_AT_ONCE] < 0).any():
                raise DatasetError(
                    f"{path} shows fill values after row {start}: a part is not where it looks; {remedy}"
                )
