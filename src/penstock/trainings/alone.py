"""A team of one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

__all__ = ["Alone"]


def _unheard(metrics: Mapping[str, float]) -> None:
    """Nobody listens."""


@dataclass(frozen=True)
class Alone:
    """This process. *heard* is called with what is reported."""

    heard: Callable[[Mapping[str, float]], None] = _unheard

    rank = 0
    size = 1

    def exchange(self, sent: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """What was sent to ourselves."""
        return list(sent)

    def gather(self, value: Any) -> list[Any]:
        """What we have given."""
        return [value]

    def report(self, metrics: Mapping[str, float]) -> None:
        """Tell *heard*."""
        self.heard(metrics)
