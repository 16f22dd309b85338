"""Files that appear whole or not at all, and numbers as text that reads back to the same bits."""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError

__all__ = ["Floats", "Ints", "floats", "numbers", "require_finite", "scratch", "words", "written"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

_BLOCK = 1 << 16
"""Numbers that are turned into text at once: memory stays small, whatever the file's size."""


@contextmanager
def scratch(path: str | Path) -> Iterator[Path]:
    """A name beside *path* that takes its place at the end, unless something fails."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written(path: str | Path) -> Iterator[BinaryIO]:
    """A file that appears as *path* when all of it was written."""
    with scratch(path) as temporary, temporary.open("wb") as file:
        yield file


def numbers(values: npt.NDArray[Any], per_line: int = 1) -> Iterator[bytes]:
    """Text of *values*, the shortest that reads back to the same bits, so many on a line."""
    flat = np.asarray(values).reshape(-1)
    step = _BLOCK // per_line * per_line
    for start in range(0, len(flat), step):
        yield _lines(_texts(flat[start : start + step]), per_line).encode()


def _texts(values: npt.NDArray[Any]) -> list[str]:
    # NumPy's own text of a float32 is shorter than that of the float64 of the same value.
    return [str(value) for value in values] if values.dtype == np.float32 else list(map(repr, values.tolist()))


def _lines(texts: Sequence[str], per_line: int) -> str:
    whole = len(texts) // per_line * per_line
    lines = list(map(" ".join, zip(*[iter(texts[:whole])] * per_line, strict=True))) if per_line > 1 else texts[:whole]
    return "\n".join([*lines, *([" ".join(texts[whole:])] if texts[whole:] else [])]) + "\n"


def floats(text: bytes, count: int, what: str) -> Floats:
    """The *count* numbers in *text*.

    Raises:
        UnitError: there are more or fewer, or something else stands there; *what* says where.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of text that is no number, which is explained below
            values: Floats = np.fromstring(text, sep=" ")
    except (DeprecationWarning, ValueError):
        return _floats_one_by_one(text, count, what)
    return values if len(values) == count else _floats_one_by_one(text, count, what)


def _floats_one_by_one(text: bytes, count: int, what: str) -> Floats:
    """The same, slowly, with a reason where it fails."""
    parts = text.split()
    if len(parts) != count:
        raise UnitError(f"{what}: {count} numbers were needed, {len(parts)} found; the file is cut off or damaged")
    try:
        return np.array(parts, np.float64) if parts else np.empty(0)
    except ValueError as error:
        raise UnitError(f"{what}: something that is no number stands among the values ({error})") from error


def words(text: bytes, what: str) -> list[str]:
    """The words of *text*. Raises `UnitError` when they are not ASCII."""
    try:
        return text.decode("ascii").split()
    except UnicodeDecodeError as error:
        raise UnitError(f"{what}: {text[:40]!r} is no ASCII text; is this file a binary one?") from error


def require_finite(values: npt.NDArray[Any], what: str) -> None:
    """Refuse NaN and infinities, which Fluent's readers do not take.

    Raises:
        ValueError: there are some; the text says how many and where the first one is.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(f"{what}: {len(bad)} of {np.size(values)} values are NaN or infinite, the first is number "
                         f"{bad[0]}; Fluent reads finite numbers alone")  # fmt: skip
