"""FASTA and FASTQ: named sequences, and reads with a quality for each base.

Formats: https://www.ncbi.nlm.nih.gov/genbank/fastaformat/ and Cock et al. 2010, doi:10.1093/nar/gkp1137
(records of four lines; of wrapped ones it cannot be told where a record begins).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import pick
from penstock.core.nouns import Batch, Unit
from penstock.core.storage import Uri
from penstock.errors import UnitError
from penstock.sources import records
from penstock.sources.records import Border, Form, Sorted, not_utf8, shown

__all__ = ["Fasta", "Fastq"]

_FASTA = pa.schema([(name, pa.string()) for name in ("id", "description", "sequence")])
_FASTQ = _FASTA.append(pa.field("quality", pa.string()))


@dataclass(frozen=True)
class Fasta:
    """Records of FASTA files: ``id``, ``description`` and ``sequence``.

    The id is the first word of the header, the description the rest. White space in sequences is dropped.
    Records without a sequence, or whose text is not UTF-8, are quarantined.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.fa .fasta .faa .fna .fas`` and ``.gz``.
        unit_bytes: size of a unit; a compressed file is one unit.
    """

    uri: Uri
    unit_bytes: int = 8 << 20

    ASIDE = ("unit_bytes",)

    def schema(self) -> pa.Schema:
        """``id``, ``description``, ``sequence``."""
        return _FASTA

    def units(self) -> Iterator[Unit]:
        """Byte ranges."""
        return records.cut(self.uri, (".fa", ".fasta", ".faa", ".fna", ".fas"), self.unit_bytes)

    def read(self, unit: Unit) -> Batch:
        """The records whose headers begin in *unit*. Raises `UnitError` or `RowErrors`."""
        return records.read(unit, _FASTA_FORM)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The records of the first MiB."""
        return records.sample(unit, _FASTA_FORM)


@dataclass(frozen=True)
class Fastq:
    """Records of FASTQ files: ``id``, ``description``, ``sequence`` and ``quality``.

    Records that are cut short, empty, not UTF-8, or have another number of qualities than bases, are quarantined.

    Attributes:
        uri: a file, a folder, a glob or an ``s3://`` prefix; of a folder ``.fq .fastq`` and ``.gz``.
        unit_bytes: size of a unit; a compressed file is one unit.
    """

    uri: Uri
    unit_bytes: int = 8 << 20

    ASIDE = ("unit_bytes",)

    def schema(self) -> pa.Schema:
        """``id``, ``description``, ``sequence``, ``quality``."""
        return _FASTQ

    def units(self) -> Iterator[Unit]:
        """Byte ranges."""
        return records.cut(self.uri, (".fq", ".fastq"), self.unit_bytes)

    def read(self, unit: Unit) -> Batch:
        """The records whose headers begin in *unit*. Raises `UnitError` or `RowErrors`."""
        return records.read(unit, _FASTQ_FORM)

    def sample(self, unit: Unit) -> tuple[Batch, int]:
        """The records of the first MiB."""
        return records.sample(unit, _FASTQ_FORM)


_SIGNS: Mapping[bytes, str] = {
    b">": 'it looks like FASTA; write use = "fasta"',
    b"@": 'it looks like FASTQ; write use = "fastq"',
    b"\x1f\x8b": "it looks like gzip; let its name end with .gz",
    b"BZh": "it looks like bzip2; unpack it first",
    b"\x28\xb5\x2f\xfd": "it looks like zstd; unpack it first",
}


def _check(head: bytes, form: str, sign: bytes, border: Border) -> None:
    text = records.plain(0, head).lstrip()
    if not text or text.startswith(sign) or border.first(head, 1):
        return
    hint = next((hint for start, hint in _SIGNS.items() if text.startswith(start)), "is it another file?")
    raise UnitError(
        f"a {form} record, which begins with '{sign.decode()}', was needed in the first {len(head):,} bytes; "
        f"the file begins with {shown(text[:20])!r}: {hint}"
    )


def _halves(pairs: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    """The first and the second of each pair; no second is an empty text."""
    ends, flat = np.asarray(pairs.offsets), pairs.flatten()
    second = pa.array(ends[:-1] + 1, mask=np.diff(ends) < 2)
    return flat.take(ends[:-1]), flat.take(second).fill_null("")


def _names(headers: pa.Array) -> tuple[pa.Array, pa.Array]:
    """First words, and the rest."""
    return _halves(pc.ascii_split_whitespace(pc.ascii_trim_whitespace(headers), max_splits=1))


# --- FASTA -----------------------------------------------------------------------------------------------

_FASTA_BORDER = Border(b"\n>")


def _parse_fasta(at: int, block: bytes) -> Sorted:
    """In bulk: Arrow splits the block at the borders, and each record at its first line end."""
    junk, rest = _junk(records.plain(at, block))
    if rest is None:
        return _with_junk(Sorted(_FASTA.empty_table(), _FASTA.empty_table(), []), junk)
    text, reasons = _text(rest)
    headers, sequences = _halves(pc.split_pattern(pc.split_pattern(text, "\n>").flatten(), "\n", max_splits=1))
    sequences = _without_space(sequences)
    for row in np.flatnonzero(pc.equal(sequences, "").to_numpy(zero_copy_only=False)):
        reasons[int(row)] = "the record has no sequence"
    return _with_junk(_sorted(pa.table([*_names(headers), sequences], _FASTA), reasons), junk)


def _junk(block: bytes) -> tuple[bytes, bytes | None]:
    """What stands before the first header, and the rest from behind its mark, if there is a header."""
    if block.startswith(b">"):
        return b"", block[1:]
    junk, mark, rest = block.partition(b"\n>")
    return junk.strip(), rest if mark else None


def _with_junk(found: Sorted, junk: bytes) -> Sorted:
    if not junk:
        return found
    reason = f"{len(junk):,} bytes stand before the first header of the file, which begins with '>'"
    row = pa.table([[""], [""], [shown(junk)]], _FASTA)
    return Sorted(found.good, pa.concat_tables([row, found.bad]), [reason, *found.reasons])


def _text(block: bytes) -> tuple[pa.Array, dict[int, str]]:
    """The block as an array of one text, and what is wrong with the records that are not UTF-8."""
    if not not_utf8(block):
        return pa.array([block], pa.string()), {}
    faults = {row: fault for row, record in enumerate(block.split(b"\n>")) if (fault := not_utf8(record))}
    return pa.array([shown(block)]), faults


def _without_space(sequences: pa.Array) -> pa.Array:
    sequences = pc.replace_substring(sequences, "\n", "")
    letters = sequences.buffers()[2].to_pybytes()
    for space in (" ", "\t", "\r", "\v", "\f"):
        if space.encode() in letters:
            sequences = pc.replace_substring(sequences, space, "")
    return sequences


def _sorted(table: pa.Table, reasons: Mapping[int, str]) -> Sorted:
    if not reasons:
        return Sorted(table, table.slice(0, 0), [])
    keep = np.ones(table.num_rows, bool)
    keep[list(reasons)] = False
    return Sorted(*pick(table, keep), [reasons[row] for row in sorted(reasons)])


_FASTA_FORM = Form(_FASTA, _FASTA_BORDER, _parse_fasta, lambda head: _check(head, "FASTA", b">", _FASTA_BORDER))


# --- FASTQ -----------------------------------------------------------------------------------------------

# A quality line may begin with '@' too, but then the line after it is a header and no sequence.
_FASTQ_BORDER = Border(b"\n@", re.compile(rb"\n@[^\n]*\n(?![@+])[^\n]*\n\+"), lines_ahead=3)


def _parse_fastq(at: int, block: bytes) -> Sorted:
    block = records.plain(at, block)
    found = _in_bulk(block)
    return _one_by_one(block.lstrip() if at == 0 else block) if found is None else found


def _in_bulk(block: bytes) -> Sorted | None:
    """Every fourth line, when that is right for all records of the block."""
    if not_utf8(block) or not block:
        return None
    lines = pc.split_pattern(pa.array([block.removesuffix(b"\n")], pa.string()), "\n").flatten()
    if len(lines) % 4:
        return None
    headers, bases, plus, qualities = (lines.take(np.arange(row, len(lines), 4)) for row in range(4))
    if not _right(headers, bases, plus, qualities):
        return None
    names = _names(pc.utf8_slice_codeunits(headers, 1))
    return Sorted(pa.table([*names, bases, qualities], _FASTQ), _FASTQ.empty_table(), [])


def _right(headers: pa.Array, bases: pa.Array, plus: pa.Array, qualities: pa.Array) -> bool:
    lengths = pc.binary_length(bases)
    return (
        pc.all(pc.starts_with(headers, "@")).as_py()
        and pc.all(pc.starts_with(plus, "+")).as_py()
        and not pc.any(pc.or_(pc.starts_with(bases, "@"), pc.starts_with(bases, "+"))).as_py()
        and lengths.equals(pc.binary_length(qualities))
        and pc.min(lengths).as_py() > 0
    )


def _one_by_one(block: bytes) -> Sorted:
    good: list[Sequence[str]] = []
    bad: list[Sequence[str]] = []
    reasons = []
    for lines in _entries(block):
        reason = _fault(lines)
        (bad if reason else good).append(_row(lines))
        reasons += [reason] if reason else []
    return Sorted(_table(good), _table(bad), reasons)


def _entries(block: bytes) -> Iterator[list[bytes]]:
    """The lines of each record; lines behind it that belong to none come as an entry of their own."""
    start = 0
    while start < len(block):
        stop = _FASTQ_BORDER.first(block, start + 1) or len(block)
        lines = block[start:stop].removesuffix(b"\n").split(b"\n")
        while lines and not lines[-1].strip() and len(lines) != 4:
            lines.pop()
        whole = len(lines) > 4 and not _fault(lines[:4])
        yield from filter(None, (lines[:4], lines[4:]) if whole else (lines,))
        start = stop


def _fault(lines: Sequence[bytes]) -> str:
    """What is wrong with a record, or nothing."""
    if not lines[0].startswith(b"@") or (len(lines) > 2 and not lines[2].startswith(b"+")):
        return "these lines are no record of '@' header, sequence, '+' and quality"
    if len(lines) != 4:
        return f"the record has {len(lines)} lines, 4 were needed; is the file cut short?"
    bases, qualities = len(lines[1]), len(lines[3])
    if bases != qualities:
        return f"the record has {bases} bases and {qualities} qualities; is the file cut short?"
    return not_utf8(b"\n".join(lines)) if bases else "the record has no sequence"


def _row(lines: Sequence[bytes]) -> list[str]:
    """Id, description, sequence, quality; of a broken record all lines after the second are its quality."""
    words = [*lines[0].removeprefix(b"@").strip().split(None, 1), b"", b""]
    rest = lines[3:] if len(lines) == 4 else lines[2:]
    return [shown(text) for text in (words[0], words[1], b"".join(lines[1:2]), b"\n".join(rest))]


def _table(rows: Sequence[Sequence[str]]) -> pa.Table:
    return pa.table([pa.array([row[i] for row in rows], pa.string()) for i in range(len(_FASTQ))], _FASTQ)


_FASTQ_FORM = Form(_FASTQ, _FASTQ_BORDER, _parse_fastq, lambda head: _check(head, "FASTQ", b"@", _FASTQ_BORDER))
