"""Files, folders and whole datasets from one address to another, by several threads at once.

A file appears at its target when it is whole, so that a copy that was killed goes on where it stopped: what is
there already with the same content is skipped. A dataset is copied by its newest manifest, which comes last; the hash
of every part is checked on the way.

That two plain files are the same is known by their bytes, or, where one of them is an object, by its ETag: the MD5
of the bytes, or of the MD5s of its pieces
(https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html). Where a bucket's encryption
makes another ETag, such a file is copied again.
"""

from __future__ import annotations

import filecmp
import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pyarrow.compute as pc

from penstock.core import plugins
from penstock.core.dataset import Manifest, adopt, derive, newest, sha256_of
from penstock.core.storage import Entry, Posix, join, store_of
from penstock.errors import DatasetError, StorageError

__all__ = ["Copied", "Meter", "copy"]

_CHUNK_BYTES = 1 << 20
_PIECE_BYTES = 8 << 20
"""What boto3 cuts large objects into; `Entry.etag` of such an object follows from it."""


class Meter(Protocol):
    """Who looks on; called by several threads."""

    def begin(self, files: int, size_bytes: int) -> None:
        """So much is to be copied."""

    def add(self, size_bytes: int) -> None:
        """So much more is there."""


class _Nobody:
    def begin(self, files: int, size_bytes: int) -> None:
        """Nothing."""

    def add(self, size_bytes: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Copied:
    """What a copy did.

    Attributes:
        files: how many there are.
        size_bytes: how large they are together.
        skipped: of these files, those that were there already.
        manifest: that of the target, when it is a dataset.
    """

    files: int
    size_bytes: int
    skipped: int
    manifest: Manifest | None = None


@dataclass(frozen=True)
class _File:
    """One file to copy: a part of a dataset has a *sha256*, any other an *etag*."""

    source: str
    target: str
    size_bytes: int
    etag: str | None = None
    sha256: str | None = None


def copy(source: str, target: str, at_once: int = 16, meter: Meter | None = None) -> Copied:
    """Copy a file, the content of a folder, or a dataset between paths and ``s3://``.

    Hidden files of folders are left out; nothing at the target is removed. A file whose target is a folder, or ends
    with a slash, gets its own name there. A dataset at the target gets a new version when its content is another.

    Args:
        source: a file, folder, prefix, or the root of a dataset.
        target: where it goes.
        at_once: how many files are under way at a time.
        meter: who looks on.

    Raises:
        DatasetError: a part is missing or is not what the manifest says, or this Penstock is too old to read it.
        StorageError: something could not be listed, read or written, or lies where it should go.
    """
    source = source.rstrip("/") or "/"
    _apart(source, target)
    meter = meter or _Nobody()
    manifest = newest(source)
    if manifest is not None:
        return _copy_dataset(manifest, target.rstrip("/"), at_once, meter)
    files = list(_plain_files(source, target))
    return Copied(len(files), _size(files), _carry(files, at_once, meter))


def _apart(source: str, target: str) -> None:
    here, there = (_whole(uri) for uri in (source, target))
    if there == here or there.startswith(f"{here}/"):
        raise StorageError(f"cannot copy {source} to {target}: it would be copied into itself; choose another place")


def _whole(uri: str) -> str:
    uri = uri.rstrip("/")
    return str(_path(uri).absolute()) if isinstance(store_of(uri), Posix) else uri


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).expanduser()


def _size(files: Sequence[_File]) -> int:
    return sum(file.size_bytes for file in files)


# --- files and folders -----------------------------------------------------------------------------------


def _plain_files(source: str, target: str) -> Iterator[_File]:
    """The files at or below *source*; manifests come last, so that a dataset on the way is never half one."""
    single = store_of(source).entry(source)
    folder = isinstance(store_of(source), Posix) and _path(source).is_dir()
    if single is not None and not folder:
        yield _plain(single, _named(single, target))
        return
    entries = list(store_of(source).list(source))
    root = str(_path(source)) if folder else source
    for last in (False, True):
        for entry in (found for found in entries if _is_manifest(found.uri) is last):
            yield _plain(entry, join(target, entry.uri.removeprefix(root).lstrip("/")))


def _is_manifest(uri: str) -> bool:
    return "/manifests/" in uri and uri.endswith(".json")


def _plain(entry: Entry, target: str) -> _File:
    return _File(entry.uri, target, entry.size_bytes, entry.etag)


def _named(entry: Entry, target: str) -> str:
    """*target*, or, where that is a folder, the file's own name in it."""
    is_folder = isinstance(store_of(target), Posix) and _path(target).is_dir()
    return join(target, entry.uri.rsplit("/", 1)[-1]) if target.endswith("/") or is_folder else target


# --- datasets --------------------------------------------------------------------------------------------


def _copy_dataset(manifest: Manifest, target: str, at_once: int, meter: Meter) -> Copied:
    files = list(_dataset_files(manifest, target))
    skipped = _carry(files, at_once, meter)
    published = adopt(replace(manifest, uri=target))
    derive(target, _finish(manifest))
    return Copied(len(files), _size(files), skipped, published)


def _dataset_files(manifest: Manifest, target: str) -> Iterator[_File]:
    """What the manifest names, and what tells of the runs that made it."""
    name = f"manifests/{manifest.parts_sha256}.parquet"
    _present(join(manifest.uri, name))
    table = manifest.parts()
    seen: set[str] = set()
    columns = ["path", "size_bytes", "sha256"]
    for batch in table.select(columns).to_batches():
        for path, size, sha256 in zip(*(batch[name].to_pylist() for name in columns), strict=True):
            if path not in seen:
                seen.add(path)
                yield _File(join(manifest.uri, path), join(target, path), size, sha256=sha256)
    others = [name, *pc.unique(pc.list_flatten(table["bad"])).to_pylist()]
    entries = (_present(join(manifest.uri, other)) for other in others)
    for entry in (*entries, *store_of(manifest.uri).below(join(manifest.uri, "runs"))):
        yield _plain(entry, join(target, _below(entry.uri, manifest.uri)))


def _below(uri: str, root: str) -> str:
    return uri.removeprefix(str(_path(root)) if isinstance(store_of(root), Posix) else root).lstrip("/")


def _present(uri: str) -> Entry:
    entry = store_of(uri).entry(uri)
    if entry is None:
        raise DatasetError(f"{uri} is missing; restore it, or make the dataset anew")
    return entry


def _finish(manifest: Manifest) -> Callable[[Manifest], None]:
    """What the dataset's format derives from its parts, such as an index."""
    sink = plugins.load("sinks", manifest.format) if manifest.format in plugins.named("sinks") else None
    finish: Callable[[Manifest], None] = getattr(sink, "finish", lambda manifest: None)
    return finish


# --- carrying --------------------------------------------------------------------------------------------


def _carry(files: Sequence[_File], at_once: int, meter: Meter) -> int:
    """Copy *files*, in their order as far as several at once have one; how many were there already."""
    meter.begin(len(files), _size(files))
    parts = [file for file in files if not _is_manifest(file.target)]
    with ThreadPoolExecutor(max(1, at_once)) as pool:
        return sum(sum(pool.map(lambda file: _carried(file, meter), some)) for some in (parts, files[len(parts) :]))


def _carried(file: _File, meter: Meter) -> bool:
    """Bring one file to its target; whether it was there already."""
    if _is_there(file):
        meter.add(file.size_bytes)
        return True
    if isinstance(store_of(file.source), Posix) and not isinstance(store_of(file.target), Posix):
        if file.sha256 is not None:
            _check(file, _present(file.source).size_bytes, sha256_of(_path(file.source)))
        store_of(file.target).upload(_path(file.source), file.target)
        meter.add(file.size_bytes)
        return False
    with _scratch(file.target) as path:
        _stream(file, path, meter)
        store_of(file.target).upload(path, file.target)
    return False


def _is_there(file: _File) -> bool:
    there = store_of(file.target).entry(file.target)
    if there is None or there.size_bytes != file.size_bytes:
        return False
    if file.sha256 is None:
        return _is_same(file, there)
    if isinstance(store_of(file.target), Posix):
        return sha256_of(_path(file.target)) == file.sha256
    return file.sha256[:32] in file.target  # an object named by its content was published whole


def _is_same(file: _File, there: Entry) -> bool:
    local = [isinstance(store_of(uri), Posix) for uri in (file.source, file.target)]
    if all(local):
        return filecmp.cmp(_path(file.source), _path(file.target), shallow=False)
    if not any(local):
        return file.etag == there.etag
    here, etag = (file.source, there.etag) if local[0] else (file.target, file.etag)
    return etag_of(_path(here), pieces="-" in (etag or "")) == etag


def etag_of(path: Path, *, pieces: bool) -> str:
    """The ETag that S3 gives to the bytes of *path*, uploaded at once or in pieces as boto3 cuts them."""
    with path.open("rb") as file:
        if not pieces:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        sums = [hashlib.md5(piece, usedforsecurity=False).digest() for piece in _read(file.read, _PIECE_BYTES)]
    return f"{hashlib.md5(b''.join(sums), usedforsecurity=False).hexdigest()}-{len(sums)}"


def _read(read: Callable[[int], bytes], size_bytes: int) -> Iterable[bytes]:
    return iter(lambda: read(size_bytes), b"")


def _check(file: _File, size_bytes: int, sha256: str) -> None:
    """Refuse a part that is not the one that was committed."""
    found = "its hash is not that of the manifest" if sha256 != file.sha256 else ""
    if size_bytes != file.size_bytes:
        found = f"it has {size_bytes} bytes, {file.size_bytes} were written"
    if file.sha256 is not None and found:
        raise DatasetError(f"{file.source} is damaged: {found}; restore it, or make the dataset anew")


def _stream(file: _File, path: Path, meter: Meter) -> None:
    """The bytes of *file* into *path*, which is on this machine, hashed on the way."""
    if file.sha256 is not None:
        _present(file.source)
    digest, size = hashlib.sha256(), 0
    with store_of(file.source).open(file.source, 0, file.etag) as stream, path.open("wb") as out:
        for chunk in _read(stream.read, _CHUNK_BYTES):
            out.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            meter.add(len(chunk))
    _check(file, size, digest.hexdigest())


@contextmanager
def _scratch(target: str) -> Iterator[Path]:
    """A hidden file beside *target*, or in the temporary folder for objects; gone afterwards."""
    store = store_of(target)
    folder = store.scratch(target) if not isinstance(store, Posix) else _path(target).parent
    path = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
