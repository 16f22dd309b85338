"""Which datasets lie below a root, by names alone: those folders that have a ``manifests`` or a ``ledger`` in them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from penstock.core.storage import Posix, store_of
from penstock.errors import StorageError

__all__ = ["Found", "datasets"]

_MARKS = frozenset({"manifests", "ledger"})
_INSIDE = _MARKS | {"parts", "quarantine", "runs", "recorded", "arrays"}
"""What a dataset has of its own: nothing else is looked for there. Elsewhere these are names as any."""
_MOST_DATASETS = 200
_MOST_FOLDERS = 5000
_MOST_OBJECTS = 50_000
_MOST_LEVELS = 6


@dataclass(frozen=True)
class Found:
    """The datasets below a root.

    Attributes:
        names: relative to the root; the root itself is empty.
        limit: what was not looked at, as a sentence; empty when all was.
    """

    names: tuple[str, ...]
    limit: str = ""


def datasets(root: str) -> Found:
    """Look for datasets below *root*, as far as the limits go; links to other folders are not followed.

    Raises:
        StorageError: there is no such folder or bucket.
    """
    names, looked, most = _of_folders(root) if isinstance(store_of(root), Posix) else _of_objects(root)
    found = tuple(sorted(names)[:_MOST_DATASETS])
    if len(names) > _MOST_DATASETS:
        return Found(found, f"Only the first {_MOST_DATASETS} datasets are shown; serve a folder further down.")
    if looked:
        return Found(found, f"Only the first {most} below this root were looked at; serve a folder further down.")
    return Found(found)


def _of_folders(root: str) -> tuple[set[str], bool, str]:
    top = Path(root.removeprefix("file://")).expanduser()
    if not top.is_dir():
        raise StorageError(f"{root}: there is no such folder; give the folder below which runs write their datasets")
    found: set[str] = set()
    waiting: deque[tuple[str, int]] = deque([("", 0)])
    for _ in range(_MOST_FOLDERS):
        if not waiting:
            return found, False, ""
        name, level = waiting.popleft()
        folders = _folders(top / name)
        if _MARKS & folders:
            found.add(name)
            folders -= _INSIDE
        if level < _MOST_LEVELS:
            waiting.extend((f"{name}/{one}" if name else one, level + 1) for one in sorted(folders))
    return found, bool(waiting), f"{_MOST_FOLDERS:,} folders"


def _folders(path: Path) -> set[str]:
    try:
        with os.scandir(path) as entries:
            return {e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith(".")}
    except (PermissionError, FileNotFoundError):  # another one's folder, or one that was removed: nothing to be seen
        return set()


def _of_objects(root: str) -> tuple[set[str], bool, str]:
    listed = [entry.uri for entry in islice(store_of(root).below(root), _MOST_OBJECTS)]
    found = {name for uri in listed for name in _marked(uri.removeprefix(root.rstrip("/") + "/"))}
    return found, len(listed) == _MOST_OBJECTS, f"{_MOST_OBJECTS:,} objects"


def _marked(key: str) -> Iterator[str]:
    """The dataset that an object belongs to, when its name says so."""
    words = key.split("/")[:-1]
    at = next((at for at, word in enumerate(words) if word in _MARKS), None)
    if at is not None:
        yield "/".join(words[:at])
