"""``penstock ui FOLDER_OR_URI``: a dashboard over the datasets that lie there."""

from __future__ import annotations

import secrets
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from penstock.commands.clusters import ClusterWords, clusters_of, words_of
from penstock.commands.telling import out, told
from penstock.errors import PlanError

__all__ = ["ui"]

_LEAST_CHARACTERS = 16


def ui(  # noqa: PLR0917 (typer calls it by name)
    root: Annotated[
        str, typer.Argument(metavar="FOLDER_OR_URI", help="Below which datasets lie, or s3://.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Where to listen; another than this machine's own asks for a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 lets the system choose.", min=0, max=65535)] = 0,
    token: Annotated[
        str,
        typer.Option(
            envvar="PENSTOCK_TOKEN",
            help="Who looks must show it. Words of a command can be seen by others here, the variable cannot.",
        ),
    ] = "",
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A pipeline file, for its clusters' jobs.")] = None,
    cluster: ClusterWords = None,
) -> None:
    """Show the datasets below a folder or bucket in a browser: runs as they go, rows, quarantine, jobs. Only reads."""
    with told():
        _installed()
        from penstock.dashboard.finding import datasets
        from penstock.dashboard.gate import is_loopback
        from penstock.dashboard.jobs import Scheduler
        from penstock.dashboard.listening import listen
        from penstock.dashboard.model import Model
        from penstock.dashboard.web import application
        from penstock.serving.listening import Listening, bound

        token = _checked(token) or ("" if is_loopback(host) else secrets.token_urlsafe(24))
        schedulers = [Scheduler(words_of(one), one) for one in clusters_of(file, cluster)]
        datasets(root)  # a root that is not there is told before anything listens
        app = application(Model(root), host=host, token=token, schedulers=schedulers)
        with bound(Listening(host, port)) as at:
            address = f"http://{_seen(host)}:{at.getsockname()[1]}/"
            listen(app, at, lambda: _say(f"{root} is shown at {address}{f'?token={quote(token)}' if token else ''}"))


def _seen(host: str) -> str:
    """How a browser asks for *host*."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 (compared with)
    return f"[{name}]" if ":" in name else name


def _installed() -> None:
    missing = [name for name in ("fastapi", "uvicorn", "jinja2") if find_spec(name) is None]
    if missing:
        raise PlanError(f"the dashboard needs {', '.join(missing)}: pip install 'penstock[ui]'")


def _checked(token: str) -> str:
    if token and len(token) < _LEAST_CHARACTERS:
        raise PlanError(
            f"the token has {len(token)} characters, at least {_LEAST_CHARACTERS} were needed; "
            "make one by: openssl rand -hex 32, or leave it out and one is made"
        )
    return token


def _say(text: str) -> None:
    out.print(text, markup=False)
    sys.stdout.flush()
