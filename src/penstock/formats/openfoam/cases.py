"""Cases: their times, their fields, and what ``decomposePar`` has cut into pieces put together again."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from penstock.errors import UnitError
from penstock.formats.openfoam.fields import Field, read_field
from penstock.formats.openfoam.mesh import Mesh, Patch, read_labels, read_mesh, read_patches
from penstock.formats.openfoam.syntax import Value, read_bytes

__all__ = ["cells_of", "field_files", "pieces", "read_case_field", "read_case_mesh", "times", "written_whole"]

Ints: TypeAlias = npt.NDArray[np.int64]
_TIME = re.compile(r"\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_PIECE = re.compile(r"processor(\d+)")
_PROCESSOR = ("processor", "processorCyclic")
_LAST_LINE = b"// ************************************************************************* //"


def pieces(case: str | os.PathLike[str]) -> tuple[Path, ...]:
    """The folders ``processor0``, ``processor1`` ... of a decomposed case, in the order of ranks."""
    found = [(int(match[1]), path) for path in Path(case).iterdir() if (match := _PIECE.fullmatch(path.name))]
    return tuple(path for _, path in sorted(found))


def times(case: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the times that are written, in their order; of a decomposed case also those that all pieces have."""
    everywhere = [_own_times(piece) for piece in pieces(case)]
    return tuple(sorted(_own_times(Path(case)).union(set.intersection(*everywhere) if everywhere else ()), key=float))


def _own_times(place: Path) -> set[str]:
    return {path.name for path in place.iterdir() if path.is_dir() and _TIME.fullmatch(path.name)}


def written_whole(case: str | os.PathLike[str], time: str) -> bool:
    """Whether a solver has written all of a time, in each piece of the case.

    Ranks write each for itself and do not wait for each other, so what the first one says holds for its own files.
    All pieces must have the same fields, each to its end, and ``uniform/time``.
    """
    places = [place / time for place in pieces(case) or (Path(case),)]
    fields = {path.name for place in places if place.is_dir() for path in place.iterdir() if path.is_file()}
    needed = [place / name for place in places for name in ("uniform/time", *fields)]
    return all(path.is_file() for path in needed) and all(map(_whole, _files(places)))


def _files(places: list[Path]) -> Iterator[Path]:
    return (path for place in places for path in place.rglob("*") if path.is_file())


def _whole(path: Path) -> bool:
    """Solvers end each file by the same line; fields that were written otherwise are read."""
    try:
        if not _end(path).rstrip().endswith(_LAST_LINE):
            read_field(path)
    except UnitError:
        return False
    return True


def _end(path: Path) -> bytes:
    if path.suffix == ".gz":
        return read_bytes(path)[-2 * len(_LAST_LINE) :]
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * len(_LAST_LINE)))
        return file.read()


def field_files(case: str | os.PathLike[str], time: str, name: str) -> tuple[Path, ...]:
    """The file of a field at a time: one, or one of each piece; none when it was not written."""
    whole = _there(Path(case) / time / name)
    if whole:
        return (whole,)
    found = tuple(_there(piece / time / name) for piece in pieces(case))
    return tuple(path for path in found if path) if all(found) else ()


def _there(path: Path) -> Path | None:
    compressed = path.with_name(f"{path.name}.gz")
    return path if path.is_file() else compressed if compressed.is_file() else None


def read_case_field(case: str | os.PathLike[str], time: str, name: str) -> Field:
    """A field of a case at a time; from its pieces where it is decomposed and not reconstructed.

    Raises:
        UnitError: it was not written, or the pieces do not fit together.
    """
    files = field_files(case, time, name)
    if not files:
        raise UnitError(f"{case}: there is no field '{name}' at time {time}; written are: {', '.join(times(case))}")
    if files[0].parent.parent == Path(case):
        return read_field(files[0])
    return _joined([_Piece.of(path.parent.parent, read_field(path)) for path in files])


def cells_of(case: str | os.PathLike[str]) -> int:
    """How many cells the mesh of a case has. Raises `UnitError`."""
    places = pieces(case)
    if places and not _there(Path(case) / "constant" / "polyMesh" / "owner"):
        return sum(map(cells_of, places))
    return int(read_labels(Path(case) / "constant" / "polyMesh" / "owner").max(initial=-1)) + 1


def read_case_mesh(case: str | os.PathLike[str]) -> Mesh:
    """The mesh of a case. Raises `UnitError`."""
    return read_mesh(Path(case) / "constant" / "polyMesh")


# --- pieces ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Piece:
    """What one rank has of a field.

    Attributes:
        cells: the number in the whole mesh of each of its cells.
        faces: of each of its faces, from 1; negative where it points the other way.
        patches: of its boundary.
    """

    field: Field
    cells: Ints
    faces: Ints
    patches: tuple[Patch, ...]

    @classmethod
    def of(cls, folder: Path, field: Field) -> _Piece:
        mesh = folder / "constant" / "polyMesh"
        cells, faces = (read_labels(mesh / f"{name}ProcAddressing") for name in ("cell", "face"))
        return cls(field, cells, faces, read_patches(mesh / "boundary"))

    @property
    def inside(self) -> int:
        """How many internal faces it has."""
        return min((patch.start for patch in self.patches), default=len(self.faces))


def _joined(parts: list[_Piece]) -> Field:
    first = parts[0].field
    on_faces = first.kind.startswith("surface")
    placed = list(_on_faces(parts) if on_faces else _on_cells(parts))
    boundary = {name: _patch(name, parts) for name in _patch_names(parts)}
    if not on_faces and all(
        part.field.uniform and np.array_equal(part.field.internal, first.internal) for part in parts
    ):
        return replace(first, boundary=boundary)
    where = np.concatenate([at for at, _ in placed])
    values = np.concatenate([values for _, values in placed])
    internal = np.full((int(where.max(initial=-1)) + 1, *first.shape), np.nan)
    internal[where] = values
    if np.isnan(internal).any() and not np.isnan(values).any():
        raise UnitError("the pieces do not cover the mesh; was the case decomposed anew since this time was written?")
    return replace(first, internal=internal, boundary=boundary)


def _on_cells(parts: list[_Piece]) -> Iterator[tuple[Ints, npt.NDArray[np.float64]]]:
    for part in parts:
        yield part.cells, part.field.values(len(part.cells))


def _on_faces(parts: list[_Piece]) -> Iterator[tuple[Ints, npt.NDArray[np.float64]]]:
    """Internal faces of the whole are those of the pieces and those between the pieces; fluxes have a direction."""
    for part in parts:
        between = [patch for patch in part.patches if patch.kind in _PROCESSOR]
        ranges = [(slice(0, part.inside), part.field.values(part.inside))]
        ranges += [(patch.faces, part.field.patch(patch.name, patch.size)) for patch in between]
        for faces, values in ranges:
            at = part.faces[faces]
            sign = np.sign(at).reshape(-1, *[1] * (values.ndim - 1))
            yield np.abs(at) - 1, values * sign


def _patch_names(parts: list[_Piece]) -> list[str]:
    return [patch.name for patch in parts[0].patches if patch.kind not in _PROCESSOR]


def _patch(name: str, parts: list[_Piece]) -> Mapping[str, Value]:
    """The entries of a patch; its lists are put together in the order of the whole mesh's faces."""
    entries = [part.field.boundary.get(name, {}) for part in parts]
    lists = {key for entry in entries for key, value in entry.items() if isinstance(value, np.ndarray)}
    return {**entries[0], **{key: _list(name, key, parts) for key in lists}}


def _list(name: str, key: str, parts: list[_Piece]) -> npt.NDArray[Any]:
    found = [_on_patch(part, name, key) for part in parts]
    order = np.argsort(np.concatenate([faces for faces, _ in found]), kind="stable")
    return np.asarray(np.concatenate([values for _, values in found])[order])


def _on_patch(part: _Piece, name: str, key: str) -> tuple[Ints, npt.NDArray[Any]]:
    patch = next(patch for patch in part.patches if patch.name == name)
    value = part.field.boundary[name].get(key)
    if value is None or patch.size == 0:
        return np.empty(0, np.int64), np.empty((0, *part.field.shape))
    values = replace(part.field, boundary={name: {"value": value}}).patch(name, patch.size)
    return np.abs(part.faces[patch.faces])[: len(values)], values
