"""``penstock tune FILE``: search the best settings of a training by Ray Tune."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from penstock.commands.telling import Changes, File, err, out, told
from penstock.core import plan, spec
from penstock.core.dataset import existing
from penstock.core.nouns import Pipeline
from penstock.core.spec import Spec, Tune
from penstock.errors import PlanError, RunError
from penstock.progress import heard_for, watch_for
from penstock.report.search import build
from penstock.runners.ray import Ray
from penstock.runners.tune import searched
from penstock.trainings.search import Ended, Trial, best, changes, needed, recall, short, trials

__all__ = ["tune"]

_NEEDS = ("ray", "pandas", "jinja2", "plotly")


def tune(
    file: File,
    settings: Changes = None,
    page: Annotated[Path | None, typer.Option(help="The page; else tune.html beside the file.")] = None,
    search_only: Annotated[
        bool, typer.Option("--search-only", help="Write best.toml, and do not train by it.")
    ] = False,
) -> None:
    """Search the best settings of a training, as [tune] says, on Ray; trials that fall behind are stopped early.

    Writes best.toml, the file with the best settings, beside it, and trains by it with all workers. A search that
    was killed goes on when it is called again: trials that have ended are not tried again.
    """
    with told():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        _installed()
        before = dict(change.partition("=")[::2] for change in settings or ())
        found, drawn = spec.load(file, before), trials(file, before)
        wanted = _wanted(found)
        carrier = found.runner if isinstance(found.runner, Ray) else Ray()
        plan.admit_fit(replace(drawn[0].fit, place=replace(drawn[0].fit.place, replicas=(1, 1))), carrier.resources())
        with carrier.session():
            ended = _searched(drawn, wanted, carrier)
            winner = best(ended, wanted)
            if winner is None:
                raise RunError(f"no trial told of '{wanted.metric}'; what the training tells: {_metrics(ended)}")
            _show(ended, winner, wanted)
            where = build(ended, winner, wanted, page or file.with_name("tune.html"), file.name)
            out.print(f"page: {where.absolute().as_uri()}")
            settled = replace(spec.load(file, {**before, **changes(winner.values)}), tune=None)
            spec.dump(settled, file.with_name("best.toml"))
            out.print(f"best settings: {file.with_name('best.toml')}")
            if not search_only:
                _trained(settled, wanted.train, carrier)


def _installed() -> None:
    """What is missing is told before hours of work, and not after them."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        raise PlanError(f"tune needs {', '.join(missing)}, not installed here: pip install 'penstock[train,report]'")


def _wanted(found: Spec) -> Tune:
    assert found.tune is not None  # `trials` has looked
    return found.tune


def _searched(drawn: Sequence[Trial], wanted: Tune, carrier: Ray) -> list[Ended]:
    """How all trials went, those that had ended before among them, by their numbers."""
    known = [ended for trial in drawn if (ended := recall(trial))]
    left = [trial for trial in drawn if trial.number not in {ended.number for ended in known}]
    if known:
        err.print(f"{len(known)} of {len(drawn)} trials have ended before")
    for pipeline in {p.sink.uri: p for trial in left for p in trial.pipelines}.values():
        _run(pipeline, carrier)
    fresh = searched(left, wanted, lambda ended: _tell(ended, wanted, len(drawn)))
    return sorted([*known, *fresh], key=lambda ended: ended.number)


def _run(pipeline: Pipeline, carrier: Ray) -> None:
    plan.check(pipeline, carrier.resources())
    carrier.run(pipeline, watch_for(sys.stderr))


def _trained(settled: Spec, name: str, carrier: Ray) -> None:
    """Train anew, by all workers, on all data, for all epochs, at the file's own addresses."""
    pipelines, fit = needed(settled, name)
    for pipeline in pipelines:
        _run(pipeline, carrier)
    plan.admit_fit(fit, carrier.resources())
    with heard_for(sys.stderr, fit) as heard:
        carrier.train(fit, heard)
    out.print(f"[bold]{fit.name}[/]: trained -> {fit.training.uri} version {existing(fit.training.uri).version}")


# --- what is said ----------------------------------------------------------------------------------------


def _tell(ended: Ended, wanted: Tune, count: int) -> None:
    how = f"{wanted.metric} {ended.last(wanted.metric):.4g}" if ended.lines else ended.error
    words = ", ".join(f"{name} {value}" for name, value in short(ended.values).items())
    err.print(f"trial {ended.number} of {count} ({words}): {ended.state}, {how}", markup=False)


def _show(ended: Sequence[Ended], winner: Ended, wanted: Tune) -> None:
    table = Table(box=None, padding=(0, 2))
    for name in ("trial", *short(winner.values), wanted.metric, "epochs", "seconds", ""):
        table.add_column(name, justify="right")
    sign = -1 if wanted.mode == "max" else 1
    for each in sorted(ended, key=lambda one: (not one.lines, sign * one.last(wanted.metric))):
        epochs = f"{each.lines[-1]['epoch']:g}" if each.lines else "0"
        state = "[bold green]best[/]" if each.number == winner.number else each.state
        values = [str(value) for value in short(each.values).values()]
        last = f"{each.last(wanted.metric):.4f}"
        table.add_row(str(each.number), *values, last, epochs, f"{each.seconds:.1f}", state)
    out.print(table)


def _metrics(ended: Sequence[Ended]) -> str:
    return ", ".join(sorted({name for each in ended for line in each.lines for name in line})) or "nothing"
