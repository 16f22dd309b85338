"""Fields that a solver has written: the way back from OpenFOAM."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core.batch import tensor_column, tensor_type
from penstock.core.nouns import Batch, Unit
from penstock.core.storage import Posix, Uri, store_of
from penstock.errors import PenstockError, SchemaError, SpecError, StorageError, UnitError
from penstock.formats.openfoam import field_files, read_case_field, times
from penstock.formats.openfoam.cases import cells_of

__all__ = ["Fields", "on_grid"]

Values: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Fields:
    """The times of OpenFOAM cases, a row for each: ``case`` (its folder), ``time``, and a column for each field.

    A column is a tensor, ``"cell"`` or ``"cell component"`` in the solver's order of cells. With *grid*, for boxes of
    one block, it is ``"[component] y x"`` or ``"[component] z y x"``, in which vectors of a plane have two components.

    Decomposed cases are put together. A time at which a field is lacking is left out. A unit is a time of a case, known
    by its files' sizes and times.

    Attributes:
        uri: a case, or a glob of them such as ``runs/*``; folders that are no cases are passed over.
        columns: names of columns and the fields that they hold, such as ``{ velocity = "U", pressure = "p" }``.
        times: which times: all, all but the start at 0, or the last one.
        grid: cells of a box, ``[y, x]`` or ``[z, y, x]``.
        dtype: of the columns.
    """

    uri: Uri
    columns: Mapping[str, str] = field(default_factory=lambda: {"velocity": "U"}, hash=False)
    times: Literal["all", "later", "last"] = "all"
    grid: tuple[int, ...] = ()
    dtype: Literal["float32", "float64"] = "float64"

    def __post_init__(self) -> None:
        if not self.columns or {"case", "time"} & set(self.columns):
            raise SpecError('columns must name fields, and none "case" or "time": columns = { velocity = "U" }')
        if len(self.grid) not in (0, 2, 3) or any(size < 1 for size in self.grid):
            raise SpecError(f"grid = {list(self.grid)}: [y, x] or [z, y, x] was needed, cells along each axis")

    def schema(self) -> pa.Schema:
        """As the first time of the first case has it. Raises `StorageError` or `UnitError`."""
        case, time = next(self._times())
        found = {name: tensor_type(self.dtype, *values.shape) for name, values in self._values(case, time)}
        return pa.schema([("case", pa.string()), ("time", pa.float64()), *found.items()])

    def units(self) -> Iterator[Unit]:
        """A unit for each time."""
        for case, time in self._times():
            etag, size = self._content(case, time)
            yield Unit.of(str(case / time), etag, 0, 1, size)

    def read(self, unit: Unit) -> Batch:
        """One row. Raises `UnitError`."""
        at = Path(unit.uri)
        if self._content(at.parent, at.name)[0] != unit.etag:
            raise UnitError(
                f"{at}: it was written anew while the run was going on; run again when the solver has ended"
            )
        columns = {name: tensor_column(values[None]) for name, values in self._values(at.parent, at.name)}
        return pa.table({"case": [str(at.parent)], "time": [float(at.name)], **columns})

    def _times(self) -> Iterator[tuple[Path, str]]:
        found = False
        for case in _cases(self.uri):
            there = [time for time in times(case) if self._written(case, time)]
            for time in there[-1:] if self.times == "last" else there:
                if self.times != "later" or float(time) > 0:
                    found = True
                    yield case, time
        if not found:
            raise StorageError(
                f"cannot read {self.uri}: no time has {', '.join(self.columns.values())}; has the solver run?"
            )

    def _written(self, case: Path, time: str) -> bool:
        return all(field_files(case, time, name) for name in self.columns.values())

    def _content(self, case: Path, time: str) -> tuple[str, int]:
        """What tells the files from others, and their size."""
        files = [path for name in self.columns.values() for path in field_files(case, time, name)]
        found = [path.stat() for path in files]
        text = repr([(str(path), each.st_size, each.st_mtime_ns) for path, each in zip(files, found, strict=True)])
        return hashlib.sha256(text.encode()).hexdigest(), sum(each.st_size for each in found)

    def _values(self, case: Path, time: str) -> Iterator[tuple[str, Values]]:
        for name, file in self.columns.items():
            try:
                found = read_case_field(case, time, file)
                values: Values = found.values(cells_of(case) if found.uniform else len(found.internal))
                values = on_grid(values, self.grid) if self.grid else values
            except PenstockError as error:
                raise UnitError(f"{case / time}: {file}: {error}") from error
            yield name, np.ascontiguousarray(values, self.dtype)


def _cases(uri: str) -> Iterator[Path]:
    """The folders with a ``system/controlDict``."""
    if not isinstance(store_of(uri), Posix):
        raise StorageError(f"cannot read {uri}: cases are read from a file system; copy them by 'penstock copy'")
    path = uri.removeprefix("file://")
    names = [path] if Path(path).is_dir() else sorted(glob.glob(path))  # noqa: PTH207  (the address may be relative or not)
    cases = [Path(name) for name in names if (Path(name) / "system" / "controlDict").is_file()]
    if not cases:
        raise StorageError(f"cannot read {uri}: there is no OpenFOAM case (a folder with system/controlDict)")
    yield from cases


def on_grid(values: Values, grid: tuple[int, ...]) -> Values:
    """Values of a box of one block, ``"(y x)"`` or ``"(z y x) component"``, as ``"[component] y x"``.

    Vectors on a plane lose their third component.

    Raises:
        SchemaError: there are other than as many cells.
    """
    if len(values) != np.prod(grid):
        raise SchemaError(f"there are {len(values)} cells; a grid of {' x '.join(map(str, grid))} has {np.prod(grid)}")
    if values.ndim == 1:
        return values.reshape(grid)
    kept = values[:, :2] if len(grid) == 2 and values.shape[1] == 3 else values
    return np.moveaxis(kept.reshape(*grid, -1), -1, 0)
