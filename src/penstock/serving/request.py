"""Why a request is not answered."""

from __future__ import annotations

from penstock.errors import PenstockError

__all__ = ["RequestError"]


class RequestError(PenstockError):
    """A request that is refused as a whole.

    Attributes:
        status: of HTTP: 413 above a limit, 422 not to be understood, 503 too much waits already.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
