"""Clips as they look, kept and dropped and why, near-duplicates side by side: for the gallery and for reports."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from penstock.core.batch import field_of
from penstock.core.dataset import Manifest
from penstock.core.reading import read_rows, take_rows

__all__ = ["pictured", "shelves"]

_MOST_GROUPS = 40
_MOST_OF_A_GROUP = 8
_JPEG = (pa.binary(), pa.large_binary())
_MEASURES = ("motion", "sharpness", "brightness")
_ASKED = (
    *("id", "video", "start_seconds", "stop_seconds", "keep", "kept", "reason"),
    *("row", "duplicate_of", "similarity", *_MEASURES),
)


@dataclass(frozen=True)
class _Clip:
    """A row as it is shown.

    Attributes:
        image: a data address, or nothing.
        notes: what is said below it, in a line each.
    """

    name: str
    image: str
    notes: Sequence[str]


@dataclass(frozen=True)
class _Group:
    """A kept clip and some of those that are dropped for it."""

    kept: _Clip
    dropped: Sequence[_Clip]
    more: int


@dataclass(frozen=True)
class _Shelf:
    """Clips of one fate: how many, and some of them."""

    title: str
    count: int
    clips: Sequence[_Clip]


def pictured(manifest: Manifest) -> bool:
    """Whether the rows of a dataset can be shown as clips: it has ``id`` and previews."""
    kinds = {field.name: field.type for field in manifest.schema}
    return kinds.get("preview") in _JPEG and kinds.get("id") == pa.string() and manifest.rows > 0


def shelves(manifest: Manifest, most: int) -> Mapping[str, Any]:
    """What the template ``clips.html`` shows of a dataset.

    Args:
        manifest: of a dataset with ``preview`` (JPEG) and ``id``. Of ``keep`` or ``kept``, ``reason``, ``row``,
            ``duplicate_of``, ``similarity``, times and measures what is there is told.
        most: clips shown of each fate, spread evenly over the dataset.

    Raises:
        SchemaError: it has no previews.
    """
    for name, kinds in (("preview", _JPEG), ("id", (pa.string(),))):
        field_of(manifest.schema, name, f"the gallery of {manifest.uri}", *kinds)
    names = [name for name in _ASKED if name in manifest.schema.names]
    rows = read_rows(manifest, 0, manifest.rows, names).to_pylist()
    fates = [_fate(row) for row in rows]
    return {
        "videos": len({row.get("video") or row["id"] for row in rows}),
        "clips": len(rows),
        "fates": _counted(fates),
        "groups": _groups(manifest, rows),
        "group_count": len({row["duplicate_of"] for row in rows if row.get("duplicate_of") is not None}),
        "shelves": [_shelf(manifest, rows, fates, fate, most) for fate in _counted(fates)],
        "measured": any(name in names for name in _MEASURES),
    }


def _fate(row: Mapping[str, Any]) -> str:
    """``kept``, ``duplicate``, or why it was dropped."""
    if row.get("keep", row.get("kept", True)):
        return "kept"
    return "duplicate" if row.get("duplicate_of") is not None else row.get("reason") or "dropped"


def _counted(fates: Iterable[str]) -> dict[str, int]:
    """Each fate with its number: kept first, then duplicates, then the others, the most frequent first."""
    counts = Counter(fates)
    first = [(name, counts.pop(name)) for name in ("kept", "duplicate") if name in counts]
    return dict([*first, *counts.most_common()])


def _shelf(manifest: Manifest, rows: Sequence[Any], fates: Sequence[str], fate: str, most: int) -> _Shelf:
    places = [at for at, each in enumerate(fates) if each == fate]
    some = np.linspace(0, len(places) - 1, min(most, len(places))).round().astype(int)
    return _Shelf(fate, len(places), _clips(manifest, rows, [places[at] for at in some], _measured))


def _groups(manifest: Manifest, rows: Sequence[Mapping[str, Any]]) -> list[_Group]:
    """The largest groups of duplicates."""
    places = {row.get("row", at): at for at, row in enumerate(rows)}
    members: dict[int, list[int]] = {}
    for at, row in enumerate(rows):
        if row.get("duplicate_of") in places:
            members.setdefault(places[row["duplicate_of"]], []).append(at)
    largest = sorted(members.items(), key=lambda group: (-len(group[1]), group[0]))[:_MOST_GROUPS]
    return [_group(manifest, rows, kept, dropped) for kept, dropped in largest]


def _group(manifest: Manifest, rows: Sequence[Mapping[str, Any]], kept: int, dropped: list[int]) -> _Group:
    nearest = sorted(dropped, key=lambda at: -(rows[at].get("similarity") or 0))[:_MOST_OF_A_GROUP]
    (one,), others = _clips(manifest, rows, [kept], _measured), _clips(manifest, rows, nearest, _likeness)
    return _Group(one, others, len(dropped) - len(others))


def _clips(
    manifest: Manifest, rows: Sequence[Mapping[str, Any]], places: list[int], notes: Callable[[Any], list[str]]
) -> list[_Clip]:
    previews = take_rows(manifest, np.array(places, np.int64), ["preview"], "size")["preview"].to_pylist()
    return [_clip(rows[at], data, notes(rows[at])) for at, data in zip(places, previews, strict=True)]


def _clip(row: Mapping[str, Any], preview: bytes | None, notes: list[str]) -> _Clip:
    image = f"data:image/jpeg;base64,{base64.b64encode(preview).decode()}" if preview else ""
    start, stop = row.get("start_seconds"), row.get("stop_seconds")
    when = [] if start is None or stop is None else [f"{start:.1f} to {stop:.1f} s"]
    return _Clip(row.get("video") or row["id"], image, [*when, *notes])


def _measured(row: Mapping[str, Any]) -> list[str]:
    told = [f"{name} {row[name]:.3g}" for name in _MEASURES if row.get(name) is not None]
    return [", ".join(told)] if told else []


def _likeness(row: Mapping[str, Any]) -> list[str]:
    return [f"similarity {row['similarity']:.3f}"] if row.get("similarity") is not None else []
