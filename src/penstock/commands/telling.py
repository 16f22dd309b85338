"""How commands speak: results to the standard output, errors as one text, exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from penstock.errors import PenstockError, SpecError

__all__ = ["Changes", "File", "err", "out", "told"]

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, highlight=False, soft_wrap=True)

File = Annotated[Path, typer.Argument(help="Pipeline file, TOML or YAML.", show_default=False)]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a value: --set pipeline.NAME.sink.uri=s3://bucket/out", metavar="KEY=VALUE"),
]


@contextmanager
def told() -> Iterator[None]:
    """Our own errors end with a text and exit status 1 or 2; an interruption with 130."""
    try:
        yield
    except PenstockError as error:
        err.print("[bold red]error:[/] ", end="")
        err.print(str(error), markup=False)
        raise typer.Exit(2 if isinstance(error, SpecError) else 1) from error
    except KeyboardInterrupt as error:
        err.print("stopped; finished units are kept, the same command goes on from there")
        raise typer.Exit(130) from error
