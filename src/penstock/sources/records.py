"""Records in byte ranges: how files are cut into units, and how the records of a unit are found again.

A record belongs to the unit in which its first byte lies. The reader of a unit skips to the first
border at or after the unit's start and reads past its stop to the end of the last record that began
before it; so every record is read once, however the file is cut. Gzip files cannot be entered in the
middle (https://www.rfc-editor.org/rfc/rfc1952) and are one unit each, read as a stream.
"""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

from penstock.core.nouns import Batch, Unit
from penstock.core.storage import store_of
from penstock.errors import RowErrors, SpecError, UnitError
from penstock.sources.listing import listed

__all__ = [
    "LINES",
    "Border",
    "Form",
    "Sorted",
    "blocks",
    "cut",
    "not_utf8",
    "one_by_one",
    "opened",
    "plain",
    "read",
    "sample",
    "shown",
]

_BLOCK_BYTES = 16 << 20
_AHEAD_BYTES = 64 << 10
_SAMPLE_BYTES = 1 << 20
_LONGEST_BYTES = 2_000_000_000
_BOM = b"\xef\xbb\xbf"


class Readable(Protocol):
    """What blocks are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes; fewer only at the end."""


@dataclass(frozen=True)
class Border:
    """Where records begin: at the start of a file, and one byte after each place where *mark* is found.

    Attributes:
        mark: a line end and what a record begins with.
        pattern: what else must match from the mark on; none, and the mark alone decides.
        lines_ahead: line ends after a record's first byte that *pattern* may look at.
    """

    mark: bytes
    pattern: re.Pattern[bytes] | None = None
    lines_ahead: int = 0

    def first(self, data: bytes, at: int) -> int:
        """The first border at or after *at*, which is 1 or more; 0 when none is seen yet."""
        found = data.find(self.mark, at - 1)
        while found >= 0 and not self._holds(data, found):
            found = data.find(self.mark, found + 1)
        return found + 1

    def last(self, data: bytes) -> int:
        """The last border, or 0."""
        found = data.rfind(self.mark)
        while found >= 0 and not self._holds(data, found):
            found = data.rfind(self.mark, 0, found + len(self.mark) - 1)
        return found + 1

    def settled(self, data: bytes, stop: int) -> bool:
        """Whether more data could not show a border before *stop*."""
        return len(data) >= stop and data.count(b"\n", stop) >= self.lines_ahead

    def _holds(self, data: bytes, at: int) -> bool:
        return self.pattern is None or self.pattern.match(data, at) is not None


LINES = Border(b"\n")
"""Every line is a record."""


class Sorted(NamedTuple):
    """What a block holds: rows, and what could not be read as one, with a reason for each."""

    good: pa.Table
    bad: pa.Table
    reasons: list[str]


@dataclass(frozen=True)
class Form:
    """A format of records.

    Attributes:
        schema: the columns of good rows.
        border: where its records begin.
        parse: whole records, and the position of their first byte, to rows.
        check: refuses a file by its first bytes. Raises `UnitError`.
    """

    schema: pa.Schema
    border: Border
    parse: Callable[[int, bytes], Sorted]
    check: Callable[[bytes], None] = lambda head: None


def cut(uri: str, suffixes: tuple[str, ...], unit_bytes: int) -> Iterator[Unit]:
    """Byte ranges of the files at *uri*; an empty or compressed file is one unit."""
    if unit_bytes < 1:
        raise SpecError(f"unit_bytes = {unit_bytes}: 1 or more was needed; 8388608 is a good size")
    for entry in listed(uri, (*suffixes, *(f"{suffix}.gz" for suffix in suffixes))):
        step = max(entry.size_bytes, 1) if _zipped(entry.uri) else unit_bytes
        for start in range(0, max(entry.size_bytes, 1), step):
            yield Unit.of(entry.uri, entry.etag, start, min(start + step, entry.size_bytes))


def read(unit: Unit, form: Form) -> Batch:
    """The rows of *unit*.

    Raises:
        UnitError: the file is damaged or of another format.
        RowErrors: some records are not well formed.
        StorageError: the file is gone or changed.
    """
    with opened(unit) as file:
        found = _parsed(file, unit, _stop(unit), form)
        if isinstance(file, Gunzip) and file.damage:
            raise UnitError(
                f"{unit.uri}: the gzip file {file.damage} after {file.given_bytes:,} bytes of content, about "
                f"{sum(piece.good.num_rows for piece in found):,} records; copy it again from where it came"
            )
    good = pa.concat_tables([form.schema.empty_table(), *(piece.good for piece in found)])
    reasons = [reason for piece in found for reason in piece.reasons]
    if reasons:
        raise RowErrors(good, pa.concat_tables([piece.bad for piece in found if piece.reasons]), reasons)
    return good


def sample(unit: Unit, form: Form) -> tuple[Batch, int]:
    """The good rows among the first MiB of *unit*, and the bytes of the file that they took."""
    stop = min(unit.start + _SAMPLE_BYTES, _stop(unit))
    with opened(unit) as file:
        found = _parsed(file, unit, stop, form)
        taken = file.taken_bytes if isinstance(file, Gunzip) else stop - unit.start
    return pa.concat_tables([form.schema.empty_table(), *(piece.good for piece in found)]), taken


def _parsed(file: Readable, unit: Unit, stop: int, form: Form) -> list[Sorted]:
    head = file.read(_AHEAD_BYTES) if unit.start == 0 else b""
    try:
        form.check(head)
        return [form.parse(at, block) for at, block in blocks(file, unit.start, stop, form.border, head)]
    except UnitError as error:
        raise UnitError(f"{unit.uri}: {error}") from error


@contextmanager
def opened(unit: Unit) -> Iterator[Readable]:
    """The file of *unit*, one byte before its start, where a border can be seen."""
    with store_of(unit.uri).open(unit.uri, max(unit.start - 1, 0), unit.etag) as file:
        yield Gunzip(file) if _zipped(unit.uri) else file


def blocks(file: Readable, start: int, stop: int, border: Border, data: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """The records that begin in ``[start, stop)``, in pieces of whole records with their positions.

    Args:
        file: stands after *data*.
        start: the first byte in which a record may begin.
        stop: the first byte in which none may.
        border: where records begin.
        data: what was read of *file*, from one byte before *start* on (from 0 on for 0).

    Raises:
        UnitError: one record is longer than an Arrow string can be.
    """
    at, begun = max(start - 1, 0), start == 0
    while start < stop:
        more = file.read(_wanted(at + len(data), len(data), stop))
        data += more
        if not begun:
            first = border.first(data, 1)
            if not first and more and not border.settled(data, stop - at):
                continue
            if not first or at + first >= stop:
                return
            at, data, begun = at + first, data[first:], True
        end = border.first(data, stop - at) or (0 if more else len(data))
        if end or not more:
            yield from [(at, data[:end])] if end else []
            return
        if ready := border.last(data):
            yield at, data[:ready]
            at, data = at + ready, data[ready:]
        if len(data) > _LONGEST_BYTES:
            raise UnitError(
                f"the record that begins at byte {at:,} is longer than {_LONGEST_BYTES:,} bytes, more than a column "
                "can hold; is this file of another format?"
            )


def _wanted(position: int, held: int, stop: int) -> int:
    """Bytes to read next: a block, twice what is held of a long record, and little beyond the stop."""
    left = stop - position
    return min(max(_BLOCK_BYTES, held), left + _AHEAD_BYTES) if left > 0 else max(_AHEAD_BYTES, -left)


def one_by_one(schema: pa.Schema, texts: Iterable[str], row: Callable[[str], Mapping[str, Any]], told: str) -> Sorted:
    """Rows that *row* makes of texts; one that it refuses by a `ValueError` is bad, with its text as column *told*."""
    good, bad, reasons = [], [], []
    for text in texts:
        try:
            good.append(row(text))
        except ValueError as error:
            bad.append({told: text})
            reasons.append(str(error))
    return Sorted(pa.Table.from_pylist(good, schema), pa.Table.from_pylist(bad, schema), reasons)


def plain(at: int, block: bytes) -> bytes:
    """A block without the byte order mark of a file's start, and with LF for CR LF."""
    block = block.removeprefix(_BOM) if at == 0 else block
    return block.replace(b"\r\n", b"\n") if b"\r" in block else block


def not_utf8(record: bytes) -> str:
    """Why *record* is no UTF-8 text, or nothing."""
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return f"the text is not UTF-8: byte 0x{record[error.start]:02x} at place {error.start} of it"
    return ""


def shown(text: bytes) -> str:
    """UTF-8 text; other bytes come in hexadecimal, after a backslash and an x."""
    return text.decode(errors="backslashreplace")


def _zipped(uri: str) -> bool:
    return uri.lower().endswith(".gz")


def _stop(unit: Unit) -> int:
    return sys.maxsize if _zipped(unit.uri) and unit.stop else unit.stop


class Gunzip:
    """The content of a gzip file of one or more members, as a stream that ends where damage begins.

    Attributes:
        damage: what is wrong with the file, or nothing.
        given_bytes: of content, so far.
    """

    def __init__(self, file: Readable) -> None:
        self._file, self._zip, self._data = file, zlib.decompressobj(31), b""
        self._read_bytes, self._drained, self._over = 0, False, False
        self.damage, self.given_bytes = "", 0

    @property
    def taken_bytes(self) -> int:
        """Bytes of the compressed file, so far."""
        return self._read_bytes - len(self._data)

    def read(self, size: int, /) -> bytes:
        """Up to *size* bytes of content; fewer only at the end."""
        pieces = []
        while size > 0 and (piece := self._next(size)):
            pieces.append(piece)
            size -= len(piece)
            self.given_bytes += len(piece)
        return b"".join(pieces)

    def _next(self, size: int) -> bytes:
        piece = b""
        while not piece and not self._over:
            self._fetch()
            if self._zip.eof:
                self._turn()
            else:
                piece = self._inflate(size)
        return piece

    def _fetch(self) -> None:
        if not self._data and not self._drained:
            self._data = self._file.read(1 << 20)
            self._read_bytes += len(self._data)
            self._drained = not self._data

    def _turn(self) -> None:
        """Go on to the next member, over the zeros that tapes are padded with."""
        self._data = self._data.lstrip(b"\0")
        if self._data:
            self._zip = zlib.decompressobj(31)
        else:
            self._over = self._drained

    def _inflate(self, size: int) -> bytes:
        try:
            piece = self._zip.decompress(self._data, size)
        except zlib.error as error:
            self._over, self.damage = True, f"is damaged ({error})"
            return b""
        self._data = self._zip.unused_data if self._zip.eof else self._zip.unconsumed_tail
        if not piece and self._drained and not self._zip.eof:
            self._over, self.damage = True, "ends in the middle" if self._read_bytes else ""
        return piece
