"""Which units are done: one small file for each, created once, folded into the manifest at commit.

``ledger/<fingerprint>/<unit>.json``; the fingerprint covers the configuration of source, steps and sink,
and the hashes of weights and code, so that a changed setting redoes the work and an unchanged one does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import TypeAdapter

from penstock.core.dataset import Manifest, newest
from penstock.core.nouns import Identified, Part, Pipeline, Record, Stream, Unit
from penstock.core.plugins import Kind, called, describe
from penstock.core.storage import join, store_of

__all__ = ["Done", "Ledger", "fingerprint", "fingerprint_of", "identity_of"]

_RECORD = TypeAdapter(Record)
_LOOKUPS_AT_ONCE = 32


def fingerprint(pipeline: Pipeline) -> str:
    """What the rows depend on beside the units' content, as sha256 (hex).

    Places, limits and addresses are left out: they change where and how fast, not what.
    """
    return fingerprint_of(pipeline, identity_of("sinks", pipeline.sink))


def fingerprint_of(line: Pipeline | Stream, end: Mapping[str, Any]) -> str:
    """The same of any line, whose *end* is told as plain data."""
    stages = [identity_of("stages", step.stage) for step in line.steps]
    text = json.dumps([identity_of("sources", line.source), *stages, end], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def identity_of(kind: Kind, part: Any) -> dict[str, Any]:
    """What the rows depend on of one part, as plain data."""
    plain = {name: value for name, value in describe(part).items() if name not in _aside(part)}
    more = dict(part.identity()) if isinstance(part, Identified) else {}
    return {"use": called(kind, part), "plain": plain, "more": more, "revision": getattr(part, "REVISION", 1)}


def _aside(part: Any) -> frozenset[str]:
    """Fields that do not change a row: the part's class names them in ``ASIDE``; ``uri`` of sources and sinks."""
    return frozenset(getattr(part, "ASIDE", ())) | (frozenset() if hasattr(part, "open") else frozenset({"uri"}))


class Done:
    """The keys of the units that are done: 32 bytes each, so that ten millions fit."""

    def __init__(self, keys: Iterable[str]) -> None:
        given: npt.NDArray[np.bytes_] = np.fromiter((key[:32].encode() for key in keys), "S32")
        self._order = np.argsort(given)
        self._keys = given[self._order]

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self.place(key) is not None

    def place(self, key: str) -> int | None:
        """Where *key* stood among the keys given, or None."""
        wanted = np.bytes_(key[:32].encode())
        at = int(np.searchsorted(self._keys, wanted))
        return int(self._order[at]) if at < len(self._keys) and self._keys[at] == wanted else None


@dataclass(frozen=True)
class Ledger:
    """The ledger of one dataset for one fingerprint.

    Attributes:
        root: the dataset's root.
        fingerprint: see `fingerprint`.
    """

    root: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Where the records lie."""
        return join(self.root, "ledger", self.fingerprint[:32])

    def _name(self, unit: str) -> str:
        return join(self.folder, f"{unit}.json")

    def record(self, record: Record) -> Record:
        """Write *record* unless its unit is recorded already; the record that stands is given back."""
        name = self._name(record.unit)
        if store_of(name).create(name, _RECORD.dump_json(record)):
            return record
        return self.find(record.unit) or record

    def find(self, unit: str) -> Record | None:
        """The record of *unit*, or None."""
        data = store_of(self.root).read(self._name(unit))
        return None if data is None else _RECORD.validate_json(data)

    def done(self) -> Done:
        """All units that are recorded here or in the newest manifest."""
        return Done(chain(self._recorded(), self._committed()))

    def _recorded(self) -> Iterator[str]:
        for entry in store_of(self.folder).below(self.folder):
            yield entry.uri.rsplit("/", 1)[-1].removesuffix(".json")

    def _committed(self) -> Iterator[str]:
        manifest = self._manifest()
        for chunk in manifest.parts()["unit"].chunks if manifest else ():
            yield from chunk.to_pylist()

    def _manifest(self) -> Manifest | None:
        manifest = newest(self.root)
        return manifest if manifest and manifest.fingerprint == self.fingerprint else None

    def records(self, units: Iterable[Unit]) -> Iterator[tuple[Unit, Record]]:
        """The units with their records, in the order given, many look-ups at a time.

        Units without a record are left out.
        """
        committed = self._committed_records()
        with ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as pool:
            for chunk in _windows(units, 1024):
                found = pool.map(lambda unit: committed(unit.key) or self.find(unit.key), chunk)
                yield from ((unit, record) for unit, record in zip(chunk, found, strict=True) if record)

    def _committed_records(self) -> Callable[[str], Record | None]:
        manifest = self._manifest()
        if manifest is None:
            return lambda key: None
        table = manifest.parts().combine_chunks()
        done = Done(self._committed())

        def record(key: str) -> Record | None:
            row = done.place(key)
            return None if row is None else _record_of(table, row)

        return record

    def sweep(self, units: Iterable[Unit]) -> None:
        """Remove the records of *units*; the manifest has them now."""
        store = store_of(self.root)
        with ThreadPoolExecutor(_LOOKUPS_AT_ONCE) as pool:
            for window in _windows(units, 1024):
                list(pool.map(lambda unit: store.remove(self._name(unit.key)), window))


def _record_of(table: pa.Table, row: int) -> Record:
    line: Mapping[str, Any] = table.slice(row, 1).to_pylist()[0]
    part = Part(line["part_path"], line["rows"], line["part_sha256"], line["part_bytes"])
    return Record(line["unit"], part, tuple(line["bad"]), line["bad_rows"])


def _windows(units: Iterable[Unit], size: int) -> Iterator[list[Unit]]:
    stream = iter(units)
    while window := list(islice(stream, size)):
        yield window
