"""Fluent's mesh files in text form (``.msh``, and the mesh in an ASCII ``.cas``).

::

    (0 "comment")
    (2 3)                            dimension
    (10 (0 1 N 0 3))                 number of points; all numbers hexadecimal, from 1
    (10 (zone first last 1 3)(x y z ...))
    (12 (0 1 N 0 0))                 number of cells
    (12 (zone first last 1 type))    type 0: mixed, the type of each follows in parentheses
    (13 (0 1 N 0 0))                 number of faces
    (13 (zone first last kind type)(n0 n1 ... c0 c1 ...))     type 0 and 5: the number of nodes stands first
    (45 (zone kind name)())          here the zone's number is decimal; 39 is the older form

Source: Fluent User's Guide, "Mesh File Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from penstock.errors import UnitError
from penstock.formats.fluent.files import Floats, Ints, floats, numbers, words, written
from penstock.formats.fluent.mesh import ZONE_TYPES, Mesh, Zone, cell_types, slots

__all__ = ["read_msh", "write_msh"]

_BLOCK = 1 << 14
_MIXED = (0, 5)
"""Types of face sections whose lines begin with the number of nodes."""


# --- writing ---------------------------------------------------------------------------------------------


def write_msh(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh, whole or not at all."""
    with written(path) as file:
        for text in _head(mesh):
            file.write(text.encode())
        file.writelines(numbers(mesh.points, mesh.dimension))
        file.write(b"))\n")
        for zone in mesh.face_zones:
            file.writelines(_faces(mesh, zone))
        file.writelines(_cells(mesh))
        for zone in (*mesh.cell_zones, *mesh.face_zones):
            file.write(f"(45 ({zone.id} {zone.kind} {zone.name})())\n".encode())


def _head(mesh: Mesh) -> Iterator[str]:
    yield '(0 "Penstock to Fluent")\n\n'
    yield f"(2 {mesh.dimension})\n\n"
    yield f"(10 (0 1 {len(mesh.points):x} 0 {mesh.dimension}))\n"
    yield f"(12 (0 1 {mesh.cells:x} 0 0))\n(13 (0 1 {mesh.faces:x} 0 0))\n\n"
    yield f"(10 (1 1 {len(mesh.points):x} 1 {mesh.dimension})(\n"


def _faces(mesh: Mesh, zone: Zone) -> Iterator[bytes]:
    if zone.stop == zone.start:
        return
    sizes = np.diff(mesh.offsets)[zone.start : zone.stop]
    size = int(sizes[0]) if (sizes == sizes[0]).all() and sizes[0] in (2, 3, 4) else 0
    yield f"(13 ({zone.id:x} {zone.start + 1:x} {zone.stop:x} {ZONE_TYPES[zone.kind]:x} {size:x})(\n".encode()
    for start in range(zone.start, zone.stop, _BLOCK):
        stop = min(start + _BLOCK, zone.stop)
        nodes = mesh.nodes[mesh.offsets[start] : mesh.offsets[stop]] + 1
        sides = mesh.sides[start:stop] + 1
        yield (
            _table(np.concatenate([nodes.reshape(-1, size), sides], axis=1))
            if size
            else _ragged(nodes, sizes[start - zone.start : stop - zone.start], sides)
        )
    yield b"))\n"


def _table(rows: Ints) -> bytes:
    line = " ".join(repeat("%x", rows.shape[1])) + "\n"
    return ((line * len(rows)) % tuple(rows.reshape(-1).tolist())).encode()


def _ragged(nodes: Ints, sizes: Ints, sides: Ints) -> bytes:
    lines, at = [], 0
    for size, (c0, c1) in zip(sizes.tolist(), sides.tolist(), strict=True):
        points = " ".join(f"{node:x}" for node in nodes[at : at + size].tolist())
        lines.append(f"{size:x} {points} {c0:x} {c1:x}\n")
        at += size
    return "".join(lines).encode()


def _cells(mesh: Mesh) -> Iterator[bytes]:
    types = cell_types(mesh)
    for zone in mesh.cell_zones:
        mine = types[zone.start : zone.stop]
        if not len(mine):
            continue
        kind = int(mine[0]) if (mine == mine[0]).all() else 0
        head = f"(12 ({zone.id:x} {zone.start + 1:x} {zone.stop:x} 1 {kind:x})"
        yield f"{head})\n".encode() if kind else f"{head}(\n".encode()
        if not kind:
            yield from numbers(mine, 32)
            yield b"))\n"


# --- reading ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Section:
    """A section of points, cells or faces: the numbers of its head and the text of its body."""

    index: int
    zone: int
    start: int
    stop: int
    kind: int
    element: int
    body: bytes


_OPEN = re.compile(rb"\s*\(\s*(\d+)\s*")
_HEAD = re.compile(rb"\(([^()]*)\)\s*(?:\(([^()]*)\)\s*)?(?:\(\s*\)\s*)?\)")
_NAMED = re.compile(rb"\(\s*(\d+)\s+(\S+)\s+([^\s()]+)[^()]*\)")
_MARK = re.compile(rb'[()"]')
_INTEGER = re.compile(rb"\s*(\d+)\s*\)")


def read_msh(path: str | Path) -> Mesh:
    """A mesh in text form.

    Raises:
        UnitError: it is none, it is binary, or it is cut off; the text says where.
    """
    data, found, named, dimension = Path(path).read_bytes(), [], {}, 0
    for index, at in _sections(path, data):
        if index in (10, 12, 13):
            found.append(_section(path, data, index, at))
        elif index in (39, 45) and (match := _NAMED.match(data, at)):
            named[int(match[1])] = (match[2].decode("ascii", "replace"), match[3].decode("ascii", "replace"))
        elif index == 2 and (match := _INTEGER.match(data, at)):
            dimension = int(match[1])
        elif index // 1000 in (2, 3) and index % 1000 in (10, 12, 13):
            raise UnitError(f"{path}: section {index} is binary; write the mesh as text (ASCII), or as .cas.h5")
    return _mesh(path, found, named, dimension)


def _sections(path: str | Path, data: bytes) -> Iterator[tuple[int, int]]:
    """The index of each section and where its content begins."""
    at = 0
    while match := _OPEN.match(data, at):
        yield int(match[1]), match.end()
        at = _end(path, data, match.end())
    if data[at:].strip():
        line = data.count(b"\n", 0, at) + 1
        raise UnitError(f"{path}, line {line}: a section such as (10 ...) was needed, found {data[at : at + 40]!r}")


def _end(path: str | Path, data: bytes, at: int) -> int:
    """Behind the parenthesis that closes the section; those in texts do not count."""
    start, depth, text = at, 1, False
    for match in _MARK.finditer(data, at):
        mark = match[0]
        text ^= mark == b'"'
        if not text and mark != b'"':
            depth += 1 if mark == b"(" else -1
            if not depth:
                return match.end()
    raise UnitError(f"{path}: the section that begins at byte {start} does not end; the file is cut off")


def _section(path: str | Path, data: bytes, index: int, at: int) -> _Section:
    match = _HEAD.match(data, at)
    if not match:
        raise UnitError(
            f"{path}: section ({index} ... has no head such as (0 1 2f8 0 0) and body, "
            f"found {data[at : at + 40]!r}; the file is cut off or damaged"
        )
    head = _hex(match[1], f"{path}, section {index}")
    if len(head) < 4:
        raise UnitError(f"{path}: the head {match[1]!r} of section {index} has less than four numbers")
    zone, first, last, kind = (int(number) for number in head[:4])
    return _Section(index, zone, first - 1, last, kind, int(head[4]) if len(head) > 4 else 0, match[2] or b"")


def _hex(text: bytes, what: str) -> Ints:
    parts = words(text, what)
    try:
        return np.fromiter(map(int, parts, repeat(16)), np.int64, len(parts))
    except ValueError as error:
        raise UnitError(f"{what}: a hexadecimal number was needed ({error})") from error


def _mesh(path: str | Path, found: Sequence[_Section], named: dict[int, tuple[str, str]], dimension: int) -> Mesh:
    sections = {index: _ordered(path, index, found) for index in (10, 12, 13)}
    dimension = dimension or next((each.element for each in found if each.index == 10 and each.element), 3)
    points = [_points(path, each, dimension) for each in sections[10]]
    faces = [_read_faces(path, each) for each in sections[13]]
    try:
        return Mesh(
            np.concatenate(points) if points else np.empty((0, dimension)),
            np.concatenate([np.empty(0, np.int64), *(nodes for nodes, _, _ in faces)]),
            np.concatenate(
                [[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *(sizes for _, sizes, _ in faces)]))]
            ),
            np.concatenate([np.empty((0, 2), np.int64), *(sides for _, _, sides in faces)]),
            tuple(_zone(each, named) for each in sections[13]),
            tuple(_zone(each, named) for each in sections[12]),
        )
    except ValueError as error:
        raise UnitError(f"{path}: {error}") from error


def _ordered(path: str | Path, index: int, found: Sequence[_Section]) -> list[_Section]:
    """The sections of one index, without the one that gives the number of all, which they must add up to."""
    mine = [each for each in found if each.index == index]
    zones = sorted((each for each in mine if each.zone), key=lambda each: each.start)
    total = next((each.stop for each in mine if not each.zone), None)
    have = sum(each.stop - each.start for each in zones)
    if not zones or (total is not None and total != have):
        raise UnitError(f"{path}: the sections ({index} ... hold {have} of {total} points, cells or faces")
    return zones


def _points(path: str | Path, section: _Section, dimension: int) -> Floats:
    count = section.stop - section.start
    what = f"{path}, points {section.start + 1} to {section.stop}"
    return floats(section.body, count * dimension, what).reshape(count, dimension)


def _read_faces(path: str | Path, section: _Section) -> tuple[Ints, Ints, Ints]:
    """Nodes, numbers of nodes, and cells on both sides, of a section's faces."""
    what = f"{path}, faces {section.start + 1} to {section.stop}"
    count, values = section.stop - section.start, _hex(section.body, what)
    if section.element not in _MIXED:
        if len(values) != count * (section.element + 2):
            raise UnitError(f"{what}: {count} lines of {section.element + 2} numbers were needed, {len(values)} found")
        rows = values.reshape(count, section.element + 2) - 1
        return rows[:, :-2].reshape(-1), np.full(count, section.element), rows[:, -2:]
    sizes, starts = _walked(what, values, count)
    offsets = np.concatenate([starts, [len(values)]])
    inside = np.ones(len(values), np.bool_)
    inside[starts] = inside[offsets[1:] - 1] = inside[offsets[1:] - 2] = False
    sides = np.stack([values[offsets[1:] - 2], values[offsets[1:] - 1]], axis=1) - 1
    return values[slots(offsets, np.arange(count))][inside] - 1, sizes, sides


def _walked(what: str, values: Ints, count: int) -> tuple[Ints, Ints]:
    """The number of nodes of each line, and where it begins: known only from line to line."""
    sizes, starts, at, every = [], [], 0, values.tolist()
    for _ in range(count):
        if at >= len(every):
            break
        sizes.append(every[at])
        starts.append(at)
        at += every[at] + 3
    if len(sizes) != count or at != len(every):
        raise UnitError(f"{what}: {count} faces were needed, {len(sizes)} found in {len(every)} numbers; it is cut off")
    return np.array(sizes, np.int64), np.array(starts, np.int64)


def _zone(section: _Section, named: dict[int, tuple[str, str]]) -> Zone:
    kinds = {number: kind for kind, number in ZONE_TYPES.items()}
    known = kinds.get(section.kind, "wall") if section.index == 13 else "fluid"
    kind, name = named.get(section.zone, (known, f"{known}-{section.zone}"))
    if section.index == 13 and kind not in ZONE_TYPES:
        kind = known
    return Zone(section.zone, name.lower(), kind, section.start, section.stop)
