"""The group of a Zarr dataset for zarr-python, on disk and in object stores, without a further package."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from functools import cache
from typing import Any

from penstock.core.storage import Posix, join, store_of

__all__ = ["opened"]


def opened(address: str) -> Any:
    """The group at *address*, read-only."""
    import zarr

    if isinstance(store_of(address), Posix):
        return zarr.open_group(address.removeprefix("file://"), mode="r")
    return zarr.open_group(_kind()(address), mode="r")


def _asked(byte_range: Any) -> tuple[int | None, int | None]:
    """Zarr's request for a range of bytes, as `_fetched` takes it."""
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

    if isinstance(byte_range, RangeByteRequest):
        return byte_range.start, byte_range.end - byte_range.start
    if isinstance(byte_range, OffsetByteRequest):
        return byte_range.offset, None
    return (-byte_range.suffix if isinstance(byte_range, SuffixByteRequest) else None), None


def _fetched(uri: str, start: int | None, count: int | None) -> bytes | None:
    """All bytes under an address, or *count* from *start* on; a *start* below 0 counts from the end."""
    store = store_of(uri)
    if start is None:
        return store.read(uri)
    entry = store.entry(uri)
    if entry is None:
        return None
    with store.open(uri, start if start >= 0 else max(0, entry.size_bytes + start), entry.etag) as file:
        return file.read(-1 if count is None else count)


@cache
def _kind() -> Any:  # noqa: C901 (a class of small methods, which needs Zarr to be there)
    """A store of zarr-python, https://zarr.readthedocs.io/en/stable/user-guide/storage.html, over ours."""
    from zarr.abc.store import Store

    class Objects(Store):  # type: ignore[misc]  # zarr is untyped here
        """The objects below one address, read-only."""

        supports_writes = supports_deletes = supports_partial_writes = False
        supports_listing = True

        def __init__(self, root: str) -> None:
            super().__init__(read_only=True)
            self._root = root

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Objects) and other._root == self._root

        def __hash__(self) -> int:
            return hash(self._root)

        async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
            data = await asyncio.to_thread(_fetched, join(self._root, key), *_asked(byte_range))
            return None if data is None else prototype.buffer.from_bytes(data)

        async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
            return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

        async def exists(self, key: str) -> bool:
            uri = join(self._root, key)
            return await asyncio.to_thread(store_of(uri).entry, uri) is not None

        async def set(self, key: str, *_: Any) -> None:
            raise NotImplementedError(f"{self._root} is published and never changes")

        delete = set  # noqa: A003 (the method above)

        async def list(self) -> AsyncIterator[str]:
            async for key in self.list_prefix(""):
                yield key

        async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            for entry in store_of(self._root).below(join(self._root, prefix)):
                yield entry.uri.removeprefix(f"{self._root}/")

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            seen = {key.removeprefix(prefix).strip("/").split("/")[0] async for key in self.list_prefix(prefix)}
            for name in sorted(seen):
                yield name

    return Objects
