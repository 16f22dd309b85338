"""Interpolation files (``.ip``): values at scattered points, from which Fluent fills its cells.

::

    3                   version
    2                   dimension
    1024                points
    2                   fields
    x-velocity
    y-velocity
    (0.0                all x, then all y (and z), then each field
    ...
    )

In version 2 the lists have no parentheses. In a binary file of version 3 the numbers between the parentheses are
little-endian float64, as is understood here; no such file of Fluent's own was at hand.
Source: Fluent User's Guide, "Format of the Interpolation File".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.fluent.files import Floats, floats, numbers, require_finite, words, written
from penstock.formats.fluent.names import require_field

__all__ = ["Cloud", "Form", "read_cloud", "write_cloud"]

Form: TypeAlias = Literal["2", "3", "3-binary"]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Values at points.

    Attributes:
        points: ``"point axis"``, two or three axes, in metres.
        fields: the values by Fluent's names, such as ``x-velocity`` and ``pressure``; each ``"point"``.
    """

    points: npt.NDArray[Any]
    fields: Mapping[str, npt.NDArray[Any]]

    def __post_init__(self) -> None:
        if np.ndim(self.points) != 2 or np.shape(self.points)[1] not in (2, 3):
            raise ValueError(f"points must be 'point axis' with 2 or 3 axes, not {np.shape(self.points)}")
        require_finite(self.points, "points")
        for name, values in self.fields.items():
            require_field(name)
            if np.shape(values) != (len(self.points),):
                raise ValueError(
                    f"{name} has the shape {np.shape(values)}, {len(self.points)} points need as many values"
                )
            require_finite(values, name)


def write_cloud(path: str | Path, cloud: Cloud, form: Form = "3") -> None:
    """Write an interpolation file, whole or not at all."""
    with written(path) as file:
        count, dimension = cloud.points.shape
        head = [form[0], str(dimension), str(count), str(len(cloud.fields)), *cloud.fields]
        file.write("".join(f"{line}\n" for line in head).encode())
        for values in (*cloud.points.T, *cloud.fields.values()):
            _write_list(file, np.ascontiguousarray(values), form)


def _write_list(file: BinaryIO, values: npt.NDArray[Any], form: Form) -> None:
    opening, closing = (b"", b"") if form == "2" else (b"(", b")\n")
    file.write(opening)
    if form == "3-binary":
        file.write(values.astype("<f8").tobytes())
    else:
        file.writelines(numbers(values))
    file.write(closing)


def read_cloud(path: str | Path) -> Cloud:
    """An interpolation file of version 2 or 3, text or binary.

    Raises:
        UnitError: it is none; the text says where.
    """
    with Path(path).open("rb") as file:
        version, dimension, count, fields = (_integer(path, file) for _ in range(4))
        if version not in (2, 3) or dimension not in (2, 3) or count < 0 or fields < 0:
            raise UnitError(
                f"{path}: it begins with {version}, {dimension}, {count}, {fields}; an interpolation file has version "
                "2 or 3, dimension 2 or 3, the number of points and that of fields"
            )
        names = [" ".join(words(file.readline(), str(path))) for _ in range(fields)]
        data = file.read()
    axes = ["x", "y", "z"][:dimension]
    lists = (
        _plain(path, data, count, [*axes, *names]) if version == 2 else _bracketed(path, data, count, [*axes, *names])
    )
    try:
        return Cloud(np.stack(lists[:dimension], axis=1), dict(zip(names, lists[dimension:], strict=True)))
    except ValueError as error:
        raise UnitError(f"{path}: {error}") from error


def _integer(path: str | Path, file: BinaryIO) -> int:
    line = file.readline(64)
    try:
        return int(line)
    except ValueError as error:
        raise UnitError(f"{path}: a line with one integer was needed, found {line!r}; is it an .ip file?") from error


def _plain(path: str | Path, data: bytes, count: int, names: list[str]) -> list[Floats]:
    values = floats(data, count * len(names), f"{path}: {', '.join(names)}")
    return list(values.reshape(len(names), count))


def _bracketed(path: str | Path, data: bytes, count: int, names: list[str]) -> list[Floats]:
    lists, at = [], 0
    for name in names:
        at = data.find(b"(", at) + 1
        if not at:
            raise UnitError(f"{path}: the list of {name} was needed, the file ends before it; it is cut off")
        values, at = _list(f"{path}: {name}", data, at, count)
        lists.append(values)
    return lists


def _list(what: str, data: bytes, at: int, count: int) -> tuple[Floats, int]:
    """The numbers from *at* to the closing parenthesis, and where the next list may begin."""
    for kind in ("<f8", "<f4"):
        stop = at + count * np.dtype(kind).itemsize
        if count and data[stop : stop + 2] in (b")\n", b")") and not _is_text(data[at:stop]):
            return np.frombuffer(data[at:stop], kind).astype(np.float64), stop + 1
    stop = data.find(b")", at)
    if stop < 0:
        raise UnitError(f"{what}: the closing parenthesis is missing; the file is cut off")
    return floats(data[at:stop], count, what), stop + 1


def _is_text(data: bytes) -> bool:
    return not data.translate(None, b"0123456789+-.eE \t\r\n")
