"""What the ledger says of a run while it goes on, without disturbing it.

A run leaves one small file a finished unit below ``ledger/<fingerprint>/``, and removes it when the manifest holds the
unit. So their names count what is done since the last commit, the times of files say when, and the newest files hold
how long each step took. Names are hashes: where there are more than are looked at, the part of all hashes that the
looked-at ones cover says how many there are.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from penstock.core.nouns import Record, Trace
from penstock.core.storage import Entry, Posix, join, store_of

__all__ = ["MOST_NAMES", "WINDOW_SECONDS", "Activity", "StepNow", "looked"]

MOST_NAMES = 20_000
WINDOW_SECONDS = 60.0
_READ_AT_ONCE = 256
_MOST_RECORDS = 2048
_THREADS = 16
_HASH_BITS = 32
_RECORD = TypeAdapter(Record)


@dataclass(frozen=True)
class StepNow:
    """What one step did in the last minute, or, when no unit was finished in it, in the last units.

    Attributes:
        busy_seconds: at work, all workers together.
        mean_wait_seconds: that a unit waited before it.
    """

    step: str
    units: int
    busy_seconds: float
    mean_wait_seconds: float


@dataclass(frozen=True)
class Activity:
    """The units that are recorded and not yet swept, of the fingerprint that was written to last.

    Attributes:
        fingerprint: the first 32 digits; empty when there are no records.
        units: how many; *estimated* when there are more than were looked at.
        others: records of other settings that lie beside them.
        times: when each was recorded, seconds since 1970; 0 where that is not known (an object seen at the first look).
        records: the newest of them, by their units.
    """

    fingerprint: str = ""
    units: int = 0
    estimated: bool = False
    others: int = 0
    times: Mapping[str, float] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict)

    @property
    def last(self) -> float | None:
        """When the last unit was recorded."""
        return max(self.times.values(), default=0.0) or None

    @property
    def exact(self) -> bool:
        """Whether all records were read, so that sums over them are no estimates."""
        return len(self.records) == self.units

    @property
    def rows(self) -> int:
        """Rows in these units; the mean of those that were read times all when not `exact`."""
        return self._scaled(sum(record.part.rows for record in self.records.values()))

    @property
    def bad_rows(self) -> int:
        """Quarantined rows of these units, likewise."""
        return self._scaled(sum(record.bad_rows for record in self.records.values()))

    @property
    def patience_seconds(self) -> float:
        """After how long a silence is longer than the pace so far explains: ten times the usual gap, 1 min to 1 h."""
        newest = sorted(filter(None, self.times.values()))[-33:]
        gaps = [after - before for before, after in pairwise(newest)]
        return min(max(60.0, 10 * statistics.median(gaps)), 3600.0) if gaps else 60.0

    def rate(self, now: float) -> float:
        """Units a second over the last minute, or since the run began when that is less."""
        window = min(WINDOW_SECONDS, max(now - self._began, 1.0))
        share = self.units / max(len(self.times), 1)
        return share * sum(when > now - window for when in self.times.values()) / window

    def steps(self, now: float) -> list[StepNow]:
        """The steps in the order of the line."""
        recent = [record for record in self.records.values() if record.finished > now - WINDOW_SECONDS]
        return list(_steps(recent or sorted(self.records.values(), key=lambda one: one.finished)[-_READ_AT_ONCE:]))

    @property
    def _began(self) -> float:
        begins = [record.traces[0].began for record in self.records.values() if record.traces]
        return min([*filter(None, self.times.values()), *filter(None, begins)], default=0.0)

    def _scaled(self, total: int) -> int:
        return total if self.exact or not self.records else round(total / len(self.records) * self.units)


def _steps(records: Sequence[Record]) -> Iterator[StepNow]:
    found: dict[str, list[Trace]] = {}
    for trace in (trace for record in records for trace in record.traces):
        found.setdefault(trace.step, []).append(trace)
    for step, traces in found.items():
        waited = sum(trace.waited_seconds for trace in traces) / len(traces)
        yield StepNow(step, len(traces), sum(trace.seconds for trace in traces), waited)


def looked(root: str, before: Activity | None = None) -> Activity:
    """Look at the ledger of the dataset at *root*; what was read *before* is not read again."""
    names = [(*_split(entry), entry) for entry in islice(store_of(root).below(join(root, "ledger")), MOST_NAMES)]
    if not names:
        return Activity()
    known = before or Activity()
    times = {u: known.times[u] if u in known.times else _time(entry, before) for _, u, entry in names}
    fingerprint = max(names, key=lambda name: times[name[1]])[0]
    units = [unit for own, unit, _ in names if own == fingerprint]
    full = len(names) == MOST_NAMES and names[-1][0] == fingerprint
    count = _estimated(units) if full else len(units)
    records = _read(join(root, "ledger", fingerprint), units, times, known.records)
    exact = {unit: record.finished for unit, record in records.items() if record.finished}
    own = {unit: exact.get(unit, times[unit]) for unit in units}
    return Activity(fingerprint, count, full, len(names) - len(units), own, records)


def _split(entry: Entry) -> tuple[str, str]:
    fingerprint, name = entry.uri.rsplit("/", 2)[1:]
    return fingerprint, name.removesuffix(".json")


def _time(entry: Entry, before: Activity | None) -> float:
    """When a record was made. Stores of objects do not tell here: one that is new since the last look is of now."""
    if isinstance(store_of(entry.uri), Posix):
        try:
            return Path(entry.uri).stat().st_mtime
        except FileNotFoundError:  # swept meanwhile
            return 0.0
    return time.time() if before is not None else 0.0


def _estimated(units: Sequence[str]) -> int:
    """How many hashes there are when *units* are the first of them, in order."""
    try:
        covered = (int(units[-1][: _HASH_BITS // 4], 16) + 1) / 2**_HASH_BITS
    except ValueError:  # a source with keys of its own
        return len(units)
    return int(len(units) / covered)


def _read(
    folder: str, units: Sequence[str], times: Mapping[str, float], known: Mapping[str, Record]
) -> dict[str, Record]:
    """The newest records, as many as are kept; of those that are not known, some more at each look."""
    kept = {unit: known[unit] for unit in units if unit in known}
    new = sorted((unit for unit in units if unit not in kept), key=lambda unit: -times[unit])[:_READ_AT_ONCE]
    if len(kept) < _MOST_RECORDS or (new and times[new[0]] > min(record.finished for record in kept.values())):
        with ThreadPoolExecutor(_THREADS) as pool:
            found = pool.map(lambda unit: _record(join(folder, f"{unit}.json")), new)
            kept |= {unit: record for unit, record in zip(new, found, strict=True) if record}
    newest = sorted(kept.items(), key=lambda pair: -pair[1].finished)[:_MOST_RECORDS]
    return dict(newest)


def _record(name: str) -> Record | None:
    """None when it was swept meanwhile, or is no record that this Penstock understands."""
    data = store_of(name).read(name)
    try:
        record = None if data is None else _RECORD.validate_json(data)
    except ValidationError:
        return None
    return record if record and math.isfinite(record.finished) else None
