"""``penstock infra render | validate | rules | affected``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from penstock.commands.telling import err, out, told
from penstock.infra.affected import affected as tests_for
from penstock.infra.artefacts import rendered
from penstock.infra.deployment import load
from penstock.infra.render import Change, changes, write
from penstock.infra.validate import RULES
from penstock.infra.validate import validate as findings_in

__all__ = ["infra"]

infra = typer.Typer(no_args_is_help=True, help="Infrastructure as data: render it, see what changes, check it offline.")

_FOLDER = Path("deploy/rendered")
_COLOURS = {"+++": "bold", "---": "bold", "@@": "cyan", "+": "green", "-": "red"}


@infra.command()
def render(
    file: Annotated[Path, typer.Argument(help="What is wanted.")] = Path("deploy/deploy.toml"),
    folder: Annotated[Path, typer.Option("--out", help="Where the files lie.")] = _FOLDER,
    *,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if something would change.")] = False,
) -> None:
    """Fill CloudFormation, ParallelCluster, Ray and KubeRay files from one small file; show what changes."""
    with told():
        texts = rendered(load(file))
        changed = changes(texts, folder)
        for change in changed:
            _show(change)
        if not check:
            write(changed, folder)
        verb = "would change" if check else "changed"
        out.print(f"{len(changed)} of {len({*texts, *(one.path for one in changed)})} files {verb} in {folder}")
        raise typer.Exit(int(check and bool(changed)))


def _show(change: Change) -> None:
    for line in change.diff():
        style = next((style for start, style in _COLOURS.items() if line.startswith(start)), "")
        out.print(Text(line, style=style))


@infra.command()
def validate(
    folder: Annotated[Path, typer.Argument(help="As render makes it.")] = _FOLDER,
    *,
    rehearse: Annotated[
        bool, typer.Option("--rehearse/--no-rehearse", help="ParallelCluster's own package, in a dry run against moto.")
    ] = True,
) -> None:
    """Hold the files against cfn-lint, schemas and our rules, offline; exit 1 when there are findings."""
    with told():
        findings = findings_in(folder, rehearse=rehearse)
        for finding in findings:
            out.print(str(finding), markup=False)
        if not rehearse:
            err.print("[yellow]warning:[/] ParallelCluster's own schema and dry run were left out by --no-rehearse")
        out.print(f"{len(findings)} findings in {folder}" if findings else f"[green]no findings[/] in {folder}")
        raise typer.Exit(int(bool(findings)))


@infra.command()
def rules() -> None:
    """List the rules of our own."""
    table = Table(box=None, padding=(0, 2))
    for column in ("rule", "what must be so", "mend"):
        table.add_column(column)
    for rule in RULES:
        table.add_row(rule.id, rule.sentence, rule.mend)
    out.print(table)


@infra.command()
def affected(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="What was changed.", show_default=False)],
    root: Annotated[Path, typer.Option(help="The checkout.")] = Path(),
) -> None:
    """Print the tests that a change of these files needs: pytest $(penstock infra affected FILE...)."""
    with told():
        for test in tests_for(root, files):
            out.print(test, markup=False)
