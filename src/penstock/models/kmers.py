"""k-mers as numbers: exact 2-bit ids, plain or spaced, of both strands at once.

A base is two bits, A 0, C 1, G 2, T (or U) 3, so that the complement of a base is 3 minus it; the first base of a
k-mer takes the highest bits. The id of a k-mer on both strands is the smaller one of its own and its reverse
complement's. Spaced seeds as in Ma, Tromp and Li 2002, https://doi.org/10.1093/bioinformatics/18.3.440.

Integers alone are used, one row after the other, so ids depend on the sequence and on nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = ["LONGEST", "OTHER", "Ints", "Letters", "Seeds", "Strand", "codes", "compiled", "starts"]

Ints: TypeAlias = npt.NDArray[np.int64]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Strand: TypeAlias = Literal["canonical", "forward"]

LONGEST = 31
"""Bases in the longest k-mer: 62 bits, so that ids are never negative."""
OTHER = 4
"""The code of every letter that is no base."""


def codes() -> Bytes:
    """The code of each byte, ``"256"``; lower-case letters count, U is T, all else is `OTHER`."""
    table = np.full(256, OTHER, np.uint8)
    for code, letters in enumerate(("Aa", "Cc", "Gg", "TtUu")):
        table[list(letters.encode())] = code
    return table


@dataclass(frozen=True)
class Letters:
    """The bytes of all sequences of a batch, and where each sequence begins and the last one ends, ``"row + 1"``."""

    values: Bytes
    offsets: Ints

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Letters:
        """A column of texts, without a copy of its letters when it is one chunk; a null has no letters."""
        texts = column.combine_chunks()
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.chunk(0) if texts.num_chunks == 1 else pa.concat_arrays(texts.chunks)
        if texts.null_count:
            texts = texts.fill_null("")
        wide = pa.types.is_large_string(texts.type)
        _, ends, values = texts.buffers()
        offsets = np.frombuffer(ends, np.int64 if wide else np.int32)[texts.offset : texts.offset + len(texts) + 1]
        return cls(np.frombuffer(values or b"", np.uint8), offsets.astype(np.int64))

    @property
    def rows(self) -> int:
        """How many sequences there are."""
        return len(self.offsets) - 1

    def room(self, span: int) -> int:
        """The most windows of *span* letters that the sequences can have together."""
        return int(np.maximum(np.diff(self.offsets) - span + 1, 0).sum())


@dataclass(frozen=True)
class Seeds:
    """Which bases of a window make its id: one or several patterns such as ``1101``, ``1`` taken and ``0`` left out.

    The id of each pattern, on both strands the smaller one, takes ``bits`` bits of the k-mer's; the first pattern
    takes the lowest. So several patterns are bands: neighbours that differ in one base still share some.

    Attributes:
        patterns: of equal length and weight; 63 bits in all.
    """

    patterns: tuple[str, ...]

    def __post_init__(self) -> None:
        if fault := next(filter(None, map(_fault, self.patterns)), "" if self.patterns else "there is no pattern"):
            raise ValueError(fault)
        if len({(len(pattern), pattern.count("1")) for pattern in self.patterns}) > 1:
            raise ValueError(f"patterns must be of one length with equally many 1s; they are {list(self.patterns)}")
        if len(self.patterns) * self.bits > 63:
            raise ValueError(
                f"{len(self.patterns)} patterns of {self.bits // 2} bases need {len(self.patterns) * self.bits} bits; "
                "an id has 63: take fewer patterns or fewer 1s"
            )

    @classmethod
    def plain(cls, k: int) -> Seeds:
        """Every base of *k* that follow each other."""
        return cls(("1" * k,))

    @property
    def span(self) -> int:
        """Bases in a window."""
        return len(self.patterns[0])

    @property
    def bits(self) -> int:
        """Bits of the id of one pattern."""
        return 2 * self.patterns[0].count("1")

    @property
    def bands(self) -> int:
        """How many patterns there are."""
        return len(self.patterns)

    def ids(self, letters: Letters, strand: Strand = "canonical") -> tuple[Ints, Ints]:
        """The ids of all windows without a foreign letter, ``"window"``, and how many each row has, ``"row"``."""
        counts = np.zeros(letters.rows, np.int64)
        ids = np.empty(letters.room(self.span) + 1, np.int64)  # one more, for the write after the last
        given = letters.values, letters.offsets, codes(), self.span, strand == "canonical"
        if self.patterns == ("1" * self.span,):
            found = compiled(_plain)(*given, ids, counts)
        else:
            found = compiled(_spaced)(*given, self._runs(), self.bits, ids, counts)
        return ids[:found], counts

    def _runs(self) -> Ints:
        """For each run of 1s: pattern, how far right it lies (bits), and how long it is (bits), ``"run 3"``."""
        found = []
        for band, pattern in enumerate(self.patterns):
            at = 0
            for run in pattern.replace("01", "0 1").replace("10", "1 0").split():
                at += len(run)
                found += [(band, 2 * (self.span - at), 2 * len(run))] if run[0] == "1" else []
        return np.array(found, np.int64)


def _fault(pattern: str) -> str:
    if set(pattern) - set("01") or not pattern.startswith("1") or not pattern.endswith("1"):
        return f"the pattern '{pattern}' must be of 0 and 1 alone, and begin and end with 1"
    if len(pattern) > LONGEST:
        return (
            f"the pattern '{pattern}' spans {len(pattern)} bases; at most {LONGEST} were needed: ids are 64 bits wide"
        )
    return ""


def starts(letters: Letters, span: int) -> npt.NDArray[np.int32]:
    """Where each window of *span* bases begins in its sequence, counted from 0, in the order of ids, ``"window"``."""
    found = np.empty(letters.room(span), np.int32)
    return found[: compiled(_starts)(letters.values, letters.offsets, codes(), span, found)]


@functools.cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """*kernel* as machine code, kept on disk for the next process. The GIL is let go meanwhile."""
    from numba import njit

    compile_: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(cache=True, nogil=True)
    return compile_(kernel)


# --- kernels: loops for the compiler -----------------------------------------------------------------------


def _plain(  # noqa: PLR0917 (compiled functions take arguments by place)
    values: Bytes, offsets: Ints, codes: Bytes, span: int, both: bool, ids: Ints, counts: Ints
) -> int:  # pragma: no cover (compiled)
    # Unsigned indices, which cannot count from the end, and a write at each base, kept or not, take half the time.
    mask, top = (1 << (2 * span)) - 1, 2 * (span - 1)
    found: Any = np.uint64(0)
    for row in range(len(counts)):
        first, good, forward, backward = found, 0, 0, 0
        for at in range(np.uint64(offsets[row]), np.uint64(offsets[row + 1])):
            code: Any = np.int64(codes[values[at]])
            good = 0 if code > 3 else good + 1
            forward = ((forward << 2) | (code & 3)) & mask
            backward = (backward >> 2) | ((3 - (code & 3)) << top)
            ids[found] = min(forward, backward) if both else forward
            found += np.uint64(good >= span)
        counts[row] = found - first
    return int(found)


def _spaced(  # noqa: PLR0917
    values: Bytes, offsets: Ints, codes: Bytes, span: int, both: bool, runs: Ints, bits: int, ids: Ints, counts: Ints
) -> int:  # pragma: no cover (compiled)
    mask, top = (1 << (2 * span)) - 1, 2 * (span - 1)
    found = 0
    for row in range(len(counts)):
        first, good, forward, backward = found, 0, 0, 0
        for at in range(offsets[row], offsets[row + 1]):
            code: Any = np.int64(codes[values[at]])
            good = 0 if code > 3 else good + 1
            forward = ((forward << 2) | (code & 3)) & mask
            backward = (backward >> 2) | ((3 - (code & 3)) << top)
            if good >= span:
                whole, band, mine, other = 0, 0, 0, 0
                for run in range(len(runs)):
                    if runs[run, 0] != band:
                        whole |= (min(mine, other) if both else mine) << (band * bits)
                        band, mine, other = runs[run, 0], 0, 0
                    some = (1 << runs[run, 2]) - 1
                    mine = (mine << runs[run, 2]) | ((forward >> runs[run, 1]) & some)
                    other = (other << runs[run, 2]) | ((backward >> runs[run, 1]) & some)
                ids[found] = whole | (min(mine, other) if both else mine) << (band * bits)
                found += 1
        counts[row] = found - first
    return found


def _starts(
    values: Bytes, offsets: Ints, codes: Bytes, span: int, found: npt.NDArray[np.int32]
) -> int:  # pragma: no cover (compiled)
    count = 0
    for row in range(len(offsets) - 1):
        good = 0
        for at in range(offsets[row], offsets[row + 1]):
            good = 0 if codes[values[at]] > 3 else good + 1
            if good >= span:
                found[count] = at - offsets[row] - span + 1
                count += 1
    return count
