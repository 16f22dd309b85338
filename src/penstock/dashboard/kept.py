"""Answers that are kept for a while, so that many visitors, or a page that asks often, cost one look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Kept"]

T = TypeVar("T")
_SHARE = 10  # a look that took a second is not taken again for ten


class Kept(Generic[T]):
    """The last answer to a question; it is asked again when the answer is old, and the dearer, the more seldom.

    Args:
        ask: gives the answer from the one before, or from None.
        rest_seconds: how long an answer is kept at least; 0 asks each time.
    """

    def __init__(self, ask: Callable[[T | None], T], rest_seconds: Callable[[T], float]) -> None:
        self._ask, self._rest = ask, rest_seconds
        self._lock, self._until = threading.Lock(), float("-inf")
        self._answer: T | None = None

    def get(self) -> T:
        """The answer; who comes while somebody asks waits for it."""
        with self._lock:
            begun = time.monotonic()
            if self._answer is None or begun >= self._until:
                self._answer = self._ask(self._answer)
                ended, rest = time.monotonic(), self._rest(self._answer)
                self._until = ended + max(rest, _SHARE * (ended - begun)) if rest else begun
            return self._answer
