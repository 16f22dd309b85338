"""The HTTP server: a port, and an end that loses no request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.errors import PlanError

__all__ = ["Listening", "bound", "listen"]


@dataclass(frozen=True)
class Listening:
    """Where to listen, and how to end.

    Attributes:
        host: the address; ``127.0.0.1`` is seen from this machine alone.
        port: 0 lets the system choose one.
        linger_seconds: after SIGTERM requests are still taken for so long, while ``/readyz`` says no more, so that a
            load balancer has time to look elsewhere.
        drain_seconds: how long requests that were taken may then go on.
    """

    host: str = "127.0.0.1"
    port: int = 0
    linger_seconds: float = 0.0
    drain_seconds: float = 30.0


def bound(where: Listening) -> socket.socket:
    """A socket at that address.

    Raises:
        PlanError: it is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((where.host, where.port))
    except OSError as error:
        found.close()
        raise PlanError(
            f"{where.host}:{where.port} cannot be listened at: {error.strerror or error}; choose another by --port, "
            "or let the system choose by --port 0"
        ) from error
    return found


def listen(app: Any, at: socket.socket, where: Listening, started: Callable[[], None]) -> None:
    """Serve *app* until SIGTERM or SIGINT; what was taken by then is answered.

    Args:
        app: the ASGI application; ``app.state.door`` is the service.
        at: from `bound`.
        where: how to end.
        started: called when requests are taken.
    """
    import uvicorn

    class Server(uvicorn.Server):
        """Says when it is up, and lingers before it ends."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                started()

        def handle_exit(self, sig: int, frame: Any) -> None:
            if not self.started or app.state.door.closing.is_set():  # asked a second time: at once
                self.should_exit = True
                return
            app.state.door.closing.set()
            loop = asyncio.get_running_loop()
            loop.call_soon_threadsafe(loop.call_later, where.linger_seconds, self._end)

        def _end(self) -> None:
            self.should_exit = True

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=max(1, round(where.drain_seconds)),
        ws="none",
    )
    Server(config).run(sockets=[at])
