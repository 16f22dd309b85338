"""Who may see the pages: the right host name, the token where one is asked for, and headers that keep browsers strict.

The check of the host name stops pages of other origins that have their name resolved to this machine (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, quote

__all__ = ["COOKIE", "HEADERS", "Gate", "is_loopback", "names_of"]

COOKIE = "penstock_ui"
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 (compared with)


def is_loopback(host: str) -> bool:
    """Whether *host* is seen from this machine alone."""
    return host in _LOOPBACK


def names_of(host: str) -> frozenset[str]:
    """The names by which a server that listens at *host* may be asked for."""
    own = {socket.gethostname(), socket.getfqdn()} if host in _ANY else {host}
    return frozenset(name.lower() for name in {*_LOOPBACK, *own})


@dataclass(frozen=True)
class Gate:
    """An ASGI application before another one.

    Attributes:
        app: what is behind it.
        names: host names that are taken.
        open: paths that need no token: nothing of the data is seen there.
        numbers: takes all addresses in numbers too, which no other page can claim.
        token: what is asked for; nothing when empty.
    """

    app: Any
    names: frozenset[str]
    open: frozenset[str] = frozenset()
    numbers: bool = False
    token: str = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def told(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name for name, _ in message["headers"]}
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
                message = {**message, "headers": [*message["headers"], *more]}
            await send(message)

        await self._answering(scope)(scope, receive, told)

    def _answering(self, scope: Any) -> Any:
        headers = dict(scope["headers"])
        if not self._is_ours(headers.get(b"host", b"").decode("latin-1")):
            return _plain(421, "this server is not called so; ask it by the address that 'penstock ui' has printed\n")
        if not self.token or scope["path"] in self.open:
            return self.app
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if given and _equal(given, self.token):
            return self._welcome(scope["path"], _jar(headers))
        return self.app if self._may(headers) else _ask(wrong=bool(given))

    def _is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        name = name.strip("[]").lower()
        return name in self.names or (self.numbers and _is_number(name))

    def _may(self, headers: dict[bytes, bytes]) -> bool:
        sent = headers.get(b"authorization", b"").decode("latin-1")
        shown = _cookie(headers.get(b"cookie", b"").decode("latin-1"), _jar(headers))
        return _equal(sent, f"Bearer {self.token}") or _equal(shown, self._mark)

    @property
    def _mark(self) -> str:
        """What the cookie holds: it lets a browser in, and does not tell the token."""
        return hmac.new(self.token.encode(), b"penstock ui", hashlib.sha256).hexdigest()

    def _welcome(self, path: str, jar: str) -> Any:
        """The cookie, and on to the same page without the token in its address."""
        from starlette.responses import RedirectResponse

        answer = RedirectResponse("/" + quote(path.lstrip("/\\"), safe="/"), 303)
        answer.set_cookie(jar, self._mark, httponly=True, samesite="strict", path="/")
        return answer


def _equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), wanted.encode())


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _jar(headers: dict[bytes, bytes]) -> str:
    """The name of the cookie: browsers keep those of all ports of a host together, and each port has its own token."""
    port = headers.get(b"host", b"").decode("latin-1").rpartition(":")[2]
    return f"{COOKIE}_{port}" if port.isdecimal() else COOKIE


def _cookie(header: str, jar: str) -> str:
    try:
        found = SimpleCookie(header).get(jar)
    except CookieError:
        return ""
    return found.value if found else ""


def _plain(status: int, text: str, more: Iterable[tuple[str, str]] = ()) -> Any:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(text, status, dict(more))


_ASK = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Token · Penstock</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/report.css"><link rel="stylesheet" href="/ui.css"></head><body>
<header><h1>A token is needed</h1>
<p class="lead">{why} It stands in the address that <code>penstock ui</code> printed when it started.</p></header>
<main><form method="get" class="card filter">
<label>Token <input name="token" type="password" autocomplete="off" size="40"></label> <button>Go on</button>
<p class="lead note">Programs send it as <code>Authorization: Bearer TOKEN</code>.</p></form></main></body></html>
"""


def _ask(*, wrong: bool) -> Any:
    from starlette.responses import HTMLResponse

    why = "That was not the token." if wrong else ""
    return HTMLResponse(_ASK.format(why=why), 401, {"www-authenticate": "Bearer"})
