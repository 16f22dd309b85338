"""``penstock gallery DATASET``: what was kept, what was dropped and why, as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.commands.telling import out, told
from penstock.report.gallery import build

__all__ = ["gallery"]


def gallery(
    dataset: Annotated[str, typer.Argument(help="A dataset with the columns `preview` and `id`.", show_default=False)],
    *,
    page: Annotated[Path, typer.Option("--out", help="The page.")] = Path("gallery.html"),
    title: Annotated[str, typer.Option(help="Its head.")] = "",
    most: Annotated[int, typer.Option(min=1, help="So many clips of each kind, spread evenly.")] = 120,
) -> None:
    """Show clips or images as they look: kept, dropped and why, near-duplicates side by side."""
    with told():
        where = build(dataset, page, title, most)
        out.print(f"gallery: {where.absolute().as_uri()}")
