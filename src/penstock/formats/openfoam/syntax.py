"""The syntax of OpenFOAM files: dictionaries in text, in which lists of numbers may be raw bytes.

Grammar: https://www.openfoam.com/documentation/user-guide/2-openfoam-cases/2.2-basic-inputoutput-file-format.
Binary lists are ``N(`` bytes ``)`` in the byte order and widths that the header's ``arch`` names.
"""

from __future__ import annotations

import gzip
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError

__all__ = [
    "SHAPES",
    "Cursor",
    "Form",
    "Value",
    "body",
    "element_of",
    "entry_text",
    "header",
    "listed",
    "raw",
    "read_bytes",
    "read_dictionary",
    "replaced",
    "write_dictionary",
]

Value: TypeAlias = "str | npt.NDArray[Any] | dict[str, Value]"
"""What an entry holds: its text, the numbers of a list, ``"item ..."``, or a dictionary."""

SHAPES: Mapping[str, tuple[int, ...]] = {
    "scalar": (),
    "vector": (3,),
    "sphericalTensor": (1,),
    "symmTensor": (6,),
    "tensor": (9,),
    "label": (),
}
"""The shape of one element of a list."""

_SPACE = re.compile(rb"(?:\s+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_KEY = re.compile(rb'"[^"]*"|[^\s;{}"]+')
_MARK = re.compile(rb'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/|[;(){}\[\]]', re.DOTALL)
_COMMENT = re.compile(rb'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LIST = re.compile(rb"nonuniform\s+(?:List<(\w+)>\s*)?(?=[\d({])|List<(\w+)>\s*(?=[\d({])")
_COUNT = re.compile(rb"(\d+)?\s*([({])?")
_EMPTY, _END = re.compile(rb"\s*\)"), re.compile(rb"\)\s*\)")
_BRACKETS = bytes.maketrans(b"()", b"  ")


@dataclass(frozen=True)
class Form:
    """How numbers are written.

    Attributes:
        binary: lists are raw bytes.
        label, scalar: their dtypes.
    """

    binary: bool = False
    label: str = "<i4"
    scalar: str = "<f8"

    @classmethod
    def of(cls, head: Mapping[str, Value]) -> Form:
        """The form that a ``FoamFile`` header tells of."""
        arch = str(head.get("arch", ""))
        order = ">" if "MSB" in arch else "<"
        widths = {name: int(bits) // 8 for name, bits in re.findall(r"(label|scalar)=(\d+)", arch)}
        binary = head.get("format") == "binary"
        return cls(binary, f"{order}i{widths.get('label', 4)}", f"{order}f{widths.get('scalar', 8)}")

    def dtype(self, element: str) -> np.dtype[Any]:
        """Of the numbers of an element."""
        return np.dtype(self.label if element == "label" else self.scalar)


class Cursor:
    """Goes through the bytes of a file.

    Args:
        data: the bytes.
        where: the file's name, for messages.
        form: how its numbers are written, until a header says otherwise.
        at: where to begin.
    """

    def __init__(self, data: bytes, where: str, form: Form | None = None, at: int = 0) -> None:
        self.data, self.where, self.form, self.at = data, where, form or Form(), at

    def entries(self, closing: bytes = b"") -> dict[str, Value]:
        """The entries up to *closing*, or to the end. Raises `UnitError`."""
        found: dict[str, Value] = {}
        while not self._closed(closing):
            key = self._key()
            found[key] = self._value(key)
            if key == "FoamFile" and isinstance(header := found[key], dict):
                self.form = Form.of(header)
        return found

    def head(self) -> None:
        """Go over the ``FoamFile`` header, where there is one; it says in which form numbers are written."""
        self.skip()
        if self.data.startswith(b"FoamFile", self.at):
            self.at += len(b"FoamFile")
            self.expect(b"{")
            self.form = Form.of(self.entries(b"}"))

    def count(self) -> int:
        """Go over the count and the bracket with which a list begins. Raises `UnitError`."""
        self.skip()
        count, bracket = self._taken(_COUNT).groups()
        if bracket is None:
            raise self.error("no list", "a count and '('")
        return int(count or 0)

    def numbers(self, element: str) -> npt.NDArray[Any]:
        """A list as it stands here: ``N(...)``, ``N{value}``, ``(...)`` or ``0``. Raises `UnitError`."""
        shape = SHAPES.get(element)
        if shape is None:
            raise self.error(f"a list of '{element}'", f"a list of {', '.join(SHAPES)}")
        self.skip()
        count, bracket = self._taken(_COUNT).groups()
        if bracket is None:
            if count != b"0":
                raise self.error("no list", "a count and its numbers")
            return np.empty((0, *shape), self._native(element))
        take = self._raw if self.form.binary and count is not None else self._plain
        values = take(element, shape, int(count) if count is not None else None, bracket == b"{")
        return values.astype(self._native(element), copy=False)

    def skip(self) -> None:
        """Go over space and comments."""
        self.at = self._taken(_SPACE).end()

    def expect(self, mark: bytes) -> None:
        """Go over *mark*, which must stand here. Raises `UnitError`."""
        self.skip()
        if not self.data.startswith(mark, self.at):
            raise self.error(repr(self.data[self.at : self.at + 20].decode(errors="replace")), repr(mark.decode()))
        self.at += len(mark)

    def error(self, found: str, wanted: str) -> UnitError:
        """What to raise."""
        return UnitError(
            f"{self.where}: at byte {self.at} there is {found}; {wanted} was needed. "
            "Is the file cut short, or still being written?"
        )

    def _closed(self, closing: bytes) -> bool:
        self.skip()
        if closing and self.data.startswith(closing, self.at):
            self.at += len(closing)
            return True
        if self.at < len(self.data):
            return False
        if closing:
            raise self.error("the end", repr(closing.decode()))
        return True

    def _key(self) -> str:
        match = _KEY.match(self.data, self.at)
        if match is None:
            raise self.error(repr(chr(self.data[self.at])), "a keyword")
        self.at = match.end()
        return match[0].decode(errors="replace")

    def _value(self, key: str) -> Value:
        if key.startswith("#"):
            return self._line()
        self.skip()
        if self.data.startswith(b"{", self.at):
            self.at += 1
            return self.entries(b"}")
        if match := _LIST.match(self.data, self.at):
            return self._listed(match)
        return self._text()

    def _listed(self, match: re.Match[bytes]) -> Value:
        self.at = match.end()
        values = self.numbers((match[1] or match[2] or b"scalar").decode())
        self.expect(b";")
        return values

    def _line(self) -> str:
        stop = self.data.find(b"\n", self.at)
        stop = len(self.data) if stop < 0 else stop
        text, self.at = self.data[self.at : stop], stop
        return text.strip().decode(errors="replace")

    def _text(self) -> str:
        """The text up to the semicolon that ends the entry; those in brackets do not."""
        depth, start = 0, self.at
        for mark in _MARK.finditer(self.data, start):
            if mark[0] == b";" and depth == 0:
                self.at = mark.end()
                text = _COMMENT.sub(lambda match: match[1] or b" ", self.data[start : mark.start()])
                return text.strip().decode(errors="replace")
            depth += (mark[0] in b"({[") - (mark[0] in b")}]")
            if depth < 0:
                break
        raise self.error(repr(self.data[start : start + 30].decode(errors="replace")), "';' at the end of the entry")

    def _raw(self, element: str, shape: tuple[int, ...], count: int | None, same: bool) -> npt.NDArray[Any]:
        kind, width = self.form.dtype(element), int(np.prod(shape, dtype=int))
        rows = 1 if same else count or 0
        size = rows * width * kind.itemsize
        if self.at + size > len(self.data):
            raise self.error(f"the end after {len(self.data) - self.at} bytes", f"a list of {size} bytes")
        values = np.frombuffer(self.data, kind, rows * width, self.at).reshape(rows, *shape)
        self.at += size
        self.expect(b"}" if same else b")")
        return np.repeat(values, count or 0, axis=0) if same else values

    def _plain(self, element: str, shape: tuple[int, ...], count: int | None, same: bool) -> npt.NDArray[Any]:
        stop = self._stop(b"}" if same else b")", nested=bool(shape) and not same)
        words = self.data[self.at : stop].translate(_BRACKETS)
        try:
            values = _parsed(words, self._native(element)).reshape(-1, *shape)
        except ValueError as error:
            raise self.error(str(error), f"numbers, {max(1, int(np.prod(shape)))} to an element") from error
        if same and count is not None:
            values = np.repeat(values, count, axis=0)
        if count is not None and len(values) != count:
            raise self.error(f"a list of {len(values)} elements", f"{count}")
        self.at = stop + 1
        return values

    def _stop(self, bracket: bytes, nested: bool) -> int:
        """Where the list ends that begins here; its elements may have brackets of their own."""
        empty = _EMPTY.match(self.data, self.at)
        stop = self.data.find(bracket, self.at)
        if nested and not empty:
            end = _END.search(self.data, self.at)
            stop = end.end() - 1 if end else -1
        if stop < 0:
            raise self.error("no end of the list", repr(bracket.decode()))
        return stop

    def _native(self, element: str) -> type[np.generic]:
        return np.int64 if element == "label" else np.float64

    def _taken(self, pattern: re.Pattern[bytes]) -> re.Match[bytes]:
        match = pattern.match(self.data, self.at)
        assert match is not None  # these patterns match nothing at all, too
        self.at = match.end()
        return match


def _parsed(words: bytes, kind: type[np.generic]) -> npt.NDArray[Any]:
    try:
        return np.array(words.split(), kind)
    except ValueError as error:
        raise ValueError(f"no number ({error})") from error


# --- writing ---------------------------------------------------------------------------------------------


def header(kind: str, name: str, location: str = "", binary: bool = False, note: str = "") -> bytes:
    """The ``FoamFile`` header of a file of class *kind*."""
    more = '    arch        "LSB;label=32;scalar=64";\n' if binary else ""
    more += f'    note        "{note}";\n' if note else ""
    more += f'    location    "{location}";\n' if location else ""
    form = "binary" if binary else "ascii"
    return (
        f"FoamFile\n{{\n    version     2.0;\n    format      {form};\n    class       {kind};\n{more}"
        f"    object      {name};\n}}\n"
    ).encode()


def entry_text(value: Any) -> str:
    """A plain value as OpenFOAM writes it: ``yes``, ``0.1``, ``(1 0 0)``."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return f"({' '.join(map(entry_text, value))})"
    return repr(float(value)) if isinstance(value, float) else str(value)


def element_of(values: npt.NDArray[Any]) -> str:
    """The name of the elements of a list, ``"item ..."``.

    Raises:
        UnitError: OpenFOAM has no such element.
    """
    if values.dtype.kind in "iu" and values.ndim == 1:
        return "label"
    for name, shape in SHAPES.items():
        if values.shape[1:] == shape:
            return name
    raise UnitError(
        f"a list of the shape {values.shape} was given; (n,), (n, 3), (n, 6) or (n, 9) was needed, "
        "for scalars, vectors, symmetric tensors and tensors"
    )


def raw(values: npt.NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array, shared with it."""
    return values.reshape(-1).view(np.uint8).data


def listed(values: npt.NDArray[Any], binary: bool) -> Iterator[bytes | memoryview]:
    """A list as it is written: ``N(...)``."""
    values = np.ascontiguousarray(values, "<i4" if values.dtype.kind in "iu" else "<f8")
    yield b"%d\n" % len(values)
    if len(values) == 0 and binary:
        return
    yield b"("
    if binary:
        yield raw(values)
    else:
        yield "\n".join(map(entry_text, values.tolist())).encode()
    yield b")\n"


def body(entries: Mapping[str, Any], binary: bool = False, indent: int = 0) -> Iterator[bytes | memoryview]:
    """The entries of a dictionary as they are written."""
    space = b" " * indent
    for key, value in entries.items():
        name = key.encode()
        if isinstance(value, Mapping):
            yield space + name + b"\n" + space + b"{\n"
            yield from body(value, binary, indent + 4)
            yield space + b"}\n"
        elif isinstance(value, np.ndarray) and value.ndim:
            yield space + name + f" nonuniform List<{element_of(value)}> ".encode()
            yield from listed(value, binary)
            yield b";\n"
        else:
            end = b"\n" if key.startswith("#") else b";\n"
            yield space + name + (b" " + entry_text(value).encode()).rstrip() + end


def replaced(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file, whole or not at all: a solver never sees a half-written one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


# --- files -----------------------------------------------------------------------------------------------


def read_bytes(path: Path) -> bytes:
    """The bytes of *path*, or of ``path.gz`` as the solver leaves it with ``writeCompression on``.

    Raises:
        UnitError: there is neither, or it cannot be read.
    """
    try:
        if path.suffix == ".gz" or not path.exists():
            return gzip.decompress(path.with_name(path.name.removesuffix(".gz") + ".gz").read_bytes())
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UnitError(f"{path}: there is no such file, nor {path.name}.gz; check case, time and name") from error
    except (OSError, EOFError) as error:
        raise UnitError(f"{path} cannot be read: {error}; is it cut short?") from error


def read_dictionary(path: str | os.PathLike[str]) -> dict[str, Value]:
    """A dictionary such as ``system/controlDict``, without its header. Raises `UnitError`.

    ``$macros`` and ``#include`` stay as they are written.
    """
    entries = Cursor(read_bytes(Path(path)), str(path)).entries()
    entries.pop("FoamFile", None)
    return entries


def write_dictionary(path: str | os.PathLike[str], entries: Mapping[str, Any]) -> None:
    """Write a dictionary in text; numbers, truths and tuples are written as OpenFOAM wants them."""
    path = Path(path)
    replaced(path, [header("dictionary", path.name, path.parent.name), *body(entries)])
