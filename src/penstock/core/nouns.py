"""The nouns: what flows, what it is cut into, and the parts that a line is made of.

Stages, sources, sinks and clusters are *frozen dataclasses* that follow these protocols.
They are data: they can be written to a file, hashed, compared and sent to a worker.
What is live (a model, a connection) exists only inside `Stage.open()`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import numpy.typing as npt
import pyarrow as pa

if TYPE_CHECKING:
    from penstock.core.dataset import Manifest
    from penstock.core.plan import Resources
    from penstock.core.run import Watch

__all__ = [
    "Batch",
    "Cluster",
    "Fit",
    "Identified",
    "Job",
    "JobState",
    "Licence",
    "Listed",
    "Lists",
    "Multiplying",
    "OwnFormat",
    "Part",
    "Pipeline",
    "Place",
    "Record",
    "Records",
    "Report",
    "Runner",
    "Sampled",
    "Sink",
    "Solver",
    "Source",
    "Stage",
    "Status",
    "Step",
    "Stream",
    "Team",
    "Trace",
    "Training",
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
    """What one step did to one unit: seconds at work and waiting before it, rows in, out and quarantined.

    Attributes:
        bytes_out: memory of the batch that came out; of a write, the part's bytes.
        began: when the work began, seconds since 1970.
        worker: ``host:pid`` that did it.
        told: what the live stage says of itself, by its attribute ``told``: what it chose, and why.
    """

    step: str
    seconds: float
    waited_seconds: float
    rows_in: int
    rows_out: int
    rows_bad: int
    bytes_out: int = 0
    began: float = 0.0
    worker: str = ""
    told: str = ""


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
class OwnFormat(Protocol):
    """A sink with a file format of its own, which is called as the sink's entry point is; readers find it by that."""

    @staticmethod
    def read_part(path: Path, schema: pa.Schema) -> pa.Table:
        """All rows of a file that the sink wrote; of its columns those of *schema*, in that order and of those types.

        Raises:
            Exception: of any kind; readers make a `DatasetError` of it.
        """


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


@runtime_checkable
class Multiplying(Protocol):
    """A stage that gives more rows than it takes, or fewer, and knows about how many; for estimates."""

    def rows_per_row(self) -> float:
        """Rows that come out for each that goes in."""


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
            ``actor`` a pool of workers that keep the stage open, ``container`` such a pool of which each worker has a
            container for the stage, ``serve`` a service: the one at *address*, or replicas that the run sets up.
        replicas: fewest and most workers of a pool, or replicas of a service.
        cpus: CPU cores for each worker.
        gpus: GPUs for each worker; fractions share one.
        memory_bytes: heap memory reserved for each worker; 0 reserves none.
        concurrency: most units that one worker has in this step at once, each in a thread of its own. More than
            one suits what waits (stores, services, GPUs) and may be called from several threads. An actor has as
            many units in hand as the most concurrent of its steps.
        image: of a container: what the engine calls it; see `penstock.runners.container`.
        mounts: of a container: files and folders of this machine that it may read, ``HERE:THERE`` or one name for both.
        network: of a container: whether it may reach the network.
        address: of a service: ``http://HOST:PORT``, started by `penstock serve` or `penstock stage NAME --http PORT`.
    """

    kind: Literal["function", "task", "actor", "serve", "container"] = "function"
    replicas: tuple[int, int] = (1, 1)
    cpus: float = 1.0
    gpus: float = 0.0
    memory_bytes: int = 0
    concurrency: int = 1
    image: str = ""
    mounts: tuple[str, ...] = ()
    network: bool = False
    address: str = ""

    def __post_init__(self) -> None:
        low, high = self.replicas
        if not 1 <= low <= high:
            raise ValueError(f"replicas must be [fewest, most] with 1 <= fewest <= most, not [{low}, {high}]")
        if self.cpus < 0 or self.gpus < 0 or self.memory_bytes < 0:
            raise ValueError("cpus, gpus and memory_bytes must not be negative")
        if self.concurrency < 1:
            raise ValueError(f"concurrency is {self.concurrency}; a worker has at least one unit in hand")
        if self.kind != "container" and (self.image or self.mounts or self.network):
            raise ValueError(f"image, mounts and network are of kind 'container', not of '{self.kind}'")
        if self.kind != "serve" and self.address:
            raise ValueError(f"address is of kind 'serve', not of '{self.kind}'")
        if any(":" in mount and not all(mount.split(":", 1)) for mount in self.mounts):
            raise ValueError(f"mounts are {list(self.mounts)}; 'HERE:THERE' or one path for both was needed")

    @property
    def is_pool(self) -> bool:
        """Whether it is a pool of workers in the runner that keep the stage open."""
        return self.kind in ("actor", "container")

    @property
    def rides(self) -> bool:
        """Whether the step is called by the workers of the step before it: as a function, or as a service's client."""
        return self.kind in ("function", "serve")

    @classmethod
    def joint(cls, steps: Sequence[Step]) -> Place:
        """What one worker needs in which all *steps* are open; a ``function`` rides along."""
        places = [step.place for step in steps if not step.place.rides] or [cls()]
        replicas = next((place.replicas for place in places if place.is_pool), (1, 1))
        memory = sum(place.memory_bytes for place in places)
        return cls("actor", replicas, max(p.cpus for p in places), sum(p.gpus for p in places), memory)


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
        max_units: only the first so many units of the source; 0 takes all.
        record: the step whose batches are kept, for `penstock stage replay`; none when empty.
        record_units: of so many units, the first that are done.
        allow_noncommercial: accept weights whose licence forbids commercial use.
    """

    name: str
    source: Source
    sink: Sink
    steps: tuple[Step, ...] = ()
    read: Place = Place()
    max_bad_rows: int = 1000
    max_bad_units: int = 0
    max_units: int = 0
    record: str = ""
    record_units: int = 3
    allow_noncommercial: bool = False

    def units(self) -> Iterable[Unit]:
        """Those of the source, as many as wanted, as a stream."""
        return islice(self.source.units(), self.max_units or None)

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """The clusters that its steps hold, each once."""
        every = (getattr(step.stage, f.name) for step in self.steps for f in fields(cast("Any", step.stage)))
        return tuple({repr(value): value for value in every if isinstance(value, Cluster)}.values())


@dataclass(frozen=True)
class Fit:
    """A training, and the team for it: as many workers as the place has replicas at most."""

    name: str
    training: Training
    place: Place = Place("actor")


@dataclass(frozen=True)
class Stream:
    """Rows on their way into a solver that runs meanwhile: in order, and no faster than it takes them.

    Attributes:
        into: the solver.
        ahead: units that may be made before they are wanted.
        allow_noncommercial: accept weights whose licence forbids commercial use.
    """

    name: str
    source: Source
    into: Solver
    steps: tuple[Step, ...] = ()
    ahead: int = 2
    allow_noncommercial: bool = False

    def __post_init__(self) -> None:
        if self.ahead < 1:
            raise ValueError(f"ahead is {self.ahead}; at least one unit is made before it is wanted")


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

    def train(self, fit: Fit, heard: Callable[[Mapping[str, float]], None]) -> None:
        """Carry *fit* out, unless it is done; *heard* is told how it goes. Raises `RunError`."""

    def stream(self, stream: Stream, heard: Callable[[Mapping[str, float]], None]) -> None:
        """Let the solver run to its end, unless it is done; *heard* is told how it goes. Raises `RunError`."""


@runtime_checkable
class Team(Protocol):
    """The workers of a training, seen from one of them. All methods are collective: every worker calls them in turn."""

    @property
    def rank(self) -> int:
        """Which one this is, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    def exchange(self, sent: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Send ``sent[r]`` to worker r, and give what each has sent to us; arrays of one dtype, ``"any ..."``."""

    def gather(self, value: Any) -> list[Any]:
        """What every worker has given, small plain data, in the order of ranks; on all of them."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Say how it goes."""


@runtime_checkable
class Training(Protocol):
    """What is learned from a dataset by a team, and published where a killed training goes on."""

    @property
    def reads(self) -> str:
        """Address of the dataset that is learned from."""

    @property
    def uri(self) -> str:
        """Address of what is learned."""

    def schema(self, given: pa.Schema) -> pa.Schema:
        """What readers of the result find, when *given* is learned from. Raises `SchemaError`."""

    def done(self) -> bool:
        """Whether it was finished before, on the same data."""

    def begin(self) -> None:
        """What is done once, before the team starts or starts again."""

    def train(self, team: Team) -> None:
        """Go on from what was published last, to the end; in every worker."""


@runtime_checkable
class Solver(Protocol):
    """A solver that takes rows while it runs, and goes on from where it was when it is started again."""

    @property
    def uri(self) -> str:
        """Where it leaves what it computes."""

    def schema(self, given: pa.Schema) -> None:
        """Look whether it can take such rows. Raises `SchemaError`."""

    def done(self) -> bool:
        """Whether it came to its end before."""

    def run(self, rows: Callable[[int], Iterator[Batch]], heard: Callable[[Mapping[str, float]], None]) -> None:
        """Run it to its end on the rows that ``rows(first)`` gives from number *first* on; *heard* is told how it goes.

        Raises:
            JobError: it failed; what it left is kept, and the next call goes on from there.
        """


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
class Status:
    """How a job stands.

    Attributes:
        why: the scheduler's or the exit record's words: ``Priority``, ``NODE_FAIL``, ``exit status 3``.
        passing: the cause lies outside the program (a node failed, the job was preempted), so trying again makes sense.
        attempt: which attempt this is, from 1.
        continues: it was warned of its time limit, has kept its state and asks to go on, which is no failure.
    """

    state: JobState
    why: str = ""
    passing: bool = False
    attempt: int = 1
    continues: bool = False


@dataclass(frozen=True)
class Listed:
    """A job as its cluster remembers it.

    Attributes:
        id: what `Cluster.submit` gave.
        name: what people see.
        key: of the job.
        state: how it stands, and why in `why`.
        attempt: from 1.
        items: how often its program is run.
        since: of its last step: submitted, begun or ended; seconds since 1970.
    """

    id: str
    name: str
    key: str
    state: JobState
    why: str
    attempt: int
    items: int
    since: float


@dataclass(frozen=True)
class Job:
    """A program to be run by a batch scheduler. How large and how long is said by the cluster.

    The program is started in its working folder: *folder* where the cluster sees it, else one of the
    cluster's own, into which the files of *folder* and *inputs* are copied first and from which *results* are
    copied back to *folder*. In *folder* appear ``stdout``, ``stderr`` and the exit record ``exit``, JSON::

        {"code": exit status, -N after signal N, "why": ..., "host": ..., "started": ..., "ended": seconds since 1970}

    With several items the program is run once for each, with ``PENSTOCK_ITEM`` (from 0) and ``PENSTOCK_ITEMS`` in
    its environment, and these three files carry the item: ``exit.0``.

    Attributes:
        key: identity: submitting the same key twice runs the program once.
        command: program and arguments of one rank.
        folder: the job's own folder: a path, or an ``s3://`` address.
        name: what people see in lists.
        items: how often the program is run, side by side as far as the cluster allows.
        inputs: addresses and the names under which they are copied into the working folder.
        results: names or globs of the files that the program leaves.
        environment: variables added to the job's own.
    """

    key: str
    command: tuple[str, ...]
    folder: str
    name: str = ""
    items: int = 1
    inputs: tuple[tuple[str, str], ...] = ()
    results: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Lists(Protocol):
    """A cluster that remembers its jobs and can show what they print."""

    def jobs(self) -> Sequence[Listed]:
        """All that it remembers, oldest first. Raises `JobError`."""

    def log(self, native_id: str, name: str = "stdout", offset: int = 0) -> tuple[str, int]:
        """What was added to a log since *offset*, perhaps not all at once, and the next offset. Raises `JobError`.

        Args:
            native_id: of the job.
            name: ``stdout``, ``stderr``; with several items ``stdout.3``.
            offset: from where on; 0 begins.
        """


@runtime_checkable
class Cluster(Protocol):
    """A batch scheduler seen from outside, and how much of it each job gets."""

    @property
    def tasks(self) -> int:
        """MPI ranks of a job; 1 runs the command without MPI."""

    @property
    def python(self) -> str:
        """The Python that has Penstock on the cluster."""

    @property
    def folder(self) -> str:
        """Address below which jobs have their folders; empty takes this machine's temporary folder."""

    @property
    def retries(self) -> int:
        """How often a job whose failure was none of its own is tried again."""

    def submit(self, job: Job) -> str:
        """Start *job* and give its native id; idempotent on ``job.key``. Raises `JobError`."""

    def poll(self, ids: Sequence[str]) -> Mapping[str, Status]:
        """How all *ids* stand, by one call; `JobState.UNKNOWN` where that could not be learned."""

    def cancel(self, native_id: str) -> None:
        """End a job; ending an ended job does nothing."""

    def again(self, native_id: str, status: Status) -> None:
        """Put an ended attempt aside, so that submitting the job starts it anew; of several items those that failed.

        Does nothing when it was put aside before, or has not ended.

        Args:
            native_id: what `submit` gave.
            status: how it ended, as `poll` said.
        """
