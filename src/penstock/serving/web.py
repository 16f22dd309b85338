"""The service over HTTP: an ASGI application that needs nothing from the network."""

# No `from __future__ import annotations`: FastAPI reads those of the endpoints, whose types are imported here inside.

import asyncio
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from penstock.errors import PenstockError, SchemaError
from penstock.serving import codec
from penstock.serving.atlas import Atlas
from penstock.serving.chain import Chain
from penstock.serving.codec import ARROW, JSON, Answer
from penstock.serving.door import Door
from penstock.serving.metrics import CONTENT_TYPE
from penstock.serving.request import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from fastapi.responses import Response

__all__ = ["application"]

_PAGES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
}
_OPEN = frozenset({*_PAGES, "/healthz", "/readyz", "/openapi.json"})
"""What needs no token: nothing of the data can be seen there."""

_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_NEIGHBOURS = 10


def application(
    chain: Chain,
    opening: Callable[[], AbstractAsyncContextManager[Door]],
    token: str = "",
    atlas: Atlas | None = None,
) -> "FastAPI":
    """The ASGI application that serves *chain*.

    Args:
        chain: the steps.
        opening: opens the service when the application starts, and closes it when that ends.
        token: who asks for data must send it as ``Authorization: Bearer``; empty lets everybody ask.
        atlas: the map on which answers are shown.
    """
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        async with opening() as door:
            api.state.door = door
            yield

    title, text = f"{chain.pipeline}: {', '.join(chain.names)}", "A chain of Penstock's steps as a service."
    api = FastAPI(
        title=title, version=version("penstock"), description=text, docs_url=None, redoc_url=None, lifespan=lifespan
    )
    _add_pages(api)
    _add_state(api)
    _add_rows(api, chain, mapped=atlas is not None)
    if atlas is not None:
        _add_map(api, chain, atlas)
    _describe(api, chain, secured=bool(token))
    api.add_middleware(_Gate, token=token.encode(), paths=frozenset(getattr(route, "path", "") for route in api.routes))
    return api


# --- what stands around the requests ---------------------------------------------------------------------


@dataclass(frozen=True)
class _Gate:
    """Asks for the token, counts and times requests, and adds headers that keep browsers strict."""

    app: Any
    token: bytes
    paths: frozenset[str]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500
        door: Door = scope["app"].state.door

        async def told(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                closing = {"connection": "close"} if door.closing.is_set() else {}
                pairs = {**_SAFE, **closing}.items()
                message = {**message, "headers": [*message["headers"], *((k.encode(), v.encode()) for k, v in pairs)]}
            await send(message)

        path = scope["path"] if scope["path"] in self.paths else "other"
        try:
            await (self.app if self._may(scope) else _unauthorised())(scope, receive, told)
        finally:
            door.metrics.answered(path, status, time.perf_counter() - started)

    def _may(self, scope: Any) -> bool:
        if not self.token or scope["path"] in _OPEN:
            return True
        sent = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(sent, b"Bearer " + self.token)


def _unauthorised() -> "Response":
    text = "a token is needed, as the header 'Authorization: Bearer TOKEN'"
    return _failed(401, text, {"www-authenticate": "Bearer"})


def _failed(status: int, text: str, headers: Mapping[str, str] | None = None) -> "Response":
    from fastapi.responses import Response

    return Response(json.dumps({"detail": text}), status, dict(headers or {}), JSON)


# --- pages, state ----------------------------------------------------------------------------------------


def _add_pages(api: "FastAPI") -> None:
    from fastapi.responses import Response

    def page(name: str, kind: str) -> Callable[[], Response]:
        content = (files(__package__) / "pages" / name).read_bytes()
        return lambda: Response(content, media_type=kind)

    for path, (name, kind) in _PAGES.items():
        api.add_api_route(path, page(name, kind), include_in_schema=False)


def _add_state(api: "FastAPI") -> None:
    from fastapi.responses import Response

    @api.get("/healthz", summary="Whether the process lives.")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @api.get("/readyz", summary="Whether requests are taken: 200, or 503 while workers start or the service ends.")
    async def readyz() -> Response:
        door: Door = api.state.door
        if door.closing.is_set():
            return _failed(503, "the service is about to end")
        if not await door.batcher.carrier.ready():
            return _failed(503, "no worker is ready yet")
        return Response('{"status": "ready"}', media_type=JSON)

    @api.get("/metrics", summary="Counters, for Prometheus.")
    async def metrics() -> Response:
        return Response(api.state.door.metrics.text(), media_type=CONTENT_TYPE)


# --- rows ------------------------------------------------------------------------------------------------


def _add_rows(api: "FastAPI", chain: Chain, *, mapped: bool) -> None:
    from fastapi import Request
    from fastapi.responses import Response

    @api.post("/rows", summary="Carry rows through the steps.", openapi_extra=_rows_extra(chain))
    async def rows(request: Request) -> Response:
        door: Door = api.state.door
        return await _told(lambda: _answered(door, request))

    @api.get("/schema", summary="The columns of requests and answers, the steps, and the limits.")
    async def schema() -> dict[str, Any]:
        limits = api.state.door.limits
        return {
            "steps": list(chain.names),
            "needed": list(chain.needed),
            "request": {field.name: str(field.type) for field in chain.given},
            "answer": {field.name: str(field.type) for field in chain.schemas(chain.given)[-1]},
            "limits": {name: getattr(limits.request, name) for name in ("rows", "bytes", "tokens")},
            "map": mapped,
        }


async def _told(act: Callable[[], Awaitable["Response"]]) -> "Response":
    """What *act* gives, or its error as an answer."""
    try:
        return await act()
    except RequestError as error:
        return _failed(error.status, str(error), {"retry-after": "1"} if error.status == 503 else {})
    except SchemaError as error:
        return _failed(422, str(error))
    except PenstockError as error:
        return _failed(500, f"no row is to blame: {error}")


async def _answered(door: Door, request: "Request") -> "Response":
    from fastapi.responses import Response

    answer = await _asked(door, request)
    form = _form(request)
    body = await asyncio.to_thread(codec.to_arrow if form == ARROW else codec.to_json, answer)
    return Response(body, _status(answer), media_type=form)


def _status(answer: Answer) -> int:
    """200 when all rows went through, 207 when some did, 422 when none."""
    if not answer.errors:
        return 200
    return 207 if answer.rows.num_rows else 422


async def _asked(door: Door, request: "Request") -> Answer:
    """The answer to a request in either form."""
    kind = _kind(request.headers.get("content-type", ""))
    if kind not in (JSON, ARROW):
        raise RequestError(415, f"the content type is '{kind[:100]}'; {JSON} or {ARROW} was needed")
    body = await _body(door, request)
    given, most = door.chain.given, door.limits.request.rows
    if kind == ARROW:
        return await door.answer(await asyncio.to_thread(codec.from_arrow, body, given, most))
    batch, refused = await asyncio.to_thread(codec.from_json, body, given, most)
    return await door.answer(batch, refused)


def _kind(header: str) -> str:
    return header.partition(";")[0].strip().lower()


def _form(request: "Request") -> str:
    """The form of the answer: what is accepted, else that of the request."""
    accepted = [_kind(part) for part in request.headers.get("accept", "").split(",")]
    return next((kind for kind in accepted if kind in (JSON, ARROW)), _kind(request.headers["content-type"]))


async def _body(door: Door, request: "Request") -> bytes:
    from starlette.requests import ClientDisconnect

    most = door.limits.request.bytes
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and 0 < most < int(announced[:20]):
        raise RequestError(
            413, f"the body has {int(announced[:20]):,} bytes, at most {most:,} are taken; send it in parts"
        )
    body = bytearray()
    try:
        async with asyncio.timeout(door.limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if 0 < most < len(body):
                    raise RequestError(413, f"the body has more than {most:,} bytes; send it in parts")
    except TimeoutError as error:
        raise RequestError(408, f"the body did not come within {door.limits.body_seconds:g} s") from error
    except ClientDisconnect as error:
        raise RequestError(400, "the client went away") from error
    return bytes(body)


# --- the map ---------------------------------------------------------------------------------------------


def _add_map(api: "FastAPI", chain: Chain, atlas: Atlas) -> None:
    from fastapi import Request
    from fastapi.responses import Response

    drawn = json.dumps(atlas.plain()).encode()

    @api.get("/map", summary="The points of the map.")
    async def points() -> Response:
        return Response(drawn, media_type=JSON)

    @api.post("/neighbours", summary="Rows through the steps, and onto the map.", openapi_extra=_rows_extra(chain))
    async def neighbours(request: Request) -> Response:
        door: Door = api.state.door
        return await _told(lambda: _placed(door, request, atlas))


async def _placed(door: Door, request: "Request", atlas: Atlas) -> "Response":
    from fastapi.responses import Response

    answer = await _asked(door, request)
    body = json.loads(await asyncio.to_thread(codec.to_json, answer))
    placed = await asyncio.to_thread(atlas.nearest, answer.rows, _NEIGHBOURS) if answer.rows.num_rows else []
    return Response(json.dumps({**body, "map": placed}), _status(answer), media_type=JSON)


# --- OpenAPI ---------------------------------------------------------------------------------------------


def _rows_extra(chain: Chain) -> dict[str, Any]:
    """What OpenAPI is told of a request with rows."""
    rows = {"type": "array", "items": codec.row_schema(chain.given, chain.needed)}
    body = {"type": "object", "properties": {"rows": rows}, "required": ["rows"]}
    answer = {"schema": {"$ref": "#/components/schemas/Answer"}}
    return {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": body}, ARROW: {"schema": {"type": "string", "format": "binary"}}},
        },
        "responses": {
            "200": {"description": "All rows went through.", "content": {JSON: answer, ARROW: {}}},
            "207": {"description": "Some rows were refused: see errors.", "content": {JSON: answer, ARROW: {}}},
            "408": {"description": "The body came too slowly."},
            "413": {"description": "More rows, bytes or tokens than are taken."},
            "415": {"description": "Neither JSON nor an Arrow stream."},
            "422": {"description": "No row went through, or the request cannot be understood."},
            "503": {"description": "Too much waits already."},
        },
    }


def _describe(api: "FastAPI", chain: Chain, *, secured: bool) -> None:
    """Put the columns of the answer, and the token, into the OpenAPI document."""
    error = {
        "type": "object",
        "properties": {"row": {"type": "integer"}, "step": {"type": "string"}, "reason": {"type": "string"}},
    }
    answer = {
        "type": "object",
        "properties": {
            "rows": {"type": "array", "items": codec.row_schema(chain.schemas(chain.given)[-1])},
            "positions": {"type": "array", "items": {"type": "integer"}},
            "errors": {"type": "array", "items": error},
        },
    }
    plain = api.openapi

    def described() -> dict[str, Any]:
        found: dict[str, Any] = plain()
        parts = found.setdefault("components", {})
        parts.setdefault("schemas", {})["Answer"] = answer
        if secured:
            parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"token": []}]
        return found

    api.openapi = described  # type: ignore[method-assign]
