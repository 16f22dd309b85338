"""How a training went: what it said, as ``history.json`` beside what is learned."""

from __future__ import annotations

import json
from collections.abc import Mapping

from penstock.core.storage import join, store_of

__all__ = ["History", "read"]


class History:
    """What a training has said so far, one line for each time.

    Args:
        uri: of what is learned.
        epoch: from which it goes on; what was said after it is forgotten.
    """

    def __init__(self, uri: str, epoch: float) -> None:
        self._uri = uri
        self.lines = [line for line in read(uri) if line["epoch"] <= epoch] if epoch else []

    def add(self, metrics: Mapping[str, float]) -> None:
        """Write them all again: some hundred lines."""
        self.lines = [line for line in self.lines if line["epoch"] < metrics["epoch"]] + [dict(metrics)]
        store_of(self._uri).replace(_name(self._uri), json.dumps(self.lines).encode())


def read(uri: str) -> list[dict[str, float]]:
    """What the training at *uri* has said, the oldest first; empty when it has not begun."""
    known = store_of(uri).read(_name(uri))
    return list(json.loads(known)) if known else []


def _name(uri: str) -> str:
    return join(uri, "history.json")
