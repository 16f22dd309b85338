"""DNA to the ids of its k-mers, exact or locality-sensitive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from penstock.core.batch import adding, field_of, pick, with_columns
from penstock.core.nouns import Batch, Transform
from penstock.core.storage import Uri
from penstock.errors import RowErrors, UnitError
from penstock.models import planes
from penstock.models.kmers import LONGEST, Ints, Letters, Seeds, Strand, starts

__all__ = ["Kmer"]

_Hash: TypeAlias = Seeds | planes.Planes


@dataclass(frozen=True)
class Kmer:
    """Add the column ``kmers``, list<int64>: an id for each window of a sequence, in their order.

    Windows with a letter that is no base (N and the other ambiguous ones) are left out. Lower-case letters count,
    U is T. Exactly one of *k*, *patterns* and *planes* says what the id is.

    Attributes:
        k: the id is the k-mer itself, two bits for each base, up to 31.
        patterns: spaced seeds, such as ``1101100111``; the id has ``2 x weight`` bits for each. A table with the
            scheme ``bands`` gives each its rows.
        planes: the id is a locality-sensitive hash by these planes (`penstock.models.planes`), a file or ``s3://``.
        column: the sequence.
        strand: ``canonical`` takes the smaller one of the ids of both strands, so that a read and its reverse
            complement have the same k-mers; ``forward`` takes them as they are read.
        positions: add the column ``positions``, list<int32>: where each window begins, from 0.
        empty: what happens to a row that has no k-mer: it is quarantined, or kept with an empty list.
    """

    k: int = 0
    patterns: tuple[str, ...] = ()
    planes: Uri | None = None
    column: str = "sequence"
    strand: Strand = "canonical"
    positions: bool = False
    empty: Literal["quarantine", "keep"] = "quarantine"

    NEEDS = ("numba",)

    def __post_init__(self) -> None:
        if sum(map(bool, (self.k, self.patterns, self.planes))) != 1:
            raise ValueError("exactly one of k, patterns and planes is needed, such as k = 31")
        if not 0 <= self.k <= LONGEST:
            raise ValueError(f"k is {self.k}; 1 to {LONGEST} was needed: for longer ones take patterns or planes")
        if self.patterns:
            Seeds(self.patterns)

    def schema(self, given: pa.Schema) -> pa.Schema:
        """``kmers``, and ``positions`` when asked for. Raises `WeightsError` when there are no such planes."""
        field_of(given, self.column, "kmer", pa.string(), pa.large_string())
        self._hash()
        places = {"positions": pa.list_(pa.int32())} if self.positions else {}
        return adding(given, {"kmers": pa.list_(pa.int64()), **places})

    def identity(self) -> Mapping[str, str]:
        """The hash of the planes."""
        return {"planes": planes.load(self.planes).sha256} if self.planes else {}

    def _hash(self) -> _Hash:
        if self.planes:
            return planes.load(self.planes)
        return Seeds(self.patterns) if self.patterns else Seeds.plain(self.k)

    @contextmanager
    def open(self) -> Iterator[Transform]:
        """Load the planes."""
        how = self._hash()
        yield lambda batch: self._kmers(how, batch)

    def _kmers(self, how: _Hash, batch: Batch) -> Batch:
        letters = Letters.of(batch[self.column])
        ids, counts = how.ids(letters, self.strand)
        if len(ids) > np.iinfo(np.int32).max:
            raise UnitError(f"kmer: {len(ids):,} k-mers in one unit, at most 2^31 fit; set a smaller unit_bytes")
        columns = {"kmers": _lists(ids, counts)}
        if self.positions:
            columns["positions"] = _lists(starts(letters, how.span), counts)
        keep = self._keep(batch, counts)
        good, bad = pick(with_columns(batch, columns), keep)
        if bad.num_rows:
            bad = batch.filter(pa.array(~keep))
            raise RowErrors(good, bad, [self._reason(text, how.span) for text in bad[self.column].to_pylist()])
        return good

    def _keep(self, batch: Batch, counts: Ints) -> np.typing.NDArray[np.bool_]:
        there = np.asarray(pc.is_valid(batch[self.column]).to_numpy())
        return there if self.empty == "keep" else there & (counts > 0)

    def _reason(self, text: str | None, span: int) -> str:
        if text is None:
            return f"{self.column} is null"
        if len(text) < span:
            return f"{self.column} has {len(text)} letters, a k-mer has {span}; set empty = 'keep' to let it pass"
        return f"{self.column} has no {span} bases A, C, G, T in a row; it begins {text[:20]!r}: is it DNA?"


def _lists(values: np.typing.NDArray[np.generic], counts: Ints) -> pa.ListArray:
    """A column of lists from all values, ``"(row item)"``, and how many each row has."""
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), pa.array(values))
