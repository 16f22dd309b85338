"""The nouns: what flows, what it is cut into, and the parts that a line is made of.

Stages, sources, sinks and clusters are *frozen dataclasses* that follow these protocols.
They are data: they can be written to a file, hashed, compared and sent to a worker.
What is live (a model, a connection) exists only inside `Stage.open()`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa

if TYPE_CHECKING:
    from penstock.core.dataset import Manifest
    from penstock.core.plan import Resources
    from penstock.core.run import Watch

__all__ = [
    "Batch",
    "Cluster",
    "Identified",
    "Job",
    "JobState",
    "Licence",
    "Part",
    "Pipeline",
    "Place",
    "Record",
    "Records",
    "Report",
    "Runner",
    "Sampled",
    "Sink",
    "Source",
    "Stage",
    "Step",
    "Trace",
    "Transform",
    "Unit",
    "Weighted",
]

Batch: TypeAlias = pa.Table
"""What flows: an Arrow table. Tensors are `fixed_shape_tensor` columns."""

Transform: TypeAlias = Callable[[Batch], Batch]
"""A live stage. Has no effect on its argument; same batch in, same batch out."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The atom of a run: what one task reads, transforms and writes.

    Attributes:
        key: sha256 (hex) over uri, etag, start and stop: the identity of the content.
        uri: where the content lies.
        etag: the store's word for this version of the content (S3 ETag, or size and mtime).
        start: first byte or row, inclusive.
        stop: last byte or row, exclusive.
        size_bytes: about how much is read.
    """

    key: str
    uri: str
    etag: str
    start: int
    stop: int
    size_bytes: int

    @classmethod
    def of(cls, uri: str, etag: str, start: int, stop: int, size_bytes: int | None = None) -> Unit:
        """Make a unit; its key follows from the other arguments."""
        text = json.dumps([uri, etag, start, stop], ensure_ascii=False)
        key = hashlib.sha256(text.encode()).hexdigest()
        return cls(key, uri, etag, start, stop, stop - start if size_bytes is None else size_bytes)


@dataclass(frozen=True, slots=True)
class Part:
    """One published file with the rows of one unit.

    Attributes:
        path: relative to the dataset's root; named by its content.
        rows: how many rows it holds.
        sha256: hash (hex) of the file's bytes.
        size_bytes: the file's size.
    """

    path: str
    rows: int
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Trace:
    """What one step did to one unit: seconds at work and waiting before it, rows in, out and quarantined."""

    step: str
    seconds: float
    waited_seconds: float
    rows_in: int
    rows_out: int
    rows_bad: int


@dataclass(frozen=True, slots=True)
class Record:
    """The ledger's word that a unit is done.

    Attributes:
        unit: the key of the unit.
        part: the published file.
        bad: relative paths of the unit's quarantine files.
        bad_rows: rows in them.
        traces: one for the read, one for each step, one for the write.
        worker: ``host:pid`` that wrote it.
        finished: seconds since 1970.
        rss_bytes: peak resident memory of that worker so far.
    """

    unit: str
    part: Part
    bad: tuple[str, ...] = ()
    bad_rows: int = 0
    traces: tuple[Trace, ...] = ()
    worker: str = ""
    finished: float = 0.0
    rss_bytes: int = 0


Records: TypeAlias = Callable[[], Iterable[tuple[Unit, Record]]]
"""Gives the units of a dataset with their records, in order, afresh at each call."""


@runtime_checkable
class Source(Protocol):
    """Where batches come from."""

    @property
    def uri(self) -> str:
        """What is read: a file, a folder, a glob or an ``s3://`` address."""

    def schema(self) -> pa.Schema:
        """The columns of every batch. Raises `SchemaError` or `StorageError`."""

    def units(self) -> Iterable[Unit]:
        """The units in a stable order, as a stream: a million are fine."""

    def read(self, unit: Unit) -> Batch:
        """The rows of *unit*: same unit, same batch, always.

        Raises:
            UnitError: the unit cannot be read at all.
            RowErrors: some of its rows cannot be.
        """


@runtime_checkable
class Stage(Protocol):
    """What happens to a batch."""

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns that come out when *given* goes in. Raises `SchemaError`."""

    def open(self) -> AbstractContextManager[Transform]:
        """Load what is needed, once per worker, and give the live function. Exit frees it."""


@runtime_checkable
class Sink(Protocol):
    """Where batches end: a dataset."""

    @property
    def uri(self) -> str:
        """The dataset's root folder or prefix."""

    def schema(self, given: pa.Schema) -> pa.Schema:
        """The columns that the dataset will have when *given* goes in. Raises `SchemaError`."""

    def write(self, unit: Unit, batch: Batch) -> Part:
        """Publish the rows of *unit* as one part; idempotent: the same batch gives the same part."""

    def commit(self, records: Records, provenance: Mapping[str, Any]) -> Manifest:
        """Publish the manifest over the parts of *records*, in their order; atomic, last, one winner."""


@runtime_checkable
class Sampled(Protocol):
    """A source that can read a few rows cheaply, for estimates."""

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The first rows of *unit*, and about how many of its bytes they took."""


@runtime_checkable
class Identified(Protocol):
    """A part whose result depends on more than its own fields, such as weights or code."""

    def identity(self) -> Mapping[str, str]:
        """Names and hashes of what else the result depends on; a change redoes the work."""


@dataclass(frozen=True, slots=True)
class Licence:
    """Under what terms weights or data may be used."""

    what: str
    name: str
    commercial: bool | None
    """None: nobody said."""


@runtime_checkable
class Weighted(Protocol):
    """A stage that loads weights."""

    def weights_bytes(self) -> int:
        """Size of the weights in memory, once per worker. Raises `WeightsError` if not present."""

    def licences(self) -> Sequence[Licence]:
        """The licences of the weights."""


@dataclass(frozen=True)
class Place:
    """Where a stage runs, apart from what it does.

    Attributes:
        kind: ``function`` rides along with the step before it, ``task`` is a stateless worker,
            ``actor`` a pool of workers that keep the stage open.
        replicas: fewest and most workers of an actor pool.
        cpus: CPU cores for each worker.
        gpus: GPUs for each worker; fractions share one.
        memory_bytes: heap memory reserved for each worker; 0 reserves none.
    """

    kind: Literal["function", "task", "actor"] = "function"
    replicas: tuple[int, int] = (1, 1)
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0

    def __post_init__(self) -> None:
        low, high = self.replicas
        if not 1 <= low <= high:
            raise ValueError(f"replicas must be [fewest, most] with 1 <= fewest <= most, not [{low}, {high}]")
        if self.cpus < 0 or self.gpus < 0 or self.memory_bytes < 0:
            raise ValueError("cpus, gpus and memory_bytes must not be negative")


@dataclass(frozen=True)
class Step:
    """A stage and the place where it runs."""

    stage: Stage
    place: Place = Place()

    @property
    def name(self) -> str:
        """The stage's class in lower case, as in pipeline files."""
        return type(self.stage).__name__.lower()


@dataclass(frozen=True)
class Pipeline:
    """A line from a source through steps to a sink.

    Attributes:
        read: where the source is read: with the first step that has a place, or as a ``task`` of its own.
        max_bad_rows: more quarantined rows than this stop the run.
        max_bad_units: more units than this that cannot be read or written end the run without a dataset.
        allow_noncommercial: accept weights whose licence forbids commercial use.
    """

    name: str
    source: Source
    sink: Sink
    steps: tuple[Step, ...] = ()
    read: Place = Place()
    max_bad_rows: int = 1000
    max_bad_units: int = 0
    allow_noncommercial: bool = False


@dataclass(frozen=True)
class Report:
    """What a run did. Counts are units and rows; ``skipped`` units were done before."""

    pipeline: str
    runner: str
    manifest: Manifest
    units: int
    skipped: int
    rows: int
    bad_rows: int
    bad_units: int
    seconds: float


class Runner(Protocol):
    """What carries a pipeline out. Every runner gives what `inline` gives, row for row."""

    def resources(self) -> Resources:
        """What this runner can use; asked before anything starts."""

    def session(self) -> AbstractContextManager[None]:
        """What is slow to start stays up inside, for several pipelines."""

    def run(self, pipeline: Pipeline, watch: Watch | None = None) -> Report:
        """Carry *pipeline* out. Raises `RunError`; what was finished is kept for the next run."""


class JobState(Enum):
    """How a job stands. ``UNKNOWN`` means that the scheduler could not be asked."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job has ended for good."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Job:
    """A program to be run by a batch scheduler.

    Attributes:
        key: identity: submitting the same key twice runs the program once.
        command: program and arguments of one rank.
        folder: working folder; its files ``stdout``, ``stderr`` and ``exit`` belong to the job.
        tasks: MPI ranks; 1 runs the command without MPI.
        cpus_per_task: cores (and threads) for each rank.
        environment: variables added to the job's own.
        time_seconds: the job is ended after this long; 0 sets no limit.
    """

    key: str
    command: tuple[str, ...]
    folder: str
    tasks: int = 1
    cpus_per_task: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    time_seconds: int = 0


@runtime_checkable
class Cluster(Protocol):
    """A batch scheduler seen from outside."""

    def submit(self, job: Job) -> str:
        """Start *job* and give its native id; idempotent on ``job.key``. Raises `JobError`."""

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        """The states of all *ids* by one call."""

    def cancel(self, native_id: str) -> None:
        """End a job; ending an ended job does nothing."""
