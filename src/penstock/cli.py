"""The command line: ``penstock run pipeline.toml``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from rich.markup import escape
from rich.table import Table

from penstock.commands.copy import copy
from penstock.commands.gallery import gallery
from penstock.commands.infra import infra
from penstock.commands.jobs import jobs
from penstock.commands.judge import judge
from penstock.commands.observing import LogFile, MetricsFile, MetricsPort, Trace, TraceUnits, settings, warn
from penstock.commands.planes import planes
from penstock.commands.serve import serve
from penstock.commands.simulate import foretold, sampled
from penstock.commands.stage import recorded, recording
from penstock.commands.stage import stage as _stage
from penstock.commands.submit import submit
from penstock.commands.table import table as _table
from penstock.commands.telling import Changes, File
from penstock.commands.telling import err as _err
from penstock.commands.telling import out as _out
from penstock.commands.telling import told as _told
from penstock.commands.tune import tune
from penstock.commands.ui import ui
from penstock.core import plugins, spec
from penstock.core.dataset import existing, is_promised, promised, schema_of
from penstock.core.nouns import Fit, Report, Runner, Stream
from penstock.core.plan import Plan, admit_fit, admit_stream
from penstock.core.plan import check as check_plan
from penstock.telemetry import Around, Settings, observing

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
RunnerName = Annotated[str, typer.Option("--runner", help="Carry out by this runner instead of the file's.")]
Only = Annotated[list[str] | None, typer.Option("--only", help="Only these pipelines of the file.", metavar="NAME")]


def _version(asked: bool) -> None:
    if asked:
        _out.print(f"penstock {plugins.version_of('penstock')}", highlight=False)
        raise typer.Exit


@app.callback()
def main(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Tell the version, and go.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """From raw data through AI models on Ray to arrays for solvers, each unit exactly once."""


def _load(file: Path, changes: list[str] | None, runner: str) -> tuple[spec.Spec, Runner]:
    pairs = dict(change.partition("=")[::2] for change in changes or ())
    found = spec.load(file, pairs)
    chosen = plugins.load("runners", runner)() if runner else found.runner
    return found, chosen or plugins.load("runners", "inline")()


def _chosen(found: spec.Spec, only: list[str] | None) -> list[spec.Line]:
    return [found.line(name) for name in only] if only else list(found.lines)


@app.command()
def run(
    file: File,
    changes: Changes = None,
    runner: RunnerName = "",
    only: Only = None,
    *,
    sample: Annotated[
        int,
        typer.Option(
            help="Only the first so many units, into NAME-sample beside each dataset.", metavar="UNITS", min=0
        ),
    ] = 0,
    record: Annotated[
        str, typer.Option(help="Keep what goes into this step and comes out, for `stage replay`.", metavar="STEP")
    ] = "",
    record_units: Annotated[int, typer.Option(help="Of so many units.", metavar="UNITS")] = 3,
    metrics_port: MetricsPort = "",
    metrics_file: MetricsFile = "",
    trace: Trace = "",
    trace_units: TraceUnits = Settings.trace_units,
    log_file: LogFile = "",
) -> None:
    """Carry out the pipelines of a file; what is done already is skipped."""
    from penstock.report import build

    with _told():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        found, carrier = _load(file, changes, runner)
        lines = _chosen(found, only)
        lines = list(sampled(lines, sample)) if sample else lines
        lines = recording(lines, record, record_units) if record else lines
        for plan in _plans(lines, carrier):
            _warn(plan)
        observed = settings(metrics_port, metrics_file, trace, trace_units, log_file)
        with observing(observed, type(carrier).__name__.lower(), warn) as around, carrier.session():
            for line in lines:
                _carry_out(line, carrier, around)
        if found.report is not None and not only and not sample:
            page = build(found, file.with_name("report.html"), file=file.name)
            _out.print(f"report: {page.absolute().as_uri()}")


def _carry_out(line: spec.Line, carrier: Runner, around: Around) -> None:
    from penstock.progress import watch_for

    if isinstance(line, Fit):
        _train(line, carrier)
        return
    if isinstance(line, Stream):
        _feed(line, carrier)
        return
    done = carrier.run(line, around(watch_for(sys.stderr)))
    if not sys.stderr.isatty():  # else the display ends with the same words
        _summarise(done)
    recorded(line, done)


def _train(fit: Fit, carrier: Runner) -> None:
    from penstock.progress import heard_for

    with heard_for(sys.stderr, fit) as heard:
        carrier.train(fit, heard)
    _out.print(f"[bold]{fit.name}[/]: trained -> {fit.training.uri} version {existing(fit.training.uri).version}")


def _feed(stream: Stream, carrier: Runner) -> None:
    from penstock.progress import fed_for

    with fed_for(sys.stderr, stream) as heard:
        carrier.stream(stream, heard)
    _out.print(f"[bold]{stream.name}[/]: the solver has ended -> {stream.into.uri}")


def _summarise(report: Report) -> None:
    words = [f"{report.rows:,} rows", f"{report.units:,} units ({report.skipped:,} were done before)"]
    words += [f"[yellow]{report.bad_rows:,} rows quarantined[/]"] if report.bad_rows else []
    words += [f"[yellow]{report.bad_units:,} units failed[/]"] if report.bad_units else []
    version = f"{report.manifest.uri} version {report.manifest.version}"
    _out.print(f"[bold]{report.pipeline}[/]: {', '.join(words)}, {report.seconds:.1f} s -> {version}")


@app.command()
def check(
    file: File,
    changes: Changes = None,
    runner: RunnerName = "",
    only: Only = None,
    simulate: Annotated[
        str, typer.Option(help="Predict time, cost and bottleneck on other nodes.", metavar="nodes=128,cpus=32")
    ] = "",
) -> None:
    """Say what would run, where, and how much; refuse what cannot finish. Nothing is started."""
    with _told():
        found, carrier = _load(file, changes, runner)
        lines = _chosen(found, only)
        if simulate:
            foretold(lines, simulate, carrier)
            return
        for plan in _plans(lines, carrier):
            _show(plan)
        for line in lines:
            if isinstance(line, Fit):
                workers = line.place.replicas[1]
                _out.print(f"{line.name}: {workers} workers learn {line.training.uri} from {line.training.reads}")
            if isinstance(line, Stream):
                steps = " -> ".join(["read", *(step.name for step in line.steps), type(line.into).__name__.lower()])
                _out.print(f"{line.name}: {steps} -> {line.into.uri}")
        _out.print("[green]can run[/]")


def _plans(lines: list[spec.Line], carrier: Runner) -> Iterator[Plan]:
    """The plans in order; what an earlier pipeline or training will make is known by its schema.

    What a solver will leave is not: pipelines that read it are planned when it has ended.
    """
    resources = carrier.resources()
    coming: dict[str, pa.Schema] = {}
    unknown: set[str] = set()
    for line in lines:
        if unknown & {*spec.read_by(line)}:
            unknown.add(spec.written(line))
            continue
        with promised(coming):
            if isinstance(line, Fit):
                admit_fit(line, resources)
                schema = line.training.schema(schema_of(line.training.reads))
            elif isinstance(line, Stream):
                admit_stream(line, resources)
                unknown |= set() if line.into.done() else {spec.written(line)}
                continue
            else:
                plan = check_plan(line, resources)
                yield plan
                schema = line.sink.schema(plan.schemas[-1])
        coming = {**coming, spec.written(line): schema}


def _show(plan: Plan) -> None:
    table = Table(title=plan.pipeline.name, title_justify="left", show_header=False, box=None, padding=(0, 2))
    estimate = plan.estimate
    table.add_row("source", plan.pipeline.source.uri)
    known = f"{estimate.units:,}, {_bytes(estimate.bytes_in)}, the largest {_bytes(estimate.largest_unit_bytes)}"
    table.add_row("units", "known when the pipeline before has run" if is_promised(plan.pipeline.source.uri) else known)
    names = [f"{s.name} ({s.place.kind})" for s in plan.pipeline.steps]
    table.add_row("steps", " -> ".join(["read", *names, "write"]))
    for at, schema in enumerate(plan.schemas):
        who = plan.pipeline.steps[at - 1].name if at else "read"
        table.add_row(f"  after {who}", ", ".join(f"{f.name}: {_kind(f.type)}" for f in schema))
    if estimate.rows is not None and estimate.bytes_out is not None:
        free = "" if plan.free_bytes is None else f" of {_bytes(plan.free_bytes)} free"
        table.add_row("rows", f"about {estimate.rows:,}")
        table.add_row("output", f"about {_bytes(estimate.bytes_out)}{free} below {plan.pipeline.sink.uri}")
        table.add_row("memory", f"about {_bytes(estimate.worker_memory_bytes or 0)} for the largest unit in a worker")
    for licence in plan.licences:
        use = {True: "commercial use allowed", False: "NO commercial use", None: "use not stated"}[licence.commercial]
        table.add_row("weights", f"{licence.what}: {licence.name}, {use}")
    table.add_row("resources", plan.arithmetic)
    _out.print(table)
    _warn(plan)


def _warn(plan: Plan) -> None:
    for warning in plan.warnings:
        _err.print(f"[yellow]warning:[/] {plan.pipeline.name}: {warning}")


def _kind(kind: object) -> str:
    return (
        str(kind).replace("extension<arrow.fixed_shape_tensor", "tensor").removesuffix(">")
        if "extension" in str(kind)
        else str(kind)
    )


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="A pipeline file, or the address of a dataset.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
) -> None:
    """Build the page of a run: map, clusters, throughput, lineage, quarantined rows."""
    from penstock.report import build

    with _told():
        target = spec.load(run) if Path(run).suffix in (".toml", ".yaml", ".yml") else run
        _out.print(f"report: {build(target, out).absolute().as_uri()}")


@app.command()
def show(dataset: Annotated[str, typer.Argument(help="The address of a dataset.", show_default=False)]) -> None:
    """Print the manifest of a dataset."""
    with _told():
        print(existing(dataset).dump().decode())  # noqa: T201 (JSON for pipes)


@app.command()
def verify(dataset: Annotated[str, typer.Argument(help="The address of a dataset.", show_default=False)]) -> None:
    """Read every part of a dataset and hold it against the manifest."""
    from penstock.core.verify import verify as verify_dataset

    with _told():
        manifest = verify_dataset(dataset)
        _out.print(f"{manifest.uri}: version {manifest.version}, {manifest.rows:,} rows, every part is as committed")


@app.command()
def compact(
    dataset: Annotated[str, typer.Argument(help="The address of an HDF5 dataset.", show_default=False)],
    file: Annotated[Path, typer.Argument(help="The file to make.", show_default=False)],
) -> None:
    """Make one contiguous HDF5 file of a dataset, as parallel (mpio) readers need it."""
    from penstock.sinks.hdf5 import compact as compact_dataset

    with _told():
        compact_dataset(dataset, str(file))
        _out.print(f"{file}: {file.stat().st_size:,} bytes")


@app.command(name="list")
def list_() -> None:
    """List the sources, stages, sinks, clusters and runners that are installed."""
    for kind in plugins.KINDS:
        table = Table(title=kind, title_justify="left", show_header=False, box=None, padding=(0, 2))
        for name, point in plugins.named(kind).items():
            part = plugins.load(kind, name)
            table.add_row(name, (part.__doc__ or "").strip().split("\n")[0], f"[dim]{point.value}[/]")
        _out.print(table)


@app.command()
def schema() -> None:
    """Print the JSON Schema of pipeline files, for editors."""
    print(json.dumps(spec.json_schema(), indent=1))  # noqa: T201 (JSON for pipes)


@app.command()
def doctor() -> None:
    """Say what is installed, what is missing, and the command that mends it."""
    from penstock.doctor import examine

    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    table = Table(box=None, padding=(0, 2))
    for column in ("part", "state", "found", "mend"):
        table.add_column(column)
    findings = examine()
    for finding in findings:
        state = f"[{colours[finding.state]}]{finding.state}[/]"
        table.add_row(finding.name, state, escape(finding.found), escape(finding.mend))
    _out.print(table)
    raise typer.Exit(any(finding.state == "broken" for finding in findings))


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    print(version_of("penstock"))  # noqa: T201


app.command()(copy)
app.command()(submit)
app.command()(serve)
app.command()(tune)
app.command()(judge)
app.command()(gallery)
app.command()(ui)
app.add_typer(_table, name="table")
app.add_typer(planes, name="planes")
app.add_typer(_stage, name="stage")
app.add_typer(jobs, name="jobs")
app.add_typer(infra, name="infra")
