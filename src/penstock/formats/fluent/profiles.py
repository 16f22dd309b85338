"""Profiles: values over a boundary, a line or time, as Fluent's boundary conditions read them.

A ``.prof`` file holds any number of these (Fluent User's Guide, "Profiles", "Transient Cell Zone and Boundary
Conditions"; values are SI)::

    ((inlet point 3)
    (x 0.0 0.0 0.0)
    (y 0.0 0.5 1.0)
    (u 1.0 1.5 1.0)
    )
    ((flow transient 2 0)
    (time 0.0 1.0)
    (u 1.0 2.0)
    )

Kinds: ``point``, ``line``, ``radial`` and ``axial`` have one size, ``mesh`` has two, ``transient`` has a size and
whether it repeats (1 or 0).

The CSV form is the one of Ansys CFX ("Profile Data Format", CFX-Pre User's Guide 32.2.1.1), which Fluent reads too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.fluent.files import floats, numbers, require_finite, words, written
from penstock.formats.fluent.names import require_field, require_name

__all__ = ["Kind", "Profile", "Table", "read_csv", "read_profiles", "write_csv", "write_profiles"]

Kind: TypeAlias = Literal["point", "line", "mesh", "radial", "axial", "transient"]
_PER_LINE = 5


@dataclass(frozen=True, eq=False)
class Profile:
    """One profile.

    Attributes:
        name: under which boundary conditions find it; lower case. A profile of the same name is replaced.
        fields: the values by name, coordinates (``x y z``, or ``time``) among them; each ``"point"``.
        kind: how Fluent interpolates.
        shape: of a ``mesh``: m and n, whose product is the number of points; else empty.
        periodic: of a ``transient``: whether it begins anew when it ends.
    """

    name: str
    fields: Mapping[str, npt.NDArray[Any]]
    kind: Kind = "point"
    shape: tuple[int, ...] = ()
    periodic: bool = False

    def __post_init__(self) -> None:
        require_name(self.name)
        if self.kind not in get_args(Kind):
            raise ValueError(f"profile {self.name}: the kind {self.kind!r} is none of {', '.join(get_args(Kind))}")
        _require_columns(self.name, self.fields)
        if (self.kind == "mesh") != (len(self.shape) == 2):
            raise ValueError(f"profile {self.name}: a mesh, and nothing else, needs a shape (m, n), not {self.shape}")
        if self.shape and math.prod(self.shape) != self.points:
            raise ValueError(f"profile {self.name}: a mesh of {self.shape} has not {self.points} points")
        if self.kind == "transient":
            _require_rising(self.name, self.fields)

    @property
    def points(self) -> int:
        """How many values each field has."""
        return len(next(iter(self.fields.values())))


def _require_columns(name: str, fields: Mapping[str, npt.NDArray[Any]]) -> None:
    sizes = {key: np.shape(values) for key, values in fields.items()}
    if not sizes or len(set(sizes.values())) > 1 or any(len(size) != 1 for size in sizes.values()):
        raise ValueError(f"profile {name}: fields of one dimension and equal size were needed, found {sizes}")
    for key, values in fields.items():
        require_field(key)
        require_finite(values, f"profile {name}, field {key}")


def _require_rising(name: str, fields: Mapping[str, npt.NDArray[Any]]) -> None:
    key = next((key for key in ("time", "angle") if key in fields), None)
    if key is None:
        raise ValueError(f"profile {name}: a transient profile needs a field 'time' or 'angle', found {list(fields)}")
    if np.any(np.diff(fields[key]) <= 0):
        raise ValueError(f"profile {name}: '{key}' must rise from value to value")


# --- .prof -----------------------------------------------------------------------------------------------


def write_profiles(path: str | Path, profiles: Iterable[Profile]) -> None:
    """Write a ``.prof`` file, whole or not at all."""
    with written(path) as file:
        for profile in profiles:
            file.writelines(_profile(profile))


def _profile(profile: Profile) -> Iterator[bytes]:
    sizes = profile.shape or (profile.points,)
    tail = [str(size) for size in sizes] + (["01"[profile.periodic]] if profile.kind == "transient" else [])
    yield f"(({profile.name} {profile.kind} {' '.join(tail)})\n".encode()
    for name, values in profile.fields.items():
        yield f"({name}\n".encode()
        yield from numbers(values, _PER_LINE)
        yield b")\n"
    yield b")\n"


_HEAD = re.compile(rb"\s*\(\s*\(([^()]*)\)")
_FIELD = re.compile(rb"\s*\(\s*([^\s()]+)\s*([^()]*)\)")
_END = re.compile(rb"\s*\)")
_REST = re.compile(rb"\s*\Z")


def read_profiles(path: str | Path) -> list[Profile]:
    """The profiles of a ``.prof`` file.

    Raises:
        UnitError: it is none; the text says where.
    """
    data, found, at = Path(path).read_bytes(), [], 0
    while not _REST.match(data, at):
        head = _HEAD.match(data, at)
        if not head:
            raise _unexpected(path, data, at, "the head of a profile, such as ((inlet point 12)")
        fields, at = _fields(path, data, head.end())
        found.append(_read_profile(f"{path}: {head[1].decode(errors='replace')}", head[1], fields))
    return found


def _fields(path: str | Path, data: bytes, at: int) -> tuple[dict[str, bytes], int]:
    fields: dict[str, bytes] = {}
    while not (end := _END.match(data, at)):
        field = _FIELD.match(data, at)
        if not field:
            raise _unexpected(path, data, at, "a field, such as (x 0 1 2), or the end of the profile")
        fields[field[1].decode(errors="replace")] = field[2]
        at = field.end()
    return fields, end.end()


def _unexpected(path: str | Path, data: bytes, at: int, needed: str) -> UnitError:
    line = data.count(b"\n", 0, at) + 1
    return UnitError(f"{path}, line {line}: {needed} was needed, found {data[at : at + 40]!r}; is it a profile file?")


def _read_profile(what: str, head: bytes, texts: Mapping[str, bytes]) -> Profile:
    parts = words(head, what)
    kind: Any = parts[1] if len(parts) > 1 else ""
    if not all(part.isdigit() for part in parts[2:]) or len(parts) != (4 if kind in ("mesh", "transient") else 3):
        raise UnitError(f"{what}: the head of a profile was needed: name, kind and sizes, such as (inlet point 12)")
    sizes = [int(part) for part in parts[2:]]
    shape, periodic = (tuple(sizes), False) if kind == "mesh" else ((), kind == "transient" and sizes[1] == 1)
    count = math.prod(shape) if shape else sizes[0]
    fields = {name: floats(text, count, f"{what}, field {name}") for name, text in texts.items()}
    try:
        return Profile(parts[0], fields, kind, shape, periodic)
    except ValueError as error:
        raise UnitError(f"{what}: {error}") from error


# --- .csv ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Table:
    """A profile in the CSV form.

    Attributes:
        name: of the place or boundary; letters of any case and spaces may stand in it.
        fields: the values by name, each ``"point"``. Names count as they are written: ``u`` is the x velocity
            of CFX, ``U`` is unknown to it.
        units: by name of field, such as ``m s^-1``; a field may have none.
        spatial: the fields that are coordinates.
        parameters: further lines, such as ``Coefficient = 12.8 [K]``, by name.
    """

    name: str
    fields: Mapping[str, npt.NDArray[Any]]
    units: Mapping[str, str] = field(default_factory=dict)
    spatial: tuple[str, ...] = ("x", "y", "z")
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_columns_of(self)
        texts = [self.name, *self.fields, *self.units.values(), *self.parameters, *self.parameters.values()]
        for text in texts:
            if text != text.strip() or not text.isprintable() or any(mark in text for mark in "#,[]"):
                if text in self.parameters.values() and "#" not in text and text.isprintable():
                    continue  # a unit stands in brackets behind a parameter's value
                raise ValueError(
                    f"profile {self.name!r}: {text!r} cannot stand in a CSV profile: no # , [ ] or line end"
                )
        if not self.name or not set(self.spatial) <= set(self.fields) or not set(self.units) <= set(self.fields):
            raise ValueError(
                f"profile {self.name!r}: it needs a name, and {self.spatial} and {tuple(self.units)} among its fields "
                f"{tuple(self.fields)}"
            )


def _require_columns_of(table: Table) -> None:
    sizes = {key: np.shape(values) for key, values in table.fields.items()}
    if not sizes or len(set(sizes.values())) > 1 or any(len(size) != 1 for size in sizes.values()):
        raise ValueError(f"profile {table.name!r}: fields of one dimension and equal size were needed, found {sizes}")
    for key, values in table.fields.items():
        require_finite(values, f"profile {table.name!r}, field {key}")


def write_csv(path: str | Path, tables: Iterable[Table]) -> None:
    """Write CSV profiles, whole or not at all."""
    with written(path) as file:
        for table in tables:
            file.write(_csv_head(table).encode())
            columns = np.stack([np.asarray(values, np.float64) for values in table.fields.values()], axis=1)
            for block in numbers(columns, columns.shape[1]):
                file.write(block.replace(b" ", b", "))


def _csv_head(table: Table) -> str:
    headings = [f"{name} [ {table.units[name]} ]" if name in table.units else name for name in table.fields]
    lines = ["[Name]", table.name, ""]
    if table.parameters:
        lines += ["[Parameters]", *(f"{name} = {value}" for name, value in table.parameters.items()), ""]
    lines += ["[Spatial Fields]", ", ".join(table.spatial), "", "[Data]", ", ".join(headings)]
    return "\n".join(lines) + "\n"


def read_csv(path: str | Path) -> list[Table]:
    """The profiles of a CSV file; comments and sections of other names are passed over.

    Raises:
        UnitError: it is none; the text says where.
    """
    text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    found = [_table(path, sections) for sections in _sections(path, filter(None, lines))]
    if not found:
        raise UnitError(f"{path}: there is no section [Name]; is it a CSV profile?")
    return found


def _sections(path: str | Path, lines: Iterable[str]) -> Iterator[dict[str, list[str]]]:
    """The lines of each section by its name in lower case, for each profile."""
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        if mark := re.fullmatch(r"\[([^\]]+)\]\s*,*", line):
            if mark[1].strip().lower() == "name" and sections:
                yield sections
                sections = {}
            current = sections.setdefault(mark[1].strip().lower(), [])
        elif current is None:
            raise UnitError(f"{path}: {line[:40]!r} stands before the first section [Name]; is it a CSV profile?")
        else:
            current.append(line.rstrip(", "))
    if sections:
        yield sections


def _table(path: str | Path, sections: Mapping[str, Sequence[str]]) -> Table:
    name, data = sections.get("name", []), sections.get("data", [])
    if len(name) != 1 or not data:
        raise UnitError(f"{path}: a profile needs one line below [Name], and a head and rows below [Data]")
    headings = [re.fullmatch(r"([^\[]+?)\s*(?:\[\s*(.*?)\s*\])?", part.strip()) for part in data[0].split(",")]
    if not all(headings):
        raise UnitError(f"{path}, {name[0]}: {data[0]!r} is no head of columns such as x [ m ], u [ m s^-1 ]")
    titles = [(match[1], match[2]) for match in headings if match]
    rows = floats(",".join(data[1:]).replace(",", " ").encode(), len(titles) * (len(data) - 1), f"{path}, {name[0]}")
    columns = rows.reshape(-1, len(titles))
    spatial = [part.strip() for line in sections.get("spatial fields", []) for part in line.split(",")]
    parameters = dict(_pair(line) for line in sections.get("parameters", []))
    try:
        return Table(
            name[0],
            {title: columns[:, at].copy() for at, (title, _) in enumerate(titles)},
            {title: unit for title, unit in titles if unit},
            tuple(title for title, _ in titles if title.lower() in {part.lower() for part in spatial}),
            parameters,
        )
    except ValueError as error:
        raise UnitError(f"{path}: {error}") from error


def _pair(line: str) -> tuple[str, str]:
    name, _, value = line.partition("=")
    return name.strip(), value.strip()
