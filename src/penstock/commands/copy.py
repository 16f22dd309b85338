"""``penstock copy FROM TO``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from penstock.commands.telling import told
from penstock.core.copying import copy as copy_all

__all__ = ["copy"]


class _Bar:
    """One line on a terminal, in bytes."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress, self._task = progress, progress.add_task(name, total=None)

    def begin(self, files: int, size_bytes: int) -> None:
        self._progress.update(self._task, total=size_bytes, description=f"{files:,} files")

    def add(self, size_bytes: int) -> None:
        self._progress.advance(self._task, size_bytes)


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A file, folder or dataset.", show_default=False)],
    target: Annotated[str, typer.Argument(metavar="TO", help="Where it goes: a path or s3://.", show_default=False)],
    at_once: Annotated[int, typer.Option(help="How many files are under way at a time.", min=1)] = 16,
) -> None:
    """Copy a file, a folder or a dataset between paths and S3; what is there already is skipped.

    Parts of a dataset are held against its manifest on the way, and the manifest comes last.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    shown.disable = not sys.stderr.isatty()
    with told(), shown:
        done = copy_all(source, target, at_once, _Bar(shown, "looking"))
    words = f"{done.files:,} files, {done.size_bytes:,} bytes ({done.skipped:,} files were there already)"
    version = "" if done.manifest is None else f", version {done.manifest.version} with {done.manifest.rows:,} rows"
    typer.echo(f"{target}: {words}{version}")
