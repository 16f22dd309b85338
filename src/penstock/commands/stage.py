"""``penstock stage``: one stage by itself."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from penstock.commands.telling import err, out, told
from penstock.core import spec
from penstock.core.nouns import Pipeline, Report, Step
from penstock.core.plan import packaged
from penstock.core.recording import folder, step_of
from penstock.core.replay import Difference, Played, stage_of
from penstock.core.replay import replay as replay_all
from penstock.core.storage import join, store_of
from penstock.errors import SpecError
from penstock.serving.single import on_http, on_pipes, private_output

__all__ = ["recorded", "recording", "stage"]


class _Stages(TyperGroup):
    """``penstock stage clean ...`` is ``penstock stage run clean ...``: a stage's name stands for what it does."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that *args* begin with, `run` where they begin with none of them."""
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["run", *args])


stage = typer.Typer(cls=_Stages, no_args_is_help=True, help="One stage by itself, without a pipeline.")


@stage.callback()
def _stage() -> None:
    """One stage by itself, without a pipeline."""


@stage.command()
def run(
    name: Annotated[str, typer.Argument(help="The stage, as in a pipeline file.", show_default=False)],
    config: Annotated[str, typer.Option(help="Its fields, as JSON.", metavar="JSON")] = "{}",
    http: Annotated[int, typer.Option(help="Answer POST /rows at this port.", metavar="PORT")] = 0,
    host: Annotated[str, typer.Option(help="With --http: where to listen.")] = "127.0.0.1",
    most_bytes: Annotated[int, typer.Option(help="With --http: larger requests are refused.")] = 1 << 28,
) -> None:
    """Answer batches: Arrow IPC in and out, on standard input and output, or over HTTP.

    `penstock stage clean --config '{"alphabet": "dna"}' < in.arrow > out.arrow`. What comes out is one Arrow stream for
    each that goes in; where rows are refused, a second one with these follows it. Containers are fed by this.
    """
    with told():
        step = Step(stage_of({"use": name, **_fields(config)}))
        packaged(f"stage {name}", step.stage)
        if http:
            with on_http(step, host, http, most_bytes) as server:
                err.print(f"{name} answers at http://{host}:{server.server_port}/rows")
                server.serve_forever()
        with private_output() as ours:
            on_pipes(step, sys.stdin.buffer, ours)


def _fields(config: str) -> dict[str, Any]:
    try:
        found = json.loads(config)
    except ValueError as error:
        raise SpecError(f"--config is no JSON: {error}") from error
    if not isinstance(found, dict) or "use" in found:
        raise SpecError('--config must be a JSON object of the stage\'s fields, such as {"alphabet": "dna"}')
    return found


@stage.command()
def replay(
    recording_folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="What `penstock run --record STEP` kept.", show_default=False)
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field of the stage.", metavar="FIELD=VALUE")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Numbers are equal when they differ by no more, absolutely or relatively.", min=0.0)
    ] = 0.0,
    profile: Annotated[bool, typer.Option("--profile", help="Say how long each batch took, and the memory.")] = False,
) -> None:
    """Run a recorded step on its recorded batches; the exit status is 1 when something comes out otherwise."""
    with told():
        pairs = [change.partition("=") for change in changes or ()]
        if wrong := [key for key, sign, _ in pairs if not sign]:
            raise SpecError(f"--set {wrong[0]}: a field and a value were needed, as --set batch_size=8")
        units = list(replay_all(recording_folder.rstrip("/"), {key: value for key, _, value in pairs}, tolerance))
        _show(units)
        if profile:
            _profile(units)
        differ = sum(bool(unit.differences) for unit in units)
        within = f" within {tolerance:g}" if tolerance else ""
        if differ:
            err.print(f"[red]{differ} of {len(units)} units differ{within}[/]")
            raise typer.Exit(1)
        out.print(f"[green]equal{within}[/]: {len(units)} units, {sum(unit.rows for unit in units):,} rows")


def recording(lines: list[spec.Line], step: str, units: int) -> list[spec.Line]:
    """The same lines, of which those that have *step* record it. Raises `SpecError` when none has."""
    if units < 1:
        raise SpecError(f"--record-units is {units}; at least one unit can be recorded")
    found, places, refusals = list(lines), [], []
    for place, line in enumerate(lines):
        if isinstance(line, Pipeline):
            try:
                found[place] = replace(line, record=str(step_of(line, step) + 1), record_units=units)
                places.append(place)
            except SpecError as error:
                refusals.append(error)
    if not places:
        raise refusals[0] if refusals else SpecError(f"no pipeline here has a step '{step}'")
    return found


def recorded(pipeline: Pipeline, report: Report) -> None:
    """Say where the recording is."""
    if not pipeline.record:
        return
    place = folder(pipeline, report.manifest.fingerprint)
    if store_of(place).entry(join(place, "recording.json")) is None:
        err.print(
            f"[yellow]nothing is recorded[/]: all units of {pipeline.name} were done before; write to another place, "
            f"by --set pipeline.{pipeline.name}.sink.uri=..."
        )
        return
    out.print(f"recorded; try that step again by: penstock stage replay {place}")


def _show(units: list[Played]) -> None:
    for unit in units:
        for one in unit.differences:
            out.print(f"{unit.uri}: {_words(one)}", markup=False)


def _words(one: Difference) -> str:
    column = f"column '{one.column}': " if one.column else ""
    if not (one.column and one.rows):
        return f"{column}{one.what}"
    sizes = f"; at most by {one.most:.3g}, or {one.relative:.3g} of what it was" if one.most else ""
    return f"{column}{one.what} in {one.rows} rows, the first {one.first}{sizes}"


def _profile(units: list[Played]) -> None:
    table = Table(box=None, padding=(0, 2))
    for column in ("unit", "rows", "seconds", "recorded", "rows/s"):
        table.add_column(column)
    for unit in units:
        now, then = unit.seconds
        table.add_row(unit.uri, f"{unit.rows:,}", f"{now:.4f}", f"{then:.4f}", f"{unit.rows / max(now, 1e-9):,.0f}")
    out.print(table)
    out.print(f"peak memory of this process: {max((unit.rss_bytes for unit in units), default=0) / 1e6:,.0f} MB")
