"""Looking vectors up: what a client can do, the one that maps the shards here, and how a runner brings another.

A runner that holds tables elsewhere says so by `bringing`::

    with bringing(lambda uri: MyClient(uri)):
        ...  # open_table(uri) gives MyClient here; None gives the local client
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.tables.layout import Floats, Table
from penstock.tables.mapping import mapped
from penstock.tables.pooling import Gather, Mode, averaged, checked, fused_of, summed
from penstock.tables.schemes import Ints, Scheme, places

__all__ = ["Client", "Hot", "Local", "Opener", "bringing", "open_table"]

_BLOCK_ROWS = 256


class Client(Protocol):
    """Vectors by id, wherever the rows are. A context manager; leaving it lets the rows go."""

    @property
    def table(self) -> Table:
        """The table that is read: one version of it, for as long as the client is open."""

    def lookup(self, ids: npt.ArrayLike) -> Floats:
        """The vectors of *ids*, float32 ``"id dim"``. Raises `IndexError` on ids that have none."""

    def pooled(self, ids: npt.ArrayLike, offsets: Ints, mode: Mode = "mean") -> Floats:
        """The vectors of bags of *ids*, summed or averaged, float32 ``"bag dim"``; an empty bag is zeros.

        Args:
            ids: of all bags, one behind the other, ``"id"``.
            offsets: where each bag begins, and where the last one ends, ``"bag + 1"``.
            mode: ``mean`` or ``sum``.
        """

    def close(self) -> None:
        """Let the rows go."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Local:
    """Maps the shards into this process. Many processes of one node share the same pages of memory.

    A table of any size can be read so: pages that are not in memory are read from disk when they are needed.
    """

    def __init__(self, table: Table) -> None:
        self._table, self._mapped = table, mapped(table)

    @property
    def table(self) -> Table:
        """The table that is read."""
        return self._table

    def stored(self, rows: Ints) -> npt.NDArray[np.generic]:
        """Rows by their number, as they are stored."""
        self._mapped.need(rows)
        return self._mapped.rows.take(rows, 0, mode="clip")

    def gather(self, rows: Ints, out: Floats) -> None:
        """Put rows by their number into *out*, ``"row dim"``."""
        self._mapped.need(rows)
        layout, source = self._table.layout, self._mapped.rows
        if layout.dtype == "float32":
            source.take(rows, 0, out=out, mode="clip")  # 'raise' would need a second copy; ids were checked
            return
        for start in range(0, len(rows), _BLOCK_ROWS):  # what is decoded lies in the cache of the core
            block = slice(start, start + _BLOCK_ROWS)
            layout.decode(source.take(rows[block], 0, mode="clip"), out[block])

    def lookup(self, ids: npt.ArrayLike) -> Floats:
        """The vectors of *ids*, ``"id dim"``."""
        layout = self._table.layout
        found = np.empty((np.size(ids), layout.dim), np.float32)
        combining(layout.scheme, self.gather)(places(layout.scheme, ids), found)
        return found

    def pooled(self, ids: npt.ArrayLike, offsets: Ints, mode: Mode = "mean") -> Floats:
        """The vectors of bags of *ids*, ``"bag dim"``."""
        layout = self._table.layout
        rows = places(layout.scheme, ids)
        offsets = checked(offsets, len(rows))
        if layout.scheme.combine == "product":
            return averaged(summed(combining(layout.scheme, self.gather), rows, offsets, layout.dim), offsets, mode)
        return averaged(self.sums(rows.reshape(-1), offsets * rows.shape[1]), offsets, mode)

    def sums(self, rows: Ints, offsets: Ints) -> Floats:
        """The sum of each bag of rows by their number, ``"bag dim"``."""
        self._mapped.need(rows)
        fused = fused_of(self._mapped.rows) if self._table.layout.dtype == "float32" else None
        if fused is not None:
            return fused(rows, offsets)
        return summed(self.gather, rows, offsets, self._table.layout.dim)

    def close(self) -> None:
        """Unmap the shards."""
        self._mapped.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def combining(scheme: Scheme, gather: Gather) -> Gather:
    """From a gatherer of single rows one of ids, which are given by their rows, ``"id part"``."""
    operate = np.add if scheme.combine == "sum" else np.multiply

    def vectors(rows: Ints, out: Floats) -> None:
        gather(np.ascontiguousarray(rows[:, 0]), out)
        if rows.shape[1] > 1:
            more = np.empty_like(out)
        for part in range(1, rows.shape[1]):
            gather(np.ascontiguousarray(rows[:, part]), more)
            operate(out, more, out=out)

    return vectors


class Hot:
    """A client that keeps the vectors of ids that were asked for lately, *slots* of them, in front of another client.

    Worth it where rows travel or lie on disk, and few ids are asked for often. An id has one slot, so that keeping
    costs no search; the last one that was asked for stays. Pooling goes to the client behind.
    """

    def __init__(self, client: Client, slots: int) -> None:
        self._client = client
        self._keys = np.full(slots, -1, np.int64)  # which is no id
        self._vectors = np.empty((slots, client.table.layout.dim), np.float32)
        self._lock = threading.Lock()  # a key and its vector belong together
        self.asked = self.found = 0

    @property
    def table(self) -> Table:
        """The table that is read."""
        return self._client.table

    def lookup(self, ids: npt.ArrayLike) -> Floats:
        """The vectors of *ids*, ``"id dim"``."""
        with self._lock:
            return self._looked_up(np.asarray(ids, np.int64))

    def _looked_up(self, ids: Ints) -> Floats:
        slots = (ids.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)) % np.uint64(len(self._keys))
        here = (self._keys[slots] == ids) & (ids >= 0)
        self.asked, self.found = self.asked + len(ids), self.found + int(here.sum())
        result = np.empty((len(ids), self._vectors.shape[1]), np.float32)
        result[here] = self._vectors[slots[here]]
        if not here.all():
            self._fill(ids, slots, ~here, result)
        return result

    def _fill(self, ids: Ints, slots: npt.NDArray[np.uint64], away: npt.NDArray[np.bool_], result: Floats) -> None:
        fresh, back = np.unique(ids[away], return_inverse=True)
        vectors = self._client.lookup(fresh)
        result[away] = vectors[back]
        # Of several ids with one slot each writes key and vector by itself, so take the last for both.
        at, last = np.unique(slots[away][::-1], return_index=True)
        self._keys[at] = ids[away][::-1][last]
        self._vectors[at] = result[away][::-1][last]

    def pooled(self, ids: npt.ArrayLike, offsets: Ints, mode: Mode = "mean") -> Floats:
        """As the client behind pools."""
        return self._client.pooled(ids, offsets, mode)

    def close(self) -> None:
        """Close the client behind."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Opener: TypeAlias = Callable[[str], Client | None]
"""Gives a client of the table at an address, or None when it has none."""

_OPENERS: list[Opener] = []


@contextmanager
def bringing(opener: Opener) -> Iterator[None]:
    """Inside, in all threads of this process, `open_table` asks *opener* first."""
    _OPENERS.append(opener)
    try:
        yield
    finally:
        _OPENERS.remove(opener)


def open_table(uri: str) -> Client:
    """A client of the newest version of the table at *uri*: the runner's where it has one, else a local one.

    Raises:
        DatasetError: there is no table.
    """
    for opener in reversed(_OPENERS):
        client = opener(uri)
        if client is not None:
            return client
    return Local(Table.at(uri))
