"""What leaves a run has no secrets: texts without queries of addresses, passwords, or values of secret variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

__all__ = ["address", "said"]

_MOST_CHARACTERS = 500
_SHORTEST = 6
_HIDDEN = "***"
_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@]+@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?#]*)[?#]\S*")
_NAMED = re.compile(
    r"(?i)([\w-]*(?:secret|token|passw|pwd|credential|api[_-]?key|access[_-]?key|authorization|signature)[\w-]*"
    r"[\"']?\s*[=:]\s*)(?:(?:bearer|basic)\s+)?[\"']?[^\s\"',;]+"
)
_SECRET_NAME = re.compile(r"(?i)secret|token|passw|pwd|credential|key|auth|headers|signature")


def said(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The first line of an error, cut after 500 characters, with ``***`` for what may be secret.

    That is: what follows ``?`` or ``#`` in an address and stands before its ``@``; what follows ``token=`` and the
    like; and, wherever it stands, the value of each variable of *environment* that is named like a secret. Later lines
    are left out, since they hold commands and what programs have printed.
    """
    found = os.environ if environment is None else environment
    line = text.partition("\n")[0]
    for value in sorted({v for k, v in found.items() if len(v) >= _SHORTEST and _SECRET_NAME.search(k)}, key=len)[::-1]:
        line = line.replace(value, _HIDDEN)
    line = _NAMED.sub(rf"\g<1>{_HIDDEN}", address(line))
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]}..."


def address(uri: str) -> str:
    """Addresses without query, fragment, user and password."""
    return _QUERY.sub(r"\1", _USER.sub(r"\1", uri))
