"""One stage by itself, answering on a pipe or over HTTP: what runs inside a container.

The words that pass are those of `penstock.core.wire`. Nothing but the bare package and what the stage itself needs has
to be in the image.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import BinaryIO

from penstock.core import wire
from penstock.core.nouns import Step, Transform
from penstock.core.work import entered
from penstock.errors import UnitError
from penstock.serving.codec import ARROW

__all__ = ["on_http", "on_pipes", "private_output"]


def on_pipes(step: Step, given: BinaryIO, told: BinaryIO) -> int:
    """Answer each batch of *given* on *told* until there are no more; how many there were.

    Raises:
        RunError: the stage cannot be opened.
        UnitError: what is given is no Arrow stream.
    """
    count = 0
    with entered((step,)) as (transform,):
        while (batch := wire.received(given)) is not None:
            told.write(wire.answered(transform, batch))
            told.flush()
            count += 1
    return count


@contextmanager
def private_output() -> Iterator[BinaryIO]:
    """The standard output for us alone: what a stage or a library prints goes to the standard error meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(kept), "wb") as ours:
            yield ours
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


@contextmanager
def on_http(step: Step, host: str, port: int, most_bytes: int) -> Iterator[ThreadingHTTPServer]:
    """A server for ``POST /rows`` and ``GET /healthz``; call its `serve_forever`. Port 0 lets the system choose.

    Requests of more than *most_bytes* are refused before they are read.
    """
    with entered((step,)) as (transform,):
        answer = _Answer(transform, most_bytes)
        handler = type("Handler", (_Handler,), {"answer": answer})
        with ThreadingHTTPServer((host, port), handler) as server:
            yield server


class _Answer:
    """The stage for the threads of a server: it takes one batch at a time."""

    def __init__(self, transform: Transform, most_bytes: int) -> None:
        self.transform, self.most_bytes, self._turn = transform, most_bytes, threading.Lock()

    def __call__(self, body: bytes) -> bytes | None:
        """The answer; None where *body* has no batch. Raises `UnitError`."""
        batch = wire.received(BytesIO(body))
        if batch is None:
            return None
        with self._turn:
            return wire.answered(self.transform, batch)


class _Handler(BaseHTTPRequestHandler):
    answer: _Answer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        known = self.path == "/healthz"
        self._send(200 if known else 404, b"ok\n" if known else b"POST /rows, GET /healthz\n", "text/plain")

    def do_POST(self) -> None:
        length = self.headers.get("content-length", "")
        if self.path != "/rows":
            self._send(404, b"POST /rows, GET /healthz\n", "text/plain")
        elif not length.isdecimal():
            self._send(411, b"a request needs its content-length\n", "text/plain")
        elif int(length) > self.answer.most_bytes:
            text = f"the request has {length} bytes, at most {self.answer.most_bytes} are taken\n"
            self._send(413, text.encode(), "text/plain")
        else:
            self._answer(self.rfile.read(int(length)))

    def _answer(self, body: bytes) -> None:
        try:
            found = self.answer(body)
        except UnitError as error:
            self._send(422, f"{error}\n".encode(), "text/plain")
            return
        if found is None:
            self._send(422, b"the body is empty; an Arrow IPC stream was needed\n", "text/plain")
        else:
            self._send(200, found, ARROW)

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        if status >= 400:  # what was not read of the request would be taken for the next one
            self.send_header("connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are not told one by one."""
