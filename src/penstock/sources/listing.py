"""The files that an address stands for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from penstock.core.storage import Entry, store_of
from penstock.errors import StorageError

__all__ = ["listed"]


def listed(uri: str, suffixes: tuple[str, ...]) -> Iterator[Entry]:
    """The file at *uri* or those that a glob matches, whatever their names; those of a folder with one of *suffixes*.

    Raises:
        StorageError: there is none.
    """
    found, other = False, ""
    taken = "" if _wild(uri) else suffixes
    for entry in store_of(uri).list(uri):
        if entry.uri.lower().endswith(taken) or entry.uri == _spelt(uri):
            found = True
            yield entry
        other = entry.uri
    if not found:
        seen = f", there are others, such as {other}; name them by a glob" if other else "; check the spelling"
        raise StorageError(f"cannot read {uri}: there is no file {_ending(taken)}{seen}")


def _wild(uri: str) -> bool:
    return any(mark in uri for mark in "*?[") and store_of(uri).entry(uri) is None


def _spelt(uri: str) -> str:
    """*uri* as its store spells it."""
    return uri if uri.startswith("s3://") else str(Path(uri.removeprefix("file://")).expanduser())


def _ending(suffixes: str | tuple[str, ...]) -> str:
    return f"that ends with {' or '.join(suffixes)}" if suffixes else "that it matches"
