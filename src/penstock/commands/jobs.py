"""``penstock jobs list | logs | cancel``: what clusters do for us, as they know it, without a run of ours."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from penstock.commands.clusters import ClusterWords, clusters_of, words_of
from penstock.commands.telling import err, out, told
from penstock.core.nouns import Cluster, JobState, Listed, Lists
from penstock.errors import JobError

__all__ = ["jobs"]

jobs = typer.Typer(no_args_is_help=True, help="List the jobs on clusters, follow what they print, cancel them.")

FileArgument = Annotated[Path | None, typer.Argument(help="A pipeline file, for its clusters.", show_default=False)]
FileOption = Annotated[Path | None, typer.Option("--file", "-f", help="A pipeline file, for its clusters.")]

_COLOURS = {
    JobState.PENDING: "yellow",
    JobState.RUNNING: "cyan",
    JobState.DONE: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "magenta",
    JobState.UNKNOWN: "dim",
}
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True)
class _Found:
    cluster: Cluster
    job: Listed


@jobs.command(name="list")
def list_(file: FileArgument = None, cluster: ClusterWords = None) -> None:
    """The jobs of a pipeline file's clusters, of those named, or else of this machine."""
    with told():
        found = list(_all(clusters_of(file, cluster)))
    if not found:
        out.print("no jobs")
        return
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for column in ("cluster", "id", "name", "state", "attempt", "since", "reason"):
        table.add_column(column, overflow="fold")
    for one in found:
        table.add_row(words_of(one.cluster), *_cells(one.job))
    wide = out if sys.stdout.isatty() else Console(highlight=False, width=1000)  # programs want a line for each job
    wide.print(table)


def _cells(job: Listed) -> tuple[str, ...]:
    state = f"[{_COLOURS[job.state]}]{job.state.value}[/]"
    items = f" ({job.items} items)" if job.items > 1 else ""
    since = datetime.fromtimestamp(job.since, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    return job.id, escape(job.name) + items, state, str(job.attempt), since, escape(job.why)


def _all(clusters: Sequence[Cluster]) -> Iterator[_Found]:
    for cluster in clusters:
        if not isinstance(cluster, Lists):
            raise JobError(f"the cluster '{words_of(cluster)}' keeps no list of jobs; ask its scheduler")
        yield from (_Found(cluster, job) for job in cluster.jobs())


@jobs.command()
def logs(
    job: Annotated[str, typer.Argument(metavar="ID", help="A job's id, its beginning, or its name.")],
    *,
    file: FileOption = None,
    cluster: ClusterWords = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job has ended.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="What it wrote to its standard error.")] = False,
    item: Annotated[int | None, typer.Option("--item", help="Of a job with several items, which one.")] = None,
) -> None:
    """Print what a job has printed; exit status 1 when a job that was followed has not ended well."""
    name = ("stderr" if stderr else "stdout") + ("" if item is None else f".{item}")
    with told():
        found = _one(clusters_of(file, cluster), job)
        if found.job.items > 1 and item is None:
            raise JobError(f"job {found.job.id} has {found.job.items} items; choose one by --item 0")
        state = _printed(found, name, follow)
    if follow and state is not JobState.DONE:
        err.print(f"[red]the job is {state.value}[/]")
        raise typer.Exit(1)


def _printed(found: _Found, name: str, follow: bool) -> JobState:
    """Print the file *name* to its end; while *follow*, until the job has ended. How it stands then."""
    offset, pause = 0, _PAUSE_SECONDS
    while True:
        # The state first: what is printed until then is there when the file is read.
        state = found.cluster.poll([found.job.id])[found.job.id].state
        offset = _rest(found, name, offset)
        if state.final or not follow:
            return state
        time.sleep(pause)
        pause = min(pause * 1.2, 10.0)


def _rest(found: _Found, name: str, offset: int) -> int:
    """Print what is there from *offset* on; the next offset."""
    assert isinstance(found.cluster, Lists)  # _all has looked
    while True:
        text, after = found.cluster.log(found.job.id, name, offset)
        sys.stdout.write(text)
        sys.stdout.flush()
        if after == offset:
            return offset
        offset = after


@jobs.command()
def cancel(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of jobs, their beginnings, or their names.")],
    file: FileOption = None,
    cluster: ClusterWords = None,
) -> None:
    """End jobs; one that has ended is left as it is."""
    with told():
        clusters = clusters_of(file, cluster)
        for found in [_one(clusters, name) for name in ids]:
            found.cluster.cancel(found.job.id)
            out.print(f"{found.job.id}: told to end")


def _one(clusters: Sequence[Cluster], name: str) -> _Found:
    """The job of that id, else the only one whose id or last part of it begins so, or that is called so."""
    every = list(_all(clusters))
    exact = [one for one in every if one.job.id == name]
    found = exact or [one for one in every if _begins(one.job, name) or one.job.name == name]
    if len(found) == 1:
        return found[0]
    where = ", ".join(words_of(cluster) for cluster in clusters)
    if not found:
        raise JobError(f"there is no job {name} on {where}; 'penstock jobs list' shows those that there are")
    raise JobError(f"{name} may be {', '.join(one.job.id for one in found)}; give the whole id")


def _begins(job: Listed, name: str) -> bool:
    return job.id.startswith(name) or any(word.startswith(name) for word in job.id.split("/")[-2:])
