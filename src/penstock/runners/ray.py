"""Ray Data: units stream through tasks and actor pools; a block is a unit all the way.

Each block is one envelope (see `penstock.runners.envelope`). Neighbouring steps, the read and the write
are fused into as few operators as their places allow, since an operator costs more than most steps.

What a step or source raises is an outcome and not an error of Ray's: only what kills a worker is retried.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa

from penstock.clusters.watch import tell_of
from penstock.core.dataset import Manifest
from penstock.core.nouns import Fit, Pipeline, Report, Stream, Transform, Unit
from penstock.core.plan import Operator, Resources, admit, operators, packaged
from penstock.core.run import Outcome, Watch, run
from penstock.core.streaming import begin as begin_stream
from penstock.core.streaming import fed, recorded
from penstock.core.work import Assignment, Failure, Parcel, begin, finish, opened, step
from penstock.errors import PenstockError, RunError
from penstock.runners import envelope, places, service, tables, train, watcher
from penstock.runners.balance import Balance, lacking
from penstock.runners.connecting import connected, given_or_around, gpus_seen, resources_of
from penstock.runners.datasets import HDF5Datasink, datasink, read_manifest
from penstock.runners.stream import flow
from penstock.tables.client import bringing

__all__ = ["HDF5Datasink", "Ray", "datasink", "read_manifest"]

_EPOCH_UNITS = 10_000
_NEVER = 1e9
"""A utilisation that no pool reaches."""
_RETRIES = 2
"""How often Ray tries a unit again whose worker died; see `_epoch` for what happens then."""


@dataclass(frozen=True)
class Ray:
    """Carries pipelines out by Ray Data.

    Attributes:
        address: of a running cluster (``host:port``, ``ray://…`` or ``auto``); empty takes the one that
            ``RAY_ADDRESS`` names, as within ``ray job submit``, and where there is none starts a Ray of our own on
            this machine, with its own ports and folder, and stops it afterwards.
        cpus: cores that our own Ray may use; 0 takes all.
        gpus: of our own Ray; -1 lets Ray look.
        object_store_bytes: shared memory for batches on the way in our own Ray; 0 lets Ray choose.
        table_actors: how many actors hold each table that a `lookup` step reads; with 0 each worker maps the
            table itself, which is best where every node has room for it.
    """

    address: str = ""
    cpus: int = 0
    gpus: int = -1
    object_store_bytes: int = 0
    table_actors: int = 0

    NEEDS = ("ray",)

    @property
    def _at(self) -> str:
        """Where the Ray is that is joined; empty where one of our own is started."""
        return given_or_around(self.address)

    def resources(self) -> Resources:
        """What the cluster has; our own Ray is not started for that. Raises `PlanError` without Ray."""
        packaged("runner", self)
        if self._at:
            with self.session():
                return resources_of(self._at)
        cores = self.cpus or os.cpu_count() or 1
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Resources(cores, max(self.gpus, 0) if self.gpus >= 0 else gpus_seen(), int(memory * 0.7), "this machine")

    def session(self) -> AbstractContextManager[None]:
        """Ray is up inside; a Ray that somebody else in this process started is used and left alone.

        Raises:
            PlanError: Ray is not installed.
        """
        packaged("runner", self)
        store = {"object_store_memory": self.object_store_bytes} if self.object_store_bytes else {}
        gpus = {"num_gpus": self.gpus} if self.gpus >= 0 else {}
        return connected(self._at, num_cpus=self.cpus or os.cpu_count() or 1, **store, **gpus)

    def run(self, pipeline: Pipeline, watch: Watch | None = None) -> Report:
        """Carry *pipeline* out.

        Raises:
            PlanError: it would never finish with what the cluster has.
            RunError: the run ended without a dataset; what was finished is kept.
        """
        if not self._at:
            admit(pipeline, self.resources())
        with self.session(), tables.held(pipeline, self.table_actors):
            admit(pipeline, resources_of(self._at or "our own Ray"))
            with watcher.on_duty(pipeline.clusters, tell_of(watch)) as caught_up:
                return run(pipeline, "ray", partial(_carry_out, caught_up), watch)

    def train(self, fit: Fit, heard: Callable[[Mapping[str, float]], None]) -> None:
        """Carry *fit* out by Ray Train. Raises `RunError`; what was published is kept."""
        if not fit.training.done():
            with self.session():
                train.fitted(fit, heard)

    def stream(self, stream: Stream, heard: Callable[[Mapping[str, float]], None]) -> None:
        """Feed a solver, which runs beside this process, from actors. Raises `RunError`."""
        begin_stream(stream)
        if stream.into.done():
            return
        with self.session(), recorded(stream, "ray", heard) as told:
            stream.into.run(fed(stream, partial(flow, stream)), told)

    @staticmethod
    def view(manifest: Manifest, columns: Sequence[str], rows: int) -> Any:
        """A published dataset as one of Ray Data, *rows* to a block."""
        return read_manifest(manifest.uri, columns, manifest.version, rows)


# --- streaming -------------------------------------------------------------------------------------------


def _carry_out(caught_up: Callable[[], None], assignment: Assignment, units: Iterable[Unit]) -> Iterator[Outcome]:
    """Outcomes of *units*; what is known of their jobs is told before the run is said to have ended."""
    yield from _carry(assignment, units)
    caught_up()


def _carry(assignment: Assignment, units: Iterable[Unit]) -> Iterator[Outcome]:
    """Epoch after epoch, so that the driver's memory does not grow with the number of units."""
    stream = iter(units)
    with service.deployed(assignment) as placed:
        while epoch := list(islice(stream, _EPOCH_UNITS)):
            yield from _epoch(placed, epoch)


def _epoch(assignment: Assignment, epoch: list[Unit]) -> Iterator[Outcome]:
    """Units that were lost with their worker are streamed again while that helps, then each one alone.

    A worker that dies takes along what waited in its queue, so only a unit that dies alone is to blame.
    """
    left = epoch
    before = len(epoch) + 1
    while 0 < len(left) < before:
        before, lost = len(left), {unit.key: unit for unit in left}
        yield from _found(_stream(assignment, left), lost)
        left = list(lost.values())
    for unit in left:
        lost = {unit.key: unit}
        yield from _found(_stream(assignment, [unit]), lost)
        if lost:
            text = "it kills its worker each time, also alone; if memory runs out, lower unit_bytes"
            yield Failure(unit, f"{unit.uri} [{unit.start}:{unit.stop}]: {text}")


def _found(outcomes: Iterator[Outcome], lost: dict[str, Unit]) -> Iterator[Outcome]:
    """The outcomes; their units are no longer *lost*."""
    for outcome in outcomes:
        lost.pop(outcome.unit.key if isinstance(outcome, Failure) else outcome.unit, None)
        yield outcome


def _stream(assignment: Assignment, epoch: list[Unit]) -> Iterator[Outcome]:
    import ray.data

    pipeline = assignment.pipeline
    balance = Balance(pipeline, partial(resources_of, "the cluster"))
    try:
        with _settings(balance):
            dataset = ray.data.from_items([envelope.unit(unit) for unit in epoch], override_num_blocks=len(epoch))
            parts = operators(pipeline)
            for index, operator in enumerate(parts):
                dataset = _mapped(dataset, assignment, operator, last=index == len(parts) - 1)
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for outcome in envelope.outcomes(block):
                    balance.hear(outcome)
                    yield outcome
    except ray.exceptions.RayError as error:
        cause = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"{pipeline.name}: Ray could not go on: {cause[0]} ... {cause[-1]}"
        raise RunError(f"{text}\n  finished units are kept; the whole story is in Ray's log files") from error


@contextmanager
def _settings(balance: Balance) -> Iterator[None]:
    """Ray Data's context as a run needs it; what else this process does by Ray Data is as before."""
    from ray.data.context import AutoscalingConfig, DataContext

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context, steered = DataContext.get_current(), _steered(balance)
    # A warm model is not given up in a short lull; and of several pools all sizes are reckoned together.
    ours = {"actor_pool_util_upscaling_threshold": _NEVER} if steered else {}
    wanted = {
        "execution_options": _beside_services(context.execution_options, balance),
        "print_on_execution_start": False,
        "enable_progress_bars": False,
        # A block whose worker died too often is left out; `_epoch` sees which unit that was.
        "max_errored_blocks": -1,
        "autoscaling_config": AutoscalingConfig(actor_pool_util_downscaling_threshold=-_NEVER, **ours),
    }
    if steered:
        classes = [*context.custom_execution_callback_classes, lambda: balance]
        wanted["custom_execution_callback_classes"] = classes
    before = {name: getattr(context, name) for name in wanted}
    try:
        _set(context, wanted)
        yield
    finally:
        _set(context, before)


def _steered(balance: Balance) -> bool:
    """Whether the sizes of the pools are ours to say; else Ray Data's own autoscaling says them."""
    gone = lacking() if balance.needed else ""
    if gone:
        warnings.warn(
            f"{balance.pipeline.name}: Ray Data sizes each pool by its own queue, and not all of them together, since "
            f"this version of Ray has no {gone}; use ray>=2.60,<2.64, or say replicas that suit the stages' speeds",
            RuntimeWarning,
            stacklevel=2,
        )
    return balance.needed and not gone


def _beside_services(options: Any, balance: Balance) -> Any:
    """Ray Data's *options* with room left for the services of the pipeline: its tasks would take all there is."""
    from ray.data import ExecutionResources

    ours = [step.place for step in balance.pipeline.steps if service.is_ours(step.place)]
    if not ours:
        return options
    cpus, gpus = (sum(getattr(place, name) * place.replicas[1] for place in ours) for name in ("cpus", "gpus"))
    have, options = balance.resources(), copy(options)
    options.resource_limits = ExecutionResources(cpu=have.cpus - cpus, gpu=have.gpus - gpus)
    return options


def _set(context: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        setattr(context, name, value)


def _mapped(dataset: Any, assignment: Assignment, operator: Operator, *, last: bool) -> Any:
    """One more operator: an actor pool, or tasks in workers that keep the line open between units."""
    from ray.data import ActorPoolStrategy, TaskPoolStrategy

    place, line = operator.place, _Line(assignment, operator.first, operator.stop, last)
    if operator.kind == "actor":
        low, high = place.replicas
        how = {
            "fn": _Worker,
            "fn_constructor_args": (line,),
            "compute": ActorPoolStrategy(
                min_size=low,
                max_size=high,
                initial_size=low,
                max_concurrent_calls_per_actor=operator.concurrency if operator.concurrency > 1 else None,
                enable_true_multi_threading=operator.concurrency > 1,
            ),
            "max_restarts": -1,
            "max_task_retries": _RETRIES,
        }
    else:
        how = {
            "fn": _task,
            "fn_args": (line,),
            "compute": TaskPoolStrategy(),
            "max_retries": _RETRIES,
        }
    with warnings.catch_warnings():
        # Ray 2.60 to 2.63 take the limits of retries only by this way, which they call deprecated.
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        return dataset.map_batches(
            **how,
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=place.cpus,
            num_gpus=place.gpus or None,
            memory=place.memory_bytes or None,
        )


# --- in the workers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """The part of a pipeline that one operator's workers carry out."""

    assignment: Assignment
    first: int
    stop: int
    last: bool


class _Worker:
    """A worker of an actor pool: opens its steps at the first unit and keeps them open.

    Several threads may call it, each with a unit; a step is in the hands of as many as its place allows.
    """

    def __init__(self, line: _Line) -> None:
        watcher.enlist()
        self.line = line
        self._stack = ExitStack()
        self._opening = threading.Lock()
        self._open: _Open | None = None

    def __call__(self, block: pa.Table) -> pa.Table:
        try:
            with self._opening:
                self._open = self._open or self._opened()
        except PenstockError as error:
            return envelope.outcome(Failure(envelope.unit_of(block), str(error), fatal=True))
        return _work(self.line, self._open, block)

    def _opened(self) -> _Open:
        pipeline = self.line.assignment.pipeline
        with bringing(tables.find):
            line = opened(self.line.assignment, self.line.first, self.line.stop, places.live)
            transforms = self._stack.enter_context(line)
        steps = pipeline.steps[self.line.first : self.line.stop]
        gates = [threading.Semaphore(step.place.concurrency) for step in steps]
        return _Open(transforms, gates, threading.Semaphore(pipeline.read.concurrency))


@dataclass(frozen=True)
class _Open:
    """The live steps of a worker, each with the gate that lets in as many threads as its place allows."""

    transforms: list[Transform]
    gates: list[threading.Semaphore]
    reading: threading.Semaphore


_WORKERS: dict[tuple[str, int], _Worker] = {}
"""Of this process, by fingerprint and first step: a task finds the steps open that the task before it opened."""


def _task(block: pa.Table, line: _Line) -> pa.Table:
    key = (line.assignment.fingerprint + line.assignment.pipeline.sink.uri, line.first)
    worker = _WORKERS.get(key)
    if worker is None or worker.line != line:  # the source's columns or a limit may be others than in the run before
        worker = _WORKERS[key] = _Worker(line)
    return worker(block)


def _work(line: _Line, live: _Open, block: pa.Table) -> pa.Table:
    """Carry one block on: from a unit or a parcel to a parcel or an outcome."""
    found = envelope.opened(block)
    if isinstance(found, Unit):
        with live.reading:
            found = begin(line.assignment, found)
    for index, (transform, gate) in enumerate(zip(live.transforms, live.gates, strict=True), line.first):
        if isinstance(found, Parcel):
            with gate:
                found = step(line.assignment, index, transform, found)
    if line.last and isinstance(found, Parcel):
        found = finish(line.assignment, found)
    return envelope.parcel(found) if isinstance(found, Parcel) else envelope.outcome(found)
