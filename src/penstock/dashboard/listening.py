"""The dashboard's server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

__all__ = ["listen"]


def listen(app: Any, at: socket.socket, started: Callable[[], None]) -> None:
    """Serve *app* at a bound socket until SIGTERM or SIGINT; *started* is called when requests are taken."""
    import uvicorn

    class Server(uvicorn.Server):
        """Says when it is up."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if not self.should_exit:
                started()

    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=2, ws="none",
        lifespan="off", proxy_headers=False,
    )  # fmt: skip
    Server(config).run(sockets=[at])
