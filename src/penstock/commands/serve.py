"""``penstock serve FILE#PIPELINE.STEP``."""

from __future__ import annotations

import functools
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import typer

from penstock.commands.telling import Changes, err, out, told
from penstock.core import spec
from penstock.core.batch import to_numpy, type_named
from penstock.core.dataset import Manifest, existing, newest
from penstock.core.nouns import Pipeline
from penstock.core.plan import equip, licences
from penstock.core.reading import read_sample
from penstock.errors import PlanError, SpecError
from penstock.runners import places
from penstock.serving.atlas import Atlas
from penstock.serving.chain import Chain, chain_at
from penstock.serving.door import Limits
from penstock.serving.here import opened_here
from penstock.serving.listening import Listening, bound, listen
from penstock.serving.size import Size
from penstock.serving.web import application

__all__ = ["serve"]

TOKEN = "PENSTOCK_TOKEN"  # noqa: S105 (the name of a variable)
_MOST_POINTS = 3000

_DEFAULT = Limits()


def serve(  # noqa: PLR0917 (typer calls it by name)
    address: Annotated[
        str, typer.Argument(metavar="FILE#PIPELINE[.STEP[:STEP]]", help="What is served.", show_default=False)
    ],
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is seen from outside.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose.", min=0, max=65535)] = 8000,
    runner: Annotated[str, typer.Option(help="ray: replicas on Ray Serve; inline: in this process.")] = "ray",
    map_: Annotated[str, typer.Option("--map", help="Dataset to whose rows answers are compared.")] = "",
    map_column: Annotated[str, typer.Option(help="Its tensor column; else the report's, or the first.")] = "",
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="NAME=TYPE", help="A column of requests.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help=f"File with the bearer token; else ${TOKEN}, else none is asked.")
    ] = None,
    max_rows: Annotated[int, typer.Option(help="Of one request.", min=0)] = _DEFAULT.request.rows,
    max_bytes: Annotated[int, typer.Option(help="Of one request's body.", min=0)] = _DEFAULT.request.bytes,
    max_tokens: Annotated[int, typer.Option(help="Of one request.", min=0)] = _DEFAULT.request.tokens,
    batch_rows: Annotated[int, typer.Option(help="Of requests put together.", min=0)] = _DEFAULT.budget.rows,
    batch_bytes: Annotated[int, typer.Option(help="The same, in bytes.", min=0)] = _DEFAULT.budget.bytes,
    batch_tokens: Annotated[int, typer.Option(help="The same, in tokens.", min=0)] = _DEFAULT.budget.tokens,
    batch_requests: Annotated[int, typer.Option(help="Most put together; 1: each alone, 0: any.", min=0)] = 0,
    wait_ms: Annotated[float, typer.Option(help="How long a request waits for others.", min=0)] = 2.0,
    linger_seconds: Annotated[float, typer.Option(help="After SIGTERM, requests are taken for so long.", min=0)] = 0.0,
    drain_seconds: Annotated[float, typer.Option(help="After that, requests may go on for so long.", min=0)] = 30.0,
    changes: Changes = None,
) -> None:
    """Make steps of a pipeline a service: HTTP with JSON and Arrow, batched over all clients, on Ray Serve.

    PIPELINE alone serves its leading steps, as many as work row by row; PIPELINE.STEP one, PIPELINE.STEP:STEP a
    range. STEP is a name or a number from 1; PIPELINE may be left out where it is clear.
    """
    with told():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # until requests are taken
        _installed(*(["ray"] if runner == "ray" else []))
        found, words = _read(address, changes)
        chain = chain_at(found, words, _columns(columns))
        _checked(found.pipeline(chain.pipeline), chain)
        limits = Limits(
            Size(max_rows, max_bytes, max_tokens),
            Size(batch_rows, batch_bytes, batch_tokens),
            wait_seconds=wait_ms / 1000,
            together=batch_requests,
        )
        token = _token(token_file)
        where = Listening(host, port, linger_seconds, drain_seconds)
        if not token and host not in ("127.0.0.1", "::1", "localhost"):
            err.print(f"[yellow]warning:[/] {host} is seen from outside, and no token is asked; set ${TOKEN}")
        with bound(where) as at, _opening(runner, found, chain, limits) as opening:
            app = application(chain, opening, token, _atlas(found, chain, map_, map_column))
            url = f"http://{host}:{at.getsockname()[1]}"
            listen(app, at, where, lambda: _say(f"{chain.pipeline} ({', '.join(chain.names)}) is served at {url}"))


def _installed(*more: str) -> None:
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client", *more) if find_spec(name) is None]
    if missing:
        raise PlanError(f"serving needs {', '.join(missing)}: pip install 'penstock[serve]'")


def _say(text: str) -> None:
    out.print(text)
    sys.stdout.flush()


def _read(address: str, changes: list[str] | None) -> tuple[spec.Spec, str]:
    file, _, words = address.partition("#")
    return spec.load(file, dict(change.partition("=")[::2] for change in changes or ())), words


def _columns(texts: list[str] | None) -> pa.Schema | None:
    if not texts:
        return None
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, pair in zip(texts, pairs, strict=True) if not (pair[0] and pair[2])]:
        raise SpecError(f"--column {wrong[0]} cannot be understood; write --column NAME=TYPE, as in sequence=string")
    return pa.schema([(name, type_named(kind)) for name, _, kind in pairs])


def _checked(pipeline: Pipeline, chain: Chain) -> None:
    """What can be known before anything starts: packages, columns, licences."""
    served = Pipeline(
        pipeline.name, pipeline.source, pipeline.sink, chain.steps, allow_noncommercial=pipeline.allow_noncommercial
    )
    equip(served)
    chain.schemas(chain.given)
    for terms in licences(served):
        if terms.commercial is None:
            err.print(f"[yellow]warning:[/] the licence of {terms.what} is not stated: {terms.name}")


def _token(file: Path | None) -> str:
    """The token; never from the command line, where every user of the machine could read it."""
    try:
        token = os.environ.get(TOKEN, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"the token cannot be read from {file}: {error}") from error
    token = token.strip()
    if (file or TOKEN in os.environ) and len(token) < 16:
        raise SpecError(
            f"the token in {file or f'${TOKEN}'} has {len(token)} characters, at least 16 were needed; "
            "make one by: openssl rand -hex 32"
        )
    return token


def _opening(runner: str, found: spec.Spec, chain: Chain, limits: Limits) -> AbstractContextManager[Any]:
    if runner == "inline":
        return nullcontext(functools.partial(opened_here, chain, limits, places.live))
    if runner != "ray":
        raise SpecError(f"--runner {runner} is not known here; ray or inline was needed")
    from penstock.runners.ray import Ray
    from penstock.runners.serve import deployed

    return deployed(chain, limits, found.runner if isinstance(found.runner, Ray) else Ray())


# --- the map ---------------------------------------------------------------------------------------------


def _atlas(found: spec.Spec, chain: Chain, dataset: str, column: str) -> Atlas | None:
    """The map of *dataset*, or of the one that the file's report draws when it is there and fits."""
    view = found.report
    if dataset:
        manifest: Manifest | None = existing(dataset)
    else:
        manifest = newest(found.pipeline(view.pipeline).sink.uri) if view and view.map else None
    column = column or (view.map if view else "") or next(iter(_tensors(manifest)), "")
    answers = chain.schemas(chain.given)[-1]
    if manifest is None or (not dataset and not {column} <= {*_tensors(manifest)} & {*answers.names}):
        return None
    if column not in _tensors(manifest):
        raise PlanError(f"{manifest.uri} has no tensor column '{column}'; there are: {', '.join(_tensors(manifest))}")
    atlas = _drawn(manifest, column, [name for name in (view.colour if view else ()) if name in manifest.schema.names])
    atlas.fits(answers)
    return atlas


def _tensors(manifest: Manifest | None) -> list[str]:
    schema = manifest.schema if manifest else pa.schema([])
    return [field.name for field in schema if isinstance(field.type, pa.FixedShapeTensorType)]


def _drawn(manifest: Manifest, column: str, colours: list[str]) -> Atlas:
    from penstock.report.measures import layout

    texts = [f.name for f in manifest.schema if pa.types.is_string(f.type) and f.name not in colours][:1]
    table = read_sample(manifest, list(dict.fromkeys([column, *texts, *colours[:1]])), _MOST_POINTS)
    vectors = to_numpy(table[column]).reshape(table.num_rows, -1)
    if len(vectors) < 2 or not np.isfinite(vectors).all():
        raise PlanError(f"{manifest.uri}: a map needs two rows or more, all of finite numbers; leave out --map")
    method, places = layout(vectors)
    names = table[texts[0]].to_pylist() if texts else range(table.num_rows)
    groups = table[colours[0]].to_pylist() if colours else []
    return Atlas(column, [str(name) for name in names], [str(group) for group in groups], vectors, places, method)
