"""From ids to rows: how a vocabulary of any size shares the rows of a table.

An id has one row or several; its vector is their sum, or their product element by element.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Bands", "Combine", "Compositional", "Exact", "Hashed", "Ints", "Scheme", "known", "places"]

Ints: TypeAlias = npt.NDArray[np.int64]
Combine: TypeAlias = Literal["sum", "product"]

_MOST = 1 << 63
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: the step between the seeds of neighbouring hash functions."""


class _Scheme(Protocol):
    """What every scheme can do."""

    @property
    def rows(self) -> int:
        """How many rows the table has."""

    @property
    def limit(self) -> int:
        """The ids from 0 up to this one, exclusive, have rows."""

    @property
    def combine(self) -> Combine:
        """What is done with the rows of one id."""

    def places(self, ids: Ints) -> Ints:
        """The rows of each id, ``"id part"``; the ids are `known`."""


@dataclass(frozen=True)
class Exact:
    """One row for each id: row = id. Buckets of a locality-sensitive hash are such ids too."""

    rows: int
    kind: Literal["exact"] = "exact"

    def __post_init__(self) -> None:
        _at_least_one(rows=self.rows)

    @property
    def limit(self) -> int:
        """As many ids as rows."""
        return self.rows

    @property
    def combine(self) -> Combine:
        """There is one row only."""
        return "sum"

    def places(self, ids: Ints) -> Ints:
        """The ids themselves, ``"id 1"``."""
        return ids[:, None]


@dataclass(frozen=True)
class Hashed:
    """The hashing trick: row = mix(id) mod rows, so that any number of ids shares the rows.

    The mixing is the finalizer of SplitMix64 (Steele, Lea and Flood 2014, with the constants of Stafford's variant
    13). With several hashes an id has as many rows, which are summed, and two ids collide in all of them only rarely
    (Svenstrup, Hansen and Winther 2017, https://arxiv.org/abs/1709.03933).
    """

    rows: int
    hashes: int = 1
    seed: int = 0
    kind: Literal["hashed"] = "hashed"

    def __post_init__(self) -> None:
        _at_least_one(rows=self.rows, hashes=self.hashes)

    @property
    def limit(self) -> int:
        """All ids that are not negative."""
        return _MOST

    @property
    def combine(self) -> Combine:
        """The rows of the hash functions are summed."""
        return "sum"

    def places(self, ids: Ints) -> Ints:
        """``"id hash"``."""
        steps = [(self.seed + at + 1) * _GOLDEN % (1 << 64) for at in range(self.hashes)]
        mixed = _mixed(ids.view(np.uint64)[:, None] + np.array(steps, np.uint64))
        return (mixed % np.uint64(self.rows)).view(np.int64)


@dataclass(frozen=True)
class Bands:
    """A long locality-sensitive hash cut into bands of bits; each band has rows of its own, which are summed.

    Neighbours that differ in few bits still share most bands, where an exact bucket would tell them apart. The id
    is the whole hash, its lowest bits the first band. One band is `Exact` over the buckets.
    Source: banding of signatures, Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4.
    """

    bands: int
    bits: int
    kind: Literal["bands"] = "bands"

    def __post_init__(self) -> None:
        _at_least_one(bands=self.bands, bits=self.bits)
        if self.bands * self.bits > 63:
            raise ValueError(f"{self.bands} bands of {self.bits} bits are {self.bands * self.bits}; ids have 63 bits")

    @property
    def rows(self) -> int:
        """``bands * 2^bits``."""
        return self.bands << self.bits

    @property
    def limit(self) -> int:
        """All hashes of so many bits."""
        return 1 << (self.bands * self.bits)

    @property
    def combine(self) -> Combine:
        """The rows of the bands are summed."""
        return "sum"

    def places(self, ids: Ints) -> Ints:
        """``"id band"``."""
        band = np.arange(self.bands, dtype=np.int64)
        return (ids[:, None] >> (band * self.bits) & ((1 << self.bits) - 1)) + (band << self.bits)


@dataclass(frozen=True)
class Compositional:
    """Each digit of the id, in a mixed radix, has rows of its own; no two ids have all of them in common.

    Two radices are the quotient-remainder trick: remainders by the first, quotients by the second. The rows of an id
    are multiplied element by element, or summed. Two tables of 4^12 rows so give 4^24 k-mers a vector each.
    Source: Shi, Mudigere, Naumov and Yang 2020, https://arxiv.org/abs/1909.02107, sections 3 and 4.
    """

    radices: tuple[int, ...]
    combine: Combine = "product"
    kind: Literal["compositional"] = "compositional"

    def __post_init__(self) -> None:
        _at_least_one(**{f"radices[{at}]": radix for at, radix in enumerate(self.radices)})
        if not self.radices or math.prod(self.radices) > _MOST:
            raise ValueError(
                f"the radices {list(self.radices)} have the product {math.prod(self.radices)}; at least "
                f"one was needed, and at most 2^63 ids"
            )

    @property
    def rows(self) -> int:
        """The sum of the radices."""
        return sum(self.radices)

    @property
    def limit(self) -> int:
        """The product of the radices."""
        return math.prod(self.radices)

    def places(self, ids: Ints) -> Ints:
        """``"id digit"``."""
        found, first = np.empty((len(ids), len(self.radices)), np.int64), 0
        for at, radix in enumerate(self.radices):
            ids, digits = np.divmod(ids, radix)
            found[:, at] = digits + first
            first += radix
        return found


Scheme: TypeAlias = Exact | Hashed | Bands | Compositional


def known(scheme: _Scheme, ids: Ints) -> npt.NDArray[np.bool_]:
    """Which ids have rows, ``"id"``."""
    return (ids >= 0) & (ids <= scheme.limit - 1)


def places(scheme: _Scheme, ids: npt.ArrayLike) -> Ints:
    """The rows of each id, ``"id part"``.

    Raises:
        IndexError: an id has no row.
    """
    given: Any = np.ascontiguousarray(ids)
    if given.dtype.kind not in "iu" or given.ndim != 1:
        raise TypeError(f"ids are {given.dtype} of shape {given.shape}; integers in one dimension were needed")
    given = given.astype(np.int64, copy=False)
    foreign = np.flatnonzero(~known(scheme, given))
    if len(foreign):
        raise IndexError(
            f"{len(foreign)} of {len(given)} ids have no row, the first: {given[foreign[0]]}; the table takes ids "
            f"from 0 to {scheme.limit - 1}: it belongs to another vocabulary, or the ids are padded"
        )
    return scheme.places(given)


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; at least 1 was needed")
