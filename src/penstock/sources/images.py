"""Image files, as they lie."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa

from penstock.core.nouns import Batch, Unit
from penstock.core.storage import Entry, Uri, store_of
from penstock.errors import RowErrors, SpecError, StorageError
from penstock.models.pixels import PictureError, header
from penstock.sources.listing import begun_alike, below, listed

__all__ = ["Images"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm", ".jp2", ".avif")
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("format", pa.string()),
    ]
)
_MOST_FILES = 1024
"""So many go into a unit at most: their names and versions are part of it."""
_LARGEST_BYTES = 1 << 30
_SAMPLED = 8
_KEPT_OUT = (errno.EACCES, errno.EPERM, errno.EIO)


class _File(NamedTuple):
    uri: str
    etag: str


class _Row(NamedTuple):
    """A file's columns, and why they cannot be used, or nothing."""

    id: str
    image: bytes | None
    width: int
    height: int
    format: str
    reason: str = ""


@dataclass(frozen=True)
class Images:
    """Image files, a row for each: ``id`` (the path below the folder), ``image`` (its bytes), ``width``, ``height``
    and ``format`` (``JPEG``, ``PNG``, ..., as the header says).

    A unit is several files one after the other in the listing, known by their names and versions. A file that is no
    image, or cannot be read, is a quarantined row. A damaged image whose header is sound passes; `vision` refuses it.

    Attributes:
        uri: a file, a folder, a prefix or a glob; of a folder, the files with an image's suffix are taken.
        unit_bytes: files are added to a unit while it stays below this.
    """

    uri: Uri
    unit_bytes: int = 32 << 20

    ASIDE = ("unit_bytes",)
    NEEDS = ("PIL",)

    def __post_init__(self) -> None:
        if not 1 <= self.unit_bytes <= _LARGEST_BYTES:
            raise SpecError(
                f"unit_bytes = {self.unit_bytes}: 1 to {_LARGEST_BYTES} was needed; 33554432 is a good size"
            )

    def schema(self) -> pa.Schema:
        """Path, bytes, and what the header says."""
        return _SCHEMA

    def units(self) -> Iterator[Unit]:
        """Files of one folder together, in the order of the listing."""
        group: list[Entry] = []
        size = 0
        for entry in listed(self.uri, _SUFFIXES):
            full = size + entry.size_bytes > self.unit_bytes or len(group) == _MOST_FILES
            if group and (full or (2 * size > self.unit_bytes and _is_border(below(entry.uri, self.uri)))):
                yield _unit(group)
                group, size = [], 0
            group.append(entry)
            size += entry.size_bytes
        yield _unit(group)

    def read(self, unit: Unit) -> Batch:
        """The rows of *unit*.

        Raises:
            RowErrors: some files are no images, or may not be read.
            StorageError: a file is gone or changed.
        """
        rows = [self._row(file) for file in _files(unit)]
        good = _table([row for row in rows if not row.reason])
        if bad := [row for row in rows if row.reason]:
            raise RowErrors(good, _table(bad), [row.reason for row in bad])
        return good

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The good rows among the first few files, and the bytes of these files."""
        rows = [self._row(file) for file in _files(unit)[:_SAMPLED]]
        return _table([row for row in rows if not row.reason]), sum(len(row.image or b"") for row in rows)

    def _row(self, file: _File) -> _Row:
        name = below(file.uri, self.uri)
        try:
            with store_of(file.uri).open(file.uri, 0, file.etag) as stream:
                data = stream.read(_LARGEST_BYTES + 1)
        except StorageError as error:
            if getattr(error.__cause__, "errno", None) not in _KEPT_OUT:
                raise
            return _Row(name, None, 0, 0, "", str(error))
        if len(data) > _LARGEST_BYTES:
            return _Row(name, None, 0, 0, "", f"{file.uri} is larger than {_LARGEST_BYTES:,} bytes; cut it into tiles")
        try:
            return _Row(name, data, *header(data))
        except PictureError as error:
            return _Row(name, data, 0, 0, "", f"{file.uri} {error}")


def _unit(group: list[Entry]) -> Unit:
    """Their folder, and their names below it, quoted and with commas between; and all versions, likewise."""
    folder = "".join(name + "/" for name in begun_alike([entry.uri.split("/")[:-1] for entry in group]))
    names = ",".join(quote(entry.uri.removeprefix(folder), safe="") for entry in group)
    etags = ",".join(quote(entry.etag, safe="") for entry in group)
    return Unit.of(folder + names, etags, 0, len(group), sum(entry.size_bytes for entry in group))


def _is_border(name: str) -> bool:
    """Whether a unit that is half full ends before this file: one in sixteen.

    Borders that follow from names, as in content-defined chunking (Muthitacharoen et al. 2001, LBFS), fall into place
    again after a file that is new; borders by size alone would move for all files behind it.
    """
    return zlib.crc32(name.encode()) % 16 == 0


def _files(unit: Unit) -> list[_File]:
    cut = unit.uri.rfind("/") + 1
    folder, names = unit.uri[:cut], unit.uri[cut:].split(",")
    return [
        _File(folder + unquote(name), unquote(etag)) for name, etag in zip(names, unit.etag.split(","), strict=True)
    ]


def _table(rows: list[_Row]) -> Batch:
    columns = zip(*rows, strict=True) if rows else ([] for _ in _Row._fields)
    return pa.table(dict(zip(_Row._fields, columns, strict=True))).select(_SCHEMA.names).cast(_SCHEMA)
