"""The files that an address stands for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path

from penstock.core.storage import Entry, is_glob, store_of
from penstock.errors import StorageError

__all__ = ["begun_alike", "below", "listed", "spelt"]


def listed(uri: str, suffixes: tuple[str, ...]) -> Iterator[Entry]:
    """The file at *uri* or those that a glob matches, whatever their names; those of a folder with one of *suffixes*.

    Raises:
        StorageError: there is none, or the name of one is not UTF-8.
    """
    found, other = False, ""
    taken = "" if is_glob(uri) else suffixes
    for entry in store_of(uri).list(uri):
        if entry.uri.lower().endswith(taken) or entry.uri == spelt(uri):
            found = True
            yield _named(entry)
        other = entry.uri
    if not found:
        seen = f", there are others, such as {other}; name them by a glob" if other else "; check the spelling"
        raise StorageError(f"cannot read {uri}: there is no file {_ending(taken)}{seen}")


def _named(entry: Entry) -> Entry:
    """*entry*, whose name can be written into ledgers and manifests."""
    try:
        entry.uri.encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(entry.uri).decode(errors="backslashreplace")
        raise StorageError(f"cannot read {shown}: the name is not UTF-8; rename it") from error
    return entry


def spelt(uri: str) -> str:
    """*uri* as its store spells it."""
    return uri if uri.startswith("s3://") else str(Path(uri.removeprefix("file://")).expanduser())


def below(uri: str, root: str) -> str:
    """*uri* from where it leaves *root*, which may be a glob; its name when they are the same."""
    names, above = uri.split("/"), spelt(root).rstrip("/").split("/")
    return "/".join(names[len(begun_alike([names[:-1], above])) :])


def begun_alike(paths: list[list[str]]) -> list[str]:
    """The names that all *paths* begin with."""
    together = zip(*paths, strict=False)
    return [names[0] for names in takewhile(lambda names: len(set(names)) == 1, together)]


def _ending(suffixes: str | tuple[str, ...]) -> str:
    return f"that ends with {' or '.join(suffixes)}" if suffixes else "that it matches"
