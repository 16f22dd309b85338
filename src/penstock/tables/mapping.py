"""Files one behind the other in memory, as one array, however many they are.

A stretch of addresses as long as all rows is reserved, which costs nothing, and each file is mapped to its place in
it when a row of it is first needed. So a row is found by one multiplication, and NumPy gathers rows of any shards in
one call. Pages come and go with the page cache: they count for no process, and may be many times its memory.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from penstock.errors import StorageError
from penstock.tables.layout import HEADER_BYTES, Table
from penstock.tables.schemes import Ints

__all__ = ["Mapped", "memory_bytes"]

_MAP_SHARED, _MAP_FIXED = 0x01, 0x10  # the same on Linux and macOS


class Mapped:
    """Rows of many files as one array, *rows*: read only, or written to the files.

    Args:
        record: one row.
        rows: how many there are.
        shard_rows: how many each file holds, but the last; a multiple of 4096.
        path: gives the file of a shard, by its number.
        writable: whether what is put into the array goes to the files.
    """

    def __init__(
        self, record: np.dtype[Any], rows: int, shard_rows: int, path: Callable[[int], Path], *, writable: bool = False
    ) -> None:
        self._record, self._count, self._shard_rows, self._path = record, rows, shard_rows, path
        self._writable, self._lock = writable, threading.Lock()
        shards = -(-rows // shard_rows)
        _must_align()
        size = _rounded(rows * record.itemsize)
        # Private and read-only: an address range that takes no memory and counts against no limit.
        self._range = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        self._address: int = np.frombuffer(self._range, np.uint8).ctypes.data
        self._missing = np.ones(shards, np.bool_)
        self._random = size > memory_bytes() // 2
        buffer = (ctypes.c_char * (rows * record.itemsize)).from_address(self._address)
        self.rows: npt.NDArray[Any] = np.frombuffer(memoryview(buffer), record.base).reshape(rows, *record.shape)
        self.rows.flags.writeable = writable

    def need(self, rows: Ints) -> None:
        """Map the files in which *rows* lie.

        Raises:
            DatasetError: a file is not the one that was published.
            StorageError: a file cannot be fetched or mapped.
        """
        if not self._missing.any():
            return
        asked = np.zeros_like(self._missing)
        asked[rows // self._shard_rows] = True
        with self._lock:
            for shard in np.flatnonzero(asked & self._missing):
                self._map(int(shard))
                self._missing[shard] = False

    def _map(self, shard: int) -> None:
        rows = min(self._shard_rows, self._count - shard * self._shard_rows)
        at = self._address + shard * self._shard_rows * self._record.itemsize
        path, size = self._path(shard), rows * self._record.itemsize
        try:
            _map_at(at, path, size, writable=self._writable)
        except OSError as error:
            raise StorageError(f"cannot map {path}: {error.strerror}; raise the limit of mappings or memory") from error
        if self._random:
            self._advise(shard * self._shard_rows * self._record.itemsize, _rounded(size))

    def _advise(self, start: int, size: int) -> None:
        """More than fits in memory: what the kernel reads ahead would push out rows that are needed again."""
        self._range.madvise(mmap.MADV_RANDOM, start, size)

    def flush(self) -> None:
        """Bring what was written to the disk."""
        for shard in np.flatnonzero(~self._missing):
            with self._path(int(shard)).open("rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Give the addresses back; no row may be looked at any more."""
        self.rows = np.empty(0, self._record.base)
        self._range.close()


def mapped(table: Table) -> Mapped:
    """The rows of a published table, read only."""
    return Mapped(table.layout.record, table.layout.rows, table.shard_rows, lambda at: table.shards[at].path())


def _rounded(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _must_align() -> None:
    if HEADER_BYTES % mmap.PAGESIZE:
        raise StorageError(
            f"this machine's pages have {mmap.PAGESIZE} bytes; shards are laid out for pages of up to {HEADER_BYTES}: "
            "boot a kernel with such pages"
        )


@cache
def _mmap() -> Any:
    """The C library's mmap(2): Python's own has no MAP_FIXED."""
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
    return function


def _map_at(address: int, path: Path, size: int, *, writable: bool) -> None:
    """Map the rows of a shard's file to *address*, a part of a range that is ours."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    descriptor = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        found = _mmap()(address, size, protection, _MAP_SHARED | _MAP_FIXED, descriptor, HEADER_BYTES)
    finally:
        os.close(descriptor)
    if found != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def memory_bytes(root: Path = Path("/")) -> int:
    """What this process may have: the machine's memory, or the least limit of its control groups.

    Args:
        root: where ``/proc`` and ``/sys`` are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    file = root / "proc" / "self" / "cgroup"
    lines = file.read_text().splitlines() if file.is_file() else []
    return min([machine, *(limit for line in lines for limit in _limits(root, line))])


def _limits(root: Path, line: str) -> Iterator[int]:
    """The limits of one control group and of those around it, from its line of ``/proc/self/cgroup``.

    https://docs.kernel.org/admin-guide/cgroup-v2.html: version 2 names no controllers. In a container the path may be
    that of the host, of which the container sees the last part alone; it is mounted at the top.
    """
    _, controllers, path = line.split(":", 2)
    top, name = root / "sys" / "fs" / "cgroup", "memory.max"
    if controllers:
        top, name = top / "memory", "memory.limit_in_bytes"
        if "memory" not in controllers.split(","):
            return
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for size in range(len(parts) + 1):
        file = top.joinpath(*parts[:size], name)
        if file.is_file() and (text := file.read_text().strip()).isdigit():
            yield int(text)
