"""Fields on the cells or faces of a mesh: one file for each field and time.

Format: https://www.openfoam.com/documentation/user-guide/4-boundary-conditions/4.2-boundaries and the files
that the solvers write.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam.syntax import (
    SHAPES,
    Cursor,
    Form,
    Value,
    body,
    header,
    raw,
    read_bytes,
    replaced,
)

__all__ = ["DIMENSIONLESS", "PRESSURE", "VELOCITY", "Field", "dimensions_of", "read_field", "write_field"]

Floats: TypeAlias = npt.NDArray[np.float64]
Dimensions: TypeAlias = tuple[float, ...]
"""Exponents of kg, m, s, K, mol, A, cd."""

DIMENSIONLESS: Dimensions = (0, 0, 0, 0, 0, 0, 0)
VELOCITY: Dimensions = (0, 1, -1, 0, 0, 0, 0)
PRESSURE: Dimensions = (0, 2, -2, 0, 0, 0, 0)
"""Kinematic, as incompressible solvers have it."""

_UNITS = ("kg", "m", "s", "K", "mol", "A", "cd")
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?")
_POWER = re.compile(rf"({'|'.join(_UNITS)})(?:\^([-+]?\d+(?:\.\d*)?))?")
_HEAD_BYTES = 1 << 16
_NUMBERS = re.compile(rb"\binternalField\s+nonuniform\s+List<(\w+)>\s*(\d+)\s*\(")
_CLASSES = {(): "volScalarField", (3,): "volVectorField", (6,): "volSymmTensorField", (9,): "volTensorField"}
_ELEMENT = re.compile(r"(?:vol|surface|point)(Scalar|Vector|SphericalTensor|SymmTensor|Tensor)Field(?:::Internal)?")


@dataclass(frozen=True, eq=False)
class Field:
    """A field at one time.

    Attributes:
        internal: values in the order of cells, or of internal faces for surface fields, ``"cell"`` or
            ``"cell component"``;
            or one element for all, ``""`` or ``"component"``; then a vector needs *kind*.
        dimensions: exponents of kg, m, s, K, mol, A, cd.
        boundary: what each patch has, by the patch's name: texts, and arrays for lists, ``"face ..."``.
        kind: the class, such as ``volVectorField``; empty takes it from the shape.
    """

    internal: Floats
    dimensions: Dimensions = DIMENSIONLESS
    boundary: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    kind: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one element."""
        return SHAPES[_element(self.kind)] if self.kind else self.internal.shape[1:]

    @property
    def uniform(self) -> bool:
        """Whether there is one element for all."""
        return self.internal.ndim == len(self.shape)

    def values(self, count: int) -> Floats:
        """The values of all *count* cells. Raises `UnitError` when there is another number of them."""
        if self.uniform:
            return np.broadcast_to(self.internal, (count, *self.shape))
        if len(self.internal) != count:
            raise UnitError(
                f"the field has {len(self.internal)} values, the mesh {count} cells; is it of another case?"
            )
        return self.internal

    def patch(self, name: str, count: int) -> Floats:
        """The values on a patch of *count* faces, from its ``value``.

        Raises:
            UnitError: there is no such patch, or it stores no values.
        """
        if name not in self.boundary:
            raise UnitError(f"there is no patch '{name}'; there are: {', '.join(self.boundary) or 'none'}")
        value = self.boundary[name].get("value")
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, str) and value.startswith("uniform"):
            return np.broadcast_to(_element_in(value.removeprefix("uniform"), self.shape, name), (count, *self.shape))
        raise UnitError(f"patch '{name}' stores no values, its type is {self.boundary[name].get('type', 'not given')}")


def read_field(path: str | os.PathLike[str]) -> Field:
    """Read a field, ascii or binary, also when ``.gz``.

    Raises:
        UnitError: it is no field, is cut short, or takes its values by a macro.
    """
    path = Path(path)
    compressed = path.suffix == ".gz" or not path.exists()
    with BytesIO(read_bytes(path)) if compressed else path.open("rb", buffering=0) as file:
        return _read(file, str(path))


def _read(file: BinaryIO, where: str) -> Field:
    """The numbers of a binary field go straight from the file into their array."""
    head = file.read(_HEAD_BYTES)
    before = Cursor(head[: match.start()] if (match := _NUMBERS.search(head)) else b"", where)
    entries = before.entries()
    if match is None or not before.form.binary:
        return _field(Cursor(head + file.read(), where).entries(), where)
    entries["internalField"] = _numbers(file, match, before.form, where)
    rest = Cursor(file.read(), where, before.form)
    rest.expect(b")")
    rest.expect(b";")
    return _field({**entries, **rest.entries()}, where)


def _numbers(file: BinaryIO, match: re.Match[bytes], form: Form, where: str) -> npt.NDArray[Any]:
    shape = SHAPES.get(match[1].decode(), ())
    values = np.empty((int(match[2]), *shape), form.dtype("scalar"))
    view = raw(values)
    file.seek(match.end())
    at = 0
    while at < len(view):
        taken = file.readinto(view[at:])  # type: ignore[attr-defined]
        if not taken:
            raise UnitError(f"{where}: the list of {len(view)} bytes ends after {at}; is it still being written?")
        at += taken
    return values.astype(np.float64, copy=False)


def _field(entries: Mapping[str, Value], where: str) -> Field:
    head = entries.get("FoamFile")
    kind = str(head.get("class", "")) if isinstance(head, dict) else ""
    if not _ELEMENT.fullmatch(kind):
        raise UnitError(f"{where}: this is {kind or 'a file without header'}; a vol or surface field was needed")
    boundary = entries.get("boundaryField", None if "internalField" in entries else {})
    internal = entries.get("internalField", entries.get("value"))  # the second is how Field::Internal is written
    if not isinstance(boundary, dict) or internal is None or isinstance(internal, dict):
        raise UnitError(f"{where}: internalField and boundaryField were needed, one is lacking; is it cut short?")
    patches = {name: patch if isinstance(patch, dict) else {"": patch} for name, patch in boundary.items()}
    return Field(_internal(internal, kind, where), dimensions_of(str(entries.get("dimensions", "[]"))), patches, kind)


def _internal(value: str | npt.NDArray[Any], kind: str, where: str) -> Floats:
    if isinstance(value, np.ndarray):
        return value
    if not value.startswith("uniform"):
        raise UnitError(
            f"{where}: internalField is '{value[:40]}'; numbers were needed. Macros are not expanded here: "
            "have the case write it, by a solver or by setFields"
        )
    return _element_in(value.removeprefix("uniform"), SHAPES[_element(kind)], where)


def _element_in(text: str, shape: tuple[int, ...], where: str) -> Floats:
    try:
        return np.array(text.replace("(", " ").replace(")", " ").split(), np.float64).reshape(shape)
    except ValueError as error:
        raise UnitError(f"{where}: 'uniform{text}' is no element of {int(np.prod(shape))} numbers") from error


def _element(kind: str) -> str:
    match = _ELEMENT.fullmatch(kind)
    if match is None:
        raise UnitError(f"'{kind}' is no class of fields; volScalarField or volVectorField, for example, was needed")
    return match[1][0].lower() + match[1][1:]


def dimensions_of(text: str) -> Dimensions:
    """The exponents in ``[0 1 -1 0 0 0 0]``, ``[0 1 -1 0 0]`` or ``[m s^-1]``.

    Raises:
        UnitError: it says something else.
    """
    words = text.strip().strip("[]").split()
    if _all(_NUMBER, words):
        return tuple(float(word) for word in [*words, *["0"] * 7][:7])
    powers = {match[1]: float(match[2] or 1) for word in words if (match := _POWER.fullmatch(word))}
    if len(powers) == len(words):
        return tuple(powers.get(unit, 0.0) for unit in _UNITS)
    raise UnitError(f"the dimensions {text} are not understood; write [0 1 -1 0 0 0 0] or [m s^-1]")


def _all(pattern: re.Pattern[str], words: list[str]) -> bool:
    return all(pattern.fullmatch(word) for word in words)


def write_field(path: str | os.PathLike[str], field: Field, binary: bool = True) -> None:
    """Write a field, whole or not at all.

    Raises:
        UnitError: OpenFOAM has no field of this shape.
    """
    path = Path(path)
    kind = field.kind or _CLASSES.get(field.shape)
    if kind is None:
        raise UnitError(f"elements of the shape {field.shape} were given; (), (3,), (6,) or (9,) was needed")
    internal = field.internal if not field.uniform else f"uniform {_plain(field.internal)}"
    dimensions = " ".join(f"{power:g}" for power in field.dimensions)
    entries = {"internalField": internal, "boundaryField": field.boundary}
    head = header(kind, path.name, path.parent.name, binary)
    replaced(path, [head, f"dimensions [{dimensions}];\n".encode(), *body(entries, binary)])


def _plain(element: Floats) -> str:
    numbers = " ".join(repr(float(number)) for number in element.reshape(-1))
    return f"({numbers})" if element.ndim else numbers
