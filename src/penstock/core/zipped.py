"""Zarr groups in one ZIP file each: the form of the parts of a Zarr dataset.

Formats: https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html, and ZIP without compression
(https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT), so that a chunk is a range of bytes. Times and
permissions are left out: the same rows give the same bytes.

Chunks hold whole rows, so rows are found by their number; only the chunks that hold them are read, those that lie side
by side at once, and the checksum of each is held against it.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from penstock.errors import DatasetError

__all__ = ["Zipped", "unzipped", "write"]

_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE 4.3.7, local file header


def write(path: Path, objects: Iterable[tuple[str, bytes]]) -> None:
    """Put keys and bytes of a Zarr store into a new file."""
    with ZipFile(path, "w") as file:
        for key, data in objects:
            file.writestr(ZipInfo(key), data)


@contextmanager
def unzipped(source: Path | BinaryIO) -> Iterator[Zipped]:
    """The group in a local file, or in one in which one can jump. Raises `DatasetError`."""
    with source.open("rb", buffering=0) if isinstance(source, Path) else source as file:
        yield Zipped(file)


class Zipped:
    """A group of arrays, ``"row ..."``, one chunk wide."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        # The directory is read by small steps, the chunks are not.
        with ZipFile(io.BufferedReader(_Unclosed(file), 1 << 18)) as directory:
            self._entries = {info.filename: info for info in directory.infolist()}
        self.text = cache(self._text)

    def _text(self, key: str) -> Any:
        """A piece of metadata."""
        return json.loads(bytes(self._read([key])[key]))

    @property
    def attributes(self) -> dict[str, Any]:
        """What the group says of itself."""
        return dict(self.text("zarr.json")["attributes"])

    def shape(self, name: str) -> tuple[int, ...]:
        """Of the array *name*."""
        return tuple(self.text(f"{name}/zarr.json")["shape"])

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[Any]:
        """Neighbouring rows of an array; text as `StringDType`."""
        size = self._chunk(name)
        chunks = range(start // size, -(-stop // size)) if start < stop else range(0)
        if self._is_plain(name):
            return self._joined(name, chunks)[start - start // size * size :][: stop - start]
        return np.asarray(self._opened(name, chunks)[start:stop])

    def take(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Any rows of an array, rising."""
        size = self._chunk(name)
        chunks, place = np.unique(rows // size, return_inverse=True)
        if self._is_plain(name):
            return np.asarray(self._joined(name, chunks.tolist())[place * size + rows % size])
        array = self._opened(name, chunks.tolist())
        return np.asarray(array.get_orthogonal_selection((rows, *[slice(None)] * (array.ndim - 1))))

    def _chunk(self, name: str) -> int:
        return int(self.text(f"{name}/zarr.json")["chunk_grid"]["configuration"]["chunk_shape"][0])

    def _is_plain(self, name: str) -> bool:
        """Whether chunks are the bytes of their rows."""
        about = self.text(f"{name}/zarr.json")
        return about["data_type"] != "string" and [codec["name"] for codec in about["codecs"]] == ["bytes"]

    def _joined(self, name: str, chunks: Iterable[int]) -> npt.NDArray[Any]:
        """Plain chunks one after the other, ``"row ..."``."""
        about = self.text(f"{name}/zarr.json")
        keys = [self._key(name, at) for at in chunks]
        held, kind = self._read(keys), np.dtype(about["data_type"]).newbyteorder("<")
        shape = about["chunk_grid"]["configuration"]["chunk_shape"]
        blocks = [np.frombuffer(held[key], kind).reshape(shape) for key in keys]
        return blocks[0] if len(blocks) == 1 else np.concatenate([*blocks, np.empty((0, *shape[1:]), kind)])

    def _key(self, name: str, chunk: int) -> str:
        return "/".join([name, "c", str(chunk), *["0"] * (len(self.shape(name)) - 1)])

    def _opened(self, name: str, chunks: Iterable[int]) -> Any:
        """The array, which has these chunks alone."""
        import zarr
        from zarr.core.buffer.cpu import Buffer
        from zarr.storage import MemoryStore

        held = self._read([f"{name}/zarr.json", *(self._key(name, at) for at in chunks)])
        store = MemoryStore({key: Buffer.from_bytes(data) for key, data in held.items()})
        return zarr.open_array(store, path=name, mode="r")

    def _read(self, keys: Sequence[str]) -> dict[str, memoryview]:
        """The bytes under *keys*; what lies side by side is read at once."""
        for key in keys:
            if key not in self._entries:
                raise DatasetError(f"there is no '{key}' in the part; run the pipeline that writes it again")
        found: dict[str, memoryview] = {}
        infos = sorted((self._entries[key] for key in keys), key=lambda info: info.header_offset)
        run: list[ZipInfo] = []
        for info in infos:
            if run and info.header_offset != _end(run[-1]):
                found.update(self._run(run))
                run = []
            run.append(info)
        found.update(self._run(run))
        return found

    def _run(self, infos: Sequence[ZipInfo]) -> Iterator[tuple[str, memoryview]]:
        if not infos:
            return
        first, stop = infos[0].header_offset, _end(infos[-1])
        self._file.seek(first)
        block = memoryview(_exactly(self._file, stop - first))
        for info in infos:
            at = info.header_offset - first
            *_, name, extra = _HEADER.unpack_from(block, at)
            begin = at + _HEADER.size + name + extra
            data = block[begin : begin + info.file_size]
            if zlib.crc32(data) != info.CRC:
                raise DatasetError(f"'{info.filename}' in the part is damaged; restore it or run the pipeline again")
            yield info.filename, data


def _end(info: ZipInfo) -> int:
    """Where the next header begins: `write` leaves nothing between them."""
    return info.header_offset + _HEADER.size + len(info.filename.encode()) + info.file_size


def _exactly(file: BinaryIO, count: int) -> bytes:
    pieces = []
    while count and (piece := file.read(count)):
        pieces.append(piece)
        count -= len(piece)
    if count:
        raise DatasetError(f"the part ends {count} bytes too early; restore it or run the pipeline again")
    return b"".join(pieces)


class _Unclosed(io.RawIOBase):
    """A view of a file that leaves it open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
