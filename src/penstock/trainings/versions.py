"""Versions of a model by the rules of datasets: one part each, published and put aside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from penstock.core.dataset import Format, commit, draft, existing, newest, versions
from penstock.core.nouns import Part, Record, Unit
from penstock.core.storage import join, store_of

__all__ = ["notes_of", "prune", "publish_version"]


def _never(paths: Any, target: Any) -> None:
    raise AssertionError("models are not packed")


_FORMAT = Format(".pt", _never)


def publish_version(uri: str, part: Part, schema: pa.Schema, notes: Mapping[str, Any], keep: int) -> None:
    """Commit *part* as the newest version, with *notes* on it; *keep* versions stay in all."""
    fingerprint = hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).hexdigest()
    unit = Unit.of(f"model:{fingerprint[:32]}", "", 0, 0, part.size_bytes)
    provenance = {"fingerprint": fingerprint, "recipe": dict(notes)}
    commit(draft(uri, "model", provenance, schema), _FORMAT, lambda: [(unit, Record(unit.key, part))], 0)
    prune(uri, keep)


def notes_of(uri: str, training: str) -> Mapping[str, Any] | None:
    """The notes on the newest version, if it is one of the training with this fingerprint."""
    found = newest(uri)
    notes = found.provenance.get("recipe", {}) if found else {}
    return notes if notes.get("training") == training else None


def prune(uri: str, keep: int) -> None:
    """Remove all versions but the newest, and the parts that these alone name; manifests go first."""
    numbers, store = versions(uri), store_of(uri)
    parts = {number: existing(uri, number).parts()["path"].to_pylist() for number in numbers}
    kept = {path for number in numbers[max(len(numbers) - keep, 0) :] for path in parts[number]}
    for number in numbers[: max(len(numbers) - keep, 0)]:
        store.remove(join(uri, "manifests", f"{number:08d}.json"))
        for path in set(parts[number]) - kept:
            store.remove(join(uri, path))
