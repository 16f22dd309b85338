"""Files of S3 on this machine: fetched once for all workers, checked, and kept under the name of their hash."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from penstock.core.storage import Posix, store_of
from penstock.errors import DatasetError, StorageError

__all__ = ["fetched", "folder"]

_CHUNK_BYTES = 1 << 20


def folder() -> Path:
    """Where fetched files lie: ``PENSTOCK_CACHE``, else ``penstock`` below ``XDG_CACHE_HOME`` or ``~/.cache``.

    Take a disk of the node itself; remove the folder, or files in it, to have the room back.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("PENSTOCK_CACHE") or Path(cache) / "penstock") / "tables"


def fetched(uri: str, sha256: str, size_bytes: int) -> Path:
    """A local file with the bytes of *uri*: itself on POSIX, else a copy that all workers of this node share.

    Raises:
        DatasetError: the file is not the one with this hash and size.
        StorageError: it cannot be read, or there is no room for the copy.
    """
    if isinstance(store_of(uri), Posix):
        return _sized(Path(uri.removeprefix("file://")), size_bytes)
    path = folder() / f"{sha256}.npy"
    if not _is_there(path, size_bytes):
        with _told(path), _alone(path):
            if not _is_there(path, size_bytes):  # nobody fetched it while we waited
                _fetch(uri, path, sha256)
    return path


def _sized(path: Path, size_bytes: int) -> Path:
    # Reading past the end of a mapped file ends the process, so no file is mapped that is too short.
    if not _is_there(path, size_bytes):
        found = f"{path.stat().st_size} bytes" if path.exists() else "no file"
        raise DatasetError(f"{path}: found {found}, {size_bytes} bytes were published; restore it or make it anew")
    return path


def _is_there(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(
            f"cannot fetch to {path.parent}: {error.strerror or error}; free some room there, or set PENSTOCK_CACHE to "
            "a folder on a larger disk"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One worker of this node fetches a file, the others wait; the lock of a process that dies is gone with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(uri: str, path: Path, sha256: str) -> None:
    temporary, digest = path.with_name(f".{uuid.uuid4().hex}.tmp"), hashlib.sha256()
    try:
        with store_of(uri).open(uri) as stream, temporary.open("wb") as out:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != sha256:
            raise DatasetError(f"{uri}: its hash is not that of the manifest; the file is damaged, restore it")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
