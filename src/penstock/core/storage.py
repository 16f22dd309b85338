"""URI to bytes: list, ranged read, atomic publish; the same few verbs on a POSIX folder and on S3.

Publication is atomic on both: a name either has all of its bytes or does not exist.

* POSIX: a temporary file in the same folder tree, ``fsync``, ``rename`` (or ``link`` where only the
  first may win), ``fsync`` of the folder. No lock is taken, so nothing can hang on NFS or Lustre.
* S3: one ``PutObject`` (or a completed multipart upload); ``If-None-Match: *`` where only the first
  may win (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).

Endpoint, region and credentials of S3 come by the usual AWS means (environment, profiles, instance role).
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import io
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Protocol, cast

from pydantic import BeforeValidator, ValidationInfo

from penstock.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Entry",
    "Store",
    "Uri",
    "clear_scratch",
    "is_glob",
    "join",
    "local_copy",
    "parent",
    "publish",
    "seekable",
    "store_of",
]

_MULTIPART_BYTES = 64 << 20


def _resolve(value: Any, info: ValidationInfo) -> Any:
    folder = (info.context or {}).get("folder")
    if folder is None or not isinstance(value, str) or "://" in value:
        return value
    path = Path(value).expanduser()
    return value if value.startswith("/") else os.path.normpath(Path(folder) / path)


Uri = Annotated[str, BeforeValidator(_resolve)]
"""An address. In a pipeline file a relative one is taken from the file's own folder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file or object; *etag* changes when its content does."""

    uri: str
    size_bytes: int
    etag: str


class Store(Protocol):
    """The verbs. All raise `StorageError` with the address, the cause and the remedy."""

    def list(self, pattern: str) -> Iterator[Entry]:
        """Files at a file, below a folder, or matching a glob (``*``, ``?``, ``[]``, ``**``), sorted, streamed."""

    def below(self, folder: str) -> Iterator[Entry]:
        """Files below *folder*, no glob, sorted, streamed; none when it is not there yet."""

    def entry(self, uri: str) -> Entry | None:
        """What lies at *uri* now, or None."""

    def read(self, uri: str) -> bytes | None:
        """All bytes of a small file, or None when it is not there."""

    def open(self, uri: str, start: int = 0, etag: str | None = None) -> BinaryIO:
        """A stream of bytes from *start* on; refuses when the content is no longer that of *etag*."""

    def create(self, uri: str, data: bytes) -> bool:
        """Publish small *data* unless the name exists. True for the one caller who won."""

    def replace(self, uri: str, data: bytes) -> None:
        """Publish small *data*, whatever was there."""

    def upload(self, path: Path, uri: str) -> None:
        """Publish the local file *path*, moving it where that is possible."""

    def scratch(self, root: str) -> Path:
        """A local folder from which `upload` to below *root* is cheapest."""

    def remove(self, uri: str) -> None:
        """Delete; nothing there is fine."""

    def free_bytes(self, root: str) -> int | None:
        """Space left below *root*, or None where there is no such limit. Raises if it cannot be written."""


def join(root: str, *names: str) -> str:
    """Join an address and relative names by one slash each."""
    return "/".join([root.rstrip("/"), *names])


def parent(uri: str) -> str:
    """The folder or prefix above *uri*."""
    return uri.rstrip("/").rsplit("/", 1)[0] or "/"


def store_of(uri: str) -> Store:
    """The store that holds *uri*.

    Raises:
        StorageError: the scheme is none of ``file://``, ``s3://`` and plain paths.
    """
    scheme = uri.split("://", 1)[0] if "://" in uri else "file"
    if scheme == "file":
        return Posix()
    if scheme == "s3":
        return S3()
    raise StorageError(f"{uri}: the scheme '{scheme}://' is not known; use a path, file:// or s3://")


def is_glob(uri: str) -> bool:
    """Whether *uri* has wildcards, and nothing lies at it by that very name."""
    store = store_of(uri)
    return any(mark in uri for mark in "*?[") and store.entry(uri) is None and next(store.below(uri), None) is None


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A local file with the bytes of *uri*: itself on POSIX, a temporary copy of an object."""
    if isinstance(store_of(uri), Posix):
        yield _path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path = Path(folder) / uri.rsplit("/", 1)[-1]
        download(uri, path)
        yield path


def download(uri: str, path: Path) -> None:
    """Write the bytes of *uri* to a local file; folders that are lacking are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with store_of(uri).open(uri) as stream, path.open("wb") as out:
        shutil.copyfileobj(stream, out, 1 << 22)


def seekable(uri: str, etag: str | None = None) -> BinaryIO:
    """A file in which one can jump, for formats with a directory inside; refuses when *etag* is not its own any more.

    Each read of an object is one ranged request, so read much at a time.
    """
    store = store_of(uri)
    entry = store.entry(uri)
    if isinstance(store, Posix) or entry is None:
        return store.open(uri, 0, etag)
    return cast("BinaryIO", _Ranged(uri, entry.size_bytes, etag or entry.etag))


@contextmanager
def publish(root: str, suffix: str) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A scratch file and the verb that publishes it below *root* under a relative name.

    The scratch file is gone afterwards, published or not.

    Raises:
        StorageError: the file could not be written or published.
    """
    store = store_of(root)
    path = store.scratch(root) / f"{uuid.uuid4().hex}{suffix}"
    try:
        with _told(str(path), "write"):
            yield path, lambda name: store.upload(path, join(root, name))
    finally:
        path.unlink(missing_ok=True)


def clear_scratch(root: str, older_seconds: float = 86400.0) -> None:
    """Remove scratch files that killed workers left behind; nobody writes one file for a day."""
    for path in store_of(root).scratch(root).iterdir():
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > older_seconds:
                path.unlink()


# --- POSIX -----------------------------------------------------------------------------------------------


def _path(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).expanduser()


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size}-{status.st_mtime_ns}"


_REMEDY = {
    errno.ENOSPC: "the disk is full; free some space and run again, finished units are kept",
    errno.EDQUOT: "the quota is used up; free some space and run again, finished units are kept",
    errno.EACCES: "permission denied; check owner and mode",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOENT: "no such file or folder; check the spelling",
    errno.EISDIR: "this is a folder, a file was needed",
    errno.ENOTDIR: "a part of the path is a file, a folder was needed",
    errno.EEXIST: "a part of the path is a file, a folder was needed",
    errno.EOPNOTSUPP: "this file system has no hard links, which exclusive creation needs; choose another folder",
}


@contextmanager
def _told(uri: str, verb: str) -> Iterator[None]:
    """Turn the errors of the operating system into ours, with a remedy."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        code = error.errno or (errno.ENOENT if isinstance(error, FileNotFoundError) else 0)
        remedy = _REMEDY.get(code, error.strerror or str(error))
        raise StorageError(f"cannot {verb} {uri}: {remedy}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make *folder*; each new name is synced into the folder above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
        _sync_folder(folder.parent)


class Posix:
    """Files of this machine, and of what is mounted on it (NFS, Lustre, FSx)."""

    def list(self, pattern: str) -> Iterator[Entry]:
        with _told(pattern, "list"):
            path = _path(pattern)
            if path.is_file():
                yield self._entry(path)
            elif path.is_dir():
                yield from self._entries(_walk(path))
            else:
                yield from self._glob(pattern)

    def _glob(self, pattern: str) -> Iterator[Entry]:
        root = _fixed_root(str(_path(pattern)))
        if not any(mark in pattern for mark in "*?[") or not Path(root).is_dir():
            raise StorageError(f"cannot list {pattern}: no such file or folder; check the spelling")
        matches = _matcher(str(_path(pattern)))
        yield from self._entries(found for found in _walk(Path(root)) if matches(str(found)))

    def below(self, folder: str) -> Iterator[Entry]:
        with _told(folder, "list"):
            if _path(folder).is_dir():
                yield from self._entries(_walk(_path(folder)))

    def _entries(self, paths: Iterable[Path]) -> Iterator[Entry]:
        for path in paths:
            try:
                yield self._entry(path)
            except FileNotFoundError:  # removed meanwhile, which is fine
                if path.is_symlink():
                    raise StorageError(f"cannot list {path}: the link leads nowhere; mend or remove it") from None

    @staticmethod
    def _entry(path: Path) -> Entry:
        status = path.stat()
        return Entry(str(path), status.st_size, _etag(status))

    def entry(self, uri: str) -> Entry | None:
        with _told(uri, "look at"):
            try:
                return self._entry(_path(uri))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read(self, uri: str) -> bytes | None:
        with _told(uri, "read"):
            try:
                return _path(uri).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, uri: str, start: int = 0, etag: str | None = None) -> BinaryIO:
        with _told(uri, "read"):
            file = _path(uri).open("rb")
            if etag is not None and _etag(os.fstat(file.fileno())) != etag:
                file.close()
                raise StorageError(f"cannot read {uri}: it changed while the run was going on; run again")
            file.seek(start)
            return file

    def create(self, uri: str, data: bytes) -> bool:
        with _told(uri, "write"), self._synced(uri, data) as temporary:
            with suppress(FileExistsError):
                os.link(temporary, _path(uri))
            if temporary.stat().st_nlink < 2:
                return False
            # NFS may say "exists" of a link that it made itself before a lost reply; the count knows.
            _sync_folder(_path(uri).parent)
            return True

    def replace(self, uri: str, data: bytes) -> None:
        with _told(uri, "write"), self._synced(uri, data) as temporary:
            temporary.replace(_path(uri))
            _sync_folder(_path(uri).parent)

    @contextmanager
    def _synced(self, uri: str, data: bytes) -> Iterator[Path]:
        folder = _path(uri).parent
        _make_folder(folder)
        temporary = folder / f".{uuid.uuid4().hex}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def upload(self, path: Path, uri: str) -> None:
        with _told(uri, "write"):
            target = _path(uri)
            _make_folder(target.parent)
            _sync_file(path)
            path.replace(target)
            _sync_folder(target.parent)

    def scratch(self, root: str) -> Path:
        with _told(root, "write below"):
            folder = _path(root) / ".tmp"
            _make_folder(folder)
            return folder

    def remove(self, uri: str) -> None:
        with _told(uri, "remove"):
            _path(uri).unlink(missing_ok=True)

    def free_bytes(self, root: str) -> int | None:
        with _told(root, "write below"):
            folder = _path(root).absolute()
            while not folder.exists():
                folder = folder.parent
            if not folder.is_dir():
                raise StorageError(f"cannot write below {root}: {folder} is a file, a folder was needed")
            if not os.access(folder, os.W_OK):
                raise StorageError(f"cannot write below {root}: permission denied on {folder}; check owner and mode")
            return shutil.disk_usage(folder).free


def _walk(folder: Path) -> Iterator[Path]:
    """Files below *folder*, sorted by path; hidden names are left out."""
    try:
        with os.scandir(folder) as found:
            entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
    except FileNotFoundError:  # removed meanwhile
        return
    for entry in entries:
        if entry.is_dir():
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def _fixed_root(pattern: str) -> str:
    """The part of a glob, up to a slash, before its first wildcard."""
    cut = min((pattern.index(mark) for mark in "*?[" if mark in pattern), default=len(pattern))
    return pattern[:cut].rsplit("/", 1)[0] or ("/" if pattern.startswith("/") else ".")


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Match whole paths; ``*`` and ``?`` stop at slashes, ``**`` does not."""
    parts = pattern.removeprefix("./").split("/")

    @functools.cache
    def match(names: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
        if not wanted:
            return not names
        if wanted[0] == "**":
            return match(names, wanted[1:]) or (bool(names) and match(names[1:], wanted))
        return bool(names) and fnmatch.fnmatchcase(names[0], wanted[0]) and match(names[1:], wanted[1:])

    def matches(path: str) -> bool:
        match.cache_clear()
        return match(tuple(path.removeprefix("./").split("/")), tuple(parts))

    return matches


# --- S3 --------------------------------------------------------------------------------------------------


@functools.cache
def _client() -> Any:
    """One boto3 client a process (clients are thread-safe)."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StorageError("s3:// needs boto3: pip install 'penstock[s3]'") from error
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    style = {"addressing_style": "path"} if endpoint else {}
    config = Config(
        s3=style, retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, max_pool_connections=64
    )
    # A session of our own: boto3's default one must not be used by several threads at once.
    return boto3.session.Session().client("s3", config=config)


_S3_REMEDY = {
    "NoSuchBucket": "there is no such bucket; create it or check the spelling",
    "InvalidAccessKeyId": "the access key is not known; check AWS_ACCESS_KEY_ID or the profile",
    "SignatureDoesNotMatch": "the secret key is wrong; check AWS_SECRET_ACCESS_KEY or the profile",
    "AccessDenied": "access denied; the credentials lack a permission on this bucket or key",
    "403": "access denied; check the credentials and their permissions",
    "NoSuchKey": "there is no such object; check the spelling",
    "404": "there is no such object or bucket; check the spelling",
    "PreconditionFailed": "it changed while the run was going on; run again",
    "412": "it changed while the run was going on; run again",
    "NoCredentialsError": "there are no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
}


@contextmanager
def _told_s3(uri: str, verb: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        code = _code(error)
        if code is None and not type(error).__module__.startswith(("botocore", "boto3")):
            raise
        remedy = _S3_REMEDY.get(code or type(error).__name__, str(error))
        raise StorageError(f"cannot {verb} {uri}: {remedy}") from error


def _code(error: Exception) -> str | None:
    response = getattr(error, "response", None)
    return str(response["Error"]["Code"]) if isinstance(response, dict) and "Error" in response else None


def _bucket_key(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


class S3:
    """Objects in S3, or in a server that speaks its language."""

    def list(self, pattern: str) -> Iterator[Entry]:
        wild = any(mark in pattern for mark in "*?[")
        found = False
        for entry in self._visible(pattern, functools.partial(_is_at, place=pattern)):
            found = True
            yield entry
        if wild and not found:  # as on POSIX, a name that exists is no glob
            yield from self._visible(_fixed_root(pattern), _matcher(pattern))
        elif not found:
            raise StorageError(f"cannot list {pattern}: there is no such object or prefix; check the spelling")

    def _visible(self, root: str, matches: Callable[[str], bool]) -> Iterator[Entry]:
        for entry in self._list_prefix(*_bucket_key(root)):
            if matches(entry.uri) and "/." not in entry.uri.removeprefix(root.rstrip("/")):
                yield entry

    def below(self, folder: str) -> Iterator[Entry]:
        bucket, key = _bucket_key(folder.rstrip("/"))
        return self._list_prefix(bucket, f"{key}/" if key else "")

    def _list_prefix(self, bucket: str, prefix: str) -> Iterator[Entry]:
        with _told_s3(f"s3://{bucket}/{prefix}", "list"):
            for page in _client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                for item in page.get("Contents", []):
                    if not item["Key"].endswith("/"):  # consoles make such empty objects to show a folder
                        yield Entry(f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"'))

    def entry(self, uri: str) -> Entry | None:
        bucket, key = _bucket_key(uri)
        with _told_s3(uri, "look at"):
            try:
                head = _client().head_object(Bucket=bucket, Key=key)
            except Exception as error:
                if _code(error) in ("404", "NoSuchKey"):
                    return None
                raise
            return Entry(uri, head["ContentLength"], head["ETag"].strip('"'))

    def read(self, uri: str) -> bytes | None:
        bucket, key = _bucket_key(uri)
        with _told_s3(uri, "read"):
            try:
                return bytes(_client().get_object(Bucket=bucket, Key=key)["Body"].read())
            except Exception as error:
                if _code(error) == "NoSuchKey":
                    return None
                raise

    def open(self, uri: str, start: int = 0, etag: str | None = None) -> BinaryIO:
        bucket, key = _bucket_key(uri)
        extra: dict[str, str] = {"IfMatch": f'"{etag}"'} if etag else {}
        if start:
            extra["Range"] = f"bytes={start}-"
        with _told_s3(uri, "read"):
            try:
                body = _client().get_object(Bucket=bucket, Key=key, **extra)["Body"]
            except Exception as error:
                if _code(error) in ("416", "InvalidRange"):
                    return io.BytesIO()
                raise
            return io.BufferedReader(_Body(body, uri), 1 << 20)

    def create(self, uri: str, data: bytes) -> bool:
        bucket, key = _bucket_key(uri)
        with _told_s3(uri, "write"):
            try:
                _client().put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
            except Exception as error:
                # 409: somebody else's conditional write of this key was under way; look who won.
                if _code(error) in ("PreconditionFailed", "412"):
                    return False
                if _code(error) in ("ConditionalRequestConflict", "409"):
                    return self.entry(uri) is None and self.create(uri, data)
                raise
            return True

    def replace(self, uri: str, data: bytes) -> None:
        bucket, key = _bucket_key(uri)
        with _told_s3(uri, "write"):
            _client().put_object(Bucket=bucket, Key=key, Body=data)

    def upload(self, path: Path, uri: str) -> None:
        bucket, key = _bucket_key(uri)
        with _told_s3(uri, "write"):
            if path.stat().st_size < _MULTIPART_BYTES:
                with path.open("rb") as file:
                    _client().put_object(Bucket=bucket, Key=key, Body=file)
            else:
                _client().upload_file(str(path), bucket, key)

    def scratch(self, root: str) -> Path:
        with _told(tempfile.gettempdir(), "write below"):
            folder = Path(tempfile.gettempdir()) / f"penstock-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            return folder

    def remove(self, uri: str) -> None:
        bucket, key = _bucket_key(uri)
        with _told_s3(uri, "remove"):
            _client().delete_object(Bucket=bucket, Key=key)

    def free_bytes(self, root: str) -> int | None:
        probe = join(root, f".penstock-{uuid.uuid4().hex}")
        self.replace(probe, b"")
        self.remove(probe)
        return None


def _is_at(uri: str, place: str) -> bool:
    """Whether *uri* is *place* or lies below it."""
    return uri == place or uri.startswith(place.rstrip("/") + "/")


class _Body(io.RawIOBase):
    """botocore's StreamingBody as a raw stream, with our errors."""

    def __init__(self, body: Any, uri: str) -> None:
        self._body, self._uri = body, uri

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told_s3(self._uri, "read"):
            data = self._body.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)

    def readall(self) -> bytes:
        with _told_s3(self._uri, "read"):
            return bytes(self._body.read())

    def close(self) -> None:
        self._body.close()
        super().close()


class _Ranged(io.RawIOBase):
    """An object as a raw file in which one can jump."""

    def __init__(self, uri: str, size_bytes: int, etag: str) -> None:
        self._uri, self._size, self._etag, self._at = uri, size_bytes, etag, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        stop = min(self._at + len(buffer), self._size)
        if self._at >= stop:
            return 0
        bucket, key = _bucket_key(self._uri)
        extra = {"Range": f"bytes={self._at}-{stop - 1}", "IfMatch": f'"{self._etag}"'}
        with _told_s3(self._uri, "read"):
            data = _client().get_object(Bucket=bucket, Key=key, **extra)["Body"].read()
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
