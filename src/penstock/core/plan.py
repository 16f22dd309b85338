"""The plan: what will run, where, and how much, before anything starts. Frozen data, no work.

Nothing starts that cannot finish: `check` folds the schemas down the line, adds up the resources,
looks at weights, licences and the output's place, and estimates rows, memory and disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from importlib.util import find_spec
from itertools import accumulate
from operator import mul
from typing import Any, Literal

import pyarrow as pa

from penstock.core.dataset import is_promised
from penstock.core.nouns import Fit, Licence, Multiplying, Pipeline, Place, Sampled, Source, Stream, Unit, Weighted
from penstock.core.plugins import installing
from penstock.core.storage import store_of
from penstock.errors import PenstockError, PlanError, SchemaError

__all__ = ["Estimate", "Operator", "Plan", "Resources", "check", "operators", "packaged", "schemas", "weighed"]

_SAMPLE_BYTES = 8 << 20
_SHARED_BYTES = 1 << 30
"""Larger weights may stay in the pages of their file, which all workers of a node share (see `models.packed`)."""
_NARROW = {"bfloat16": 2, "float16": 2, "int8": 4}
"""How many times smaller weights become that are computed with in these formats."""


@dataclass(frozen=True)
class Resources:
    """What a runner can use.

    Attributes:
        what: whose they are, for messages.
        here: whether the work is done on this machine, whose packages can be looked at.
        node_memory_bytes: of the largest node; 0 where that is all of it.
    """

    cpus: float
    gpus: float
    memory_bytes: int
    what: str
    here: bool = True
    node_memory_bytes: int = 0


@dataclass(frozen=True)
class Operator:
    """Neighbouring steps that run in the same workers.

    Attributes:
        kind: ``task`` for stateless workers, ``actor`` for a pool.
        first, stop: the range of steps; the first operator reads too, the last one writes too.
        place: what one worker takes, and how many there are.
        concurrency: how many units one worker may have in hand at once; a step of it, as many as its place says.
    """

    kind: Literal["task", "actor"]
    first: int
    stop: int
    place: Place
    concurrency: int = 1


@dataclass(frozen=True)
class Estimate:
    """How much there will be; None where it cannot be told without reading everything."""

    units: int
    bytes_in: int
    largest_unit_bytes: int
    empty_units: int
    rows: int | None
    bytes_out: int | None
    worker_memory_bytes: int | None
    batch_bytes: int | None = None
    """Of *worker_memory_bytes* what the largest units take, all that a worker has in hand."""


@dataclass(frozen=True)
class Plan:
    """All that is known before a run."""

    pipeline: Pipeline
    schemas: tuple[pa.Schema, ...]
    operators: tuple[Operator, ...]
    resources: Resources
    arithmetic: str
    estimate: Estimate
    licences: tuple[Licence, ...]
    free_bytes: int | None
    warnings: tuple[str, ...]


def schemas(pipeline: Pipeline) -> tuple[pa.Schema, ...]:
    """The columns after the source and after each step.

    Raises:
        SchemaError: a step or the sink cannot take what the step before it gives.
    """
    return folded(pipeline, "sink", pipeline.sink.schema)


def folded(line: Pipeline | Stream, end: str, take: Callable[[pa.Schema], Any]) -> tuple[pa.Schema, ...]:
    """The columns after the source and after each step of *line*, whose *end* is asked to *take* the last.

    Raises:
        SchemaError: a step or the end cannot take what the step before it gives.
    """
    found = [line.source.schema()]
    for index, step in enumerate(line.steps):
        try:
            found.append(step.stage.schema(found[-1]))
        except SchemaError as error:
            raise SchemaError(f"{line.name}, step {index + 1} ({step.name}): {error}") from error
    try:
        take(found[-1])
    except SchemaError as error:
        raise SchemaError(f"{line.name}, {end}: {error}") from error
    return tuple(found)


def operators(pipeline: Pipeline) -> tuple[Operator, ...]:
    """Fuse neighbouring steps into as few operators as their places allow.

    A ``function`` rides along with what stands before it, as does the client of a ``serve``; a ``task`` with another
    task, an ``actor`` or ``container`` with one of an equal place, apart from concurrency. Reading, when it is a
    ``function``, rides with the first step that has a place of its own, and so do the functions between them.
    """
    found = [Operator("task", 0, 0, Place("task") if pipeline.read.kind == "function" else pipeline.read)]
    settled = pipeline.read.kind != "function"
    for index, step in enumerate(pipeline.steps):
        last, place = found[-1], step.place
        kind: Literal["task", "actor"] = "actor" if place.is_pool else "task"
        if place.rides or (settled and kind == last.kind and _alike(place, last.place)):
            found[-1] = replace(last, stop=index + 1)
        elif settled:
            found.append(Operator(kind, index, index + 1, place))
        else:
            found, settled = [Operator(kind, 0, index + 1, place)], True
    return tuple(replace(o, concurrency=_concurrency(pipeline, o, reads=o is found[0])) for o in found)


def weighed(pipeline: Pipeline) -> tuple[Operator, ...]:
    """The operators, where a place says nothing of memory with what is known: the weights that a worker loads.

    Weights on a GPU do not count, nor those that the workers of a node may share, or that cannot be found from here.
    """
    return tuple(_weighed(pipeline, operator) for operator in operators(pipeline))


def _weighed(pipeline: Pipeline, operator: Operator) -> Operator:
    place, steps = operator.place, pipeline.steps[operator.first : operator.stop]
    if place.memory_bytes or place.gpus:
        return operator
    weights = sum(_own_weights(step.stage) for step in steps if isinstance(step.stage, Weighted))
    return replace(operator, place=replace(place, memory_bytes=weights))


def _own_weights(stage: Weighted) -> int:
    """Bytes of its weights that each worker has for itself, as far as they can be told."""
    try:
        found = stage.weights_bytes()
    except PenstockError:  # `licences` says so where it matters
        return 0
    return found // _NARROW.get(getattr(stage, "compute", ""), 1) if found <= _SHARED_BYTES else 0


def _alike(one: Place, other: Place) -> bool:
    """Whether the same workers can carry both; how many units each of them takes at once may differ."""
    return replace(one, concurrency=1) == replace(other, concurrency=1)


def _concurrency(pipeline: Pipeline, operator: Operator, *, reads: bool) -> int:
    """That of its most concurrent step, of which reading is one."""
    steps = [step.place.concurrency for step in pipeline.steps[operator.first : operator.stop]]
    return max([1, *steps, *([pipeline.read.concurrency] if reads else [])])


@dataclass(frozen=True)
class _Crew:
    """The fewest workers of an operator, and what each of them takes of something.

    Attributes:
        known: whether that is the weights, and not what the place says.
    """

    operator: Operator
    who: str
    count: int
    each: float
    known: bool


def admit(pipeline: Pipeline, resources: Resources) -> str:
    """The arithmetic by which the pipeline fits *resources*.

    Each pool holds its fewest workers all the time, and beside them the largest task must find room;
    otherwise the pools starve the tasks that feed them and the run hangs.
    Of memory counts what places say, else the weights that workers load.

    Raises:
        PlanError: it does not fit.
    """
    parts = operators(pipeline)
    _threaded(pipeline, parts)
    heavy, lines = weighed(pipeline), []
    for name, have in (("cpus", resources.cpus), ("gpus", resources.gpus), ("memory_bytes", resources.memory_bytes)):
        crews = [_crew(pipeline, *pair, name, resources) for pair in zip(parts, heavy, strict=True)]
        tasks = [crew for crew in crews if crew.operator.kind == "task"]
        counted = [crew for crew in crews if crew.operator.kind == "actor"] + _services(pipeline, name)
        counted += [max(tasks, key=lambda task: task.each)] if tasks else []
        need = sum(crew.count * crew.each for crew in counted)
        if not need:
            continue
        line = f"{name}: {_sum(counted)} = {need:,.12g} of {have:,.12g} ({resources.what})"
        if need > have + 1e-9:  # three times 0.1 is more than 0.3
            raise PlanError(
                f"{pipeline.name} would never finish: its pools and the largest task beside them need more than "
                f"there is.\n  {line}\n  {_remedy(name, counted)}"
            )
        lines.append(line)
    _housed(pipeline, parts, heavy, resources)
    return "\n".join(lines)


def _crew(pipeline: Pipeline, bare: Operator, heavy: Operator, name: str, resources: Resources) -> _Crew:
    """What *bare* takes of *name*; *heavy* is the same operator with the weights that are known."""
    who, each = _called(pipeline, bare), getattr(heavy.place, name)
    known = each != getattr(bare.place, name)
    alone = known and resources.cpus == float("inf")  # one process opens each step once
    count = bare.place.replicas[0] if bare.kind == "actor" and not alone else 1
    return _Crew(bare, f"weights of {who}" if known else who, count, each, known)


def _services(pipeline: Pipeline, name: str) -> list[_Crew]:
    """The replicas of the services that the run sets up, and what each takes of something.

    All that there may be count: a replica that was lost must find room while the tasks that wait for it hold theirs.
    """
    places = [(at, step, step.place) for at, step in enumerate(pipeline.steps) if step.place.kind == "serve"]
    return [
        _Crew(Operator("actor", at, at + 1, place), f"service of {step.name}", place.replicas[1], each, known=False)
        for at, step, place in places
        if (each := getattr(place, name)) and not place.address
    ]


def _sum(crews: Sequence[_Crew]) -> str:
    """The summands in words: pools with their workers, a task alone."""
    times = [f" {crew.count} x" if crew.operator.kind == "actor" else "" for crew in crews]
    return " + ".join(
        f"{crew.who}{each} {crew.each:,.12g}" for crew, each in zip(crews, times, strict=True) if crew.each
    )


def _remedy(name: str, crews: Sequence[_Crew]) -> str:
    if any(crew.known for crew in crews):
        return "lower replicas, choose smaller weights, or give the runner more memory"
    return f"lower replicas or {name} of a place, or give the runner more"


def _housed(pipeline: Pipeline, parts: Sequence[Operator], heavy: Sequence[Operator], resources: Resources) -> None:
    """A worker is on one node. Raises `PlanError` when the largest node has no room for one."""
    have = resources.node_memory_bytes
    for pair in zip(parts, heavy, strict=True):
        crew = _crew(pipeline, *pair, "memory_bytes", resources)
        if have and crew.each > have:
            raise PlanError(
                f"{pipeline.name} would never finish: no node has room for one worker.\n"
                f"  memory_bytes: {crew.who} 1 x {crew.each:,.12g} of {have:,.12g} on the largest node "
                f"({resources.what})\n  {_remedy('memory_bytes', [crew])}"
            )


def _threaded(pipeline: Pipeline, parts: Sequence[Operator]) -> None:
    """Only actors have several units in hand: a task lives for one unit. Raises `PlanError`."""
    for operator in parts:
        if operator.kind == "task" and operator.concurrency > 1:
            raise PlanError(
                f"{pipeline.name}: {_called(pipeline, operator)} runs as tasks, which have one unit each, "
                f'and concurrency is {operator.concurrency}; give one of these steps place = {{ kind = "actor" }}'
            )


def _called(pipeline: Pipeline, operator: Operator) -> str:
    names = [step.name for step in pipeline.steps[operator.first : operator.stop]]
    reader = operators(pipeline)[0]
    reads = (operator.first, operator.stop) == (reader.first, reader.stop)
    return "+".join(["read"] * reads + names)


def licences(pipeline: Pipeline | Stream) -> tuple[Licence, ...]:
    """The licences of all weights in the line.

    Raises:
        WeightsError: weights are not there.
        PlanError: a licence forbids commercial use and the pipeline does not allow that.
    """
    found = [licence for s in pipeline.steps if isinstance(s.stage, Weighted) for licence in s.stage.licences()]
    for licence in found:
        if licence.commercial is False and not pipeline.allow_noncommercial:
            raise PlanError(
                f"{pipeline.name}: the licence of {licence.what} is {licence.name}, which forbids commercial use; "
                "choose other weights, or set allow_noncommercial = true if that is fine for you"
            )
    return tuple(found)


def admit_fit(fit: Fit, resources: Resources) -> str:
    """The arithmetic by which a training's workers fit *resources*; all of them are there all the time.

    Raises:
        PlanError: they do not fit, or lack a package.
    """
    lines = _at_once(fit.name, fit.place, resources)
    if resources.here:
        packaged(fit.name, fit.training)
    return lines


def admit_stream(stream: Stream, resources: Resources) -> str:
    """The arithmetic by which the actors that make a stream's rows fit *resources*.

    Raises:
        SchemaError: a step or the solver cannot take what the step before it gives.
        PlanError: they do not fit, or lack a package, or a licence forbids commercial use.
        WeightsError: weights are not there.
    """
    folded(stream, "solver", stream.into.schema)
    licences(stream)
    if resources.here:
        packaged(stream.name, stream.source, *(step.stage for step in stream.steps), stream.into)
    return _at_once(stream.name, Place.joint(stream.steps), resources)


def _at_once(what: str, place: Place, resources: Resources) -> str:
    """The arithmetic of as many workers as *place* has at most, who are there all the time."""
    workers, lines = place.replicas[1], []
    for name, have in (("cpus", resources.cpus), ("gpus", resources.gpus), ("memory_bytes", resources.memory_bytes)):
        each = getattr(place, name)
        line = f"{name}: {workers} x {each:,.12g} = {workers * each:,.12g} of {have:,.12g} ({resources.what})"
        if workers * each > have + 1e-9:
            raise PlanError(
                f"{what} would never start: its workers need more than there is.\n  {line}"
                f"\n  lower replicas or {name} of its place, or give the runner more"
            )
        lines += [line] if each else []
    return "\n".join(lines)


def equip(pipeline: Pipeline) -> None:
    """All packages are there that the parts need which run here. Raises `PlanError`."""
    here = [step.stage for step in pipeline.steps if step.place.kind != "container" and not step.place.address]
    packaged(pipeline.name, pipeline.source, *here, pipeline.sink)


def packaged(name: str, *parts: Any) -> None:
    """The packages that *parts* name in ``NEEDS`` are installed; nothing is imported.

    Raises:
        PlanError: one is not; *name* says for what.
    """
    for part in parts:
        missing = [package for package in getattr(part, "NEEDS", ()) if find_spec(package) is None]
        if missing:
            raise PlanError(
                f"{name}: {type(part).__name__.lower()} needs {', '.join(missing)}, which is not installed; "
                f"{installing(part.NEEDS)}, and `penstock doctor` says what else is missing"
            )


def check(pipeline: Pipeline, resources: Resources) -> Plan:
    """Everything that can be known before a run, or the reason why it cannot finish.

    Raises:
        PlanError, SchemaError, WeightsError, StorageError: it cannot finish, and why.
    """
    arithmetic = admit(pipeline, resources)
    if resources.here:
        equip(pipeline)
    line = schemas(pipeline)
    terms = licences(pipeline)
    free = store_of(pipeline.sink.uri).free_bytes(pipeline.sink.uri)
    estimated = _estimated(pipeline, line)
    if free is not None and estimated.bytes_out is not None and estimated.bytes_out > free:
        raise PlanError(
            f"{pipeline.name}: about {estimated.bytes_out:,} bytes will be written below {pipeline.sink.uri}, "
            f"{free:,} are free there; free some space or choose another place"
        )
    return Plan(
        pipeline,
        line,
        operators(pipeline),
        resources,
        arithmetic,
        estimated,
        terms,
        free,
        (
            *_warnings(pipeline.source.uri, estimated, terms, resources),
            *_crowded(pipeline, estimated, resources),
            *_tight(estimated, free),
        ),
    )


def _estimated(pipeline: Pipeline, line: Sequence[pa.Schema]) -> Estimate:
    """The estimate; unknown where the source is a dataset that an earlier pipeline has yet to make."""
    if is_promised(pipeline.source.uri):
        return Estimate(0, 0, 0, 0, None, None, None)
    return estimate(pipeline, line)


def _warnings(source: str, estimated: Estimate, terms: Sequence[Licence], resources: Resources) -> tuple[str, ...]:
    found = [f"the licence of {t.what} is not stated: {t.name}" for t in terms if t.commercial is None]
    if estimated.empty_units:
        found.append(f"{estimated.empty_units} files are empty")
    if estimated.units == 0 and not is_promised(source):
        found.append("the source has no units: the dataset will be empty")
    if estimated.worker_memory_bytes and estimated.worker_memory_bytes > resources.memory_bytes:
        found.append(
            f"the largest unit may take {estimated.worker_memory_bytes:,} bytes of memory in a worker, "
            f"there are {resources.memory_bytes:,}; lower unit_bytes"
        )
    return tuple(found)


def _crowded(pipeline: Pipeline, estimated: Estimate, resources: Resources) -> tuple[str, ...]:
    """Whether memory may run out when all pools are as large as they may be, each worker with its largest units."""
    pools = [o for o in weighed(pipeline) if o.kind == "actor"]
    batch = estimated.batch_bytes
    if batch is None or resources.cpus == float("inf"):
        return ()
    crews = [(_called(pipeline, o), _most(o.place, resources), o.place.memory_bytes) for o in pools]
    total = sum(count * (own + batch) for _, count, own in crews)
    if total <= resources.memory_bytes:
        return ()
    sums = " + ".join(f"{who} {count} x ({own:,} + {batch:,} of units)" for who, count, own in crews)
    return (
        f"memory may run out when all workers are there: {sums} = {total:,} of {resources.memory_bytes:,} bytes "
        f"({resources.what}); lower the most of replicas, concurrency or unit_bytes",
    )


def _most(place: Place, resources: Resources) -> int:
    """How many workers there can be at once, by what they reserve."""
    ways = ((place.cpus, resources.cpus), (place.gpus, resources.gpus))
    return min([place.replicas[1], *(max(1, int(have / each + 1e-9)) for each, have in ways if each)])


def _tight(estimated: Estimate, free: int | None) -> tuple[str, ...]:
    """Small parts and the files that they are packed into stand side by side for a while."""
    if free is None or estimated.bytes_out is None or 2 * estimated.bytes_out <= free:
        return ()
    return (
        f"about {estimated.bytes_out:,} bytes will be written, and as much again while small parts are packed; "
        f"{free:,} are free",
    )


def estimate(pipeline: Pipeline, line: Sequence[pa.Schema]) -> Estimate:
    """Count the units as a stream and scale up a sample of the first one that has rows."""
    count = total = largest = empty = 0
    first: Unit | None = None
    for unit in pipeline.units():
        count, total, largest = count + 1, total + unit.size_bytes, max(largest, unit.size_bytes)
        empty += unit.size_bytes == 0
        first = first or (unit if unit.size_bytes else None)
    weights = sum(s.stage.weights_bytes() for s in pipeline.steps if isinstance(s.stage, Weighted))
    sampled = _sample(pipeline.source, first) if first else None
    if sampled is None:
        return Estimate(count, total, largest, empty, None, None, None)
    batch, taken = sampled
    share = batch.num_rows / max(taken, 1)
    text = batch.nbytes / max(batch.num_rows, 1)
    counts = _row_counts(pipeline)
    widths = [_row_bytes(schema, text) * each for schema, each in zip(line, counts, strict=True)]
    in_hand = max(operator.concurrency for operator in operators(pipeline))
    batches = int(largest * share * sum(widths)) * in_hand
    rows, bytes_out = round(total * share * counts[-1]), int(total * share * widths[-1])
    return Estimate(count, total, largest, empty, rows, bytes_out, batches + weights, batches)


def _row_counts(pipeline: Pipeline) -> list[float]:
    """Rows after the source and after each step, for each row of the source."""
    each = (s.stage.rows_per_row() if isinstance(s.stage, Multiplying) else 1.0 for s in pipeline.steps)
    return list(accumulate(each, mul, initial=1.0))


def _sample(source: Source, unit: Unit) -> tuple[pa.Table, int] | None:
    """A few rows and the bytes they took; None when that would cost too much or fails.

    What fails here fails again in the run, where it costs one unit and not the plan.
    """
    try:
        if isinstance(source, Sampled):
            return source.sample(unit)
        return (source.read(unit), unit.size_bytes) if unit.size_bytes <= _SAMPLE_BYTES else None
    except Exception:  # the boundary to other people's sources
        return None


def _row_bytes(schema: pa.Schema, source_row_bytes: float) -> float:
    """Bytes of a row: fixed widths are known, the others together are as wide as the source's row."""
    fixed = [_width(field.type) for field in schema]
    return reduce(lambda total, width: total + (width or 0), fixed, 0.0) + (source_row_bytes if None in fixed else 0.0)


def _width(kind: pa.DataType) -> float | None:
    if isinstance(kind, pa.FixedShapeTensorType):
        return _width(kind.storage_type)
    if pa.types.is_fixed_size_list(kind):
        inner = _width(kind.value_type)
        return None if inner is None else inner * kind.list_size
    try:
        return float(kind.bit_width) / 8
    except ValueError:
        return None
