"""``penstock stage``: one stage by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from penstock.commands.telling import err, out, told
from penstock.core import spec
from penstock.core.nouns import Pipeline, Report
from penstock.core.recording import folder, step_of
from penstock.core.replay import Difference, Played
from penstock.core.replay import replay as replay_all
from penstock.core.storage import join, store_of
from penstock.errors import SpecError

__all__ = ["recorded", "recording", "stage"]

stage = typer.Typer(no_args_is_help=True, help="One stage by itself, without a pipeline.")


@stage.callback()
def _stage() -> None:
    """One stage by itself, without a pipeline."""


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
