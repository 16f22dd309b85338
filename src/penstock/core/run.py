"""A run from beginning to end; a runner only says how units become outcomes."""

from __future__ import annotations

import json
import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from penstock.core import plugins, spec
from penstock.core.dataset import Manifest, sweep
from penstock.core.ledger import Done, fingerprint
from penstock.core.nouns import Identified, Pipeline, Record, Report, Unit, Weighted
from penstock.core.plan import schemas
from penstock.core.recording import begun, step_of
from penstock.core.storage import join, publish, store_of
from penstock.core.work import Assignment, Failure
from penstock.errors import RunError, StorageError, TooManyBadRows, TooManyBadUnits

__all__ = ["PLANNED", "Carry", "Handed", "Outcome", "Quiet", "Watch", "run"]

PLANNED = "planned.json"
"""What the newest run of a dataset set out to do: ``fingerprint``, ``units`` in all, ``started``."""
Outcome: TypeAlias = Record | Failure
Carry: TypeAlias = Callable[[Assignment, Iterable[Unit]], Iterator[Outcome]]
"""How a runner turns units into outcomes: any order, each unit once."""


class Watch(Protocol):
    """Who looks on: a progress display, a log, nobody."""

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """The run starts; *skipped* of *units* were done before."""

    def outcome(self, outcome: Outcome) -> None:
        """A unit is done or has failed."""

    def end(self, report: Report | None) -> None:
        """The run is over; None when it ended by an error."""


@runtime_checkable
class Handed(Protocol):
    """A watch that also wants to know which unit is behind the key of a record."""

    def handed(self, unit: Unit) -> None:
        """The runner has taken *unit*; its outcome follows, unless the run ends before. May be ten thousand ahead."""


class Quiet:
    """A watch that says nothing."""

    def begin(self, pipeline: Pipeline, units: int, skipped: int) -> None:
        """Nothing."""

    def outcome(self, outcome: Outcome) -> None:
        """Nothing."""

    def end(self, report: Report | None) -> None:
        """Nothing."""


@dataclass
class _Tally:
    """Counts of a run, held against the pipeline's limits."""

    pipeline: Pipeline
    runner: str
    started: float
    units: int = 0
    skipped: int = 0
    bad_rows: int = 0
    failed: int = 0
    failures: tuple[Failure, ...] = ()

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self.failed += 1
            self.failures = (*self.failures, outcome)[:10]
            if outcome.fatal:
                raise RunError(f"{self.pipeline.name}: {outcome.error}")
            return
        self.bad_rows += outcome.bad_rows
        self.limit(self.bad_rows)

    def accounted(self, records: Iterable[tuple[Unit, Record]]) -> Iterator[tuple[Unit, Record]]:
        """The same records; the limits hold for those of earlier runs too, and none may be lacking.

        Raises:
            StorageError: units that are done have no record; `commit` tries again when somebody committed meanwhile.
            TooManyBadRows: the runs before this one quarantined too many.
        """
        found = bad_rows = 0
        for unit, record in records:
            found, bad_rows = found + 1, bad_rows + record.bad_rows
            yield unit, record
        if found < self.units - self.failed:
            raise StorageError(
                f"{self.pipeline.sink.uri}: {self.units - self.failed - found} of {self.units} finished units have no "
                "record any more; a run with other settings wrote to the same place meanwhile. Run again, one at a time"
            )
        self.limit(bad_rows)

    def limit(self, bad_rows: int) -> None:
        if bad_rows > self.pipeline.max_bad_rows:
            raise TooManyBadRows(
                f"{self.pipeline.name}: {bad_rows} rows were quarantined, max_bad_rows allows "
                f"{self.pipeline.max_bad_rows}; look at {join(self.pipeline.sink.uri, 'quarantine')}, "
                "then mend the input or raise the limit"
            )

    def report(self, manifest: Manifest) -> Report:
        seconds = time.time() - self.started
        counts = (self.units, self.skipped, manifest.rows, manifest.bad_rows, self.failed)
        return Report(self.pipeline.name, self.runner, manifest, *counts, seconds)

    def judge(self) -> None:
        if self.failed > self.pipeline.max_bad_units:
            shown = "\n".join(f"  - {failure.error}" for failure in self.failures)
            raise TooManyBadUnits(
                f"{self.pipeline.name}: {self.failed} units failed, max_bad_units allows "
                f"{self.pipeline.max_bad_units}; the others are done and kept. Mend these and run again:\n{shown}"
            )


def run(pipeline: Pipeline, runner: str, carry: Carry, watch: Watch | None = None) -> Report:
    """Plan, skip what is done, carry out the rest, commit.

    Args:
        pipeline: what to carry out.
        runner: the runner's name, for the record.
        carry: how units become outcomes.
        watch: who looks on.

    Raises:
        RunError: the run ended without a dataset; what was finished is kept.
    """
    tally, watch, report = _Tally(pipeline, runner, time.time()), watch or Quiet(), None
    assignment = Assignment(pipeline, fingerprint(pipeline), schemas(pipeline))
    if pipeline.record:
        step_of(pipeline, pipeline.record)
    with _snapshot(pipeline.units()) as (tally.units, units):
        done = assignment.ledger.done()
        tally.skipped = sum(unit.key in done for unit in units()) if len(done) else 0
        _plan(assignment, tally)
        watch.begin(pipeline, tally.units, tally.skipped)
        recording = begun(pipeline, assignment.fingerprint, assignment.schemas, _todo(units(), done))
        assignment = replace(assignment, recording=recording)
        try:
            for outcome in carry(assignment, _telling(_todo(units(), done), watch)):
                watch.outcome(outcome)  # first: the one that ends the run is told too
                tally.add(outcome)
            tally.judge()
            report = _commit(assignment, units, tally)
        finally:
            watch.end(report)
    return report


def _plan(assignment: Assignment, tally: _Tally) -> None:
    """Leave word of how many units there are in all, for those who look on from elsewhere."""
    root = assignment.pipeline.sink.uri
    plan = {"fingerprint": assignment.fingerprint, "units": tally.units, "started": tally.started}
    try:
        store_of(root).replace(join(root, PLANNED), json.dumps(plan, indent=1).encode())
    except StorageError as error:  # the first thing that a run writes: where it cannot, no unit could be kept
        raise RunError(f"{assignment.pipeline.name}: {error}") from error


def _todo(units: Iterable[Unit], done: Done) -> Iterator[Unit]:
    return (unit for unit in units if unit.key not in done)


def _telling(units: Iterator[Unit], watch: Watch) -> Iterator[Unit]:
    """The same units; *watch* is told of each, where it wants to know."""
    if not isinstance(watch, Handed):
        yield from units
        return
    for unit in units:
        watch.handed(unit)
        yield unit


_UNITS = pa.schema(
    [(n, pa.string()) for n in ("key", "uri", "etag")] + [(n, pa.int64()) for n in ("start", "stop", "size_bytes")]
)


@contextmanager
def _snapshot(units: Iterable[Unit]) -> Iterator[tuple[int, Callable[[], Iterator[Unit]]]]:
    """The units as they are now, on disk: their count, and how to go through them again."""
    with tempfile.TemporaryDirectory(prefix="penstock-") as folder:
        path, count, stream = str(Path(folder) / "units.arrow"), 0, iter(units)
        with pa.ipc.new_stream(path, _UNITS) as writer:
            while chunk := list(islice(stream, 4096)):
                count += len(chunk)
                writer.write_batch(pa.RecordBatch.from_pylist([asdict(unit) for unit in chunk], _UNITS))
        yield count, lambda: _replayed(path)


def _replayed(path: str) -> Iterator[Unit]:
    with pa.memory_map(path) as file, pa.ipc.open_stream(file) as batches:
        for batch in batches:
            yield from (Unit(**line) for line in batch.to_pylist())


def _commit(assignment: Assignment, units: Callable[[], Iterator[Unit]], tally: _Tally) -> Report:
    pipeline, ledger = assignment.pipeline, assignment.ledger
    provenance = {**_provenance(assignment), "failed_units": tally.failed}
    with publish(pipeline.sink.uri, ".parquet") as (path, upload):
        story = _Story(path)
        manifest = pipeline.sink.commit(lambda: story.told(tally.accounted(ledger.records(units()))), provenance)
        report = tally.report(manifest)
        name = _name_of(tally)
        upload(f"{name}.parquet")
    store_of(pipeline.sink.uri).replace(join(pipeline.sink.uri, f"{name}.json"), _facts(report, tally.started))
    ledger.sweep(units())
    sweep(pipeline.sink.uri)  # last: as long as the ledger speaks of a part, the part is there
    return report


def _name_of(tally: _Tally) -> str:
    """Of the files that tell of this run; runs of one process may begin in the same second."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(tally.started)) + f"{tally.started % 1:.6f}"[1:]
    return f"runs/{stamp}-{socket.gethostname()}-{os.getpid()}"


def _facts(report: Report, started: float) -> bytes:
    names = ("pipeline", "runner", "units", "skipped", "rows", "bad_rows", "bad_units", "seconds")
    where = {"host": socket.gethostname(), "cores": os.cpu_count(), "python": platform.python_version()}
    more = {"started": started, "manifest": report.manifest.version, "machine": where}
    return json.dumps({**{name: getattr(report, name) for name in names}, **more}, indent=1).encode()


def _provenance(assignment: Assignment) -> dict[str, Any]:
    """What made the dataset, as plain data; nothing in it depends on when or where."""
    pipeline = assignment.pipeline
    return {
        "fingerprint": assignment.fingerprint,
        "pipeline": spec.plain(replace(pipeline, record="", record_units=Pipeline.record_units), plugins.called),
        "identity": {
            f"{at}-{step.name}": dict(step.stage.identity())
            for at, step in enumerate(pipeline.steps, 1)
            if isinstance(step.stage, Identified)
        },
        "licences": [
            asdict(terms) for s in pipeline.steps if isinstance(s.stage, Weighted) for terms in s.stage.licences()
        ],
        "versions": {
            name: plugins.version_of(name) for name in ("penstock", "pyarrow", "numpy", "torch", "transformers", "h5py")
        },
        "schema": pipeline.sink.schema(assignment.schemas[-1]).serialize().to_pybytes().hex(),
    }


_STORY = pa.schema(
    [
        ("unit", pa.string()),
        ("step", pa.string()),
        ("seconds", pa.float64()),
        ("waited_seconds", pa.float64()),
        ("rows_in", pa.int64()),
        ("rows_out", pa.int64()),
        ("rows_bad", pa.int64()),
        ("worker", pa.string()),
        ("finished", pa.float64()),
        ("rss_bytes", pa.int64()),
        ("bytes_out", pa.int64()),
        ("began", pa.float64()),
        ("told", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Story:
    """What happened, one line for each unit and step, written while the commit goes through the records."""

    path: Path

    def told(self, records: Iterable[tuple[Unit, Record]]) -> Iterator[tuple[Unit, Record]]:
        """The same records; their traces are kept, of the last time that this is asked."""
        lines: list[Mapping[str, Any]] = []
        with pq.ParquetWriter(self.path, _STORY, compression="zstd") as writer:
            for unit, record in records:
                lines += [_line(record, trace) for trace in record.traces]
                if len(lines) >= _LINES_AT_ONCE:
                    writer.write_table(pa.Table.from_pylist(lines, _STORY))
                    lines = []
                yield unit, record
            writer.write_table(pa.Table.from_pylist(lines, _STORY))


_LINES_AT_ONCE = 1 << 16


def _line(record: Record, trace: Any) -> Mapping[str, Any]:
    more = {"unit": record.unit, "finished": record.finished, "rss_bytes": record.rss_bytes}
    return {**asdict(trace), "worker": trace.worker or record.worker, **more}
