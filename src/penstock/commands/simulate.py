"""``penstock check --simulate nodes=128``: what a pipeline would do on other hardware, from what a run has measured."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from penstock.commands.telling import err, out
from penstock.core import spec
from penstock.core.dataset import newest
from penstock.core.nouns import Pipeline, Runner, Sink
from penstock.core.plan import Resources, admit
from penstock.core.simulation import Forecast, Hardware, Profile, forecast
from penstock.errors import PlanError, SpecError
from penstock.report import pools, story

__all__ = ["foretold", "hardware", "predicted", "sampled"]

_SAMPLE = "-sample"
_ADAPTER = TypeAdapter(Hardware)


def hardware(words: str, here: Resources) -> Hardware:
    """Hardware by its words, ``nodes=128,cpus=32,usd_per_hour=3.1``; a node is like this machine where nothing is said.

    Raises:
        SpecError: a word is not known, or its value makes no sense.
    """
    known = [f.name for f in fields(Hardware)]
    given = dict(word.strip().partition("=")[::2] for word in words.split(",") if word.strip())
    if odd := [name for name in given if name not in known]:
        raise SpecError(f"--simulate: '{odd[0]}' is not known; known are {', '.join(known)}, as in nodes=128,cpus=32")
    cores = here.cpus if here.cpus != float("inf") else float(os.cpu_count() or 1)
    gpus = here.gpus if here.gpus != float("inf") else 0.0
    try:
        return _ADAPTER.validate_python({"cpus": cores, "gpus": gpus, **given})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or words
        raise SpecError(f"--simulate: {where}: {first['msg']}; found {first['input']!r}") from error


def sampled(lines: Sequence[spec.Line], units: int) -> Iterator[spec.Line]:
    """The pipelines that can run now, over their first *units*, each into a dataset of its own beside the real one."""
    coming = {spec.written(line) for line in lines}
    for line in lines:
        if not isinstance(line, Pipeline):
            continue
        if any(uri in coming and newest(uri) is None for uri in spec.read_by(line)):
            err.print(f"{line.name}: no sample, since it reads what another pipeline has yet to make")
            continue
        yield replace(line, max_units=min(units, line.max_units or units), sink=_beside(line.sink))


def _beside(sink: Sink) -> Sink:
    return replace(sink, uri=sink.uri.rstrip("/") + _SAMPLE)  # type: ignore[type-var]


def foretold(lines: Sequence[spec.Line], words: str, carrier: Runner) -> None:
    """Print what the pipelines among *lines* would do.

    Raises:
        PlanError: nothing was measured yet, or the hardware is too small.
        SpecError: *words* cannot be understood.
    """
    given = hardware(words, carrier.resources())
    for line in lines:
        if isinstance(line, Pipeline):
            _show(line, given, predicted(line, given))


def predicted(pipeline: Pipeline, given: Hardware) -> Forecast:
    """What *pipeline* would do on *given*. Raises `PlanError` when it does not fit, or nothing was measured yet."""
    admit(pipeline, given.resources)
    run = _measured(pipeline)
    keys = set(run.traces["unit"].to_pylist())
    sizes, known = [], {}
    for unit in pipeline.units():
        sizes.append(float(unit.size_bytes))
        if unit.key in keys:
            known[unit.key] = float(unit.size_bytes)
    found = pools.profile(run, known)
    _same_line(pipeline, found)
    return forecast(pipeline, found, np.array(sizes), given)


def _measured(pipeline: Pipeline) -> story.Run:
    """The newest run that did something, of the dataset itself or of its sample."""
    root = pipeline.sink.uri.rstrip("/")
    for uri in (root, root + _SAMPLE):
        run = story.telling(story.runs(uri)) if newest(uri) else None
        if run is not None and run.traces.num_rows:
            return run
    raise PlanError(
        f"{pipeline.name}: nothing was measured yet, neither for {root} nor for a sample of it; "
        f"measure one with the runner that will carry it out: penstock run FILE --only {pipeline.name} --sample 20"
    )


def _same_line(pipeline: Pipeline, found: Profile) -> None:
    steps = ("read", *(f"{at}-{step.name}" for at, step in enumerate(pipeline.steps, 1)), "write")
    if found.steps != steps:
        raise PlanError(
            f"{pipeline.name}: what was measured is another line, {', '.join(found.steps)} and not {', '.join(steps)}; "
            f"measure it again: penstock run FILE --only {pipeline.name} --sample 20"
        )


def _show(pipeline: Pipeline, given: Hardware, told: Forecast) -> None:
    title = f"{pipeline.name}, simulated on {given.nodes} nodes with {given.cpus:g} cpus and {given.gpus:g} gpus each"
    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    table.add_row("units", f"{told.units:,}, {told.units_per_second:,.4g} a second")
    table.add_row(
        "time", f"{_time(told.seconds)}, {told.start_seconds + told.end_seconds:.1f} s of it start and commit"
    )
    price = f", {told.usd:,.2f} USD" if given.usd_per_hour else ""
    table.add_row("cost", f"{told.node_hours:,.4g} node hours{price}")
    for load in told.loads:
        table.add_row(f"  {load.name}", f"{load.workers:,} workers, busy {load.busy_share:.0%}")
    table.add_row("limit", _limit(pipeline, told))
    out.print(table)


def _limit(pipeline: Pipeline, told: Forecast) -> str:
    if told.limit == "storage":
        return "the storage's bandwidth"
    if told.limit == "driver":
        return "the driver, which hands out units; larger units (unit_bytes) would run faster"
    workers = next(load.workers for load in told.loads if load.name == told.limit)
    bound = any(step.place.kind == "actor" and step.place.replicas[1] == workers for step in pipeline.steps)
    return f"{told.limit}" + (f"; its place allows no more than {workers} replicas" if bound else "")


def _time(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {name}"
    return f"{seconds:.1f} s"
