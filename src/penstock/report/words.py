"""Numbers, times and addresses as pages write them: the filters of the templates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["FILTERS", "count", "duration", "last", "number", "size", "when"]


def last(uri: str) -> str:
    """The last name of an address."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def number(value: float) -> str:
    """A whole number, in groups of three digits."""
    return f"{value:,.0f}"


def count(value: int, what: str) -> str:
    """How many of *what*."""
    return f"{value:,} {what}" if value == 1 else f"{value:,} {what}s"


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _known(value: Any, form: str) -> str:
    """A number that may not be known, or that nobody told."""
    return form % value if isinstance(value, int | float) else "unknown"


def _took(value: Any) -> str:
    return duration(value) if isinstance(value, int | float) else "unknown"


def _waited(value: Any, seconds: float) -> str:
    return f"{duration(value)} ({value / seconds:.0%})" if isinstance(value, int | float) and seconds else "unknown"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def when(seconds: float) -> str:
    """A time, seconds since 1970, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"


FILTERS: Mapping[str, Callable[..., str]] = {
    "number": number,
    "count": count,
    "duration": duration,
    "when": when,
    "size": size,
    "last": last,
    "short": _short,
    "known": _known,
    "took": _took,
    "waited": _waited,
}
