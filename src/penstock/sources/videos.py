"""Video files: a row a file, or a row a span of a large one; no frame is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from penstock.core.nouns import Batch, Unit
from penstock.core.storage import Uri
from penstock.errors import RowErrors, SpecError
from penstock.formats.video import MOST_PIXELS, SUFFIXES, Facts, Unplayable, opened
from penstock.sources.listing import below, listed

__all__ = ["Videos"]

_REFUSED = pa.schema([("id", pa.string()), ("uri", pa.string()), ("size_bytes", pa.int64())])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),
        ("etag", pa.string()),
        ("container", pa.string()),
        ("codec", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("frame_rate", pa.float64()),
        ("duration_seconds", pa.float64()),
        ("frame_count", pa.int64()),
        ("start_seconds", pa.float64()),
        ("stop_seconds", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Videos:
    """Rows ``id`` (the path below the folder), ``uri``, ``etag``, ``container``, ``codec``, ``width``, ``height``,
    ``frame_rate``, ``duration_seconds``, ``frame_count``, ``start_seconds`` and ``stop_seconds``; what a file does not
    say is null.

    A unit is a file. Of one larger than *span_bytes* it is a span: as much of its time as its bytes are of the file,
    so that the memory of the steps that follow does not grow with its length; a shot that lies over the border
    becomes two clips. ``stop_seconds`` is null where a row goes to the end of the file.

    A file that is no video, is truncated, holds no frame that can be decoded, or frames that are too large, is
    quarantined with the reason. Here its directory and first frame are read; damage further on shows in `shots`.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.mp4 .mov .mkv .webm .avi .ts`` and others.
        span_bytes: larger files are read in spans of this size.
        most_pixels: of a frame, width by height; the steps that decode take no more than the default.
    """

    uri: Uri
    span_bytes: int = 256 << 20
    most_pixels: int = MOST_PIXELS

    NEEDS = ("av",)

    def __post_init__(self) -> None:
        if self.span_bytes < 1 or self.most_pixels < 1:
            raise SpecError("span_bytes and most_pixels must be 1 or more; 268435456 and 67108864 are good sizes")
        if self.most_pixels > MOST_PIXELS:
            raise SpecError(f"most_pixels = {self.most_pixels}: the steps that decode take {MOST_PIXELS} at most")

    def schema(self) -> pa.Schema:
        """The columns."""
        return _SCHEMA

    def units(self) -> Iterator[Unit]:
        """Files, and spans of large ones; none is opened."""
        for entry in listed(self.uri, SUFFIXES):
            for start in range(0, max(entry.size_bytes, 1), self.span_bytes):
                stop = min(start + self.span_bytes, entry.size_bytes)
                yield Unit.of(entry.uri, entry.etag, start, stop)

    def read(self, unit: Unit) -> Batch:
        """One row, or none of a span that only bytes were left for. Raises `RowErrors` or `StorageError`."""
        try:
            facts, size = self._facts(unit)
        except Unplayable as error:
            if unit.start:  # its first span has said so
                return _SCHEMA.empty_table()
            bad = {"id": below(unit.uri, self.uri), "uri": unit.uri, "size_bytes": unit.stop}
            raise RowErrors(_SCHEMA.empty_table(), pa.Table.from_pylist([bad], _REFUSED), [str(error)]) from error
        return self._row(unit, facts, size)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The row stands for all bytes of its unit."""
        try:
            return self.read(unit), unit.size_bytes
        except RowErrors as errors:
            return errors.good, unit.size_bytes

    def _facts(self, unit: Unit) -> tuple[Facts, int]:
        with opened(unit.uri, unit.etag, most_pixels=self.most_pixels) as video:
            facts = video.facts()
            if unit.start == 0 and next(video.between(0.0), None) is None:
                raise Unplayable(f"there is no frame in its video stream ({facts.codec})")
            return facts, video.size_bytes

    def _row(self, unit: Unit, facts: Facts, size: int) -> Batch:
        long = facts.duration_seconds
        if long is None and unit.start:  # nobody can say which part of the time these bytes are
            return _SCHEMA.empty_table()
        # The same product on both sides of a border, so that a frame on it falls into one span alone.
        start = 0.0 if long is None else long * (unit.start / size)
        stop = None if long is None or unit.stop >= size else long * (unit.stop / size)
        given = {"id": below(unit.uri, self.uri), "uri": unit.uri, "etag": unit.etag}
        row = {**given, **vars(facts), "start_seconds": start, "stop_seconds": stop}
        return pa.Table.from_pylist([row], _SCHEMA)
