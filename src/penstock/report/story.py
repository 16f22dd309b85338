"""What a dataset tells about itself: its runs, its lineage, its quarantine. Reads small files only."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from penstock.core import streaming
from penstock.core.dataset import Manifest, existing, newest
from penstock.core.nouns import Stream
from penstock.core.storage import join, local_copy, store_of
from penstock.errors import DatasetError, StorageError

__all__ = [
    "Ancestor",
    "BadRow",
    "Feeding",
    "Run",
    "StepStory",
    "feeding",
    "lineage",
    "quarantine",
    "runs",
    "steps",
    "telling",
]

_MOST_RUNS = 20
_MOST_FILES = 3
_PREVIEW_CHARACTERS = 160


@dataclass(frozen=True)
class Run:
    """One run of a pipeline: its facts, and a line for each unit and step that it carried out.

    Attributes:
        facts: pipeline, runner, units, skipped, rows, bad_rows, bad_units, seconds, started, manifest, machine.
        traces: unit, step, seconds, waited_seconds, rows_in, rows_out, rows_bad, worker, finished, rss_bytes,
            bytes_out, began; the last two are lacking in runs that an older Penstock recorded.
    """

    facts: Mapping[str, Any]
    traces: pa.Table

    @property
    def carried_rows(self) -> int:
        """Rows that this run wrote; those of skipped units are not among them."""
        return int(pc.sum(_of_step(self.traces, "write")["rows_out"]).as_py() or 0)

    @property
    def workers(self) -> int:
        """How many processes worked on units."""
        return int(pc.count_distinct(self.traces["worker"]).as_py())

    @property
    def peak_bytes(self) -> int:
        """Resident memory of the largest worker that wrote."""
        return int(pc.max(self.traces["rss_bytes"]).as_py() or 0)

    @property
    def rows_per_second(self) -> float | None:
        """None when there was nothing left to do."""
        return self.carried_rows / self.facts["seconds"] if self.traces.num_rows and self.facts["seconds"] else None


def _of_step(traces: pa.Table, step: str) -> pa.Table:
    return traces.filter(pc.equal(traces["step"], step))


def runs(root: str) -> list[Run]:
    """The newest runs that wrote the dataset at *root*, the newest first."""
    try:
        names = [entry.uri for entry in store_of(root).list(join(root, "runs")) if entry.uri.endswith(".json")]
    except StorageError:
        if store_of(root).entry(join(root, "runs")) is None:
            return []
        raise
    return [_run(name) for name in sorted(names, reverse=True)[:_MOST_RUNS]]


def _run(name: str) -> Run:
    with store_of(name).open(name) as file:
        facts = json.load(file)
    with local_copy(name.removesuffix(".json") + ".parquet") as path:
        traces = pq.read_table(path, partitioning=None)
    return Run(facts, traces.filter(pc.greater_equal(traces["finished"], facts["started"])))


def telling(found: Sequence[Run]) -> Run | None:
    """The newest run that carried something out; the newest of all when none did."""
    return next((run for run in found if run.traces.num_rows), found[0] if found else None)


@dataclass(frozen=True)
class StepStory:
    """What one step did in a run.

    Attributes:
        busy_share: seconds at work over seconds there were, wall time times workers.
        queue: mean number of units that waited before it, by Little's law (doi:10.1287/opre.9.3.383).
    """

    step: str
    units: int
    rows_in: int
    rows_out: int
    rows_bad: int
    seconds: float
    waited_seconds: float
    busy_share: float
    queue: float


def steps(run: Run) -> list[StepStory]:
    """The steps of *run* in the order of the line."""
    keys = ("rows_in", "rows_out", "rows_bad", "seconds", "waited_seconds")
    sums = run.traces.group_by("step", use_threads=False).aggregate(
        [("unit", "count"), *((key, "sum") for key in keys)]
    )
    wall, workers = run.facts["seconds"], max(run.workers, 1)
    return [
        StepStory(
            line["step"],
            line["unit_count"],
            **{key: line[f"{key}_sum"] for key in keys},
            busy_share=line["seconds_sum"] / (wall * workers) if wall else 0.0,
            queue=line["waited_seconds_sum"] / wall if wall else 0.0,
        )
        for line in sums.to_pylist()
    ]


@dataclass(frozen=True)
class Feeding:
    """What was fed to a solver that ran meanwhile.

    Attributes:
        units, rows: that were made for it, in all its runs.
        runs: the newest first; see `penstock.core.streaming.runs`.
        done: whether the solver has come to its end.
    """

    units: int
    rows: int
    runs: Sequence[Mapping[str, Any]]
    done: bool


def feeding(stream: Stream) -> Feeding:
    """What *stream* has left beside its solver's files."""
    units, rows = streaming.rows_made(stream.into.uri)
    return Feeding(units, rows, streaming.runs(stream.into.uri), stream.into.done())


@dataclass(frozen=True)
class Ancestor:
    """One dataset in the chain back to the source files.

    Attributes:
        manifest: None when the dataset is not there any more.
        depth: 0 for the dataset itself, 1 for what it read, and so on; the longest way counts.
        reads: addresses of the datasets that it was made from.
        files: how many source files it read; 0 when it read a dataset.
        first_files: the first of their addresses.
    """

    uri: str
    depth: int
    manifest: Manifest | None
    reads: tuple[str, ...] = ()
    files: int = 0
    first_files: tuple[str, ...] = ()


def lineage(root: str) -> list[Ancestor]:
    """The dataset at *root* and all that it was made from, each once, the nearest first.

    Raises:
        DatasetError: there is no dataset at *root*.
    """
    existing(root)
    found: dict[str, Ancestor] = {}
    waiting: list[tuple[str, ...]] = [(root.rstrip("/"),)]
    while waiting:
        *before, uri = trail = waiting.pop()
        ancestor = found.get(uri) or _ancestor(uri)
        found[uri] = replace(ancestor, depth=max(ancestor.depth, len(before)))
        waiting += [(*trail, parent) for parent in ancestor.reads if parent not in trail]
    return sorted(found.values(), key=lambda ancestor: ancestor.depth)


def _ancestor(uri: str) -> Ancestor:
    try:
        manifest = newest(uri)
    except (DatasetError, StorageError):
        manifest = None
    if manifest is None:
        return Ancestor(uri, 0, None)
    reads = tuple(dict.fromkeys(_parents(manifest)))
    if _pipeline(manifest).get("source", {}).get("use") == "dataset":
        return Ancestor(uri, 0, manifest, reads)
    files = pc.unique(manifest.parts()["uri"])
    return Ancestor(uri, 0, manifest, reads, len(files), tuple(files[:_MOST_FILES].to_pylist()))


def _pipeline(manifest: Manifest) -> Mapping[str, Any]:
    return dict(manifest.provenance.get("pipeline", {}))


def _parents(manifest: Manifest) -> Iterator[str]:
    """The datasets that a dataset was made from: its source, and those that its steps joined."""
    pipeline = _pipeline(manifest)
    source = pipeline.get("source", {})
    if source.get("use") == "dataset":
        yield source["uri"].rstrip("/")
    yield from (step["dataset"].rstrip("/") for step in pipeline.get("step", ()) if step.get("dataset"))


@dataclass(frozen=True)
class BadRow:
    """One quarantined row: where it failed, why, where it came from, and how it looks."""

    step: str
    error: str
    uri: str
    preview: str


def quarantine(manifest: Manifest, most: int = 50) -> list[BadRow]:
    """The first quarantined rows of a dataset."""
    found: list[BadRow] = []
    parts = manifest.parts()
    for paths in parts.filter(pc.greater(parts["bad_rows"], 0))["bad"].to_pylist():
        for path in paths:
            found += _bad_rows(join(manifest.uri, path), most - len(found))
            if len(found) >= most:
                return found
    return found


def _bad_rows(name: str, most: int) -> list[BadRow]:
    with local_copy(name) as path:
        lines = pq.read_table(path, partitioning=None).slice(0, most).to_pylist()
    return [BadRow(line["_step"], line["_error"], line["_uri"], _preview(line)) for line in lines]


def _preview(line: Mapping[str, Any]) -> str:
    text = ", ".join(f"{key}: {_short(value)}" for key, value in line.items() if not key.startswith("_"))
    return text if len(text) <= _PREVIEW_CHARACTERS else text[: _PREVIEW_CHARACTERS - 1] + "…"


def _short(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, list) else str(value)
