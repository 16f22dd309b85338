"""Names that Fluent takes: of files, zones, profiles and fields. What cannot be written safely is refused."""

from __future__ import annotations

import re

__all__ = ["quoted", "require_field", "require_name"]

_NAME = re.compile(r"[a-z][a-z0-9_.+-]*")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_.+-]*")
_FILE = re.compile(r"[A-Za-z0-9_./+=@,~ -]+")
_LONGEST = 63


def require_name(name: str) -> str:
    """*name*, of a profile or zone.

    Source: "profile names must have all lowercase letters", and fewer than 64 characters (Fluent User's Guide 7.6).

    Raises:
        ValueError: Fluent would not take it.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ValueError(
            f"{name!r} is no name for Fluent: lower-case letters, digits and _ . + - are taken, a letter first, "
            f"at most {_LONGEST} in all"
        )
    return name


def require_field(name: str) -> str:
    """*name*, of a field such as ``x-velocity``. Raises `ValueError` when Fluent would not take it."""
    if not _FIELD.fullmatch(name) or len(name) > _LONGEST:
        raise ValueError(
            f"{name!r} is no name of a field for Fluent: letters, digits and _ . + - are taken, a letter first, "
            f"at most {_LONGEST} in all"
        )
    return name


def quoted(path: str) -> str:
    """*path* as Scheme text in quotes.

    Raises:
        ValueError: it has letters that the journal's reader may take for something else.
    """
    if not _FILE.fullmatch(path) or path != path.strip():
        raise ValueError(
            f"{path!r} cannot stand in a Fluent journal: ASCII letters, digits, spaces inside and _ . / + = @ , ~ - "
            "are taken; rename the file"
        )
    return f'"{path}"'
