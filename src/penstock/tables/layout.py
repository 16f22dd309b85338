"""What a table looks like on disk or S3: a dataset whose parts are shards of rows.

::

    root/manifests/00000001.json   which shards make the table, and its layout; the highest number counts
    root/manifests/<sha>.parquet   the shards in row order
    root/parts/<sha>.npy           ``shard_rows`` rows, the last shard fewer

The rules of publication are those of datasets (see `penstock.core.dataset`): shards are named by their content, a
manifest is created exclusively under the next number, readers go by it. ``penstock show`` and ``verify`` work too.

A shard is a NumPy file (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html) whose header fills
4096 bytes, and holds a multiple of 4096 rows, so that shards can be mapped one behind the other, as one array.
float32 and float16 are arrays ``"row dim"``; int8 is an array ``"row"`` of (scale float32, values int8[dim]): what a
row needs lies in one place, so that a cold row costs one page.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from penstock.core import plugins
from penstock.core.batch import tensor_type
from penstock.core.dataset import Format, Manifest, existing
from penstock.core.nouns import Part, Unit
from penstock.core.storage import join
from penstock.errors import DatasetError
from penstock.tables.cache import fetched
from penstock.tables.schemes import Ints, Scheme

__all__ = ["FORMAT", "HEADER_BYTES", "Dtype", "Floats", "Layout", "Shard", "Table", "head"]

Dtype: TypeAlias = Literal["float32", "float16", "int8"]
Floats: TypeAlias = npt.NDArray[np.float32]

HEADER_BYTES = 4096
ALIGNED_ROWS = 4096
"""Shards hold a multiple of so many rows, so that a row of any length begins a page after every shard."""


def _never(paths: Any, target: Any) -> None:
    raise AssertionError("shards are not packed")


FORMAT = Format(".npy", _never)


@dataclass(frozen=True)
class Layout:
    """What a row is, and which ids have it.

    Attributes:
        scheme: from ids to rows.
        dim: numbers in a row.
        dtype: how they are stored; int8 has a scale for each row.
    """

    scheme: Scheme
    dim: int
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim is {self.dim}; at least 1 was needed")

    @property
    def rows(self) -> int:
        """How many rows the table has."""
        return self.scheme.rows

    @property
    def row_bytes(self) -> int:
        """What a row takes as it is stored."""
        return self.record.itemsize

    @property
    def size_bytes(self) -> int:
        """What all rows take."""
        return self.rows * self.row_bytes

    @cached_property
    def record(self) -> np.dtype[Any]:
        """One row as it is stored."""
        if self.dtype == "int8":
            return np.dtype([("scale", "<f4"), ("values", "i1", (self.dim,))])
        return np.dtype(({"float32": "<f4", "float16": "<f2"}[self.dtype], (self.dim,)))

    @property
    def sha256(self) -> str:
        """The identity of the layout."""
        return hashlib.sha256(json.dumps(self.plain(), sort_keys=True).encode()).hexdigest()

    @property
    def schema(self) -> pa.Schema:
        """The table as a column."""
        return pa.schema([("vector", tensor_type("float32", self.dim))])

    def plain(self) -> dict[str, Any]:
        """As JSON has it; the inverse of `of`."""
        return dict(plugins.adapter(Layout).dump_python(self, mode="json"))

    @classmethod
    def of(cls, plain: Any) -> Layout:
        """The layout that a manifest's provenance names."""
        return cast("Layout", plugins.adapter(cls).validate_python(plain))

    def shard_rows(self, shard_bytes: int) -> int:
        """How many rows make a shard of about *shard_bytes*; a multiple of 4096."""
        return max(1, shard_bytes // self.row_bytes // ALIGNED_ROWS) * ALIGNED_ROWS

    def units(self, shard_rows: int) -> list[Unit]:
        """The shards as units of work, in row order."""
        name = f"table:{self.sha256[:32]}"
        starts = range(0, self.rows, shard_rows)
        ends = [min(start + shard_rows, self.rows) for start in starts]
        return [Unit.of(name, "", a, b, (b - a) * self.row_bytes) for a, b in zip(starts, ends, strict=True)]

    def encode(self, rows: Floats) -> npt.NDArray[Any]:
        """Rows as they are stored, from float32 ``"row dim"``.

        int8 is rounded to multiples of ``scale = max |x| / 127``, so that no number is off by more than half of that.

        Raises:
            ValueError: a number is not finite, or too large for float16.
        """
        if not np.isfinite(rows).all():
            raise ValueError("rows hold numbers that are not finite; a table needs finite ones: lower the rate")
        if self.dtype == "int8":
            return self._quantised(rows)
        if self.dtype == "float16" and np.abs(rows).max(initial=0) > 65504:
            raise ValueError("rows hold numbers beyond 65504, which float16 cannot; take float32 or int8")
        return rows.astype(self.record.base)

    def _quantised(self, rows: Floats) -> npt.NDArray[Any]:
        found = np.empty(len(rows), self.record)
        found["scale"] = np.abs(rows).max(axis=1, initial=0) / np.float32(127)
        # A row of zeros, or one so small that its scale vanishes, is a row of zeros.
        scale = np.where(found["scale"] > 0, found["scale"], np.inf).astype(np.float32)
        found["values"] = np.clip(np.rint(rows / scale[:, None]), -127, 127)
        return found

    def decode(self, stored: npt.NDArray[Any], out: Floats) -> None:
        """Put rows as they are stored into *out*, float32 ``"row dim"``."""
        if self.dtype == "int8":
            np.multiply(stored["values"], stored["scale"][:, None], out=out)
        else:
            out[...] = stored


@dataclass(frozen=True)
class Shard:
    """One file of a table: the rows from *start* up to *stop*."""

    start: int
    stop: int
    root: str
    part: Part

    def path(self) -> Path:
        """The file on this machine, fetched when it lies elsewhere."""
        return fetched(join(self.root, self.part.path), self.part.sha256, self.part.size_bytes)


@dataclass(frozen=True)
class Table:
    """A published table: its manifest, its layout, and its shards in row order."""

    manifest: Manifest
    layout: Layout
    shards: tuple[Shard, ...]

    @classmethod
    def at(cls, uri: str, version: int = 0) -> Table:
        """The table at *uri*: the newest version of it, or the one that is numbered so.

        Raises:
            DatasetError: there is none, or it is no table.
        """
        manifest = existing(uri, version)
        if manifest.format != "table":
            raise DatasetError(
                f"{uri} is a dataset of format '{manifest.format}'; a table was needed: make one with "
                "'penstock table make', or from an array with penstock.tables.making.save"
            )
        table = cls(manifest, Layout.of(manifest.provenance["table"]), _shards(manifest))
        table._must_fit()
        return table

    @property
    def uri(self) -> str:
        """Where it lies."""
        return self.manifest.uri

    @property
    def shard_rows(self) -> int:
        """Rows of every shard but the last."""
        return self.shards[0].stop

    def owner(self, rows: Ints, owners: int) -> Ints:
        """Which of so many *owners* has each row, ``"row"``: shards are dealt out one by one.

        Neighbouring shards have different owners, since ids that are asked for often lie close together.
        """
        return rows // self.shard_rows % owners

    def owned(self, owner: int, owners: int) -> range:
        """The numbers of the shards that one of so many *owners* has."""
        return range(owner, len(self.shards), owners)

    def _must_fit(self) -> None:
        found = [(shard.start, shard.stop) for shard in self.shards]
        if not found or found != [(u.start, u.stop) for u in self.layout.units(found[0][1])]:
            raise DatasetError(f"{self.uri}: its shards do not follow each other row by row; make the table anew")


def _shards(manifest: Manifest) -> tuple[Shard, ...]:
    lines = manifest.parts().select(["start", "stop", "path", "rows", "sha256", "size_bytes"]).to_pylist()
    return tuple(Shard(line.pop("start"), line.pop("stop"), manifest.uri, Part(**line)) for line in lines)


def head(file: BinaryIO, record: np.dtype[Any], rows: int) -> None:
    """Write the header of a NumPy file of *rows* records; it fills `HEADER_BYTES`."""
    described = {
        "descr": np.lib.format.dtype_to_descr(record.base),
        "fortran_order": False,
        "shape": (rows, *record.shape),
    }
    text = repr(described).encode()
    room = HEADER_BYTES - 10
    file.write(b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n")
